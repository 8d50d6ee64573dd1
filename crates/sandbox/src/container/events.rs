//! What happens in a task, as a stream.

use std::sync::Arc;

use ferrogate_shim::protocol::{Event, Exited};
use tokio::sync::broadcast;

use super::Link;
use super::client::Client;

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
    /// This reader was too slow, or the connection broke and was made anew, and events passed it by: ask for the state.
    Missed,
}

/// A stream of [`TaskEvent`]s. It outlives the connections it comes over.
pub struct Events {
    link: Arc<Link>,
    /// `None`: there is no connection that stands.
    receiver: Option<broadcast::Receiver<TaskEvent>>,
}

impl Events {
    pub(crate) fn new(link: Arc<Link>, client: Option<Arc<Client>>) -> Self {
        Events { link, receiver: client.map(|client| client.events()) }
    }

    /// The next event; `None` when the shim is gone: the state says what became of the task. Cancel-safe.
    pub async fn next(&mut self) -> Option<TaskEvent> {
        if let Some(receiver) = &mut self.receiver {
            match receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(TaskEvent::Missed),
                Err(broadcast::error::RecvError::Closed) => self.receiver = None,
            }
        }
        let client = self.link.client().await.ok()?;
        self.receiver = Some(client.events());
        Some(TaskEvent::Missed)
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
