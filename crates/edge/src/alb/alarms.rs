//! Coarse time of one worker. A connection has one alarm, whatever it waits for; to put it forward is a store, where a timer
//! of the runtime would be entered and removed with every request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How exact an alarm is: it rings up to this much too late, never too early.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Milliseconds of a worker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    const NEVER: Moment = Moment(u64::MAX);

    pub(crate) fn after(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(millis(time)))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The alarms of all connections of a worker.
pub(crate) struct Alarms {
    began: Instant,
    /// What the clock showed at the last tick.
    now: AtomicU64,
    slots: Mutex<Slots>,
    /// Somebody waits for time to pass.
    wanted: Notify,
}

#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
}

struct Slot {
    due: Moment,
    waker: Waker,
}

impl Slots {
    fn is_unused(&self) -> bool {
        self.all.len() == self.free.len()
    }
}

impl Default for Alarms {
    fn default() -> Self {
        let now = AtomicU64::new(0);
        Alarms { began: Instant::now(), now, slots: Mutex::default(), wanted: Notify::new() }
    }
}

impl Alarms {
    /// As of the last tick.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.now.load(Relaxed))
    }

    pub(crate) fn alarm(self: &Arc<Self>) -> Alarm {
        let mut slots = self.slots();
        if slots.is_unused() {
            // The clock stood still.
            self.advance();
            self.wanted.notify_one();
        }
        let slot = Slot { due: Moment::NEVER, waker: Waker::noop().clone() };
        let at = match slots.free.pop() {
            Some(at) => {
                slots.all[at] = slot;
                at
            }
            None => {
                slots.all.push(slot);
                slots.all.len() - 1
            }
        };
        drop(slots);
        Alarm { alarms: self.clone(), at }
    }

    /// Lets time pass as long as there is an alarm.
    pub(crate) async fn run(&self) {
        loop {
            if self.slots().is_unused() {
                self.wanted.notified().await;
            }
            tokio::time::sleep(TICK).await;
            let now = self.advance();
            self.wake(|slot| slot.due <= now);
        }
    }

    /// All connections look at what they wait for.
    pub(crate) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, which: impl Fn(&Slot) -> bool) {
        // What wakes may end a connection, whose alarm goes back.
        let mut woken = Vec::new();
        for slot in self.slots().all.iter_mut().filter(|slot| which(slot)) {
            slot.due = Moment::NEVER;
            woken.push(slot.waker.clone());
        }
        woken.into_iter().for_each(Waker::wake);
    }

    fn advance(&self) -> Moment {
        let now = Moment(millis(self.began.elapsed()));
        self.now.store(now.0, Relaxed);
        now
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The alarm of one connection.
pub(crate) struct Alarm {
    alarms: Arc<Alarms>,
    at: usize,
}

impl Alarm {
    pub(crate) fn now(&self) -> Moment {
        self.alarms.now()
    }

    /// The moment that is not reached before all of this time is over.
    pub(crate) fn after(&self, time: Duration) -> Moment {
        self.now().after(time).after(TICK)
    }

    /// Whom it wakes: the task of the connection.
    pub(crate) fn attend(&self, cx: &Context<'_>) {
        let waker = &mut self.alarms.slots().all[self.at].waker;
        if !waker.will_wake(cx.waker()) {
            waker.clone_from(cx.waker());
        }
    }

    /// It rings by then, perhaps for something else before; then it has to be set again.
    pub(crate) fn set(&self, by: Moment) {
        let due = &mut self.alarms.slots().all[self.at].due;
        *due = by.min(*due);
    }

    /// Wakes its connection now.
    pub(crate) fn ring(&self) {
        let waker = self.alarms.slots().all[self.at].waker.clone();
        waker.wake();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut slots = self.alarms.slots();
        let slot = &mut slots.all[self.at];
        slot.due = Moment::NEVER;
        let waker = std::mem::replace(&mut slot.waker, Waker::noop().clone());
        slots.free.push(self.at);
        drop(slots);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    async fn rings(alarm: &Alarm, by: Moment) -> Moment {
        poll_fn(|cx| {
            alarm.attend(cx);
            alarm.set(by);
            if alarm.now() >= by { Poll::Ready(alarm.now()) } else { Poll::Pending }
        })
        .await
    }

    #[tokio::test]
    async fn an_alarm_rings_when_its_time_is_over_and_not_before() {
        let alarms = Arc::<Alarms>::default();
        let running = tokio::spawn({
            let alarms = alarms.clone();
            async move { alarms.run().await }
        });
        let (early, late) = (alarms.alarm(), alarms.alarm());
        let began = Instant::now();
        let by = [early.after(Duration::from_millis(1)), late.after(Duration::from_millis(250))];
        let (first, second) = tokio::join!(rings(&early, by[0]), rings(&late, by[1]));
        assert!(first >= by[0] && second >= by[1] && second > first, "{first:?} {second:?}");
        assert!(began.elapsed() >= Duration::from_millis(250));
        // Slots are used again, and the clock rests when there is nobody.
        drop((early, late));
        assert!(alarms.slots().is_unused());
        let again = alarms.alarm();
        assert_eq!(alarms.slots().all.len(), 2);
        rings(&again, again.after(Duration::ZERO)).await;
        running.abort();
    }
}
