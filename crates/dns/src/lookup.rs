//! From a question to the records of its answer.

use ferrogate_nodeapi::Routing;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::index::{Content, Group, Index, Node, Set, ZoneIndex};
use crate::name::{key, wire};
use crate::private::{Own, Vpc};
use crate::random::Random;

/// CNAMEs and aliases of one answer, followed one after the other; a longer chain is a loop.
const CHAIN_MAX: usize = 12;
/// "Route 53 responds to DNS queries with up to eight healthy records" (multivalue answer routing).
const MULTIVALUE_MAX: usize = 8;
/// Addresses added for the targets of SRV records.
const ADDITIONALS_MAX: usize = 64;

/// What the zones a VPC sees say to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    /// The zone's SOA, where the answer is that there is nothing.
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
    /// A name that no zone here has, to be asked elsewhere: the one asked for, or where a CNAME leads.
    pub elsewhere: Option<Name>,
}

/// Answers `name`, with records under the name as it was asked.
pub fn lookup(index: &Index, vpc: &Vpc, name: &Name, kind: RecordType, random: u64) -> Lookup {
    let mut random = Random::new(random);
    let mut found = Lookup {
        code: ResponseCode::NoError,
        answers: Vec::new(),
        authorities: Vec::new(),
        additionals: Vec::new(),
        elsewhere: None,
    };
    let mut owner = name.clone();
    for _ in 0..CHAIN_MAX {
        let name = key(&owner);
        let Some(zone) = index.zone(&vpc.vpc_id, &name) else {
            private(vpc, &name, owner, kind, &mut found);
            return found;
        };
        let Some(node) = zone.node(&name) else {
            found.code = ResponseCode::NXDomain;
            found.authorities.extend(soa(zone));
            return found;
        };
        match step(index, vpc, node, &owner, kind, &mut random, &mut found) {
            Step::Done => {
                if found.answers.is_empty() {
                    found.authorities.extend(soa(zone));
                }
                additionals(index, vpc, &mut random, &mut found);
                return found;
            }
            Step::Nothing => {
                found.authorities.extend(soa(zone));
                return found;
            }
            Step::To(target) => owner = target,
        }
    }
    found.code = ResponseCode::ServFail;
    found
}

enum Step {
    Done,
    Nothing,
    To(Name),
}

fn step(
    index: &Index,
    vpc: &Vpc,
    node: &Node,
    owner: &Name,
    kind: RecordType,
    random: &mut Random,
    found: &mut Lookup,
) -> Step {
    if kind == RecordType::ANY {
        for group in &node.groups {
            records(index, vpc, group, owner, random, &mut found.answers);
        }
        return Step::Done;
    }
    if let Some(group) = node.group(kind) {
        records(index, vpc, group, owner, random, &mut found.answers);
        return Step::Done;
    }
    let Some(group) = node.group(RecordType::CNAME) else { return Step::Nothing };
    let before = found.answers.len();
    records(index, vpc, group, owner, random, &mut found.answers);
    match found.answers.get(before).map(|record| &record.data) {
        Some(RData::CNAME(target)) => Step::To(target.0.clone()),
        _ => Step::Nothing,
    }
}

/// The records of a group that are given this time, under `owner`.
fn records(
    index: &Index,
    vpc: &Vpc,
    group: &Group,
    owner: &Name,
    random: &mut Random,
    into: &mut Vec<Record>,
) {
    let mut aliases_left = CHAIN_MAX;
    follow(index, vpc, group, owner, random, into, &mut aliases_left);
}

/// `aliases_left` is of all that a group leads to, not of each way: several aliases of one name would be followed the more
/// often the deeper.
fn follow(
    index: &Index,
    vpc: &Vpc,
    group: &Group,
    owner: &Name,
    random: &mut Random,
    into: &mut Vec<Record>,
    aliases_left: &mut usize,
) {
    for set in choose(&group.sets, random) {
        match &set.content {
            Content::Values(values) => {
                let start = into.len();
                let record =
                    |value: &RData| Record::from_rdata(owner.clone(), set.ttl_seconds, value.clone());
                into.extend(values.iter().map(record));
                random.shuffle(&mut into[start..]);
            }
            Content::Alias(_) if *aliases_left == 0 => {}
            Content::Alias(target) => {
                *aliases_left -= 1;
                let zone = index.zone(&vpc.vpc_id, target);
                let target = zone.and_then(|zone| zone.node(target)?.group(group.kind));
                if let Some(target) = target {
                    follow(index, vpc, target, owner, random, into, aliases_left);
                }
            }
        }
    }
}

