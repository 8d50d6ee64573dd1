//! What a node may make ready before anybody runs it: task definitions as they are registered.

use ferrogate_api::ecs;
use tokio::sync::broadcast;

use crate::definition::{fits_fargate, size, storage};
use crate::state::{EPHEMERAL_STORAGE_GIB, Scope};

/// Registrations kept for a listener that lags. What it misses is made when a task needs it.
const REGISTRATIONS_KEPT_MAX: usize = 256;

/// A task definition that can run on Fargate and that has just been registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredDefinition {
    pub account: String,
    pub region: String,
    pub task_definition_arn: String,
    /// Whose rights its tasks pull with.
    pub execution_role_arn: Option<String>,
    /// `x86_64` or `arm64`
    pub architecture: String,
    pub cpu_units: u32,
    pub memory_mib: u32,
    pub ephemeral_storage_gib: u32,
    /// In definition order, each once.
    pub images: Vec<RegisteredImage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredImage {
    pub image: String,
    /// The secret with the registry's name and password; `None`: it wants none, or it is ECR.
    pub credentials_parameter: Option<String>,
}

/// Tells whoever listens.
pub(crate) struct Registrations(broadcast::Sender<RegisteredDefinition>);

impl Registrations {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(REGISTRATIONS_KEPT_MAX))
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<RegisteredDefinition> {
        self.0.subscribe()
    }

    pub(crate) fn tell(&self, scope: &Scope, definition: &ecs::TaskDefinition) {
        if self.0.receiver_count() == 0 || !fits_fargate(definition) {
            return;
        }
        let (cpu, memory) = (definition.cpu.as_deref(), definition.memory.as_deref());
        let size = (cpu.map(size::cpu_units), memory.map(size::memory_mib));
        let (Some(Ok(cpu_units)), Some(Ok(memory_mib))) = size else { return };
        // It was checked when it was registered.
        let checked = storage::check_ephemeral(definition.ephemeral_storage.as_ref());
        let ephemeral_storage_gib = checked.ok().flatten().unwrap_or(EPHEMERAL_STORAGE_GIB);
        let mut images: Vec<RegisteredImage> = Vec::new();
        for container in definition.container_definitions.iter().flatten() {
            let image = RegisteredImage {
                image: container.image.clone().unwrap_or_default(),
                credentials_parameter: container
                    .repository_credentials
                    .as_ref()
                    .and_then(|credentials| credentials.credentials_parameter.clone()),
            };
            if !images.contains(&image) {
                images.push(image);
            }
        }
        let registered = RegisteredDefinition {
            account: scope.account.clone(),
            region: scope.region.clone(),
            task_definition_arn: definition.task_definition_arn.clone().unwrap_or_default(),
            execution_role_arn: definition.execution_role_arn.clone(),
            architecture: crate::definition::architecture(definition).to_owned(),
            cpu_units,
            memory_mib,
            ephemeral_storage_gib,
            images,
        };
        // An error says that the last listener has gone just now.
        let _ = self.0.send(registered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_definition_is_told_with_its_storage() {
        let registrations = Registrations::new();
        let mut listener = registrations.subscribe();
        let scope = Scope::new("123456789012", "us-east-1");
        let definition = |gib: Option<i32>| ecs::TaskDefinition {
            compatibilities: Some(vec!["EC2".into(), "FARGATE".into()]),
            cpu: Some("256".into()),
            memory: Some("512".into()),
            ephemeral_storage: gib.map(|gib| ecs::EphemeralStorage { size_in_gib: Some(gib) }),
            ..ecs::TaskDefinition::default()
        };
        for (said, told) in [(None, 20), (Some(42), 42)] {
            registrations.tell(&scope, &definition(said));
            let heard = listener.try_recv().unwrap();
            assert_eq!((heard.ephemeral_storage_gib, heard.cpu_units, heard.memory_mib), (told, 256, 512));
        }
    }
}
