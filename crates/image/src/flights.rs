//! One download of a thing from one source at a time, however many wait for it.
//!
//! A source is a place and who asks there. Those of different sources do not wait for each other: a registry that
//! dribbles holds up nobody but its own callers, whatever digests it names. Both may come with the same thing; the
//! disk keeps one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, watch};

use crate::digest::Digest;
use crate::error::Cause;

/// Attempts made and what the last of them ended with.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) attempts: u32,
    pub(crate) cause: Cause,
}

type Ended = Option<Result<(), Failure>>;
type Key = (Digest, u64);

#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Key, watch::Receiver<Ended>>>);

impl Flights {
    /// The right to do the thing, or `None` once somebody else did it; its failure is that of all who wait. If the one
    /// who works goes away, the next takes over.
    pub(crate) async fn enter(&self, key: &Digest, source: u64) -> Result<Option<Lead<'_>>, Failure> {
        loop {
            let mut ended = match self.join(key, source) {
                Turn::Lead(lead) => return Ok(Some(lead)),
                Turn::Follow(ended) => ended,
            };
            if let Ok(ended) = ended.wait_for(Option::is_some).await {
                match &*ended {
                    Some(Ok(())) => return Ok(None),
                    Some(Err(failure)) => return Err(failure.clone()),
                    None => {}
                }
            }
        }
    }

    fn join(&self, key: &Digest, source: u64) -> Turn<'_> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (key.clone(), source);
        if let Some(ended) = running.get(&key) {
            return Turn::Follow(ended.clone());
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key.clone(), receiver);
        Turn::Lead(Lead { flights: self, key, sender })
    }
}

enum Turn<'a> {
    Lead(Lead<'a>),
    Follow(watch::Receiver<Ended>),
}

/// Dropped without [`Lead::end`], the next in line leads.
pub(crate) struct Lead<'a> {
    flights: &'a Flights,
    key: Key,
    sender: watch::Sender<Ended>,
}

impl Lead<'_> {
    /// Tells those who wait, and gives the result back.
    pub(crate) fn end(self, result: Result<(), Failure>) -> Result<(), Failure> {
        self.sender.send_replace(Some(result.clone()));
        result
    }
}

impl Drop for Lead<'_> {
    /// Before the sender goes, so that who is woken finds the place free.
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// How many layers of one source come at the same time.
#[derive(Debug)]
pub(crate) struct Slots {
    of_each: usize,
    by_source: Mutex<HashMap<u64, Weak<Semaphore>>>,
}

impl Slots {
    pub(crate) fn new(of_each: usize) -> Self {
        Self { of_each, by_source: Mutex::default() }
    }

    /// To be acquired and kept as long as a layer of this source comes.
    pub(crate) fn of(&self, source: u64) -> Arc<Semaphore> {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = by_source.get(&source).and_then(Weak::upgrade) {
            return slots;
        }
        by_source.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Semaphore::new(self.of_each));
        by_source.insert(source, Arc::downgrade(&slots));
        slots
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::CauseKind;

    fn failure() -> Failure {
        Failure { attempts: 1, cause: Cause::new(CauseKind::Server, "x") }
    }

    #[tokio::test]
    async fn one_works_and_failures_stay_with_their_source() {
        let (flights, works, done) =
            (Arc::new(Flights::default()), Arc::new(AtomicUsize::new(0)), watch::channel(()));
        let key = Digest::of(b"x");
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20u64 {
            let (flights, works, key, mut done) =
                (flights.clone(), works.clone(), key.clone(), done.1.clone());
            tasks.spawn(async move {
                let Ok(Some(lead)) = flights.enter(&key, number % 2).await else { return };
                works.fetch_add(1, Ordering::SeqCst);
                done.changed().await.unwrap();
                // Long enough for the others to look again.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                lead.end(Err(failure())).unwrap_err();
            });
            tokio::task::yield_now().await;
        }
        while works.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        done.0.send_replace(());
        tasks.join_all().await;
        // The even ones shared one failure; the odd ones then had one of their own.
        assert_eq!(works.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_source_that_takes_all_its_slots_leaves_the_others_theirs() {
        let slots = Slots::new(1);
        let (slow, again) = (slots.of(1), slots.of(1));
        let held = slow.acquire().await.unwrap();
        assert!(again.try_acquire().is_err());
        assert!(slots.of(2).try_acquire().is_ok());
        // Another source's download of the same thing is not waited for either.
        let (flights, key) = (Flights::default(), Digest::of(b"x"));
        let _slow = flights.enter(&key, 1).await.unwrap().unwrap();
        assert!(flights.enter(&key, 2).await.unwrap().is_some());
        drop(held);
        drop((slow, again));
        slots.of(3);
        assert_eq!(slots.by_source.lock().unwrap().len(), 1, "those that nobody holds are forgotten");
    }

    #[tokio::test]
    async fn a_leader_that_goes_away_is_succeeded() {
        let (flights, key) = (Arc::new(Flights::default()), Digest::of(b"x"));
        let lead = flights.enter(&key, 0).await.unwrap().unwrap();
        let next = {
            let (flights, key) = (flights.clone(), key.clone());
            tokio::spawn(async move {
                flights.enter(&key, 0).await.unwrap().map(|lead| lead.end(Ok(()))).is_some()
            })
        };
        tokio::task::yield_now().await;
        drop(lead);
        assert!(next.await.unwrap(), "it leads now");
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
