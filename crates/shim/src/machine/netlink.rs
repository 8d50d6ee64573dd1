//! Route netlink, as much of it as one interface takes: on the host to give it to the guest, in the guest to use it.
//! Synchronous; a socket stays in the network namespace it was opened in.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const HEADER_BYTES: usize = 16;
/// Of a dump's part.
const DUMP_BYTES: usize = 64 << 10;
/// Of the answer to a change: an error, and what it is about.
const ANSWER_BYTES: usize = 4 << 10;
/// `RTNH_F_ONLINK`
const ONLINK: u32 = 4;
/// Datagrams of one dump.
const DUMP_PARTS_MAX: usize = 256;

pub type Mac = [u8; 6];

pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<Mac>,
    pub mtu: u32,
}

/// What of a link is to change; the rest stays.
#[derive(Clone, Copy, Default)]
pub struct LinkChange<'a> {
    pub up: Option<bool>,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub name: Option<&'a str>,
    pub namespace: Option<BorrowedFd<'a>>,
}

/// An IPv4 route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    /// On the link, whatever its addresses say.
    pub gateway: Option<Ipv4Addr>,
    pub link: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        // SAFETY: numbers only; the returned descriptor is ours alone.
        let fd = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            match libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) {
                fd if fd >= 0 => OwnedFd::from_raw_fd(fd),
                _ => return Err(io::Error::last_os_error()),
            }
        };
        Ok(Netlink { fd, sequence: 0 })
    }

    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let answers = self.dump(libc::RTM_GETLINK, &[0; 16])?;
        Ok(answers.iter().filter_map(|payload| parse_link(payload)).find(|link| link.name == name))
    }

    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> io::Result<()> {
        let up = change.up.map_or(0, u32::from);
        let mut header = [0; 16];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..12].copy_from_slice(&(up * libc::IFF_UP as u32).to_ne_bytes());
        let mask = if change.up.is_some() { libc::IFF_UP as u32 } else { 0 };
        header[12..16].copy_from_slice(&mask.to_ne_bytes());
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &header);
        if let Some(mac) = change.mac {
            message.attribute(libc::IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = change.mtu {
            message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(name) = change.name {
            message.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        }
        if let Some(namespace) = change.namespace {
            message.attribute(libc::IFLA_NET_NS_FD, &(namespace.as_raw_fd() as u32).to_ne_bytes());
        }
        self.request(message)
    }

    /// IPv4 addresses of a link, with their prefix lengths.
    pub fn addresses(&mut self, link: u32) -> io::Result<Vec<(Ipv4Addr, u8)>> {
        let answers = self.dump(libc::RTM_GETADDR, &[libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0])?;
        Ok(answers.iter().filter_map(|payload| parse_address(payload, link)).collect())
    }

    pub fn add_address(&mut self, link: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.request(address_message(libc::RTM_NEWADDR, flags, link, address, prefix))
    }

    pub fn delete_address(&mut self, link: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        self.request(address_message(libc::RTM_DELADDR, 0, link, address, prefix))
    }

    /// The gateway of the default route over a link.
    pub fn gateway(&mut self, link: u32) -> io::Result<Option<Ipv4Addr>> {
        let mut header = [0; 12];
        header[0] = libc::AF_INET as u8;
        let answers = self.dump(libc::RTM_GETROUTE, &header)?;
        Ok(answers.iter().filter_map(|payload| parse_default_route(payload, link)).next())
    }

    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        self.add_route_in(libc::RT_TABLE_MAIN, route)
    }

    /// In the table that is asked first, so that it wins against what the kernel takes for its own.
    pub fn add_route_before_local(&mut self, route: &Route) -> io::Result<()> {
        self.add_route_in(libc::RT_TABLE_LOCAL, route)
    }

    fn add_route_in(&mut self, table: u8, route: &Route) -> io::Result<()> {
        let Route { destination, prefix, gateway, link } = *route;
        let scope = if gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let protocol = libc::RTPROT_STATIC;
        let mut header = vec![libc::AF_INET as u8, prefix, 0, 0, table, protocol, scope, libc::RTN_UNICAST];
        header.extend_from_slice(&(ONLINK * u32::from(gateway.is_some())).to_ne_bytes());
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut message = Message::new(libc::RTM_NEWROUTE, flags, &header);
        if prefix > 0 {
            message.attribute(libc::RTA_DST, &destination.octets());
        }
        if let Some(gateway) = gateway {
            message.attribute(libc::RTA_GATEWAY, &gateway.octets());
        }
        message.attribute(libc::RTA_OIF, &link.to_ne_bytes());
        self.request(message)
    }

    /// A permanent neighbour: no ARP is needed to reach it, and none can change it.
    pub fn add_neighbour(&mut self, link: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let mut header = vec![libc::AF_INET as u8, 0, 0, 0];
        header.extend_from_slice(&link.to_ne_bytes());
        header.extend_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[0, 0]);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut message = Message::new(libc::RTM_NEWNEIGH, flags, &header);
        message.attribute(libc::NDA_DST, &address.octets()).attribute(libc::NDA_LLADDR, &mac);
        self.request(message)
    }

    fn request(&mut self, mut message: Message) -> io::Result<()> {
        message.flag(libc::NLM_F_ACK);
        self.send(message)?;
        for answer in self.receive(ANSWER_BYTES)? {
            if i32::from(answer.kind) == libc::NLMSG_ERROR {
                return error_of(&answer.payload);
            }
        }
        Err(io::Error::other("the kernel did not answer"))
    }

    fn dump(&mut self, kind: u16, header: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send(Message::new(kind, libc::NLM_F_DUMP, header))?;
        let mut found = Vec::new();
        for _ in 0..DUMP_PARTS_MAX {
            for answer in self.receive(DUMP_BYTES)? {
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE => return Ok(found),
                    libc::NLMSG_ERROR => error_of(&answer.payload)?,
                    _ => found.push(answer.payload),
                }
            }
        }
        Err(io::Error::other("the kernel's answer does not end"))
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        // SAFETY: pointer and length are one buffer's.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent == bytes.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// One datagram's messages for the last request.
    fn receive(&mut self, room: usize) -> io::Result<Vec<Answer>> {
        let mut buffer = vec![0; room];
        // SAFETY: pointer and length are one buffer's.
        let got = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok(answers(&buffer[..got], self.sequence))
    }
}

