//! Elements of nftables sets and maps, changed without the `nft` program: the program reads a whole set to
//! add one element to it, this costs one system call.

use super::{Message, Result, Socket};
use crate::plan::{Key, TABLE, Value};

/// Adds or removes elements of one set.
pub(crate) struct ElementChange<'a> {
    pub(crate) set: &'a str,
    pub(crate) add: bool,
    pub(crate) elements: Vec<(&'a Key, &'a Value)>,
}

/// An attribute list is at most 64 KiB; an element takes up to some 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 256;

const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_GOTO: i32 = -4;

/// All changes, in order, as one transaction.
pub(crate) fn change_elements(socket: &mut Socket, changes: &[ElementChange<'_>]) -> Result<()> {
    let mut messages = vec![(boundary(libc::NFNL_MSG_BATCH_BEGIN as u16), false)];
    for change in changes {
        for elements in change.elements.chunks(ELEMENTS_PER_MESSAGE) {
            messages.push((element_message(change, elements), true));
        }
    }
    if messages.len() == 1 {
        return Ok(());
    }
    messages.push((boundary(libc::NFNL_MSG_BATCH_END as u16), false));
    socket.batch(messages)
}

fn boundary(kind: u16) -> Message {
    let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    Message::new(kind, 0, &[libc::AF_UNSPEC as u8, libc::NFNETLINK_V0 as u8, high, low])
}

fn element_message(change: &ElementChange<'_>, elements: &[(&Key, &Value)]) -> Message {
    let (message, flags) =
        if change.add { (NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE) } else { (NFT_MSG_DELSETELEM, 0) };
    let kind = ((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | message;
    let mut message = Message::new(kind, flags, &[libc::AF_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0]);
    message.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
    message.text(NFTA_SET_ELEM_LIST_SET, change.set);
    message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |message| {
        for (key, value) in elements {
            message.nest(NFTA_LIST_ELEM, |message| {
                message.nest(NFTA_SET_ELEM_KEY, |message| {
                    message.attribute(NFTA_DATA_VALUE, &key.bytes());
                });
                if change.add {
                    put_value(message, value);
                }
            });
        }
    });
    message
}

fn put_value(message: &mut Message, value: &Value) {
    let bytes = match value {
        Value::Member => return,
        Value::Goto(chain) => {
            message.nest(NFTA_SET_ELEM_DATA, |message| {
                message.nest(NFTA_DATA_VERDICT, |message| {
                    message.attribute(NFTA_VERDICT_CODE, &NFT_GOTO.to_be_bytes());
                    message.text(NFTA_VERDICT_CHAIN, chain);
                });
            });
            return;
        }
        Value::Mark(mark) => mark.to_ne_bytes(),
        Value::Address(address) => address.octets(),
    };
    message.nest(NFTA_SET_ELEM_DATA, |message| {
        message.attribute(NFTA_DATA_VALUE, &bytes);
    });
}
