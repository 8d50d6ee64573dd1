//! Brings reports to the control plane: the newest of each task, until it is taken.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrogate_nodeapi::{ControlPlane, ObservedStatus, TaskReport};
use jiff::Timestamp;
use tokio::sync::Notify;

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Of so many tasks it is remembered when the control plane knew that they run.
const RUNNING_REMEMBERED_MAX: usize = 1000;

/// One slot per task, so what waits is bounded by the tasks there are.
#[derive(Default)]
pub(crate) struct Reporter {
    waiting: Mutex<HashMap<String, TaskReport>>,
    /// Task ARNs, the newest last.
    running: Mutex<VecDeque<(String, Timestamp)>>,
    wake: Notify,
}

impl Reporter {
    pub(crate) fn put(&self, report: TaskReport) {
        self.waiting.lock().expect("reporter lock").insert(report.task_arn.clone(), report);
        self.wake.notify_one();
    }

    /// When the control plane first took the report that the task runs.
    pub(crate) fn running_reported_at(&self, task_arn: &str) -> Option<Timestamp> {
        let running = self.running.lock().expect("reporter lock");
        running.iter().find(|(known, _)| known == task_arn).map(|(_, at)| *at)
    }

    fn note_running(&self, taken: &[TaskReport]) {
        let now = Timestamp::now();
        let mut running = self.running.lock().expect("reporter lock");
        for report in taken.iter().filter(|report| report.status == ObservedStatus::Running) {
            if running.iter().any(|(known, _)| *known == report.task_arn) {
                continue;
            }
            if running.len() >= RUNNING_REMEMBERED_MAX {
                running.pop_front();
            }
            running.push_back((report.task_arn.clone(), now));
        }
    }

    /// A newer one may have come meanwhile: that one stays.
    fn put_back(&self, batch: Vec<TaskReport>) {
        let mut waiting = self.waiting.lock().expect("reporter lock");
        for report in batch {
            waiting.entry(report.task_arn.clone()).or_insert(report);
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, control: Arc<dyn ControlPlane>) {
        let mut retry = RETRY_MIN;
        loop {
            let batch: Vec<TaskReport> =
                self.waiting.lock().expect("reporter lock").drain().map(|(_, report)| report).collect();
            if batch.is_empty() {
                self.wake.notified().await;
                continue;
            }
            match control.report(batch.clone()).await {
                Ok(()) => {
                    retry = RETRY_MIN;
                    self.note_running(&batch);
                }
                Err(error) => {
                    tracing::warn!(%error, tasks = batch.len(), "reports were not taken, will be sent again");
                    self.put_back(batch);
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }
}
