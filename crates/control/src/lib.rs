//! The controller driver: runs controllers when something they look at changes, and from time to time anyway.
//!
//! A controller observes, plans and acts in one activation. An activation takes no input, retries nothing (the
//! next one is the retry) and returns a [`Status`] that is always visible.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ferrogate_store::{Store, WatchError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Pause after an activation that failed, so that a failure that repeats does not spin.
const FAILED_PAUSE: Duration = Duration::from_millis(200);

#[async_trait::async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Unique in the program: `ecs-provision`.
    fn name(&self) -> &'static str;

    /// Changes below these wake it.
    fn prefixes(&self) -> Vec<String>;

    /// It is activated at least this often.
    fn period(&self) -> Duration;

    /// Observe, plan, act, once.
    async fn activate(&self) -> Activation;
}

/// What one activation did.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// `Err`: what went wrong, in words for an operator.
    pub outcome: Result<(), String>,
    /// Whatever a person debugging would want to see.
    pub detail: serde_json::Value,
    /// Come again no later than this.
    pub again_in: Option<Duration>,
}

impl Activation {
    pub fn done(detail: serde_json::Value) -> Self {
        Self { outcome: Ok(()), detail, again_in: None }
    }

    pub fn failed(why: impl Into<String>) -> Self {
        Self { outcome: Err(why.into()), detail: serde_json::Value::Null, again_in: None }
    }

    #[must_use]
    pub fn again_in(mut self, delay: Duration) -> Self {
        self.again_in = Some(delay);
        self
    }
}

/// How a controller is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub activations: u64,
    pub failures: u64,
    pub running_since: Option<Timestamp>,
    pub last_started: Option<Timestamp>,
    pub last_duration_ms: Option<f64>,
    pub last_error: Option<String>,
    pub detail: serde_json::Value,
}

/// Runs controllers, one task each, until it is dropped or shut down.
pub struct Driver {
    store: Arc<dyn Store>,
    statuses: Arc<Mutex<BTreeMap<&'static str, Status>>>,
    wakes: Mutex<BTreeMap<&'static str, Arc<Notify>>>,
    tasks: Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
}

impl Driver {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            statuses: Arc::default(),
            wakes: Mutex::default(),
            tasks: Mutex::default(),
            stop: watch::channel(false).0,
        }
    }

    /// Starts a controller; its first activation is at once.
    pub fn spawn(&self, controller: Arc<dyn Controller>) {
        let wake = Arc::new(Notify::new());
        self.wakes.lock().expect("driver lock").insert(controller.name(), Arc::clone(&wake));
        self.statuses.lock().expect("driver lock").insert(controller.name(), Status::default());
        let mut tasks = self.tasks.lock().expect("driver lock");
        for prefix in controller.prefixes() {
            tasks.spawn(wake_on_change(Arc::clone(&self.store), prefix, Arc::clone(&wake)));
        }
        tasks.spawn(run(controller, wake, Arc::clone(&self.statuses), self.stop.subscribe()));
    }

    /// Activates it now, or again if it is at work. An unknown name is no error.
    pub fn wake(&self, name: &str) {
        if let Some(wake) = self.wakes.lock().expect("driver lock").get(name) {
            wake.notify_one();
        }
    }

    /// Every controller's status, by name.
    pub fn statuses(&self) -> BTreeMap<&'static str, Status> {
        self.statuses.lock().expect("driver lock").clone()
    }

    /// Lets activations under way finish, for as long as `patience`, and starts no more.
    pub async fn shut_down(&self, patience: Duration) {
        self.stop.send_replace(true);
        let deadline = Instant::now() + patience;
        loop {
            let at_work = self.statuses.lock().expect("driver lock").values().any(|s| s.running_since.is_some());
            if !at_work || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.tasks.lock().expect("driver lock").abort_all();
    }
}

/// A change below the prefix is a wake; many changes at once are one.
async fn wake_on_change(store: Arc<dyn Store>, prefix: String, wake: Arc<Notify>) {
    loop {
        let Ok(mut watch) = store.watch(&prefix, store.revision()) else { return };
        // Whatever happened before the watch began is seen by the activation this causes.
        wake.notify_one();
        loop {
            match watch.next().await {
                Ok(_) => wake.notify_one(),
                Err(WatchError::Compacted { .. }) => break,
                Err(WatchError::Closed) => return,
            }
        }
    }
}

async fn run(
    controller: Arc<dyn Controller>,
    wake: Arc<Notify>,
    statuses: Arc<Mutex<BTreeMap<&'static str, Status>>>,
    mut stop: watch::Receiver<bool>,
) {
    let name = controller.name();
    let note = |change: &dyn Fn(&mut Status)| {
        if let Some(status) = statuses.lock().expect("driver lock").get_mut(name) {
            change(status);
        }
    };
    loop {
        if *stop.borrow() {
            return;
        }
        let (started, clock) = (Timestamp::now(), Instant::now());
        note(&|status| {
            status.running_since = Some(started);
            status.activations += 1;
        });
        let activation = CatchPanic(AssertUnwindSafe(controller.activate())).await;
        let failed = activation.outcome.is_err();
        if let Err(why) = &activation.outcome {
            tracing::warn!(controller = name, why, "an activation failed");
        }
        note(&|status| {
            status.running_since = None;
            status.last_started = Some(started);
            status.last_duration_ms = Some(clock.elapsed().as_secs_f64() * 1e3);
            status.failures += u64::from(failed);
            status.last_error = activation.outcome.clone().err();
            status.detail = activation.detail.clone();
        });
        let pause = activation.again_in.unwrap_or(controller.period()).min(controller.period());
        if failed {
            tokio::time::sleep(FAILED_PAUSE).await;
        }
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// A panic in an activation is that activation's failure, not the controller's end.
struct CatchPanic<F>(AssertUnwindSafe<F>);

impl<F: Future<Output = Activation> + Unpin> Future for CatchPanic<F> {
    type Output = Activation;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Activation> {
        let inner = AssertUnwindSafe(&mut self.0.0);
        match std::panic::catch_unwind(AssertUnwindSafe(|| {
            let AssertUnwindSafe(future) = inner;
            Pin::new(future).poll(cx)
        })) {
            Ok(poll) => poll,
            Err(panic) => {
                let why = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "no message".into());
                Poll::Ready(Activation::failed(format!("the activation panicked: {why}")))
            }
        }
    }
}
