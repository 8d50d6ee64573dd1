//! Rules as the `nft` program reads them, one command a line.

use std::fmt::{self, Write};

use super::TABLE;
use super::rules::{Action, Base, Chain, Hook, Key, Match, Rule, Ruleset, Set, SetKind, Value};

/// Elements in one command: keeps lines short enough for an error message to be of use.
const ELEMENTS_PER_COMMAND: usize = 64;
/// Of one VPC's [`SetKind::Remembered`] sets each; one more is not remembered.
const REMEMBERED_MAX: u32 = 65_536;
/// From a client's last first word to the balancer's in its name: a TLS handshake, a few tries.
const REMEMBERED_SECONDS: u32 = 60;

/// Replaces whatever the table holds, in one transaction.
pub(crate) fn whole(ruleset: &Ruleset) -> String {
    let mut text = format!("add table ip {TABLE}\ndelete table ip {TABLE}\nadd table ip {TABLE}\n");
    for (name, set) in &ruleset.sets {
        add_set(&mut text, name, set);
    }
    for (name, chain) in &ruleset.chains {
        add_chain(&mut text, name, chain);
    }
    for (name, chain) in &ruleset.chains {
        add_rules(&mut text, name, chain);
    }
    for (name, set) in &ruleset.sets {
        add_elements(&mut text, name, set);
    }
    text
}

pub(crate) fn add_set(text: &mut String, name: &str, set: &Set) {
    let (noun, kind) = match set.kind {
        SetKind::Addresses => ("set", "ipv4_addr"),
        SetKind::Links => ("set", "ifname"),
        SetKind::Pins => ("set", "ifname . ether_addr . ipv4_addr"),
        SetKind::LoosePins => ("set", "ifname . ether_addr"),
        SetKind::LinkAddresses | SetKind::Remembered => ("set", "ifname . ipv4_addr"),
        SetKind::LinkMarks => ("set", "ifname . mark"),
        SetKind::MarkByLink => ("map", "ifname : mark"),
        SetKind::ChainByLink => ("map", "ifname : verdict"),
        SetKind::AddressByAddress => ("map", "ipv4_addr : ipv4_addr"),
    };
    let more = match set.kind {
        SetKind::Remembered => {
            format!(" size {REMEMBERED_MAX}; flags dynamic, timeout; timeout {REMEMBERED_SECONDS}s;")
        }
        _ => String::new(),
    };
    line(text, format_args!("add {noun} ip {TABLE} {name} {{ type {kind};{more} }}"));
}

pub(crate) fn delete_set(text: &mut String, name: &str, set: &Set) {
    let noun = match set.kind {
        SetKind::MarkByLink | SetKind::ChainByLink | SetKind::AddressByAddress => "map",
        _ => "set",
    };
    line(text, format_args!("delete {noun} ip {TABLE} {name}"));
}

pub(crate) fn add_chain(text: &mut String, name: &str, chain: &Chain) {
    let Some(Base { kind, hook, priority, accept }) = &chain.base else {
        return line(text, format_args!("add chain ip {TABLE} {name}"));
    };
    let hook = match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Postrouting => "postrouting",
    };
    let policy = if *accept { "accept" } else { "drop" };
    line(
        text,
        format_args!(
            "add chain ip {TABLE} {name} {{ type {kind} hook {hook} priority {priority}; policy {policy}; }}"
        ),
    );
}

pub(crate) fn delete_chain(text: &mut String, name: &str) {
    line(text, format_args!("delete chain ip {TABLE} {name}"));
}

pub(crate) fn flush_chain(text: &mut String, name: &str) {
    line(text, format_args!("flush chain ip {TABLE} {name}"));
}

pub(crate) fn add_rules(text: &mut String, name: &str, chain: &Chain) {
    for rule in &chain.rules {
        line(text, format_args!("add rule ip {TABLE} {name}{}", RuleText(rule)));
    }
}

fn add_elements(text: &mut String, name: &str, set: &Set) {
    let elements: Vec<String> = set.elements.iter().map(|(key, value)| element(key, value)).collect();
    for chunk in elements.chunks(ELEMENTS_PER_COMMAND) {
        line(text, format_args!("add element ip {TABLE} {name} {{ {} }}", chunk.join(", ")));
    }
}

