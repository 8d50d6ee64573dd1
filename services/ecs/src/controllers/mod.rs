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
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::EcsService;

/// Jobs of one controller at the same time. The store commits what comes together in one go.
const JOBS_AT_ONCE_MAX: usize = 64;

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
}

impl Jobs {
    fn new() -> Self {
        Self {
            at_work: Arc::default(),
            permits: Arc::new(Semaphore::new(JOBS_AT_ONCE_MAX)),
            running: Mutex::default(),
        }
    }

    fn is_at_work(&self, key: &str) -> bool {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    fn count(&self) -> usize {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).len()
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
