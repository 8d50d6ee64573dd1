//! The control plane as the node sees it, in one program: assignments from ECS, the fabric from EC2, everything a
//! task's role has to do by the AWS API and under that role.

pub(crate) mod edge;
mod secrets;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ferrogate_api::{ApiError, Caller, Invoke, ecr, ecs, logs, sts};
use ferrogate_ec2::Ec2Service;
use ferrogate_ecr::RegistryName;
use ferrogate_ecs::{EcsService, TaskRoles};
use ferrogate_front::{Identity, session_for_service};
use ferrogate_model::Clock;
use ferrogate_nodeapi::{
    ControlPlane, ControlPlaneError, Fabric, LogConfiguration, LogLine, Protection, ProtectionChange,
    RegistryCredentials, RoleCredentials, TaskAssignment, TaskReport,
};
use ferrogate_sts::StsService;
use tokio::sync::watch;

/// Fargate's tasks get credentials for six hours.
const TASK_CREDENTIALS_SECONDS: i32 = 6 * 3600;
pub(crate) const TASKS_SERVICE: &str = "ecs-tasks.amazonaws.com";

pub(crate) struct Plane {
    pub(crate) node_id: String,
    pub(crate) ecs: Arc<EcsService>,
    pub(crate) ec2: Arc<Ec2Service>,
    pub(crate) sts: Arc<StsService>,
    pub(crate) identity: Arc<dyn Identity>,
    pub(crate) invoke: Arc<dyn Invoke>,
    pub(crate) clock: Arc<dyn Clock>,
}

fn refused(error: ApiError) -> ControlPlaneError {
    ControlPlaneError::Refused { code: error.code, message: error.message }
}

fn unknown(task_arn: &str) -> ControlPlaneError {
    ControlPlaneError::Refused {
        code: "InvalidParameterException".into(),
        message: format!("no such task: {task_arn}"),
    }
}

impl Plane {
    fn roles(&self, task_arn: &str) -> Result<TaskRoles, ControlPlaneError> {
        self.ecs.task_roles(task_arn).ok_or_else(|| unknown(task_arn))
    }

    /// The execution role, for what is done on a task's behalf before and beside its containers.
    fn as_execution_role(&self, task_arn: &str) -> Result<Caller, ControlPlaneError> {
        let roles = self.roles(task_arn)?;
        let role_arn = roles.execution_role_arn.ok_or_else(|| ControlPlaneError::Refused {
            code: "AccessDeniedException".into(),
            message: "the task definition has no execution role".into(),
        })?;
        Ok(Caller::Role { role_arn, service: TASKS_SERVICE, session_name: session_name(task_arn) })
    }

    fn secrets_of(&self, task_arn: &str) -> Result<secrets::Reader, ControlPlaneError> {
        Ok(secrets::Reader {
            invoke: Arc::clone(&self.invoke),
            caller: self.as_execution_role(task_arn)?,
            region: self.roles(task_arn)?.region,
        })
    }

    fn log_configuration(
        &self,
        task_arn: &str,
        container: &str,
    ) -> Result<LogConfiguration, ControlPlaneError> {
        self.ecs.log_configuration(task_arn, container).ok_or_else(|| unknown(task_arn))
    }

    fn logs(&self, task_arn: &str, region: &str) -> Result<logs::Client, ControlPlaneError> {
        Ok(logs::Client::new(Arc::clone(&self.invoke), self.as_execution_role(task_arn)?, region))
    }
}

/// A task's sessions are named after it.
pub(crate) fn session_name(task_arn: &str) -> String {
    task_arn.rsplit('/').next().unwrap_or("task").to_owned()
}

#[async_trait::async_trait]
impl ControlPlane for Plane {
    fn assignments(&self) -> watch::Receiver<Arc<Vec<TaskAssignment>>> {
        self.ecs.assignments(&self.node_id)
    }

    fn fabric(&self) -> watch::Receiver<Arc<Fabric>> {
        self.ec2.fabric()
    }

