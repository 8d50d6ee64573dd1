//! Images that will be wanted: fetched when nothing else is.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{mpsc, watch};

use crate::config::Auth;
use crate::platform::Platform;
use crate::reference::ImageRef;
use crate::store::{ImageStore, Inner};

/// References waiting.
const WAITING_MAX: usize = 64;
/// How often a pull for a task may push one aside before it is forgotten.
const PUSHED_ASIDE_MAX: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{WAITING_MAX} images wait to be fetched ahead already; this one is fetched when a task needs it")]
pub struct PrefetchFull;

type Name = (ImageRef, Platform);

struct Job {
    name: Name,
    auth: Auth,
}

pub(crate) struct Prefetch {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    waiting: Mutex<HashSet<Name>>,
    /// Pulls for tasks that have something to fetch.
    pulls: watch::Sender<usize>,
}

impl Default for Prefetch {
    fn default() -> Self {
        Prefetch { queue: Mutex::default(), waiting: Mutex::default(), pulls: watch::Sender::new(0) }
    }
}

/// A pull for a task; what is fetched ahead waits until none is left.
pub(crate) struct Pulling<'a>(&'a Prefetch);

impl Prefetch {
    pub(crate) fn pulling(&self) -> Pulling<'_> {
        self.pulls.send_modify(|pulls| *pulls += 1);
        Pulling(self)
    }

    fn done(&self, name: &Name) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        self.0.pulls.send_modify(|pulls| *pulls -= 1);
    }
}

impl ImageStore {
    /// Fetches the image ahead of its need: one at a time, only while no task waits for an image. What fails is logged and
    /// forgotten. Within a tokio runtime. One that waits already is not queued again.
    ///
    /// # Errors
    /// Too many wait.
    pub fn prefetch(&self, reference: ImageRef, auth: Auth, platform: Platform) -> Result<(), PrefetchFull> {
        let prefetch = &self.0.prefetch;
        let name = (reference, platform);
        if !prefetch.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            return Ok(());
        }
        let mut queue = prefetch.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queue.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(WAITING_MAX);
            tokio::spawn(work(Arc::downgrade(&self.0), receiver));
            sender
        });
        queue.try_send(Job { name, auth }).map_err(|refused| {
            prefetch.done(&refused.into_inner().name);
            PrefetchFull
        })
    }
}

/// Ends with the store.
async fn work(store: Weak<Inner>, mut queue: mpsc::Receiver<Job>) {
    while let Some(Job { name, auth }) = queue.recv().await {
        for _ in 0..PUSHED_ASIDE_MAX {
            let Some(mut pulls) = store.upgrade().map(|inner| inner.prefetch.pulls.subscribe()) else {
                return;
            };
            // An error: the store has gone.
            if pulls.wait_for(|pulls| *pulls == 0).await.is_err() {
                return;
            }
            let Some(inner) = store.upgrade() else { return };
            let store = ImageStore(inner);
            tokio::select! {
                biased;
                _ = pulls.wait_for(|pulls| *pulls > 0) => {}
                ended = store.pull_ahead(&name.0, auth.clone(), name.1) => {
                    match ended {
                        Ok(image) => tracing::info!(image = %name.0, bytes = image.size_bytes, "fetched ahead"),
                        Err(error) => tracing::info!(image = %name.0, %error, "not fetched ahead"),
                    }
                    break;
                }
            }
        }
        let Some(inner) = store.upgrade() else { return };
        inner.prefetch.done(&name);
    }
}
