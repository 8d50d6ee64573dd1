//! Runs controllers, one task each.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use ferrogate_store::{Store, WatchError};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::{Activation, Controller, Outcome, Status};

/// Shortest pause after an activation that failed, so that a failure that repeats does not spin.
pub const FAILED_PAUSE: Duration = Duration::from_millis(200);

/// Runs controllers until it is shut down or dropped, which cuts activations short.
pub struct Driver {
    store: Arc<dyn Store>,
    handles: Mutex<BTreeMap<&'static str, Handle>>,
    tasks: Mutex<Tasks>,
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct Tasks {
    controllers: JoinSet<()>,
    watchers: JoinSet<()>,
}

/// One controller that runs.
#[derive(Clone)]
pub struct Handle {
    status: Arc<Mutex<Status>>,
    wake: Arc<Notify>,
}

impl Handle {
    /// Activates it now, or once more if it is at work. Many wakes before it comes to it are one.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }
}

impl Driver {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, handles: Mutex::default(), tasks: Mutex::default(), stop: watch::Sender::new(false) }
    }

    /// Starts a controller; its first activation is at once. Not after [`Driver::shut_down`]: then it is listed, and
    /// never activated. Needs a tokio runtime with time.
    ///
    /// # Panics
    /// When a controller of that name runs already: a mistake of the program.
    pub fn spawn(&self, controller: Arc<dyn Controller>) -> Handle {
        let handle = Handle { status: Arc::default(), wake: Arc::default() };
        {
            let mut handles = lock(&self.handles);
            // Before it is entered: the one that runs keeps its name.
            assert!(
                !handles.contains_key(controller.name()),
                "two controllers are named {}",
                controller.name()
            );
            handles.insert(controller.name(), handle.clone());
        }
        let mut tasks = lock(&self.tasks);
        // Under the lock: a shutdown takes the tasks after it said so.
        if *self.stop.borrow() {
            return handle;
        }
        for prefix in controller.prefixes() {
            let wake = Arc::clone(&handle.wake);
            tasks.watchers.spawn(wake_on_change(Arc::clone(&self.store), prefix, wake));
        }
        tasks.controllers.spawn(run(controller, handle.clone(), self.stop.subscribe()));
        handle
    }

    /// The same as [`Handle::wake`], by name. `false`: there is none of that name.
    pub fn wake(&self, name: &str) -> bool {
        lock(&self.handles).get(name).map(Handle::wake).is_some()
    }

    /// Every controller's status, by name.
    pub fn statuses(&self) -> BTreeMap<&'static str, Status> {
        lock(&self.handles).iter().map(|(name, handle)| (*name, handle.status())).collect()
    }

    /// Starts no more activations, and lets those under way finish for as long as `patience`; then they are cut short.
    pub async fn shut_down(&self, patience: Duration) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.watchers.abort_all();
        let ended = async { while tasks.controllers.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, ended).await.is_err() {
            let statuses = self.statuses();
            let at_work: Vec<_> =
                statuses.iter().filter(|(_, status)| status.running).map(|(name, _)| name).collect();
            tracing::warn!(?at_work, ?patience, "activations are cut short");
        }
        tasks.controllers.shutdown().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A change below the prefix is a wake; many changes at once are one.
async fn wake_on_change(store: Arc<dyn Store>, prefix: String, wake: Arc<Notify>) {
    loop {
        let watch = store.watch(&prefix, store.revision());
        // Whatever happened before the watch began is seen by the activation this causes.
        wake.notify_one();
        let error = match watch {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Ok(_) => wake.notify_one(),
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        match error {
            // So much has changed that it cannot be told: from now on, again.
            WatchError::Compacted { .. } => {}
            WatchError::Closed => return,
        }
    }
}

/// A controller's life.
async fn run(controller: Arc<dyn Controller>, handle: Handle, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let pause = activate(&*controller, &handle).await;
        let waiting = async {
            if pause.failed {
                tokio::time::sleep(FAILED_PAUSE).await;
            }
            tokio::select! {
                () = handle.wake.notified() => {}
                () = tokio::time::sleep_until(pause.until) => {}
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = waiting => {}
        }
    }
}

/// Until the next activation, if nothing wakes the controller.
struct Pause {
    until: Instant,
    failed: bool,
}

/// Dropped when an activation ends, also when it is cut short: what is gone is not at work.
struct AtWork<'a>(&'a Mutex<Status>);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        lock(self.0).running = false;
    }
}

async fn activate(controller: &dyn Controller, handle: &Handle) -> Pause {
    let (started, clock) = (Timestamp::now(), Instant::now());
    {
        let mut status = lock(&handle.status);
        status.running = true;
        status.started = Some(started);
        status.next = None;
        status.activations += 1;
    }
    let _at_work = AtWork(&handle.status);
    let Activation { outcome, detail, again_in } = without_panic(controller).await;
    let failed = outcome.is_err();
    if let Err(why) = &outcome {
        tracing::warn!(controller = controller.name(), why, "an activation failed");
    }
    let period = controller.period();
    let pause = again_in.map_or(period, |again_in| again_in.min(period));
    let pause = if failed { pause.max(FAILED_PAUSE) } else { pause };
    let mut status = lock(&handle.status);
    status.running = false;
    status.outcome = outcome.map_or_else(Outcome::Failed, |()| Outcome::Done);
    status.detail = detail;
    status.duration_ms = Some(clock.elapsed().as_secs_f64() * 1e3);
    status.next =
        jiff::SignedDuration::try_from(pause).ok().and_then(|pause| Timestamp::now().checked_add(pause).ok());
    status.errors += u64::from(failed);
    // A pause without end is one of thirty years.
    let until = Instant::now()
        .checked_add(pause)
        .unwrap_or_else(|| Instant::now() + Duration::from_hours(24 * 365 * 30));
    Pause { until, failed }
}

/// A panic in an activation is that activation's failure, not the controller's end.
async fn without_panic(controller: &dyn Controller) -> Activation {
    let mut activation = match catch_unwind(AssertUnwindSafe(|| controller.activate())) {
        Ok(activation) => activation,
        Err(panic) => return panicked(&*panic),
    };
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| activation.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(panic) => Poll::Ready(panicked(&*panic)),
    })
    .await
}

fn panicked(panic: &(dyn Any + Send)) -> Activation {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Activation::failed(format!("the activation panicked: {}", text.unwrap_or("no message")))
}
