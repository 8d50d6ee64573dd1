//! New layers reach the disk after their tasks have begun, not before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::disk::DiskPlace;
use crate::store::Inner;

/// How often it was asked for since the thread that syncs last began to look; 0: there is none.
#[derive(Clone, Default)]
pub(crate) struct Settling(Arc<AtomicUsize>);

impl Inner {
    /// Syncs new layers on a thread of its own, which does not keep the store open while it waits for the disk.
    pub(crate) fn settle_later(&self) {
        let Settling(asked) = self.settling.clone();
        if asked.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        let (place, all) = (self.disk.place(), Arc::clone(&asked));
        let started = std::thread::Builder::new().name("image-sync".into()).spawn(move || work(&place, &all));
        if let Err(error) = started {
            asked.store(0, Ordering::SeqCst);
            tracing::warn!(%error, "new layers are not synced yet; the next pull tries again");
        }
    }
}

fn work(place: &DiskPlace, asked: &AtomicUsize) {
    loop {
        let before = asked.load(Ordering::SeqCst);
        if let Err(error) = place.settle() {
            tracing::error!(%error, "new layers could not be synced; should the machine go down, they are fetched anew");
        }
        if asked.compare_exchange(before, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
    }
}
