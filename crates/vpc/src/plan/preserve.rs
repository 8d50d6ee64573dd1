//! A network load balancer speaks in its clients' names (network load balancers guide, "Client IP preservation").
//!
//! ```text
//!   client ──── 1 ────▶ balancer ──── 2: from the client's address ────▶ target
//!     ◀──────── 4 ────────   ◀─────── 3: to the client's address ──────────
//! ```
//!
//! Who sends to a balancer is remembered (1). With such a source, and no other that is not its own, the balancer may
//! begin a connection (2): the receiver's security groups see the client's address, and the groups of the balancer as
//! well. The connection has the balancer's mark, by which answers (3) are routed to it and not to the client.
//!
//! ```text
//! prerouting  -150  speakers  what a balancer sends: its own, or a client's; marks answers with their connection's mark
//! forward      -30  gateway   only its own goes out through an internet gateway
//! postrouting    0  clients   remembers who sends to a balancer
//! ```

use super::rules::{Action, Base, Hook, Key, Match, Rule, Ruleset, SetKind, Value, rule};
use super::{Interface, ruleset};
use crate::names::GATEWAY_LINK;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Links of balancers.
const BALANCERS: &str = "balancers";
/// Balancers' links with their own addresses.
const OWN: &str = "own";
/// Balancers' links with their marks, to look both up and the one by the other.
const FLOWS: &str = "flows";
const MARK_BY_BALANCER: &str = "mark_by_balancer";
/// Balancers' links with the addresses that sent to them.
const CLIENTS: &str = "clients";

pub(super) fn add_sets(rules: &mut Ruleset) {
    for (name, kind) in [
        (BALANCERS, SetKind::Links),
        (OWN, SetKind::LinkAddresses),
        (FLOWS, SetKind::LinkMarks),
        (MARK_BY_BALANCER, SetKind::MarkByLink),
        (CLIENTS, SetKind::Remembered),
    ] {
        rules.set(name, kind);
    }
}

pub(super) fn add_chains(rules: &mut Ruleset) {
    use Match::{DestinationIn, FlowIn, FlowMarked, FromIn, IifNotIn, New, OifIn, Original, Protocol, Reply};
    let filter = |hook, priority, accept| Some(Base { kind: "filter", hook, priority, accept });
    rules.chain(
        "speakers",
        filter(Hook::Prerouting, -150, false),
        vec![
            rule![Reply, FlowMarked => Action::MarkByFlow],
            rule![IifNotIn(BALANCERS.into()) => Action::Accept],
            rule![FromIn(OWN.into()) => Action::Accept],
            // The resolver's answer would go to the client.
            rule![DestinationIn(ruleset::RESOLVERS.into()) => Action::Drop],
            rule![New, FromIn(CLIENTS.into()) => Action::FlowMarkByIif(MARK_BY_BALANCER.into())],
            rule![Original, FlowIn(FLOWS.into()) => Action::Accept],
        ],
    );
    // A connection of TCP is answered when it is new; a balancer may turn to another target at any datagram.
    let to_balancer = || OifIn(BALANCERS.into());
    rules.chain(
        "clients",
        filter(Hook::Postrouting, 0, true),
        vec![
            rule![to_balancer(), Original, New, Protocol(TCP) => Action::Remember(CLIENTS.into())],
            rule![to_balancer(), Original, Protocol(UDP) => Action::Remember(CLIENTS.into())],
        ],
    );
}

/// For the chain of what passes an internet gateway.
pub(super) fn not_in_a_clients_name() -> Rule {
    let foreign = Match::FromNotIn(OWN.into());
    rule![Match::Oif(GATEWAY_LINK), Match::IifIn(BALANCERS.into()), foreign => Action::Drop]
}

pub(super) fn add_balancer(rules: &mut Ruleset, interface: &Interface, mark: u32) {
    let link = || interface.link.clone();
    let mut put = |set: &str, kind, key, value| rules.set(set, kind).insert(key, value);
    put(BALANCERS, SetKind::Links, Key::Link(link()), Value::Member);
    put(OWN, SetKind::LinkAddresses, Key::LinkAddress(link(), interface.address), Value::Member);
    put(FLOWS, SetKind::LinkMarks, Key::LinkMark(link(), mark), Value::Member);
    put(MARK_BY_BALANCER, SetKind::MarkByLink, Key::Link(link()), Value::Mark(mark));
}
