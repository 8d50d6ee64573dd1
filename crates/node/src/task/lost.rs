//! Containers that ended as their task's shim or machine did: nothing they did themselves tells why.

use std::sync::Arc;

use ferrogate_nodeapi::{ContainerStatus, ObservedStatus, StopCause};
use ferrogate_sandbox::{Status, TaskSandbox, TaskState};
use jiff::Timestamp;

use super::containers::{KILLED, VANISHED, exited};
use super::{Actor, Stop};

impl Actor {
    /// Notes why the machine was lost, if it was, as the reason of a container that has just ended.
    pub(super) async fn note_lost_machine(&mut self, sandbox: &Arc<dyn TaskSandbox>, container: &str) {
        if !self.record.machine {
            return;
        }
        // A shim that is gone by now is heard of by itself.
        let Ok(state) = sandbox.state().await else { return };
        let found = state.containers.into_iter().find(|found| found.id == container);
        if let Some(why) = found.and_then(|found| found.error)
            && let Some(record) = self.record.containers.get_mut(container)
        {
            tracing::error!(task = self.record.assignment.task_arn, container, why, "lost");
            record.reason = Some(format!("ContainerVanishedError: {why}"));
        }
    }

    /// Nothing more is heard. The containers are gone only where the shim's process is: a connection that breaks is made
    /// anew beneath us.
    pub(super) async fn shim_lost(&mut self, sandbox: &Arc<dyn TaskSandbox>) -> Option<Stop> {
        match sandbox.state().await {
            Ok(state) if state.shim_pid == 0 => Some(self.catch_up_lost(&state)),
            Ok(_) => None,
            Err(error) => {
                tracing::error!(%error, task = self.record.assignment.task_arn, "the task's shim is gone, and what it left cannot be read");
                Some(Stop {
                    cause: Some(StopCause {
                        code: "EssentialContainerExited".into(),
                        reason: "Essential container in task exited".into(),
                    }),
                    container: None,
                })
            }
        }
    }

    /// The shim is gone, and with it the containers.
    pub(super) fn catch_up_lost(&mut self, state: &TaskState) -> Stop {
        tracing::error!(task = self.record.assignment.task_arn, "the task's shim is gone");
        let mut stop = None;
        for found in &state.containers {
            let running =
                self.record.containers.get(&found.id).is_some_and(|c| c.status == ContainerStatus::Running);
            if running && found.status != Status::Running {
                if let Some(record) = self.record.containers.get_mut(&found.id) {
                    record.reason.get_or_insert_with(|| VANISHED.to_owned());
                }
                stop = stop.or(self.note_exit(&exited(found)));
            }
        }
        match stop {
            Some(stop) => stop,
            // What others waited for is gone, and nobody asked for their end.
            None if self.record.status < ObservedStatus::Running && !self.stop_wanted() => {
                Stop::failed_to_start("Task failed to start")
            }
            None => Stop::ASKED,
        }
    }

    /// A container that could not be stopped: what is left of it ends with its sandbox.
    pub(super) async fn note_lost(
        &mut self,
        sandbox: &Arc<dyn TaskSandbox>,
        name: &str,
        error: &ferrogate_sandbox::Error,
    ) {
        tracing::warn!(%error, container = name, "a container could not be stopped in order; it is killed with its sandbox");
        let shim_is_gone = sandbox.state().await.is_ok_and(|state| state.shim_pid == 0);
        if let Some(record) = self.record.containers.get_mut(name) {
            record.status = ContainerStatus::Stopped;
            record.exit_code = Some(KILLED);
            record.finished_at.get_or_insert_with(Timestamp::now);
            record.reason.get_or_insert_with(|| match shim_is_gone {
                true => VANISHED.to_owned(),
                false => format!("CannotStopContainerError: {error}"),
            });
        }
    }
}
