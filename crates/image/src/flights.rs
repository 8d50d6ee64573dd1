//! One download of a thing at a time, however many wait for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::digest::Digest;
use crate::error::Cause;

/// Attempts made and what the last of them ended with.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) attempts: u32,
    pub(crate) cause: Cause,
}

type Ended = Option<(u64, Result<(), Failure>)>;

#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, watch::Receiver<Ended>>>);

impl Flights {
    /// Does `work` unless the thing is `present`, or waits for whoever does it already. A failure is shared by those of
    /// the same `source` (place and credentials); others try themselves. If the one who works goes away, the next takes
    /// over.
    pub(crate) async fn run<F: Future<Output = Result<(), Failure>>>(
        &self,
        key: &Digest,
        source: u64,
        present: impl Fn() -> bool,
        work: impl FnOnce() -> F,
    ) -> Result<(), Failure> {
        loop {
            match self.join(key) {
                Turn::Lead(lead) => {
                    let result = if present() { Ok(()) } else { Box::pin(work()).await };
                    lead.end(source, result.clone());
                    return result;
                }
                Turn::Follow(mut ended) => {
                    if let Ok(ended) = ended.wait_for(Option::is_some).await
                        && let Some((whose, Err(failure))) = &*ended
                        && *whose == source
                    {
                        return Err(failure.clone());
                    }
                }
            }
        }
    }

    fn join(&self, key: &Digest) -> Turn<'_> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended) = running.get(key) {
            return Turn::Follow(ended.clone());
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key.clone(), receiver);
        Turn::Lead(Lead { flights: self, key: key.clone(), sender })
    }
}

enum Turn<'a> {
    Lead(Lead<'a>),
    Follow(watch::Receiver<Ended>),
}

struct Lead<'a> {
    flights: &'a Flights,
    key: Digest,
    sender: watch::Sender<Ended>,
}

impl Lead<'_> {
    fn end(self, source: u64, result: Result<(), Failure>) {
        self.sender.send_replace(Some((source, result)));
    }
}

impl Drop for Lead<'_> {
    /// Before the sender goes, so that who is woken finds the place free.
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
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
        let (flights, works, done) = (Arc::new(Flights::default()), Arc::new(AtomicUsize::new(0)), watch::channel(()));
        let key = Digest::of(b"x");
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20u64 {
            let (flights, works, key, mut done) = (flights.clone(), works.clone(), key.clone(), done.1.clone());
            tasks.spawn(async move {
                let work = || async {
                    works.fetch_add(1, Ordering::SeqCst);
                    done.changed().await.unwrap();
                    Err(failure())
                };
                flights.run(&key, number % 2, || false, work).await.is_err()
            });
            tokio::task::yield_now().await;
        }
        while works.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        done.0.send_replace(());
        assert!(tasks.join_all().await.into_iter().all(|failed| failed));
        // The even ones shared one failure; the odd ones then had one of their own.
        assert_eq!(works.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_leader_that_goes_away_is_succeeded() {
        let (flights, key) = (Arc::new(Flights::default()), Digest::of(b"x"));
        let stuck = {
            let (flights, key) = (flights.clone(), key.clone());
            tokio::spawn(async move { flights.run(&key, 0, || false, std::future::pending).await })
        };
        while flights.0.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let next = {
            let (flights, key) = (flights.clone(), key.clone());
            tokio::spawn(async move { flights.run(&key, 0, || false, || async { Ok(()) }).await })
        };
        tokio::task::yield_now().await;
        stuck.abort();
        next.await.unwrap().unwrap();
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
