//! Forgetting the tracked connections of an address or a mark, so that the next owner does not inherit them.

use std::net::Ipv4Addr;

use super::{Message, Result, Socket};

const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_IP_SRC: u32 = 1;

/// Deletes every connection with this mark.
pub(crate) fn forget_marked(socket: &mut Socket, mark: u32) -> Result<()> {
    let mut message = delete();
    message.attribute(CTA_MARK, &mark.to_be_bytes());
    message.attribute(CTA_MARK_MASK, &u32::MAX.to_be_bytes());
    done(socket.request(message))
}

/// Deletes every connection one end of which is `address`, as the task knows itself.
pub(crate) fn forget_address(socket: &mut Socket, address: Ipv4Addr) -> Result<()> {
    // It began the connection, or answers in it: whatever NAT does to the other ends, the sources are its own.
    for tuple in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
        let mut message = delete();
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
        done(socket.request(message))?;
    }
    Ok(())
}

fn delete() -> Message {
    let kind = ((libc::NFNL_SUBSYS_CTNETLINK as u16) << 8) | IPCTNL_MSG_CT_DELETE;
    Message::new(kind, 0, &[libc::AF_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0])
}

/// None was there: as good.
fn done(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno == libc::ENOENT => Ok(()),
        other => other,
    }
}
