//! What a task's processes listen on, as the kernel lists it for the namespace of any of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrogate_explain::Listener;

const TCP_LISTEN: &str = "0A";
/// An unconnected UDP socket.
const UDP_OPEN: &str = "07";

/// `None`: no process of the task is on this machine.
pub(super) fn of_task(instance: &str, task_id: &str) -> Option<Vec<Listener>> {
    let pid = process_of(&format!("/ferrogate/{instance}/{task_id}"))?;
    let mut all = Vec::new();
    for (protocol, file) in [("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6")] {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/net/{file}")) else { continue };
        all.extend(text.lines().skip(1).filter_map(|line| listener(protocol, line)));
    }
    // The task's own endpoints are ours.
    all.retain(|of: &Listener| !matches!(of.address, IpAddr::V4(address) if address.is_link_local()));
    Some(all)
}

/// Any process in a cgroup or below it.
fn process_of(cgroup: &str) -> Option<u32> {
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut of_task = pids.filter(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| {
            path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    });
    of_task.next()
}

/// `   0: 0100007F:0050 00000000:0000 0A …`; proc(5).
fn listener(protocol: &'static str, line: &str) -> Option<Listener> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    if state != if protocol == "tcp" { TCP_LISTEN } else { UDP_OPEN } {
        return None;
    }
    Some(Listener { protocol, address: ip(address)?, port: u16::from_str_radix(port, 16).ok()? })
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
        let found = |protocol, line| listener(protocol, line).map(|of| (of.address.to_string(), of.port));
        let tcp = "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0";
        assert_eq!(found("tcp", tcp), Some(("127.0.0.1".into(), 80)));
        let connected = "   1: 0100007F:0050 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0";
        assert_eq!(found("tcp", connected), None);
        let six = "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(found("tcp", six), Some(("::".into(), 8080)));
        let mapped = "   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(found("tcp", mapped), Some(("127.0.0.1".into(), 8080)));
        assert_eq!(found("udp", "  9: 00000000:0035 00000000:0000 07 0"), Some(("0.0.0.0".into(), 53)));
        for broken in ["", "x", "0: zz:0050 a 0A", "0: 00:0050 a 0A"] {
            assert_eq!(found("tcp", broken), None);
        }
    }
}
