//! What a task's disk must hold besides what its containers write, and what is kept off every disk.

use std::collections::{BTreeMap, HashMap};

use ferrogate_image::Image;
use ferrogate_nodeapi::{ContainerStatus, ControlPlaneError, TaskAssignment};
use ferrogate_sandbox::{EphemeralStorage, Error};

use super::{Actor, Shared, Stop};

/// Fargate's, where a task says nothing of it.
const GIB_DEFAULT: u32 = 20;

impl Actor {
    pub(super) fn ephemeral_storage(&self, assignment: &TaskAssignment) -> EphemeralStorage {
        let gib = match assignment.ephemeral_storage_gib {
            0 => GIB_DEFAULT,
            gib => gib,
        };
        EphemeralStorage {
            size_bytes: u64::from(gib) << 30,
            templates: self.shared.storage_templates.clone(),
        }
    }

    /// The images, compressed and unpacked, lie in the task's ephemeral storage (ECS developer guide, Fargate task
    /// ephemeral storage); here they are shared by all tasks, so their size is taken from it.
    /// Asked for while the first container is made; none runs before the answer ([`Actor::images_reserved`]).
    pub(super) fn reserve_for_images(&mut self) {
        let Some(sandbox) = self.sandbox.clone() else { return };
        // Containers that write already have what is left of it.
        if self.record.containers.values().any(|container| container.status != ContainerStatus::Pending) {
            return;
        }
        let bytes = self.images_bytes();
        self.reservation = Some(tokio::spawn(async move { sandbox.reserve_storage(bytes).await }));
    }

    fn images_bytes(&self) -> u64 {
        let of = |image: &Image| (image.manifest_digest.to_string(), image.size_bytes + image.unpacked_bytes);
        self.images.values().map(of).collect::<HashMap<_, _>>().values().sum()
    }

    /// The answer, if none was heard yet.
    pub(super) async fn images_reserved(&mut self) -> Result<(), Stop> {
        let Some(asked) = self.reservation.take() else { return Ok(()) };
        let Some(answer) = self.unless_stopped(asked).await else { return Err(Stop::ASKED) };
        let error = match answer {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Error::NoSpace(_))) => {
                let assignment = &self.record.assignment;
                let gib = self.ephemeral_storage(assignment).size_bytes >> 30;
                let reason = format!(
                    "CannotPullContainerError: failed to extract layer: the task's images take {} MiB, compressed and \
                     unpacked, of its {gib} GiB of ephemeral storage: no space left on device",
                    self.images_bytes() >> 20
                );
                let stop = Stop::failed_to_start(reason.clone());
                return Err(match largest(&self.images) {
                    Some(container) => stop.of_container(container, reason),
                    None => stop,
                });
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        // A shim that is gone is seen by whoever looks at the containers next.
        tracing::warn!(error, task = self.record.assignment.task_arn, "the images are not counted");
        Ok(())
    }

    /// Containers whose secrets are still needed: nobody asks for those of one that has been made.
    pub(super) fn wanting_secrets(&self) -> Vec<String> {
        let waits = |name: &str| {
            self.record.containers.get(name).is_some_and(|record| record.status == ContainerStatus::Pending)
        };
        let containers = self.record.assignment.containers.iter();
        containers
            .filter(|container| !container.secret_names.is_empty() && waits(&container.name))
            .map(|container| container.name.clone())
            .collect()
    }
}

fn largest(images: &BTreeMap<String, Image>) -> Option<&str> {
    images.iter().max_by_key(|(_, image)| image.unpacked_bytes).map(|(name, _)| name.as_str())
}

/// Values of the containers' secrets, got by the control plane as the execution role.
pub(super) async fn secrets(
    shared: &Shared,
    assignment: &TaskAssignment,
    containers: Vec<String>,
) -> Result<BTreeMap<String, BTreeMap<String, String>>, Stop> {
    let mut all = BTreeMap::new();
    for container in containers {
        let names =
            assignment.containers.iter().filter(|of| of.name == container).flat_map(|of| &of.secret_names);
        let values =
            shared.control.secrets(&assignment.task_arn, &container).await.map_err(|error| match error {
                ControlPlaneError::Refused { message, .. } => no_secrets(&message),
                unavailable => no_secrets(&unavailable.to_string()),
            })?;
        // A container without a secret it counts on must not run.
        if let Some(missing) = names.into_iter().find(|name| !values.contains_key(*name)) {
            return Err(no_secrets(&format!(
                "the secret of {missing} in container {container} has no value"
            )));
        }
        all.insert(container, values);
    }
    Ok(all)
}

fn no_secrets(why: &str) -> Stop {
    Stop::failed_to_start(format!(
        "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: {why}"
    ))
}
