//! Each container's image and log stream.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_image::{Auth, Digest, Image, ImageRef, Platform, Progress};
use ferrogate_nodeapi::{
    Architecture, ContainerAssignment, ContainerStatus, ControlPlaneError, LogConfiguration, TaskAssignment,
};
use futures_util::future::try_join_all;
use jiff::Timestamp;

use super::{Actor, Shared, Stop, way};
use crate::timing::{Step, step};

/// The digests containers' images resolved to, by container name.
pub(super) type Known = BTreeMap<String, Digest>;

impl Actor {
    /// What a former agent found: a tag that moved since is not followed.
    pub(super) fn known_images(&self) -> Known {
        let digest = |text: &String| Digest::parse(text).ok();
        let containers = self.record.containers.iter();
        containers
            .filter_map(|(name, record)| Some((name.clone(), record.image_digest.as_ref().and_then(digest)?)))
            .collect()
    }

    /// Containers that were started: they are never made anew, and have their log stream.
    pub(super) fn begun(&self) -> BTreeSet<String> {
        let containers = self.record.containers.iter();
        let begun = containers.filter(|(_, record)| record.status != ContainerStatus::Pending);
        begun.map(|(name, _)| name.clone()).collect()
    }
}

/// The image of every container that is still to be made, and of the others where it is here, by container name.
pub(super) async fn images(
    shared: &Shared,
    assignment: &TaskAssignment,
    known: &Known,
    begun: &BTreeSet<String>,
) -> Result<BTreeMap<String, Image>, Stop> {
    let pulls = assignment.containers.iter().map(|container| async move {
        let here = known
            .get(&container.name)
            .and_then(|digest| shared.images.get_digest(digest, platform(assignment)));
        if begun.contains(&container.name) {
            return Ok(here.map(|image| (container.name.clone(), image)));
        }
        let image = match here {
            Some(image) => image,
            None => image(shared, assignment, container).await?,
        };
        if let Some(logs) = &container.logs {
            stream(shared, assignment, &container.name, logs, known.is_empty()).await?;
        }
        Ok(Some((container.name.clone(), image)))
    });
    Ok(try_join_all(pulls).await?.into_iter().flatten().collect())
}

fn platform(assignment: &TaskAssignment) -> Platform {
    match assignment.architecture {
        Architecture::X86_64 => Platform::LinuxAmd64,
        Architecture::Arm64 => Platform::LinuxArm64,
    }
}

async fn image(
    shared: &Shared,
    assignment: &TaskAssignment,
    container: &ContainerAssignment,
) -> Result<Image, Stop> {
    let refused =
        |reason: String| Stop::failed_to_start(reason.clone()).of_container(&container.name, reason);
    let written = ImageRef::parse(&container.image);
    let reference = match &container.image_digest {
        Some(digest) => written.and_then(|reference| reference.at(digest)),
        None => written,
    };
    let reference = reference.map_err(|error| refused(format!("CannotPullContainerError: {error}")))?;
    way::to_registry_auth(shared, assignment, &reference).await.map_err(refused)?;
    let auth = match shared.control.registry_credentials(&assignment.task_arn, &container.name).await {
        Ok(None) => Auth::Anonymous,
        Ok(Some(credentials)) => Auth::Basic { user: credentials.username, password: credentials.password },
        Err(error) => {
            let why = match error {
                ControlPlaneError::Refused { message, .. } => message,
                unavailable => unavailable.to_string(),
            };
            return Err(refused(format!(
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval \
                 failed: {why}"
            )));
        }
    };
    let began = Timestamp::now();
    let note = |step| {
        let step = Step::done(step, Some(&container.name), began);
        shared.timings.note(&assignment.task_id, step);
    };
    let progress = |progress| {
        if matches!(progress, Progress::Resolved { .. }) {
            note(step::IMAGE_RESOLVED);
        }
        shared.pulls.note(&assignment.task_id, &container.image, &progress);
    };
    way::to_registry(shared, assignment, &reference).await.map_err(|error| refused(error.to_string()))?;
    let image = shared
        .images
        .pull(&reference, auth, platform(assignment), progress)
        .await
        .map_err(|error| refused(error.to_string()))?;
    let (image_name, task) = (&container.image, &assignment.task_id);
    note(step::LAYERS_READY);
    let took_ms = Timestamp::now().duration_since(began).as_millis();
    tracing::info!(image = image_name, task, bytes = image.size_bytes, took_ms, "the image is here");
    Ok(image)
}

/// The awslogs stream has to be there before anything is written.
pub(super) async fn stream(
    shared: &Shared,
    assignment: &TaskAssignment,
    container: &str,
    logs: &LogConfiguration,
    first_time: bool,
) -> Result<(), Stop> {
    if first_time {
        way::to_logs(shared, assignment, &logs.region).await?;
    }
    let began = Timestamp::now();
    let made = shared.control.create_log_stream(&assignment.task_arn, container).await;
    let step = Step::done(step::LOG_STREAM, Some(container), began);
    shared.timings.note(&assignment.task_id, step);
    made.map_err(|error| {
        Stop::failed_to_start(format!(
            "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: \
             failed to create Cloudwatch log stream: {error} : exit status 1"
        ))
    })
}