    async fn report(&self, mut reports: Vec<TaskReport>) -> Result<(), ControlPlaneError> {
        crate::exec::judge(&self.ecs, &self.invoke, &mut reports).await?;
        self.ecs.report(reports).await.map_err(|error| ControlPlaneError::Unavailable(error.to_string()))
    }

    async fn create_log_stream(&self, task_arn: &str, container: &str) -> Result<(), ControlPlaneError> {
        let to = self.log_configuration(task_arn, container)?;
        let client = self.logs(task_arn, &to.region)?;
        if to.create_group {
            let group =
                logs::CreateLogGroupRequest { log_group_name: Some(to.group.clone()), ..Default::default() };
            exists_is_fine(client.create_log_group(group).await)?;
        }
        let stream =
            logs::CreateLogStreamRequest { log_group_name: Some(to.group), log_stream_name: Some(to.stream) };
        exists_is_fine(client.create_log_stream(stream).await)
    }

    async fn put_log_events(
        &self,
        task_arn: &str,
        container: &str,
        events: Vec<LogLine>,
    ) -> Result<(), ControlPlaneError> {
        let to = self.log_configuration(task_arn, container)?;
        let client = self.logs(task_arn, &to.region)?;
        let mut events = events;
        events.sort_by_key(|event| event.timestamp_ms);
        let events = events
            .into_iter()
            .map(|event| logs::InputLogEvent {
                timestamp: Some(event.timestamp_ms),
                message: Some(event.message),
            })
            .collect();
        let put = logs::PutLogEventsRequest {
            log_group_name: Some(to.group),
            log_stream_name: Some(to.stream),
            log_events: Some(events),
            ..Default::default()
        };
        client.put_log_events(put).await.map(drop).map_err(refused)
    }

    async fn registry_credentials(
        &self,
        task_arn: &str,
        container: &str,
    ) -> Result<Option<RegistryCredentials>, ControlPlaneError> {
        if let Some(secret) = self.ecs.repository_credentials(task_arn, container) {
            return self.secrets_of(task_arn)?.registry(&secret).await.map(Some);
        }
        let image = self.ecs.container_image(task_arn, container).ok_or_else(|| unknown(task_arn))?;
        let own = task_arn.split(':').nth(4);
        let Some(registry) = ecr_registry(&image).filter(|registry| Some(&*registry.account) == own) else {
            return Ok(None);
        };
        let client =
            ecr::Client::new(Arc::clone(&self.invoke), self.as_execution_role(task_arn)?, registry.region);
        let answer =
            secrets::retried(|| client.get_authorization_token(ecr::GetAuthorizationTokenRequest::default()));
        let answer = answer
            .await
            .map_err(|error| secrets::failed("ecr registry auth", &error.code, &error.to_string()))?;
        let token = answer.authorization_data.into_iter().flatten().find_map(|data| data.authorization_token);
        // base64 of `AWS:<password>`
        let decoded =
            token.and_then(|token| BASE64.decode(token).ok()).and_then(|it| String::from_utf8(it).ok());
        let (username, password) = decoded.as_deref().and_then(|it| it.split_once(':')).ok_or_else(|| {
            ControlPlaneError::Unavailable("ECR's authorization token is not base64 of AWS:<password>".into())
        })?;
        Ok(Some(RegistryCredentials { username: username.to_owned(), password: password.to_owned() }))
    }

    async fn secrets(
        &self,
        task_arn: &str,
        container: &str,
    ) -> Result<BTreeMap<String, String>, ControlPlaneError> {
        let secrets = self.ecs.container_secrets(task_arn, container).ok_or_else(|| unknown(task_arn))?;
        if secrets.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.secrets_of(task_arn)?.values(secrets).await
    }

