//! Answers from upstream, for as long as they say they are good.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

pub(super) const ENTRIES_MAX: usize = 10_000;
/// Longer answers are asked for each time: together with the entries they bound what the cache takes.
const BYTES_MAX: usize = 4096;
const TTL_SECONDS_MAX: u32 = 86_400;
/// RFC 2308: one to three hours; names that come into being should be seen sooner.
const NEGATIVE_TTL_SECONDS_MAX: u32 = 60;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    name: Name,
    kind: RecordType,
    dnssec: bool,
}

impl Key {
    pub(super) fn of(query: &Query, dnssec: bool) -> Self {
        Self { name: query.name().to_lowercase(), kind: query.query_type(), dnssec }
    }
}

struct Entry {
    answer: Arc<Message>,
    since: Instant,
    good_for: Duration,
}

#[derive(Default)]
pub(super) struct Cache(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    /// Oldest first.
    order: VecDeque<Key>,
}

impl Cache {
    /// With the TTLs that are left.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Message> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.by_key.get(key)?;
        let age = now.saturating_duration_since(entry.since);
        if age >= entry.good_for {
            return None;
        }
        let answer = Arc::clone(&entry.answer);
        drop(entries);
        let mut answer = Message::clone(&answer);
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for records in [&mut answer.answers, &mut answer.authorities, &mut answer.additionals] {
            for record in records {
                record.ttl = record.ttl.saturating_sub(age);
            }
        }
        Some(answer)
    }

    pub(super) fn put(&self, key: Key, answer: &Message, bytes: usize, now: Instant) {
        let good_for = Duration::from_secs(u64::from(good_for_seconds(answer)));
        if good_for.is_zero() || bytes > BYTES_MAX || answer.metadata.truncation {
            return;
        }
        let entry = Entry { answer: Arc::new(answer.clone()), since: now, good_for };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.by_key.insert(key.clone(), entry).is_none() {
            entries.order.push_back(key);
        }
        while entries.order.len() > ENTRIES_MAX {
            if let Some(oldest) = entries.order.pop_front() {
                entries.by_key.remove(&oldest);
            }
        }
    }
}

/// 0: not to be kept.
fn good_for_seconds(answer: &Message) -> u32 {
    let least = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    match answer.metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() => {
            least(&answer.answers).unwrap_or(0).min(TTL_SECONDS_MAX)
        }
        // RFC 2308: what says for how long there is nothing is the zone's SOA.
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = answer.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
            let ttl = soa.unwrap_or(0).min(least(&answer.answers).unwrap_or(u32::MAX));
            ttl.min(NEGATIVE_TTL_SECONDS_MAX)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};

    fn answer(name: &str, ttl: u32) -> (Key, Message) {
        let name = Name::from_ascii(name).unwrap();
        let query = Query::query(name.clone(), RecordType::A);
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let address = RData::A(std::net::Ipv4Addr::LOCALHOST.into());
        message.add_answer(Record::from_rdata(name, ttl, address));
        (Key::of(&query, false), message)
    }

    #[test]
    fn as_long_as_its_ttl() {
        let (cache, now) = (Cache::default(), Instant::now());
        let (key, message) = answer("Example.com.", 30);
        cache.put(key, &message, 50, now);
        let (key, _) = answer("example.COM.", 0);
        let later = cache.get(&key, now + Duration::from_secs(10)).unwrap();
        assert_eq!(later.answers[0].ttl, 20);
        assert!(cache.get(&key, now + Duration::from_secs(30)).is_none());
    }

    #[test]
    fn never_more_than_it_may_hold() {
        let (cache, now) = (Cache::default(), Instant::now());
        for n in 0..ENTRIES_MAX + 10 {
            let (key, message) = answer(&format!("n{n}.example."), 30);
            cache.put(key, &message, 50, now);
        }
        assert_eq!(cache.0.lock().unwrap().by_key.len(), ENTRIES_MAX);
        let (first, _) = answer("n0.example.", 30);
        assert!(cache.get(&first, now).is_none());
    }

    #[test]
    fn failures_and_nothing_without_a_soa_are_not_kept() {
        let (_, mut message) = answer("a.", 30);
        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(good_for_seconds(&message), 0);
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(good_for_seconds(&message), 0);
    }
}