/// Healthy ones, or all when none is ("How Route 53 chooses records when health checking is configured").
fn choose<'a>(sets: &'a [Set], random: &mut Random) -> Vec<&'a Set> {
    let mut pool: Vec<&Set> = sets.iter().filter(|set| set.healthy).collect();
    if let [only] = pool.as_slice() {
        return vec![only];
    }
    if pool.is_empty() {
        pool = sets.iter().collect();
    }
    match sets.first().map(|set| set.routing) {
        Some(Routing::Weighted(_)) => weighted(&pool, random).into_iter().collect(),
        Some(Routing::Multivalue) => {
            random.shuffle(&mut pool);
            pool.truncate(MULTIVALUE_MAX);
            pool
        }
        _ => pool,
    }
}

fn weighted<'a>(pool: &[&'a Set], random: &mut Random) -> Option<&'a Set> {
    let weight = |set: &Set| match set.routing {
        Routing::Weighted(weight) => usize::from(weight),
        _ => 0,
    };
    let total: usize = pool.iter().map(|set| weight(set)).sum();
    if total == 0 {
        // All weights 0: all are as likely.
        return pool.get(random.below(pool.len())).copied();
    }
    let mut point = random.below(total);
    pool.iter().copied().find(|set| {
        let weight = weight(set);
        let here = point < weight;
        point = point.saturating_sub(weight);
        here
    })
}

fn private(vpc: &Vpc, name: &str, owner: Name, kind: RecordType, found: &mut Lookup) {
    match vpc.own(name, &owner, kind) {
        Own::Record(record) => found.answers.extend(record.map(|record| *record)),
        Own::NoSuchName => found.code = ResponseCode::NXDomain,
        Own::NotOurs => found.elsewhere = Some(owner),
    }
}

fn soa(zone: &ZoneIndex) -> Option<Record> {
    let (name, ttl_seconds, soa) = zone.soa()?;
    Some(Record::from_rdata(name, ttl_seconds, RData::SOA(soa)))
}

/// The addresses of what SRV records name, as far as they are known here.
fn additionals(index: &Index, vpc: &Vpc, random: &mut Random, found: &mut Lookup) {
    let targets = found.answers.iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(&srv.target),
        RData::MX(mx) => Some(&mx.exchange),
        _ => None,
    });
    let mut added: Vec<Record> = Vec::new();
    for target in targets {
        let name = key(target);
        if added.iter().any(|record| record.name == *target) {
            continue;
        }
        let Some(node) = index.zone(&vpc.vpc_id, &name).and_then(|zone| zone.node(&name)) else { continue };
        for kind in [RecordType::A, RecordType::AAAA] {
            if let Some(group) = node.group(kind) {
                records(index, vpc, group, target, random, &mut added);
            }
        }
        if added.len() >= ADDITIONALS_MAX {
            break;
        }
    }
    added.truncate(ADDITIONALS_MAX);
    found.additionals = added;
}

/// For tests and for those who have a name as text.
impl Lookup {
    /// As `lookup`, by a name in text.
    ///
    /// # Errors
    /// What is no name.
    pub fn of(
        index: &Index,
        vpc: &Vpc,
        name: &str,
        kind: &str,
        random: u64,
    ) -> Result<Self, crate::ValueError> {
        let kind = match kind {
            "ANY" => RecordType::ANY,
            kind => crate::value::record_type(kind).ok_or_else(|| crate::ValueError::Kind(kind.into()))?,
        };
        Ok(lookup(index, vpc, &wire(name)?, kind, random))
    }

    /// `NOERROR`, `NXDOMAIN`, `SERVFAIL`.
    pub fn code(&self) -> &'static str {
        match self.code {
            ResponseCode::NoError => "NOERROR",
            ResponseCode::NXDomain => "NXDOMAIN",
            _ => "SERVFAIL",
        }
    }

    /// The answers' values in presentation format.
    pub fn values(&self) -> Vec<String> {
        self.answers.iter().map(|record| record.data.to_string()).collect()
    }
}
