//! The service as nodes see it: what they must have, what they say, what they may ask about a task.

use std::sync::Arc;

use ferrogate_api::ecs;
use ferrogate_nodeapi::{Connect, LogConfiguration, TaskAssignment, TaskReport};
use ferrogate_store::{StoreError, Txn};
use tokio::sync::watch;

use crate::EcsService;
use crate::assignments::{self, read_task};
use crate::lifecycle::Event;
use crate::plan::assignment::log_configuration;
use crate::state;

/// Reports of one transaction. The largest task's record is some 20 KB, what is told of its change as much again, and the
/// store takes 1.4 MB at once.
const REPORTS_PER_TXN_MAX: usize = 32;
/// Somebody else changed one of the tasks so many times: they get through, we come again.
const ATTEMPTS_MAX: usize = 64;

/// Whose rights a task has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRoles {
    /// For what is done on the task's behalf: pulling images, writing logs.
    pub execution_role_arn: Option<String>,
    /// What the containers get.
    pub task_role_arn: Option<String>,
    pub account: String,
    pub region: String,
}

/// Why reports were not taken. They have to be sent again.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the tasks that were reported changed {ATTEMPTS_MAX} times meanwhile")]
    Contended,
}

/// By the name that the proxy has among the containers.
fn of_proxy(connect: &Connect, container: &str) -> Option<LogConfiguration> {
    connect.logs.as_ref().filter(|logs| logs.container == container).map(|logs| logs.to.clone())
}

impl EcsService {
    /// The tasks a node must have, complete. A task that is in no list any more is to be dropped: it is over and all
    /// about it has been taken, or it is unknown here.
    pub fn assignments(&self, node_id: &str) -> watch::Receiver<Arc<Vec<TaskAssignment>>> {
        self.assignments.subscribe(node_id)
    }

    /// Takes what nodes say; durable when it returns. Reports of tasks that are unknown or over, and those older than
    /// one already taken, are dropped.
    pub async fn report(&self, reports: Vec<TaskReport>) -> Result<(), ReportError> {
        // All at once: the store commits what comes together in one go.
        let chunks = reports.chunks(REPORTS_PER_TXN_MAX).map(|reports| self.take(reports));
        futures_util::future::try_join_all(chunks).await.map(drop)
    }

    async fn take(&self, reports: &[TaskReport]) -> Result<(), ReportError> {
        for _ in 0..ATTEMPTS_MAX {
            let txn = self.transaction(reports);
            if txn.then.is_empty() || self.store.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
        Err(ReportError::Contended)
    }

    fn transaction(&self, reports: &[TaskReport]) -> Txn {
        let now = self.clock.now();
        let mut by_task: std::collections::BTreeMap<&str, Vec<&TaskReport>> =
            std::collections::BTreeMap::new();
        for report in reports {
            by_task.entry(&report.task_arn).or_default().push(report);
        }
        let mut txn = Txn::new();
        for (task_arn, mut reports) in by_task {
            let Some(found) = read_task(&*self.store, task_arn) else {
                tracing::debug!(task_arn, "a report of a task that is unknown here");
                continue;
            };
            reports.sort_by_key(|report| report.sequence);
            let was = found.record;
            let mut task = was.clone();
            let mut changed = false;
            for report in reports {
                match task.lifecycle.apply(Event::Reported(report), now) {
                    Ok(change) => changed |= change,
                    Err(illegal) => tracing::warn!(task_arn, %illegal, "a report was dropped"),
                }
            }
            if changed {
                txn = task.put(txn.when_revision(&*found.key, found.mod_revision), Some(&was));
            }
        }
        txn
    }

    /// `None`: no such task.
    pub fn task_roles(&self, task_arn: &str) -> Option<TaskRoles> {
        let task = read_task(&*self.store, task_arn)?.record;
        Some(TaskRoles {
            execution_role_arn: task.execution_role_arn,
            task_role_arn: task.task_role_arn,
            account: task.account,
            region: task.region,
        })
    }

    /// Where the output of a container or of a Service Connect proxy goes; `None`: no such task or container, or it has no log configuration.
    pub fn log_configuration(&self, task_arn: &str, container: &str) -> Option<LogConfiguration> {
        let on_node = self.assignments.with(task_arn, |task| {
            match task.containers.iter().find(|one| one.name == container) {
                Some(found) => found.logs.clone(),
                None => task.connect.as_ref().and_then(|connect| of_proxy(connect, container)),
            }
        });
        if let Some(configuration) = on_node {
            return configuration;
        }
        // Output may arrive after the task has left its node.
        let task = read_task(&*self.store, task_arn)?.record;
        let definition = state::get_definition(&*self.store, &task.scope(), &task.family, task.revision)?;
        let Some(record) = task.containers.iter().find(|one| one.name == container) else {
            return of_proxy(&assignments::connect(&*self.store, &task)?, container);
        };
        let containers = definition.container_definitions.unwrap_or_default();
        let definition = containers.iter().find(|one| one.name.as_deref() == Some(container))?;
        log_configuration(&task, record, definition)
    }

    /// What a container's secrets are and where their values are kept: (variable, `valueFrom`). `None`: no such task or
    /// container.
    pub fn container_secrets(&self, task_arn: &str, container: &str) -> Option<Vec<(String, String)>> {
        let definition = self.container_definition(task_arn, container)?;
        let secrets = definition.secrets.unwrap_or_default();
        Some(secrets.into_iter().filter_map(|secret| Some((secret.name?, secret.value_from?))).collect())
    }

    /// The secret with the name and password for the container's registry: its ARN or name. `None`: no such task or
    /// container, or its definition names none.
    pub fn repository_credentials(&self, task_arn: &str, container: &str) -> Option<String> {
        self.container_definition(task_arn, container)?.repository_credentials?.credentials_parameter
    }

    fn container_definition(&self, task_arn: &str, container: &str) -> Option<ecs::ContainerDefinition> {
        let task = read_task(&*self.store, task_arn)?.record;
        let definition = state::get_definition(&*self.store, &task.scope(), &task.family, task.revision)?;
        let containers = definition.container_definitions.unwrap_or_default();
        containers.into_iter().find(|one| one.name.as_deref() == Some(container))
    }

    /// The image of a container as its definition names it; `None`: no such task or container.
    pub fn container_image(&self, task_arn: &str, container: &str) -> Option<String> {
        let task = read_task(&*self.store, task_arn)?.record;
        task.containers.into_iter().find(|one| one.name == container).map(|one| one.image)
    }
}
