//! A container that ended as its task's machine did: nothing it did itself tells why.

use std::sync::Arc;

use ferrogate_sandbox::TaskSandbox;

use super::Actor;

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
}
