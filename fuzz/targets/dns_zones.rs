#![no_main]
//! Zones as Route 53 and Cloud Map publish them, a line a record, an empty line, and a packet to the resolver of a VPC
//! that sees them.
//!
//! ```text
//! zone example.local vpc          of vpc-1 alone; without a third word: for all
//! A web.example.local 60 m 10.0.0.1
//! ```
//!
//! After the seconds: `-` simple, `w7` weighted, `m` multivalue; `!` behind it: not healthy; `a`: the value is an alias.

use std::sync::Arc;

use ferrogate_dns::{Index, Outcome, Transport, UDP_BYTES_MAX, Unfinished, Vpc, answer};
use ferrogate_nodeapi::{Names, RecordSet, Routing, Zone};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RecordType;

const ZONES_MAX: usize = 8;
const RECORDS_MAX: usize = 64;
const RANDOM: u64 = 0x9e37_79b9_7f4a_7c15;

/// The zones, and the packet.
fn read(mut input: &[u8]) -> (Names, &[u8]) {
    let mut names = Names { revision: 1, zones: Vec::new() };
    let mut records = 0;
    loop {
        let (line, rest) = ferrogate_fuzz::line(input);
        input = rest;
        if line.is_empty() {
            return (names, input);
        }
        let text = String::from_utf8_lossy(line);
        let mut words = text.splitn(5, ' ');
        let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
        if kind == "zone" && names.zones.len() < ZONES_MAX {
            let vpc_ids = words.next().map(|_| vec!["vpc-1".to_owned()]);
            names.zones.push(Zone { name, vpc_ids, records: Vec::new() });
        } else if let Some(zone) = names.zones.last_mut().filter(|_| records < RECORDS_MAX) {
            records += 1;
            zone.records.push(record(kind, name, words));
        }
    }
}

fn record<'a>(kind: &str, name: String, mut words: impl Iterator<Item = &'a str>) -> RecordSet {
    let ttl_seconds = words.next().and_then(|word| word.parse().ok()).unwrap_or(60);
    let how = words.next().unwrap_or_default();
    let value = words.next().unwrap_or_default();
    let routing = match how.as_bytes() {
        [b'w', ..] => Routing::Weighted(how.trim_matches(['w', '!']).parse().unwrap_or(1)),
        [b'm', ..] => Routing::Multivalue,
        _ => Routing::Simple,
    };
    let alias = how.starts_with('a').then(|| value.to_owned());
    let values = if alias.is_some() { Vec::new() } else { value.split('|').map(str::to_owned).collect() };
    RecordSet { name, kind: kind.into(), ttl_seconds, values, alias, routing, healthy: !how.ends_with('!') }
}

fn read_answer(packet: &[u8], question: &[u8], transport: Transport) -> Message {
    let message = Message::from_vec(packet).expect("an answer can be read");
    assert_eq!(packet[..2], question[..2], "the answer is to this question");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    if transport == Transport::Udp {
        assert!(packet.len() <= usize::from(UDP_BYTES_MAX), "{} bytes", packet.len());
    }
    if message.metadata.response_code == ResponseCode::NXDomain {
        let leads_on = message.answers.iter().all(|record| record.record_type() == RecordType::CNAME);
        assert!(leads_on, "there is no such name, and still: {:?}", message.answers);
    }
    message
}

/// What is asked upstream is a question, and whatever comes back makes an answer.
fn finish(ask: impl Fn() -> Unfinished, packet: &[u8], transport: Transport) {
    let question = Message::from_vec(&ask().question(7).expect("a question")).expect("that can be read");
    assert_eq!(question.queries, [ask().query().clone()]);
    if let Some(none) = ask().finish(None) {
        let none = read_answer(&none, packet, transport);
        assert_eq!(none.metadata.response_code, ResponseCode::ServFail);
    }
    let upstream = Message::from_vec(packet).expect("it was read before");
    if let Some(answer) = ask().finish(Some(&upstream)) {
        assert_eq!(answer[..2], packet[..2]);
        assert!(transport == Transport::Tcp || answer.len() <= usize::from(UDP_BYTES_MAX));
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (names, packet) = read(input);
    for record in names.zones.iter().flat_map(|zone| &zone.records) {
        for value in &record.values {
            if let Err(error) = ferrogate_dns::check(&record.kind, value) {
                assert!(!error.to_string().is_empty());
            }
        }
        if let Ok(name) = ferrogate_dns::normal(&record.name) {
            assert_eq!(ferrogate_dns::normal(&name), Ok(name.clone()), "normal is normal");
        }
    }
    let names = Arc::new(names);
    let index = Index::new(names.clone());
    let again = index.next(names);
    assert!(index.unreadable().eq(again.unreadable()));
    let cidrs = vec!["172.31.0.0/16".parse().expect("a CIDR")];
    let vpc = Vpc { vpc_id: "vpc-1".into(), cidrs, region: "us-east-1".into() };
    let ask = |index: &Index, transport| answer(index, &vpc, packet, transport, RANDOM);
    let mut whole = None;
    for transport in [Transport::Tcp, Transport::Udp] {
        match ask(&index, transport) {
            Outcome::Answer(said) => {
                let Outcome::Answer(same) = ask(&again, transport) else { panic!("another answer") };
                assert_eq!(said, same);
                let message = read_answer(&said, packet, transport);
                match transport {
                    Transport::Tcp => whole = Some(message.answers),
                    Transport::Udp if message.metadata.truncation => assert!(message.answers.is_empty()),
                    Transport::Udp => assert_eq!(whole.take().unwrap_or_default(), message.answers),
                }
            }
            Outcome::Forward(_) => {
                let once = || match ask(&index, transport) {
                    Outcome::Forward(unfinished) => *unfinished,
                    other => panic!("another outcome: {other:?}"),
                };
                finish(once, packet, transport);
            }
            Outcome::Nothing => assert!(whole.is_none(), "an answer by TCP alone"),
        }
    }
});
