//! What happens in a task, as a stream.

use ferrogate_shim::protocol::{Event, Exited};
use tokio::sync::broadcast;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    Started {
        container: String,
        pid: i32,
        at_ns: i64,
    },
    Exited(Exited),
    ExecExited {
        exec: String,
        exit_code: i32,
        at_ns: i64,
    },
    /// This reader was too slow and events passed it by: ask for the state.
    Missed,
}

/// A stream of [`TaskEvent`]s.
pub struct Events {
    receiver: broadcast::Receiver<TaskEvent>,
}

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<TaskEvent>) -> Self {
        Events { receiver }
    }

    /// The next event; `None` when the shim is gone (then reattach). Cancel-safe.
    pub async fn next(&mut self) -> Option<TaskEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(TaskEvent::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// What is told to the agent; output hints stay inside.
pub(crate) fn public(event: &Event) -> Option<TaskEvent> {
    match event.clone() {
        Event::Started { container, pid, at_ns } => Some(TaskEvent::Started { container, pid, at_ns }),
        Event::Exited(exited) => Some(TaskEvent::Exited(exited)),
        Event::ExecExited { exec, exit_code, at_ns } => {
            Some(TaskEvent::ExecExited { exec, exit_code, at_ns })
        }
        Event::Output { .. } => None,
    }
}