struct Answer {
    kind: u16,
    payload: Vec<u8>,
}

fn answers(mut bytes: &[u8], sequence: u32) -> Vec<Answer> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let length = number(&header[0..4]) as usize;
        let Some(payload) = bytes.get(HEADER_BYTES..length) else { break };
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if number(&header[8..12]) == sequence {
            found.push(Answer { kind, payload: payload.to_vec() });
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn error_of(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let mut link = Link { index: number(payload.get(4..8)?), name: String::new(), mac: None, mtu: 0 };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_MTU => link.mtu = number(value),
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8], link: u32) -> Option<(Ipv4Addr, u8)> {
    let prefix = *payload.get(1)?;
    if number(payload.get(4..8)?) != link {
        return None;
    }
    let local = attributes(payload.get(8..)?).find(|(kind, _)| *kind == libc::IFA_LOCAL);
    local.and_then(|(_, value)| Some((ipv4(value)?, prefix)))
}

fn parse_default_route(payload: &[u8], link: u32) -> Option<Ipv4Addr> {
    let (mut gateway, mut over) = (None, None);
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            libc::RTA_GATEWAY => gateway = ipv4(value),
            libc::RTA_OIF => over = Some(number(value)),
            _ => {}
        }
    }
    (payload.get(1) == Some(&0) && over == Some(link)).then_some(gateway)?
}

fn address_message(kind: u16, flags: libc::c_int, link: u32, address: Ipv4Addr, prefix: u8) -> Message {
    let mut header = vec![libc::AF_INET as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE];
    header.extend_from_slice(&link.to_ne_bytes());
    let mut message = Message::new(kind, flags, &header);
    message.attribute(libc::IFA_LOCAL, &address.octets()).attribute(libc::IFA_ADDRESS, &address.octets());
    // Its network is reached as everything is, by the route that is set: nobody is asked for by ARP.
    message.attribute(libc::IFA_FLAGS, &libc::IFA_F_NOPREFIXROUTE.to_ne_bytes());
    message
}

struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: libc::c_int, header: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        Message(bytes)
    }

    fn flag(&mut self, flag: libc::c_int) {
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flag as u16;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// Values here are addresses and names: far below what the length may say.
    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}
