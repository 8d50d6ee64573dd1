//! What a task listens on, as the kernel lists it for the network of one of its processes.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Shim;
use crate::protocol::{Listener, SOCKETS_MAX, Transport};

const TCP_LISTEN: &str = "0A";
/// An unconnected UDP socket.
const UDP_OPEN: &str = "07";
/// Of each list: sockets that listen come before connections.
const LIST_BYTES_MAX: u64 = 256 << 10;

impl Shim {
    /// Nothing while no container runs.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        let process = self.containers.iter().find_map(|container| container.process.as_ref());
        process.map(|process| of_process(process.pid)).unwrap_or_default()
    }
}

fn of_process(pid: i32) -> Vec<Listener> {
    use Transport::{Tcp, Udp};
    let mut all = Vec::new();
    for (transport, list) in [(Tcp, "tcp"), (Tcp, "tcp6"), (Udp, "udp"), (Udp, "udp6")] {
        let mut text = String::new();
        let read = File::open(format!("/proc/{pid}/net/{list}"))
            .and_then(|file| file.take(LIST_BYTES_MAX).read_to_string(&mut text));
        if read.is_ok() {
            all.extend(text.lines().skip(1).filter_map(|line| listener(transport, line)));
        }
    }
    all.truncate(SOCKETS_MAX);
    all
}

/// `   0: 0100007F:0050 00000000:0000 0A …`; proc(5).
fn listener(transport: Transport, line: &str) -> Option<Listener> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    if state != if transport == Transport::Tcp { TCP_LISTEN } else { UDP_OPEN } {
        return None;
    }
    Some(Listener { transport, address: ip(address)?, port: u16::from_str_radix(port, 16).ok()? })
}

/// In words of 32 bits, each in the machine's byte order.
fn ip(text: &str) -> Option<IpAddr> {
    let words: Option<Vec<u32>> = text
        .as_bytes()
        .chunks(8)
        .filter(|word| word.len() == 8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .collect();
    match words?.as_slice() {
        [word] => Some(Ipv4Addr::from(word.to_ne_bytes()).into()),
        words @ [_, _, _, _] => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_mut(4).zip(words) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_proc_net() {
        let found = |transport, line| listener(transport, line).map(|of| (of.address.to_string(), of.port));
        let tcp = "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0";
        assert_eq!(found(Transport::Tcp, tcp), Some(("127.0.0.1".into(), 80)));
        let connected = "   1: 0100007F:0050 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0";
        assert_eq!(found(Transport::Tcp, connected), None);
        let six = "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(found(Transport::Tcp, six), Some(("::".into(), 8080)));
        let mapped = "   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(found(Transport::Tcp, mapped), Some(("127.0.0.1".into(), 8080)));
        let udp = "  9: 00000000:0035 00000000:0000 07 0";
        assert_eq!(found(Transport::Udp, udp), Some(("0.0.0.0".into(), 53)));
        for broken in ["", "x", "0: zz:0050 a 0A", "0: 00:0050 a 0A"] {
            assert_eq!(found(Transport::Tcp, broken), None);
        }
    }

    #[test]
    fn what_this_process_listens_on_is_found() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = own.local_addr().unwrap();
        let all = of_process(std::process::id() as i32);
        let listener = Listener { transport: Transport::Tcp, address: own.ip(), port: own.port() };
        assert!(all.contains(&listener), "{own} is not among {all:?}");
    }
}
