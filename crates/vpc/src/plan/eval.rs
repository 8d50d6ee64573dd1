//! What the planned rules do to a packet, without a kernel.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::rules::{Action, Chain, Hook, Key, Match, Rule, Ruleset, SetKind, Value};
use crate::addr::Mac;

/// A packet as it arrives in a namespace.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) iif: String,
    pub(super) oif: String,
    pub(super) mac: Mac,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) protocol: u8,
    pub(super) port: u16,
    pub(super) icmp: (u8, u8),
    pub(super) established: bool,
    pub(super) mark: u32,
    /// From who answers in its connection, not from who began it.
    pub(super) reply: bool,
    /// The connection's mark; 0: none.
    pub(super) flow: u32,
    /// What is in the sets that packets fill.
    pub(super) remembered: BTreeSet<(String, Ipv4Addr)>,
}

enum Verdict {
    Accept,
    Drop,
    /// Back to the calling chain.
    Return,
    /// The chain it came to by `goto` has ended: the base chain's policy decides.
    Policy,
}

/// Whether the packet passes every base chain of the hook.
pub(super) fn passes(rules: &Ruleset, hook: Hook, packet: &mut Packet) -> bool {
    let mut bases: Vec<_> = rules
        .chains
        .values()
        .filter_map(|chain| Some((chain.base.as_ref().filter(|base| base.hook == hook)?, chain)))
        .collect();
    bases.sort_by_key(|(base, _)| base.priority);
    bases.iter().all(|(base, chain)| match walk(rules, chain, packet) {
        Verdict::Accept => true,
        Verdict::Drop => false,
        Verdict::Return | Verdict::Policy => base.accept,
    })
}

fn walk(rules: &Ruleset, chain: &Chain, packet: &mut Packet) -> Verdict {
    for Rule { matches, action } in &chain.rules {
        if !matches.iter().all(|part| holds(rules, part, packet)) {
            continue;
        }
        let by_link = |map: &str, link: &str| match rules.sets[map].elements.get(&Key::Link(link.to_owned()))
        {
            Some(Value::Goto(chain)) => Some(&rules.chains[chain]),
            _ => None,
        };
        let target = match action {
            Action::Accept | Action::Divert { .. } => return Verdict::Accept,
            Action::Drop => return Verdict::Drop,
            Action::Return => return Verdict::Return,
            Action::Jump(chain) => match walk(rules, &rules.chains[chain], packet) {
                Verdict::Return => continue,
                other => return other,
            },
            Action::ByIif(map) => by_link(map, &packet.iif),
            Action::ByOif(map) => by_link(map, &packet.oif),
            Action::MarkByIif(map) => {
                if let Some(Value::Mark(mark)) = rules.sets[map].elements.get(&Key::Link(packet.iif.clone()))
                {
                    packet.mark = *mark;
                }
                continue;
            }
            Action::MarkByFlow => {
                packet.mark = packet.flow;
                continue;
            }
            Action::FlowMarkByIif(map) => {
                if let Some(Value::Mark(mark)) = rules.sets[map].elements.get(&Key::Link(packet.iif.clone()))
                {
                    packet.flow = *mark;
                }
                continue;
            }
            Action::Remember(_) => {
                packet.remembered.insert((packet.oif.clone(), packet.source));
                continue;
            }
            Action::DestinationNat(map) => {
                if let Some(Value::Address(to)) =
                    rules.sets[map].elements.get(&Key::Address(packet.destination))
                {
                    packet.destination = *to;
                    return Verdict::Accept;
                }
                continue;
            }
            Action::SourceNat(map) => {
                if let Some(Value::Address(to)) = rules.sets[map].elements.get(&Key::Address(packet.source)) {
                    packet.source = *to;
                    return Verdict::Accept;
                }
                continue;
            }
        };
        if let Some(chain) = target {
            return match walk(rules, chain, packet) {
                Verdict::Return => Verdict::Policy,
                other => other,
            };
        }
    }
    Verdict::Return
}

fn holds(rules: &Ruleset, part: &Match, packet: &Packet) -> bool {
    let has = |set: &str, key: Key| rules.sets[set].elements.contains_key(&key);
    let from = |set: &String| {
        let (link, source) = (packet.iif.clone(), packet.source);
        match rules.sets[set].kind {
            SetKind::Remembered => packet.remembered.contains(&(link, source)),
            _ => has(set, Key::LinkAddress(link, source)),
        }
    };
    match part {
        Match::Iif(name) => packet.iif == *name,
        Match::Oif(name) => packet.oif == *name,
        Match::IifIn(set) => has(set, Key::Link(packet.iif.clone())),
        Match::OifIn(set) => has(set, Key::Link(packet.oif.clone())),
        Match::Source(net) => net.contains(&packet.source),
        Match::Destination(net) => net.contains(&packet.destination),
        Match::SourceIn(set) => has(set, Key::Address(packet.source)),
        Match::SourceNotIn(set) => !has(set, Key::Address(packet.source)),
        Match::DestinationIn(set) => has(set, Key::Address(packet.destination)),
        Match::DestinationNotIn(set) => !has(set, Key::Address(packet.destination)),
        Match::PinIn(set) => has(set, Key::Pin(packet.iif.clone(), packet.mac, packet.source)),
        Match::LooseIn(set) => has(set, Key::LoosePin(packet.iif.clone(), packet.mac)),
        Match::IifNotIn(set) => !has(set, Key::Link(packet.iif.clone())),
        Match::FromIn(set) => from(set),
        Match::FromNotIn(set) => !from(set),
        Match::FlowIn(set) => has(set, Key::LinkMark(packet.iif.clone(), packet.flow)),
        Match::FlowMarked => packet.flow != 0,
        Match::Protocol(protocol) => packet.protocol == *protocol,
        Match::Ports { protocol, first, last } => {
            packet.protocol == *protocol && (*first..=*last).contains(&packet.port)
        }
        Match::Icmp { kind, code } => {
            packet.protocol == 1
                && kind.is_none_or(|kind| kind == packet.icmp.0)
                && code.is_none_or(|code| code == packet.icmp.1)
        }
        Match::Mark(mark) => packet.mark == *mark,
        Match::Established => packet.established,
        Match::New => !packet.established,
        Match::Original => !packet.reply,
        Match::Reply => packet.reply,
    }
}
