//! ECS Exec on this node: a further process in a task's container. See [`ExecBroker`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};

use ferrogate_nodeapi::{ContainerStatus, ManagedAgentStatus, TaskAssignment};
use ferrogate_sandbox::{Exec, ExecInput, ExecOutput, ExecSpec, TaskSandbox, WindowSize};

use crate::Agent;
use crate::record::ContainerRecord;

/// Until the client says how large its own is.
const WINDOW: WindowSize = WindowSize { rows: 24, columns: 80 };

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    pub task_arn: String,
    pub container: String,
    pub argv: Vec<String>,
    /// Otherwise stdin, stdout and stderr are pipes.
    pub terminal: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("the task {0} does not run here")]
    NoTask(String),
    #[error("ECS Exec is not enabled for the task {0}: run it with --enable-execute-command")]
    NotEnabled(String),
    #[error("{0}")]
    Sandbox(#[from] ferrogate_sandbox::Error),
}

/// Who can start a process in a task's container: the agent of the node it runs on.
#[async_trait::async_trait]
pub trait ExecBroker: Send + Sync + 'static {
    /// Runs as root, whoever the container runs as; ECS developer guide, ECS Exec.
    async fn open(&self, request: ExecRequest) -> Result<ExecStream, ExecError>;
}

/// A process and its stdio.
pub struct ExecStream {
    /// Drop it to end the input; not with a terminal.
    pub stdin: Option<ExecInput>,
    pub stdout: ExecOutput,
    /// Nothing, with a terminal.
    pub stderr: ExecOutput,
    pub process: ExecProcess,
}

/// Dropped, it is killed.
pub struct ExecProcess(Exec);

impl ExecProcess {
    /// Means nothing without a terminal.
    pub fn resize(&self, rows: u16, columns: u16) {
        // Refused where there is no terminal, or none any more: either way there is nobody who would see it.
        let _ = self.0.resize(WindowSize { rows, columns });
    }

    /// Its exit code, 128 + signal when one ended it. Cancel-safe.
    pub async fn wait(&mut self) -> Result<i32, ExecError> {
        Ok(self.0.wait().await?)
    }
}

#[async_trait::async_trait]
impl ExecBroker for Agent {
    async fn open(&self, request: ExecRequest) -> Result<ExecStream, ExecError> {
        let (sandbox, enabled) = self
            .execs()
            .find(&request.task_arn)
            .ok_or_else(|| ExecError::NoTask(request.task_arn.clone()))?;
        if !enabled {
            return Err(ExecError::NotEnabled(request.task_arn));
        }
        // As the agent of AWS sets them.
        let environment = BTreeMap::from([
            ("TERM".to_owned(), "xterm-256color".to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        let spec = ExecSpec {
            argv: request.argv,
            environment: if request.terminal { environment } else { BTreeMap::new() },
            user: Some("0".into()),
            working_directory: None,
            stdin: true,
            terminal: request.terminal.then_some(WINDOW),
        };
        let mut exec = sandbox.exec(&request.container, spec).await?;
        let nothing = || -> ExecOutput { Box::pin(tokio::io::empty()) };
        Ok(ExecStream {
            stdin: exec.stdin.take(),
            stdout: std::mem::replace(&mut exec.stdout, nothing()),
            stderr: std::mem::replace(&mut exec.stderr, nothing()),
            process: ExecProcess(exec),
        })
    }
}

/// The sandboxes of the tasks that run, by task ARN, as their actors note them.
#[derive(Default)]
pub(crate) struct Sandboxes(Mutex<HashMap<String, Noted>>);

struct Noted {
    sandbox: Weak<dyn TaskSandbox>,
    exec_enabled: bool,
}

impl Sandboxes {
    pub(crate) fn note(&self, task: &TaskAssignment, sandbox: Option<&Arc<dyn TaskSandbox>>) {
        let mut all = self.0.lock().expect("sandboxes lock");
        match sandbox {
            Some(sandbox) => {
                let noted = Noted { sandbox: Arc::downgrade(sandbox), exec_enabled: task.exec_enabled };
                all.insert(task.task_arn.clone(), noted);
            }
            None => {
                all.remove(&task.task_arn);
            }
        }
    }

    pub(crate) fn find(&self, task_arn: &str) -> Option<(Arc<dyn TaskSandbox>, bool)> {
        let all = self.0.lock().expect("sandboxes lock");
        let noted = all.get(task_arn)?;
        Some((noted.sandbox.upgrade()?, noted.exec_enabled))
    }
}

/// The agent lives and ends with its container; whether the task role lets it, the control plane knows.
pub(crate) fn agent_status(task: &TaskAssignment, container: &ContainerRecord) -> Option<ManagedAgentStatus> {
    task.exec_enabled.then(|| ManagedAgentStatus {
        status: container.status,
        reason: None,
        last_started_at: container.started_at.filter(|_| container.status != ContainerStatus::Pending),
    })
}
