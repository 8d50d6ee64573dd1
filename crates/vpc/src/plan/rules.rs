//! The rules of one namespace as a value: what nftables is told, and what the tests evaluate.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::addr::Mac;

/// One nftables table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) chains: BTreeMap<String, Chain>,
    pub(crate) sets: BTreeMap<String, Set>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// `None`: only reached from other chains.
    pub(crate) base: Option<Base>,
    pub(crate) rules: Vec<Rule>,
}

/// Where a packet enters the rules. A packet passes when every base chain on its way accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) kind: &'static str,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
    /// What happens to a packet that no rule decides on.
    pub(crate) accept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Forward,
    Postrouting,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Iif(&'static str),
    Oif(&'static str),
    IifIn(String),
    OifIn(String),
    Source(Ipv4Net),
    Destination(Ipv4Net),
    SourceIn(String),
    SourceNotIn(String),
    DestinationIn(String),
    DestinationNotIn(String),
    /// (incoming interface, source MAC, source address) is a member.
    PinIn(String),
    /// (incoming interface, source MAC) is a member.
    LooseIn(String),
    IifNotIn(String),
    /// (incoming interface, source address) is a member.
    FromIn(String),
    FromNotIn(String),
    /// (incoming interface, the connection's mark) is a member.
    FlowIn(String),
    /// The connection has a mark.
    FlowMarked,
    Protocol(u8),
    /// TCP or UDP, destination ports inclusive.
    Ports {
        protocol: u8,
        first: u16,
        last: u16,
    },
    Icmp {
        kind: Option<u8>,
        code: Option<u8>,
    },
    Mark(u32),
    /// Belongs to a tracked connection, in either direction, or is an error about one.
    Established,
    /// The first of a connection.
    New,
    /// From who began the connection, or back.
    Original,
    Reply,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    Drop,
    Return,
    Jump(String),
    /// Continues where the map says for the incoming interface; with the next rule when it says nothing.
    ByIif(String),
    ByOif(String),
    /// Sets the mark the map has for the incoming interface, and goes on.
    MarkByIif(String),
    /// Sets the mark of its connection, and goes on.
    MarkByFlow,
    /// Its connection gets the mark the map has for the incoming interface; it goes on.
    FlowMarkByIif(String),
    /// (outgoing interface, source address) is a member for a while from now; it goes on.
    Remember(String),
    DestinationNat(String),
    SourceNat(String),
    /// To the local socket on this port, whatever the destination.
    Divert {
        port: u16,
        mark: u32,
    },
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) kind: SetKind,
    pub(crate) elements: BTreeMap<Key, Value>,
}

impl Set {
    pub(crate) fn new(kind: SetKind) -> Self {
        Self { kind, elements: BTreeMap::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetKind {
    Addresses,
    Links,
    /// Link, MAC and address.
    Pins,
    /// Link and MAC.
    LoosePins,
    LinkAddresses,
    LinkMarks,
    /// Link and address, put in by packets, which go by themselves.
    Remembered,
    MarkByLink,
    ChainByLink,
    AddressByAddress,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Address(Ipv4Addr),
    Link(String),
    Pin(String, Mac, Ipv4Addr),
    LoosePin(String, Mac),
    LinkAddress(String, Ipv4Addr),
    LinkMark(String, u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// In a set.
    Member,
    Mark(u32),
    Goto(String),
    Address(Ipv4Addr),
}

impl Key {
    /// As the kernel stores it: every part padded to four bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let link = |name: &String| {
            let mut bytes = [0; libc::IFNAMSIZ];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            bytes
        };
        match self {
            Self::Address(address) => address.octets().to_vec(),
            Self::Link(name) => link(name).to_vec(),
            Self::Pin(name, mac, address) => [&link(name)[..], &mac.0, &[0, 0], &address.octets()].concat(),
            Self::LoosePin(name, mac) => [&link(name)[..], &mac.0, &[0, 0]].concat(),
            Self::LinkAddress(name, address) => [&link(name)[..], &address.octets()].concat(),
            Self::LinkMark(name, mark) => [&link(name)[..], &mark.to_ne_bytes()].concat(),
        }
    }
}

impl Ruleset {
    pub(crate) fn chain(&mut self, name: impl Into<String>, base: Option<Base>, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Chain { base, rules });
    }

    pub(crate) fn set(&mut self, name: impl Into<String>, kind: SetKind) -> &mut BTreeMap<Key, Value> {
        &mut self.sets.entry(name.into()).or_insert_with(|| Set::new(kind)).elements
    }
}

/// `rule![matches… => action]`, to read like the rule it makes.
macro_rules! rule {
    ($($part:expr),* => $action:expr) => {
        $crate::plan::rules::Rule { matches: vec![$($part),*], action: $action }
    };
}
pub(crate) use rule;