    async fn task_protection(
        &self,
        task_arn: &str,
        change: Option<ProtectionChange>,
    ) -> Result<Protection, ControlPlaneError> {
        let roles = self.roles(task_arn)?;
        let role_arn = roles.task_role_arn.ok_or_else(|| ControlPlaneError::Refused {
            code: "AccessDeniedException".into(),
            message: "the task has no task role".into(),
        })?;
        let caller = Caller::Role { role_arn, service: TASKS_SERVICE, session_name: session_name(task_arn) };
        let client = ecs::Client::new(Arc::clone(&self.invoke), caller, &roles.region);
        // `…:task/<cluster>/<id>`
        let cluster = task_arn.split('/').nth(1).map(str::to_owned);
        let tasks = Some(vec![task_arn.to_owned()]);
        let (protected, failures) = match change {
            None => {
                let request = ecs::GetTaskProtectionRequest { cluster, tasks };
                let answer = client.get_task_protection(request).await.map_err(refused)?;
                (answer.protected_tasks, answer.failures)
            }
            Some(change) => {
                let request = ecs::UpdateTaskProtectionRequest {
                    cluster,
                    tasks,
                    protection_enabled: Some(change.enabled),
                    expires_in_minutes: change.expires_in_minutes,
                };
                let answer = client.update_task_protection(request).await.map_err(refused)?;
                (answer.protected_tasks, answer.failures)
            }
        };
        if let Some(failure) = failures.into_iter().flatten().next() {
            return Err(ControlPlaneError::Refused {
                code: failure.reason.unwrap_or_default(),
                message: failure.detail.unwrap_or_default(),
            });
        }
        let task = protected.into_iter().flatten().next().ok_or_else(|| unknown(task_arn))?;
        Ok(Protection { enabled: task.protection_enabled == Some(true), expires_at: task.expiration_date })
    }

    async fn task_role_credentials(
        &self,
        task_arn: &str,
    ) -> Result<Option<RoleCredentials>, ControlPlaneError> {
        let roles = self.roles(task_arn)?;
        let Some(role_arn) = roles.task_role_arn else { return Ok(None) };
        let now = self.clock.now();
        // The call is made so that it is judged and recorded like every other assumption of a role.
        let caller = Caller::Role {
            role_arn: role_arn.clone(),
            service: TASKS_SERVICE,
            session_name: session_name(task_arn),
        };
        let client = sts::Client::new(Arc::clone(&self.invoke), caller, &roles.region);
        client.get_caller_identity(sts::GetCallerIdentityRequest::default()).await.map_err(refused)?;
        let principal =
            session_for_service(&*self.identity, &role_arn, TASKS_SERVICE, &session_name(task_arn), now)
                .map_err(refused)?;
        let issued = self
            .sts
            .session_for(&principal, now, TASK_CREDENTIALS_SECONDS)
            .ok_or_else(|| unknown(task_arn))?;
        Ok(Some(RoleCredentials {
            role_arn,
            access_key_id: issued.access_key_id,
            secret_access_key: issued.secret_access_key,
            token: issued.session_token,
            expiration: issued.expiration,
        }))
    }
}

fn exists_is_fine<T>(result: Result<T, ApiError>) -> Result<(), ControlPlaneError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.code == "ResourceAlreadyExistsException" => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

/// The registry of an image in ECR: `123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1`.
fn ecr_registry(image: &str) -> Option<RegistryName> {
    RegistryName::parse(image.split_once('/')?.0)
}

#[cfg(test)]
mod tests {
    use super::ecr_registry;

    #[test]
    fn only_ecr_images_have_an_ecr_registry() {
        for domain in ["amazonaws.com", "localhost:4566"] {
            let registry = ecr_registry(&format!("123456789012.dkr.ecr.eu-west-1.{domain}/a/b:1")).unwrap();
            assert_eq!((&*registry.account, &*registry.region), ("123456789012", "eu-west-1"));
        }
        for image in [
            "nginx:latest",
            "docker.io/library/nginx",
            "1.dkr.ecr.eu-west-1.amazonaws.com/x",
            "x.dkr.ecr.com/y",
        ] {
            assert_eq!(ecr_registry(image), None, "{image}");
        }
    }
}
