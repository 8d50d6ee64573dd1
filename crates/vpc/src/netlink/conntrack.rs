//! Forgetting the tracked connections of an address or a mark, so that the next owner does not inherit them.

use std::net::Ipv4Addr;

use super::{Message, Result, Socket, attributes};

const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_IP_SRC: u32 = 1;
/// `struct nfgenmsg`
const HEADER: [u8; 4] = [libc::AF_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0];

/// Deletes every connection with this mark.
pub(crate) fn forget_marked(socket: &mut Socket, mark: u32) -> Result<()> {
    let mut message = asking(IPCTNL_MSG_CT_DELETE);
    message.attribute(CTA_MARK, &mark.to_be_bytes());
    message.attribute(CTA_MARK_MASK, &u32::MAX.to_be_bytes());
    done(socket.request(message))
}

/// Deletes every connection one end of which is `address`, as the task knows itself.
pub(crate) fn forget_address(socket: &mut Socket, address: Ipv4Addr) -> Result<()> {
    // It began the connection, or answers in it: whatever NAT does to the other ends, the sources are its own.
    for tuple in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
        match done(socket.request(about(IPCTNL_MSG_CT_DELETE, tuple, address))) {
            // Kernels before the one that filters what it deletes (Linux 6.1 is one) want the whole of one connection.
            Err(error) if error.errno == libc::EINVAL => forget_each(socket, tuple, address)?,
            other => other?,
        }
    }
    Ok(())
}

/// As many calls as connections. (What it lists, an older kernel filters as well.)
fn forget_each(socket: &mut Socket, tuple: u16, address: Ipv4Addr) -> Result<()> {
    for connection in socket.dump(|| about(IPCTNL_MSG_CT_GET, tuple, address))? {
        if let Some(message) = exactly(&connection.payload, tuple, address) {
            done(socket.request(message))?;
        }
    }
    Ok(())
}

fn asking(operation: u16) -> Message {
    Message::new(((libc::NFNL_SUBSYS_CTNETLINK as u16) << 8) | operation, 0, &HEADER)
}

/// Connections whose source is `address` in that direction.
fn about(operation: u16, tuple: u16, address: Ipv4Addr) -> Message {
    let mut message = asking(operation);
    message.nest(tuple, |message| {
        message.nest(CTA_TUPLE_IP, |message| {
            message.attribute(CTA_IP_V4_SRC, &address.octets());
        });
    });
    message.nest(CTA_FILTER, |message| {
        let (orig, reply) = if tuple == CTA_TUPLE_ORIG { (FILTER_IP_SRC, 0) } else { (0, FILTER_IP_SRC) };
        message.number(CTA_FILTER_ORIG_FLAGS, orig);
        message.number(CTA_FILTER_REPLY_FLAGS, reply);
    });
    message
}

/// Deletes this connection and no other, if its source in that direction is `address`. `listed`: as the kernel told it.
fn exactly(listed: &[u8], tuple: u16, address: Ipv4Addr) -> Option<Message> {
    let of = |wanted: u16| {
        attributes(listed.get(HEADER.len()..)?).find_map(|(kind, value)| (kind == wanted).then_some(value))
    };
    let nested =
        |value, wanted: u16| attributes(value).find_map(|(kind, value)| (kind == wanted).then_some(value));
    let source = nested(nested(of(tuple)?, CTA_TUPLE_IP)?, CTA_IP_V4_SRC)?;
    if source != address.octets() {
        return None;
    }
    let mut message = asking(IPCTNL_MSG_CT_DELETE);
    let original = of(CTA_TUPLE_ORIG)?;
    message.nest(CTA_TUPLE_ORIG, |message| {
        message.raw(original);
    });
    for kind in [CTA_ZONE, CTA_ID] {
        if let Some(value) = of(kind) {
            message.attribute(kind, value);
        }
    }
    Some(message)
}

/// None was there: as good.
fn done(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno == libc::ENOENT => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::HEADER_BYTES;

    const CTA_TUPLE_PROTO: u16 = 2;
    const CTA_IP_V4_DST: u16 = 2;
    const TASK: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 5);
    const PEER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 9);

    fn tuple(message: &mut Message, kind: u16, from: Ipv4Addr, to: Ipv4Addr) {
        message.nest(kind, |message| {
            message.nest(CTA_TUPLE_IP, |message| {
                message.attribute(CTA_IP_V4_SRC, &from.octets()).attribute(CTA_IP_V4_DST, &to.octets());
            });
            message.nest(CTA_TUPLE_PROTO, |message| {
                message.attribute(1, &[6]);
            });
        });
    }

    /// A connection as the kernel lists it: what follows netlink's header.
    fn listed(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let mut message = asking(IPCTNL_MSG_CT_GET);
        tuple(&mut message, CTA_TUPLE_ORIG, from, to);
        tuple(&mut message, CTA_TUPLE_REPLY, to, from);
        message.attribute(CTA_ID, &7u32.to_be_bytes());
        message.finish(0)[HEADER_BYTES..].to_vec()
    }

    #[test]
    fn a_listed_connection_is_deleted_by_all_that_names_it() {
        let mut wanted = asking(IPCTNL_MSG_CT_DELETE);
        tuple(&mut wanted, CTA_TUPLE_ORIG, TASK, PEER);
        wanted.attribute(CTA_ID, &7u32.to_be_bytes());
        let message = exactly(&listed(TASK, PEER), CTA_TUPLE_ORIG, TASK).unwrap();
        assert_eq!(message.finish(1), wanted.finish(1));
        // Who answered in it names it by who began it all the same.
        assert!(exactly(&listed(PEER, TASK), CTA_TUPLE_REPLY, TASK).is_some());
    }

    #[test]
    fn somebody_elses_connection_stays_whatever_the_kernel_lists() {
        assert!(exactly(&listed(PEER, TASK), CTA_TUPLE_ORIG, TASK).is_none());
        assert!(exactly(&listed(TASK, PEER), CTA_TUPLE_REPLY, TASK).is_none());
        for cut in 0..listed(TASK, PEER).len() {
            // Cut short, it names nothing, or itself without its number.
            let _ = exactly(&listed(TASK, PEER)[..cut], CTA_TUPLE_ORIG, TASK);
        }
        assert!(exactly(&[], CTA_TUPLE_ORIG, TASK).is_none());
    }
}
