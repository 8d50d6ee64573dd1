//! Making room by itself: now and then, and before a pull that would not fit.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::collect::{Collected, Watermarks};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::store::{ImageStore, Inner, blocking, now};

/// When images nobody uses go, longest unused first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// Between two looks.
    pub interval: Duration,
    /// Unpacked layers, all images together; `None`: as much as the disk has.
    pub max_bytes: Option<u64>,
    /// Of `max_bytes`: where a collection stops.
    pub max_low_percent: u8,
    /// Of the file system, in use, by whatever: where a collection begins and where it stops.
    pub disk_high_percent: u8,
    pub disk_low_percent: u8,
}

impl Default for Upkeep {
    fn default() -> Self {
        Upkeep {
            interval: Duration::from_secs(300),
            max_bytes: None,
            max_low_percent: 80,
            disk_high_percent: 85,
            disk_low_percent: 80,
        }
    }
}

/// Layers usually unpack to less than so many times what the registry sends.
const UNPACKED_PER_COMPRESSED: u64 = 3;

/// Says which images (manifest or index digests) tasks use, also those that were not asked for by this process.
pub(crate) type InUse = Box<dyn Fn() -> HashSet<Digest> + Send + Sync>;

/// A file system's size and what is free of it for root, bytes.
#[derive(Clone, Copy, Debug)]
struct Space {
    total: u64,
    free: u64,
}

impl Upkeep {
    /// What to do about `held` bytes of layers with `coming` more to be unpacked; `None`: nothing.
    fn marks(&self, held: u64, coming: u64, space: Space) -> Option<Watermarks> {
        let percent = |of: u64, percent: u8| (u128::from(of) * u128::from(percent.min(100)) / 100) as u64;
        let mut low_bytes = None;
        let mut lower = |to: u64| low_bytes = Some(low_bytes.map_or(to, |low: u64| low.min(to)));
        if let Some(max) = self.max_bytes
            && held.saturating_add(coming) > max
        {
            lower(percent(max, self.max_low_percent).saturating_sub(coming));
        }
        let used = space.total.saturating_sub(space.free);
        if coming > space.free {
            lower(held.saturating_sub(coming - space.free));
        } else if coming == 0 && used > percent(space.total, self.disk_high_percent) {
            lower(held.saturating_sub(used - percent(space.total, self.disk_low_percent)));
        }
        low_bytes.map(|low_bytes| Watermarks { high_bytes: low_bytes, low_bytes })
    }
}

impl ImageStore {
    /// Who is asked what tasks use, before anything is collected. An agent that starts anew says here what its tasks use,
    /// before it has pinned it: pins do not outlive a process.
    pub fn set_in_use(&self, in_use: impl Fn() -> HashSet<Digest> + Send + Sync + 'static) {
        *self.0.in_use.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Box::new(in_use)));
    }

    /// Collects whenever [`Upkeep`] says so, until dropped. Failures are logged and met again the next time.
    pub async fn keep_up(&self) {
        let mut ticks = tokio::time::interval(self.0.config.upkeep.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.look_after().await {
                Ok(collected) if collected.removed.is_empty() => {}
                Ok(Collected { removed, freed_bytes, left_bytes }) => {
                    tracing::info!(
                        images = removed.len(),
                        freed_bytes,
                        left_bytes,
                        "unused images were removed"
                    );
                }
                Err(error) => tracing::error!(%error, "unused images could not be removed"),
            }
        }
    }

    /// One look of [`ImageStore::keep_up`].
    ///
    /// # Errors
    /// The disk fails.
    pub async fn look_after(&self) -> Result<Collected, StoreError> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            inner.note_use()?;
            inner.make_room(0)
        })
        .await
    }
}

impl Inner {
    /// Removes what nobody uses, as far as the marks want it for `coming` bytes from the registry. Blocking.
    pub(crate) fn make_room(&self, coming: u64) -> Result<Collected, StoreError> {
        let coming = coming.saturating_mul(UNPACKED_PER_COMPRESSED);
        let held = self.held_bytes();
        let Some(marks) = self.config.upkeep.marks(held, coming, self.space()?) else {
            return Ok(Collected { left_bytes: held, ..Collected::default() });
        };
        self.collect(&self.in_use(), marks)
    }

    /// Whether what comes fits as it is. Blocking.
    pub(crate) fn has_room(&self, coming: u64) -> Result<bool, StoreError> {
        let coming = coming.saturating_mul(UNPACKED_PER_COMPRESSED);
        Ok(self.config.upkeep.marks(self.held_bytes(), coming, self.space()?).is_none())
    }

    /// Images that are used now were last used now: one whose task ran for a month is not the oldest when it ends.
    fn note_use(&self) -> Result<(), StoreError> {
        let in_use = self.in_use();
        let now = now();
        for record in self.records().values_mut() {
            let used = self.pins.count(&record.manifest) > 0
                || in_use.contains(&record.manifest)
                || record.indexes.iter().any(|index| in_use.contains(index));
            if used && record.last_used < now {
                record.last_used = now;
                self.disk
                    .add_record(&record.manifest, record)
                    .map_err(StoreError::io("write", self.disk.tmp()))?;
            }
        }
        Ok(())
    }

    fn in_use(&self) -> HashSet<Digest> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner).clone();
        in_use.map(|in_use| in_use()).unwrap_or_default()
    }

    fn space(&self) -> Result<Space, StoreError> {
        let dir = self.disk.tmp();
        let stat = rustix::fs::statvfs(&dir).map_err(|errno| StoreError::io("measure", dir)(errno.into()))?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn low(upkeep: Upkeep, held: u64, coming: u64, free: u64) -> Option<u64> {
        let space = Space { total: 100 * GIB, free: free * GIB };
        upkeep.marks(held * GIB, coming * GIB, space).map(|marks| marks.low_bytes / GIB)
    }

    #[test]
    fn marks_are_kept_by_bytes_and_by_disk() {
        let disk = Upkeep::default();
        assert_eq!(low(disk, 30, 0, 50), None);
        assert_eq!(low(disk, 30, 0, 15), None);
        // 90 in use, down to 80: ten fewer.
        assert_eq!(low(disk, 30, 0, 10), Some(20));
        // Others fill the disk: all that can go goes.
        assert_eq!(low(disk, 5, 0, 0), Some(0));
        // Before a pull only what it needs: a disk that others fill is no reason to pull everything anew each time.
        assert_eq!(low(disk, 30, 10, 12), None);
        assert_eq!(low(disk, 30, 10, 8), Some(28));

        let max = Upkeep { max_bytes: Some(10 * GIB), ..disk };
        assert_eq!(low(max, 10, 0, 90), None);
        assert_eq!(low(max, 11, 0, 90), Some(8));
        assert_eq!(low(max, 9, 3, 90), Some(5));
        assert_eq!(low(max, 1, 60, 90), Some(0));
        assert_eq!(low(max, 9, 3, 1), Some(5));
        assert_eq!(low(max, 12, 0, 10), Some(2));
    }
}
