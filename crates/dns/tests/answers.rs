//! What a VPC's resolver says.

use std::collections::HashSet;
use std::sync::Arc;

use ferrogate_dns::{Index, Lookup, Outcome, Transport, Vpc, answer};
use ferrogate_nodeapi::{Names, RecordSet, Routing, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

fn record(name: &str, kind: &str, values: &[&str]) -> RecordSet {
    RecordSet {
        name: name.into(),
        kind: kind.into(),
        ttl_seconds: 60,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        alias: None,
        routing: Routing::Simple,
        healthy: true,
    }
}

fn routed(name: &str, value: &str, routing: Routing, healthy: bool) -> RecordSet {
    RecordSet { routing, healthy, ..record(name, "A", &[value]) }
}

fn alias(name: &str, target: &str) -> RecordSet {
    RecordSet { alias: Some(target.into()), ..record(name, "A", &[]) }
}

fn zone(name: &str, vpcs: Option<&[&str]>, records: Vec<RecordSet>) -> Zone {
    let vpc_ids = vpcs.map(|vpcs| vpcs.iter().map(|vpc| (*vpc).to_owned()).collect());
    Zone { name: name.into(), vpc_ids, records }
}

fn index(zones: Vec<Zone>) -> Index {
    Index::new(Arc::new(Names { revision: 1, zones }))
}

fn vpc(id: &str) -> Vpc {
    Vpc { vpc_id: id.into(), cidrs: vec!["172.31.0.0/16".parse().unwrap()], region: "eu-west-1".into() }
}

fn ask(index: &Index, id: &str, name: &str, kind: &str) -> Lookup {
    Lookup::of(index, &vpc(id), name, kind, 7).unwrap()
}

/// (code, values)
fn says(index: &Index, name: &str, kind: &str) -> (&'static str, Vec<String>) {
    let found = ask(index, "vpc-1", name, kind);
    assert!(found.elsewhere.is_none(), "{name} is asked elsewhere");
    (found.code(), found.values())
}

fn world() -> Index {
    index(vec![
        zone(
            "example.local",
            Some(&["vpc-1"]),
            vec![
                record("example.local", "TXT", &["\"apex\""]),
                record("profiles.example.local", "A", &["10.0.0.1", "10.0.0.2"]),
                record("www.example.local", "CNAME", &["profiles.example.local."]),
                record("out.example.local", "CNAME", &["www.example.com."]),
                record("loop.example.local", "CNAME", &["loop2.example.local"]),
                record("loop2.example.local", "CNAME", &["loop.example.local"]),
                record("_http.example.local", "SRV", &["1 1 8080 profiles.example.local"]),
                record("*.wild.example.local", "A", &["10.0.0.9"]),
                record("real.wild.example.local", "TXT", &["\"there\""]),
                record("deep.er.example.local", "A", &["10.0.0.7"]),
                alias("lb.example.local", "web-1.eu-west-1.elb.amazonaws.com"),
                alias("self.example.local", "self.example.local"),
            ],
        ),
        zone("sub.example.local", Some(&["vpc-1"]), vec![record("a.sub.example.local", "A", &["10.1.0.1"])]),
        zone("example.local", None, vec![record("public.example.local", "A", &["8.8.8.8"])]),
        zone(
            "eu-west-1.elb.amazonaws.com",
            None,
            vec![record("web-1.eu-west-1.elb.amazonaws.com", "A", &["10.2.0.1"])],
        ),
    ])
}

#[test]
fn records_of_each_kind_and_none() {
    let index = world();
    let (code, mut values) = says(&index, "PROFILES.example.local.", "A");
    values.sort();
    assert_eq!((code, values), ("NOERROR", vec!["10.0.0.1".into(), "10.0.0.2".into()]));
    assert_eq!(says(&index, "profiles.example.local", "AAAA"), ("NOERROR", vec![]));
    assert_eq!(says(&index, "nobody.example.local", "A"), ("NXDOMAIN", vec![]));
    // A name above one that is there is there.
    assert_eq!(says(&index, "er.example.local", "A"), ("NOERROR", vec![]));
    assert_eq!(says(&index, "example.local", "TXT").0, "NOERROR");
    let nothing = ask(&index, "vpc-1", "nobody.example.local", "A");
    assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(nothing.authorities[0].name.to_ascii(), "example.local.");
}

#[test]
fn chains() {
    let index = world();
    let found = ask(&index, "vpc-1", "www.example.local", "A");
    assert_eq!(found.answers.len(), 3);
    assert_eq!(found.answers[0].record_type(), RecordType::CNAME);
    let out = ask(&index, "vpc-1", "out.example.local", "A");
    assert_eq!(out.answers.len(), 1);
    assert_eq!(out.elsewhere.unwrap().to_ascii(), "www.example.com.");
    assert_eq!(says(&index, "out.example.local", "CNAME").1, ["www.example.com."]);
    assert_eq!(says(&index, "loop.example.local", "A").0, "SERVFAIL");
    assert_eq!(says(&index, "lb.example.local", "A").1, ["10.2.0.1"]);
    assert_eq!(says(&index, "self.example.local", "A"), ("NOERROR", vec![]));
    let srv = ask(&index, "vpc-1", "_http.example.local", "SRV");
    assert_eq!(srv.values(), ["1 1 8080 profiles.example.local."]);
    assert_eq!(srv.additionals.len(), 2);
}

/// Each would be followed as often as there are ways to it.
#[test]
fn several_aliases_of_a_name_end() {
    let records = |count| std::iter::repeat_n(alias("self.local", "self.local"), count);
    for count in [1, 2, 30] {
        let mut records: Vec<_> = records(count).collect();
        records.push(record("self.local", "A", &["10.0.0.1"]));
        let index = index(vec![zone("local", Some(&["vpc-1"]), records)]);
        let (code, values) = says(&index, "self.local", "A");
        assert_eq!((code, values.len()), ("NOERROR", 13), "{count}");
    }
}

#[test]
fn wildcards_cover_what_is_not_there() {
    let index = world();
    assert_eq!(says(&index, "any.wild.example.local", "A").1, ["10.0.0.9"]);
    assert_eq!(says(&index, "a.b.wild.example.local", "A").1, ["10.0.0.9"]);
    assert_eq!(says(&index, "real.wild.example.local", "A"), ("NOERROR", vec![]));
    assert_eq!(says(&index, "below.real.wild.example.local", "A"), ("NXDOMAIN", vec![]));
}

#[test]
fn each_vpc_sees_its_own() {
    let index = world();
    assert_eq!(says(&index, "a.sub.example.local", "A").1, ["10.1.0.1"]);
    assert_eq!(says(&index, "profiles.sub.example.local", "A").0, "NXDOMAIN");
    // Its own zone hides the one for all, whatever that has.
    assert_eq!(says(&index, "public.example.local", "A").0, "NXDOMAIN");
    let other = ask(&index, "vpc-2", "public.example.local", "A");
    assert_eq!(other.values(), ["8.8.8.8"]);
    assert_eq!(ask(&index, "vpc-2", "profiles.example.local", "A").code(), "NXDOMAIN");
    assert!(ask(&index, "vpc-2", "example.org", "A").elsewhere.is_some());
}

#[test]
fn private_names_of_the_region() {
    let index = world();
    assert_eq!(says(&index, "IP-172-31-0-5.eu-west-1.compute.internal", "A").1, ["172.31.0.5"]);
    assert_eq!(says(&index, "ip-172-31-0-5.ec2.internal", "A").0, "NXDOMAIN");
    assert_eq!(says(&index, "ip-10-0-0-5.eu-west-1.compute.internal", "A").0, "NXDOMAIN");
    assert_eq!(
        says(&index, "5.0.31.172.in-addr.arpa", "PTR").1,
        ["ip-172-31-0-5.eu-west-1.compute.internal."]
    );
    assert!(ask(&index, "vpc-1", "5.0.0.10.in-addr.arpa", "PTR").elsewhere.is_some());
}

#[test]
fn multivalue_gives_up_to_eight_healthy_ones_and_all_when_none_is() {
    let sets = |healthy: u8| {
        let set = |n: u8| routed("m.local", &format!("10.0.0.{n}"), Routing::Multivalue, n < healthy);
        index(vec![zone("local", Some(&["vpc-1"]), (0..20).map(set).collect())])
    };
    assert_eq!(says(&sets(3), "m.local", "A").1.len(), 3);
    assert_eq!(says(&sets(20), "m.local", "A").1.len(), 8);
    assert_eq!(says(&sets(0), "m.local", "A").1.len(), 8);
    let all = sets(20);
    let seen: HashSet<String> = (0..200)
        .flat_map(|random| Lookup::of(&all, &vpc("vpc-1"), "m.local", "A", random).unwrap().values())
        .collect();
    assert_eq!(seen.len(), 20, "each of them comes at some time");
}

#[test]
fn weights() {
    let sets = vec![
        routed("w.local", "10.0.0.1", Routing::Weighted(90), true),
        routed("w.local", "10.0.0.2", Routing::Weighted(10), true),
        routed("w.local", "10.0.0.3", Routing::Weighted(0), true),
        routed("w.local", "10.0.0.4", Routing::Weighted(255), false),
    ];
    let index = index(vec![zone("local", Some(&["vpc-1"]), sets)]);
    let mut counts = [0; 5];
    for random in 0..2000 {
        let values = Lookup::of(&index, &vpc("vpc-1"), "w.local", "A", random).unwrap().values();
        let [value] = values.as_slice() else { panic!("one at a time: {values:?}") };
        counts[value.rsplit('.').next().unwrap().parse::<usize>().unwrap()] += 1;
    }
    assert_eq!((counts[3], counts[4]), (0, 0), "no weight, and not healthy");
    assert!((100..300).contains(&counts[2]), "{counts:?}");
}

#[test]
fn unreadable_records_are_said_and_left_out() {
    let sets = vec![record("a.local", "A", &["no address"]), record("b.local", "A", &["10.0.0.1"])];
    let index = index(vec![zone("local", Some(&["vpc-1"]), sets)]);
    assert_eq!(index.unreadable().collect::<Vec<_>>(), ["a.local A: Value is not a valid IPv4 address"]);
    assert_eq!(says(&index, "b.local", "A").1, ["10.0.0.1"]);
}

#[test]
fn the_next_value_is_what_counts() {
    let first = world();
    let mut names = Names { revision: 2, zones: vec![] };
    names.zones.push(zone(
        "sub.example.local",
        Some(&["vpc-1"]),
        vec![record("b.sub.example.local", "A", &["10.1.0.2"])],
    ));
    names.zones.push(zone("kept", Some(&["vpc-2"]), vec![]));
    let second = first.next(Arc::new(names));
    assert_eq!(says(&second, "b.sub.example.local", "A").1, ["10.1.0.2"]);
    assert_eq!(says(&second, "a.sub.example.local", "A").0, "NXDOMAIN");
    assert!(ask(&second, "vpc-1", "profiles.example.local", "A").elsewhere.is_some());
}

fn packet(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn answered(index: &Index, packet: &[u8], transport: Transport) -> Message {
    match answer(index, &vpc("vpc-1"), packet, transport, 1) {
        Outcome::Answer(packet) => Message::from_vec(&packet).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn packets_keep_the_case_the_id_and_the_flags() {
    let response =
        answered(&world(), &packet("Profiles.EXAMPLE.local.", RecordType::A, None), Transport::Udp);
    assert_eq!(response.metadata.id, 77);
    assert!(response.metadata.recursion_available && response.metadata.recursion_desired);
    assert_eq!(response.answers[0].name.to_ascii(), "Profiles.EXAMPLE.local.");
    assert!(response.edns.is_none());
}

#[test]
fn what_does_not_fit_is_truncated() {
    let values: Vec<String> = (0..100).map(|n| format!("10.0.1.{n}")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let index = index(vec![zone("local", Some(&["vpc-1"]), vec![record("many.local", "A", &values)])]);
    let short = answered(&index, &packet("many.local.", RecordType::A, None), Transport::Udp);
    assert!(short.metadata.truncation && short.answers.is_empty());
    let edns = answered(&index, &packet("many.local.", RecordType::A, Some(4096)), Transport::Udp);
    assert_eq!((edns.metadata.truncation, edns.answers.len()), (false, 100));
    assert!(edns.edns.is_some());
    let tcp = answered(&index, &packet("many.local.", RecordType::A, None), Transport::Tcp);
    assert_eq!(tcp.answers.len(), 100);
}

#[test]
fn odd_questions() {
    let index = world();
    let any = answered(&index, &packet("profiles.example.local.", RecordType::ANY, None), Transport::Udp);
    assert_eq!(any.answers.len(), 2);
    let unknown = packet("profiles.example.local.", RecordType::from(65280), None);
    let unknown = answered(&index, &unknown, Transport::Udp);
    assert_eq!((unknown.metadata.response_code, unknown.answers.len()), (ResponseCode::NoError, 0));
    let transfer = answered(&index, &packet("example.local.", RecordType::AXFR, None), Transport::Tcp);
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
    let none = Message::new(1, MessageType::Query, OpCode::Query).to_vec().unwrap();
    assert_eq!(answered(&index, &none, Transport::Udp).metadata.response_code, ResponseCode::FormErr);
    // So many that they would not fit into an answer by UDP.
    let mut many = Message::new(1, MessageType::Query, OpCode::Query);
    many.add_queries((0..200).map(|_| Query::query(Name::root(), RecordType::A)));
    let many = many.to_vec().unwrap();
    for transport in [Transport::Udp, Transport::Tcp] {
        let many = answered(&index, &many, transport);
        assert_eq!((many.metadata.response_code, many.queries.len()), (ResponseCode::FormErr, 0));
    }
    let mut next = Message::new(1, MessageType::Query, OpCode::Query);
    next.add_query(Query::query(Name::root(), RecordType::A));
    next.set_edns(Edns::new()).edns.as_mut().unwrap().set_version(1);
    let next = answered(&index, &next.to_vec().unwrap(), Transport::Udp);
    assert_eq!(u16::from(next.metadata.response_code), u16::from(ResponseCode::BADVERS));
    let response = Message::new(1, MessageType::Response, OpCode::Query).to_vec().unwrap();
    assert!(matches!(answer(&index, &vpc("vpc-1"), &response, Transport::Udp, 1), Outcome::Nothing));
}

#[test]
fn a_chain_that_leads_out_is_finished_with_what_others_say() {
    let packet = packet("out.example.local.", RecordType::A, None);
    let Outcome::Forward(open) = answer(&world(), &vpc("vpc-1"), &packet, Transport::Udp, 1) else {
        panic!("it leads out")
    };
    let question = Message::from_vec(&open.question(5).unwrap()).unwrap();
    assert_eq!(question.queries[0].name().to_ascii(), "www.example.com.");
    let mut upstream = question.into_response();
    let name = Name::from_ascii("www.example.com.").unwrap();
    let address = RData::A(std::net::Ipv4Addr::new(9, 9, 9, 9).into());
    upstream.add_answer(hickory_proto::rr::Record::from_rdata(name, 5, address));
    let response = Message::from_vec(&open.finish(Some(&upstream)).unwrap()).unwrap();
    assert_eq!(response.metadata.id, 77);
    assert_eq!(response.queries[0].name().to_ascii(), "out.example.local.");
    assert_eq!(response.answers.len(), 2);
}

#[test]
fn tens_of_thousands_of_records() {
    let records = (0..50_000).map(|n| record(&format!("h{n}.big.local"), "A", &["10.0.0.1"])).collect();
    let index = index(vec![zone("big.local", Some(&["vpc-1"]), records)]);
    for n in (0..50_000).step_by(777) {
        assert_eq!(says(&index, &format!("h{n}.big.local"), "A").1, ["10.0.0.1"]);
    }
    assert_eq!(says(&index, "h50000.big.local", "A").0, "NXDOMAIN");
}

fn names() -> impl Strategy<Value = Vec<Zone>> {
    let label = prop::sample::select(vec!["a", "b", "c", "*"]);
    let name = prop::collection::vec(label, 0..3)
        .prop_map(|labels| labels.into_iter().chain(["z"]).collect::<Vec<_>>().join("."));
    let kind = prop::sample::select(vec!["A", "CNAME", "TXT", "SRV", "NONE"]);
    let value = prop::sample::select(vec!["10.0.0.1", "a.z", "b.a.z", "\"t\"", "1 1 1 c.z", "away.example"]);
    let routing = prop_oneof![
        Just(Routing::Simple),
        any::<u8>().prop_map(Routing::Weighted),
        Just(Routing::Multivalue)
    ];
    let set = (name, kind, value, routing, any::<bool>(), any::<bool>()).prop_map(
        |(name, kind, value, routing, healthy, is_alias)| RecordSet {
            alias: is_alias.then(|| "b.a.z".into()),
            routing,
            healthy,
            ..record(&name, kind, &[value])
        },
    );
    let zone = (prop::sample::select(vec!["z", "a.z"]), any::<bool>(), prop::collection::vec(set, 0..12))
        .prop_map(|(name, own, records)| Zone {
            name: name.into(),
            vpc_ids: own.then(|| vec!["vpc-1".into()]),
            records,
        });
    prop::collection::vec(zone, 0..4)
}

proptest! {
    #[test]
    fn every_question_has_an_answer(zones in names(), name in "([abc]\\.){0,4}z", random: u64, kind in 0_u16..300) {
        let index = index(zones);
        let packet = packet(&format!("{name}."), RecordType::from(kind), None);
        match answer(&index, &vpc("vpc-1"), &packet, Transport::Udp, random) {
            Outcome::Answer(answer) => {
                prop_assert!(answer.len() <= 512);
                prop_assert_eq!(&answer[..2], &packet[..2]);
                let message = Message::from_vec(&answer).unwrap();
                if message.metadata.response_code == ResponseCode::NXDomain {
                    prop_assert_eq!(message.authorities.len(), 1);
                }
            }
            Outcome::Forward(open) => prop_assert!(open.question(1).is_some()),
            Outcome::Nothing => prop_assert!(false, "a question was not answered"),
        }
    }

    #[test]
    fn an_index_taken_over_is_the_same_as_a_new_one(before in names(), after in names(), random: u64) {
        let after = Arc::new(Names { revision: 2, zones: after });
        let taken = index(before).next(Arc::clone(&after));
        let new = Index::new(after);
        for name in ["z", "a.z", "b.a.z", "c.b.a.z", "q.z"] {
            for kind in ["A", "CNAME", "ANY"] {
                let ask = |index: &Index| Lookup::of(index, &vpc("vpc-1"), name, kind, random).unwrap();
                prop_assert_eq!(ask(&taken), ask(&new));
            }
        }
    }

    #[test]
    fn garbage_is_no_trouble(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = answer(&world(), &vpc("vpc-1"), &bytes, Transport::Udp, 1);
    }
}
