//! What has to be done for the tasks there are. Each looks at its own queue of work.

pub(crate) mod clients;
mod deprovision;
mod endpoints;
pub(crate) mod interfaces;
mod provision;
pub(crate) mod services;
mod sweep;

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use ferrogate_control::Controller;
use ferrogate_store::{Kv, Store};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::EcsService;

/// Jobs of one controller at the same time. The store commits what comes together in one go.
const JOBS_AT_ONCE_MAX: usize = 64;
/// Those that wait for their turn among them; what is beyond stays in its queue.
const JOBS_BEGUN_MAX: usize = 512;

/// How often one job writes anew what somebody else has changed meanwhile.
const ATTEMPTS_MAX: usize = 64;

pub(crate) fn all(service: &EcsService) -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(provision::Provision::new(service)),
        Arc::new(deprovision::Deprovision::new(service)),
        Arc::new(services::Services::new(service)),
        Arc::new(endpoints::Endpoints::new(service)),
        Arc::new(sweep::Sweep::new(service)),
    ]
}

/// Work that outlives the activation that began it, so that one slow task does not keep the others waiting. A key is
/// worked on once at a time; what failed is begun again by a later activation.
struct Jobs {
    at_work: Arc<Mutex<HashSet<String>>>,
    permits: Arc<Semaphore>,
    running: Mutex<JoinSet<()>>,
    /// Of a queue in the store: up to where it was looked through.
    after: Mutex<Option<String>>,
}

impl Jobs {
    fn new() -> Self {
        Self {
            at_work: Arc::default(),
            permits: Arc::new(Semaphore::new(JOBS_AT_ONCE_MAX)),
            running: Mutex::default(),
            after: Mutex::default(),
        }
    }

    fn is_at_work(&self, key: &str) -> bool {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    fn count(&self) -> usize {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many more may be begun.
    fn room(&self) -> usize {
        JOBS_BEGUN_MAX.saturating_sub(self.count())
    }

    /// The next of a queue's keys that nobody works on, and whether there is anything in it: a long queue is looked
    /// through in turns, and not for each job that ends.
    fn next_of(&self, store: &dyn Store, queue: &str) -> (Vec<Kv>, bool) {
        if self.count() > JOBS_BEGUN_MAX / 2 {
            return (Vec::new(), true);
        }
        let mut after = self.after.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = store.range_from(queue, after.as_deref(), JOBS_BEGUN_MAX);
        if page.is_empty() && after.is_some() {
            page = store.range_from(queue, None, JOBS_BEGUN_MAX);
        }
        *after = page.last().filter(|_| page.more).map(|kv| kv.key.to_string());
        let is_there = !page.is_empty() || self.count() > 0;
        let mut next = page.kvs;
        next.retain(|kv| !self.is_at_work(&kv.key));
        (next, is_there)
    }

    /// Begins it, unless the key is being worked on.
    fn begin(&self, key: String, job: impl Future<Output = ()> + Send + 'static) {
        if !self.at_work.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return;
        }
        let done = Done { at_work: Arc::clone(&self.at_work), key };
        let permits = Arc::clone(&self.permits);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            let _done = done;
            let _permit = permits.acquire_owned().await;
            job.await;
        });
    }
}

/// Takes the key off, also when the job panics.
struct Done {
    at_work: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