fn element(key: &Key, value: &Value) -> String {
    let key = match key {
        Key::Address(address) => address.to_string(),
        Key::Link(link) => format!("\"{link}\""),
        Key::Pin(link, mac, address) => format!("\"{link}\" . {mac} . {address}"),
        Key::LoosePin(link, mac) => format!("\"{link}\" . {mac}"),
        Key::LinkAddress(link, address) => format!("\"{link}\" . {address}"),
        Key::LinkMark(link, mark) => format!("\"{link}\" . {mark}"),
    };
    match value {
        Value::Member => key,
        Value::Mark(mark) => format!("{key} : {mark}"),
        Value::Goto(chain) => format!("{key} : goto {chain}"),
        Value::Address(address) => format!("{key} : {address}"),
    }
}

fn line(text: &mut String, arguments: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
    text.push('\n');
}

struct RuleText<'a>(&'a Rule);

impl fmt::Display for RuleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0.matches {
            write_match(f, part)?;
        }
        match &self.0.action {
            Action::Accept => write!(f, " accept"),
            Action::Drop => write!(f, " drop"),
            Action::Return => write!(f, " return"),
            Action::Jump(chain) => write!(f, " jump {chain}"),
            Action::ByIif(map) => write!(f, " iifname vmap @{map}"),
            Action::ByOif(map) => write!(f, " oifname vmap @{map}"),
            Action::MarkByIif(map) => write!(f, " meta mark set iifname map @{map}"),
            Action::MarkByFlow => write!(f, " meta mark set ct mark"),
            Action::FlowMarkByIif(map) => write!(f, " ct mark set iifname map @{map}"),
            Action::Remember(set) => write!(f, " update @{set} {{ oifname . ip saddr }}"),
            Action::DestinationNat(map) => write!(f, " dnat to ip daddr map @{map}"),
            Action::SourceNat(map) => write!(f, " snat to ip saddr map @{map}"),
            Action::Divert { port, mark } => write!(f, " tproxy to :{port} meta mark set {mark} accept"),
        }
    }
}

fn write_match(f: &mut fmt::Formatter<'_>, part: &Match) -> fmt::Result {
    match part {
        Match::Iif(name) => write!(f, " iifname \"{name}\""),
        Match::Oif(name) => write!(f, " oifname \"{name}\""),
        Match::IifIn(set) => write!(f, " iifname @{set}"),
        Match::OifIn(set) => write!(f, " oifname @{set}"),
        // The whole address space is no condition; nft makes nothing of it, or refuses it.
        Match::Source(net) | Match::Destination(net) if net.prefix_len() == 0 => Ok(()),
        Match::Source(net) => write!(f, " ip saddr {}", net.trunc()),
        Match::Destination(net) => write!(f, " ip daddr {}", net.trunc()),
        Match::SourceIn(set) => write!(f, " ip saddr @{set}"),
        Match::SourceNotIn(set) => write!(f, " ip saddr != @{set}"),
        Match::DestinationIn(set) => write!(f, " ip daddr @{set}"),
        Match::DestinationNotIn(set) => write!(f, " ip daddr != @{set}"),
        Match::PinIn(set) => write!(f, " iifname . ether saddr . ip saddr @{set}"),
        Match::LooseIn(set) => write!(f, " iifname . ether saddr @{set}"),
        Match::IifNotIn(set) => write!(f, " iifname != @{set}"),
        Match::FromIn(set) => write!(f, " iifname . ip saddr @{set}"),
        Match::FromNotIn(set) => write!(f, " iifname . ip saddr != @{set}"),
        Match::FlowIn(set) => write!(f, " iifname . ct mark @{set}"),
        Match::FlowMarked => write!(f, " ct mark != 0"),
        Match::Protocol(protocol) => write!(f, " meta l4proto {protocol}"),
        Match::Ports { protocol, first, last } => {
            write!(f, " meta l4proto {protocol} th dport {first}")?;
            if last > first { write!(f, "-{last}") } else { Ok(()) }
        }
        Match::Icmp { kind, code } => {
            write!(f, " meta l4proto 1")?;
            if let Some(kind) = kind {
                write!(f, " icmp type {kind}")?;
            }
            if let Some(code) = code {
                write!(f, " icmp code {code}")?;
            }
            Ok(())
        }
        Match::Mark(mark) => write!(f, " meta mark {mark}"),
        Match::Established => write!(f, " ct state established,related"),
        Match::New => write!(f, " ct state new"),
        Match::Original => write!(f, " ct direction original"),
        Match::Reply => write!(f, " ct direction reply"),
    }
}
