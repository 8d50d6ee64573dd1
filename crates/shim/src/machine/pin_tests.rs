//! A guest that has made its kernel its own, or its machine's program, as far as the network sees it: whatever bytes it likes
//! come out of its tap.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::super::tap::Tap;
use crate::launcher::sys;

const OWN: ([u8; 6], Ipv4Addr) = ([2, 0, 0, 0, 0, 0x44], Ipv4Addr::new(10, 9, 0, 4));
const OTHER: ([u8; 6], Ipv4Addr) = ([2, 0, 0, 0, 0, 0x66], Ipv4Addr::new(10, 9, 0, 6));
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const PORT: u16 = 7000;
/// Of `struct virtio_net_hdr`, before each frame.
const NET_HEADER_BYTES: usize = 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// Two namespaces as the fabric makes them: a router, and a task's with its interface. Gone when dropped.
struct Network(String);

impl Network {
    fn new() -> Network {
        let name = format!("ferrogate-pin-{}", std::process::id());
        let network = Network(name);
        let (task, router) = (network.task(), network.router());
        for step in [
            format!("netns add {task}"),
            format!("netns add {router}"),
            format!(
                "-n {task} link add eth0 address 02:00:00:00:00:44 type veth peer name r0 netns {router}"
            ),
            format!("-n {task} link set lo up"),
            format!("-n {task} link set eth0 up"),
            format!("-n {task} addr add 10.9.0.4/24 dev eth0"),
            format!("-n {task} route add default via 10.9.0.1"),
            format!("-n {router} link set r0 up"),
            format!("-n {router} addr add 10.9.0.1/32 dev r0"),
            format!("-n {router} route add 10.9.0.0/24 dev r0"),
        ] {
            let output = Command::new("ip").args(step.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {step}: {output:?}");
        }
        network
    }

    fn task(&self) -> String {
        format!("{}-task", self.0)
    }

    fn router(&self) -> String {
        format!("{}-router", self.0)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [self.task(), self.router()] {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// A datagram to the router's port, in a frame with this before its type.
fn frame(to: [u8; 6], (mac, source): ([u8; 6], Ipv4Addr), tag: &[u8], text: &str) -> Vec<u8> {
    let udp = 8 + text.len() as u16;
    let mut head = vec![0x45, 0];
    head.extend_from_slice(&(20 + udp).to_be_bytes());
    head.extend_from_slice(&[0, 1, 0x40, 0, 64, 17, 0, 0]);
    head.extend_from_slice(&source.octets());
    head.extend_from_slice(&ROUTER.octets());
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = vec![0; NET_HEADER_BYTES];
    bytes.extend_from_slice(&to);
    bytes.extend_from_slice(&mac);
    bytes.extend_from_slice(tag);
    bytes.extend_from_slice(&[8, 0]);
    bytes.extend_from_slice(&head);
    for number in [PORT, PORT, udp, 0] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Who has the router's address?
fn question(from: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0; NET_HEADER_BYTES];
    bytes.extend_from_slice(&[0xff; 6]);
    bytes.extend_from_slice(&from.0);
    bytes.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend_from_slice(&from.0);
    bytes.extend_from_slice(&from.1.octets());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&ROUTER.octets());
    bytes
}

#[test]
fn a_tap_takes_nothing_but_what_its_interface_would_send() {
    let network = Network::new();
    let tap = Tap::make().unwrap();
    let mut guest = File::from(tap.fd.try_clone().unwrap());
    let interface = tap.connect(&path(&network.task())).unwrap();
    assert_eq!((interface.mac, interface.address), OWN);
    let router = path(&network.router());
    let socket = std::thread::spawn(move || {
        sys::set_namespace(File::open(router).unwrap().as_fd(), libc::CLONE_NEWNET).unwrap();
        UdpSocket::bind((ROUTER, PORT)).unwrap()
    });
    let socket = socket.join().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();

    let to = interface.gateway_mac;
    let forged = [
        frame(to, (OWN.0, OTHER.1), &[], "another address"),
        frame(to, (OTHER.0, OWN.1), &[], "another MAC"),
        frame(to, (OWN.0, ROUTER), &[], "the router's address"),
        frame(to, (OWN.0, Ipv4Addr::LOCALHOST), &[], "loopback"),
        frame(to, OWN, &[0x81, 0, 0, 5], "a VLAN's tag"),
        frame([0xff; 6], OWN, &[], "for everybody"),
        question(OWN),
        question(OTHER),
        vec![0; NET_HEADER_BYTES + 14],
    ];
    for bytes in &forged {
        assert_eq!(guest.write(bytes).unwrap(), bytes.len());
    }
    guest.write_all(&frame(to, OWN, &[], "honest")).unwrap();
    let mut text = [0; 64];
    let (count, from) = socket.recv_from(&mut text).unwrap();
    // It was last, and nothing overtakes on one link.
    assert_eq!((String::from_utf8_lossy(&text[..count]), from.ip()), ("honest".into(), OWN.1.into()));

    // Nobody was answered by ARP; the answer to what is sent now comes after all that there may be.
    socket.send_to(b"back", from).unwrap();
    let mut seen = Vec::new();
    loop {
        let mut bytes = [0; 2048];
        let count = guest.read(&mut bytes).unwrap();
        let kind = [bytes[NET_HEADER_BYTES + 12], bytes[NET_HEADER_BYTES + 13]];
        seen.push(kind);
        if kind == [8, 0] && bytes[..count].ends_with(b"back") {
            break;
        }
    }
    assert!(!seen.contains(&[8, 6]), "{seen:?}");
}
