//! Forgetting the tracked connections of an address, so that the next owner of it does not inherit them.

use std::net::Ipv4Addr;

use super::{Message, Result, Socket};

const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_IP_SRC: u32 = 1;
const FILTER_IP_DST: u32 = 2;

/// Deletes every connection one end of which is `address` (as the task knows itself, before or behind NAT).
pub(crate) fn forget_address(socket: &mut Socket, address: Ipv4Addr) -> Result<()> {
    // Original direction's two ends; and the reply direction's, where destination NAT shows the private address.
    for (tuple, end, filter) in [
        (CTA_TUPLE_ORIG, CTA_IP_V4_SRC, FILTER_IP_SRC),
        (CTA_TUPLE_ORIG, CTA_IP_V4_DST, FILTER_IP_DST),
        (CTA_TUPLE_REPLY, CTA_IP_V4_SRC, FILTER_IP_SRC),
        (CTA_TUPLE_REPLY, CTA_IP_V4_DST, FILTER_IP_DST),
    ] {
        let kind = ((libc::NFNL_SUBSYS_CTNETLINK as u16) << 8) | IPCTNL_MSG_CT_DELETE;
        let mut message = Message::new(kind, 0, &[libc::AF_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0]);
        // The kernel wants both ends present; the filter says which one counts.
        message.nest(tuple, |message| {
            message.nest(CTA_TUPLE_IP, |message| {
                for kind in [CTA_IP_V4_SRC, CTA_IP_V4_DST] {
                    let value = if kind == end { address } else { Ipv4Addr::UNSPECIFIED };
                    message.attribute(kind, &value.octets());
                }
            });
        });
        message.nest(CTA_FILTER, |message| {
            let (orig, reply) = if tuple == CTA_TUPLE_ORIG { (filter, 0) } else { (0, filter) };
            message.number(CTA_FILTER_ORIG_FLAGS, orig);
            message.number(CTA_FILTER_REPLY_FLAGS, reply);
        });
        match socket.request(message) {
            Err(error) if error.errno == libc::ENOENT => {}
            other => other?,
        }
    }
    Ok(())
}
