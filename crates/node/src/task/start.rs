//! From an assignment to a sandbox with its network and images: everything before the first container.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrogate_image::{Auth, Image, ImageRef, Platform};
use ferrogate_nodeapi::{
    Architecture, ContainerAssignment, ContainerStatus, DesiredStatus, ObservedStatus, TaskAssignment,
};
use ferrogate_sandbox::{Isolation, TaskSandbox, TaskSandboxSpec};
use futures_util::future::try_join_all;
use jiff::Timestamp;

use super::{Actor, Shared, Stop};
use crate::{credentials, files};

/// Processes and threads of a task. Fargate's own bound is not documented; this one stops a fork bomb.
const PIDS_MAX: u64 = 32_768;

impl Actor {
    /// Images, network and sandbox, side by side. After a restart of the agent each finds what is there.
    pub(super) async fn start(&mut self) -> Result<(), Stop> {
        if self.stop_wanted() {
            self.find_sandbox().await;
            return Err(Stop::ASKED);
        }
        let first_time = self.record.status == ObservedStatus::Pending;
        if first_time {
            self.record.status = ObservedStatus::Activating;
            self.record.pull_started_at = Some(Timestamp::now());
            self.say();
        }
        let assignment = self.record.assignment.clone();
        let shared = Arc::clone(&self.shared);
        let (network, sandbox, images) = tokio::join!(
            network(&shared, &assignment),
            self.make_sandbox(&assignment),
            until_stopped(self.desired.clone(), images(&shared, &assignment)),
        );
        self.shared.pulls.done(&assignment.task_id);
        // The sandbox first: whatever else failed, it is there to be removed.
        self.sandbox = Some(sandbox.map_err(|error| {
            Stop::failed_to_start(format!(
                "ResourceInitializationError: failed to create the task's sandbox: {error}"
            ))
        })?);
        self.record.sandbox_made = true;
        self.images = images?;
        if self.record.pull_stopped_at.is_none() {
            self.record.pull_stopped_at = Some(Timestamp::now());
        }
        for (name, image) in &self.images {
            if let Some(container) = self.record.containers.get_mut(name) {
                container.image_digest = Some(image.digest.to_string());
                container.stop_signal = image.config.stop_signal.clone();
            }
        }
        if let Err(error) = network {
            // A task that runs keeps the interface it has: it was adopted with the fabric.
            if self.record.status >= ObservedStatus::Running {
                tracing::error!(%error, task = assignment.task_arn, "the network interface could not be looked after");
            } else {
                return Err(Stop::failed_to_start(format!(
                    "ResourceInitializationError: failed to attach the network interface: {error}"
                )));
            }
        }
        self.serve_credentials(&assignment).await?;
        self.make_volumes(&assignment)?;
        self.save();
        Ok(())
    }

    async fn make_sandbox(&self, assignment: &TaskAssignment) -> Result<Arc<dyn TaskSandbox>, String> {
        let dir = self.dirs.sandbox();
        if dir.exists() {
            if self.record.sandbox_made {
                return self.shared.sandbox.reattach(&dir).await.map_err(|error| error.to_string());
            }
            self.discard_half_made().await?;
        }
        let netns = self.shared.fabric.netns_path(&assignment.task_id).map_err(|error| error.to_string())?;
        let spec = TaskSandboxSpec {
            id: assignment.task_id.clone(),
            instance: self.shared.instance.clone(),
            dir,
            isolation: Isolation::Container,
            cpu_units: assignment.cpu_units,
            memory_bytes: u64::from(assignment.memory_mib) << 20,
            pids_max: Some(PIDS_MAX),
            shared_pid_namespace: assignment.shared_pid_namespace,
            network_namespace: Some(netns),
            hostname: assignment.network.hostname.clone(),
            hosts: files::hosts(&assignment.network),
            resolv_conf: files::resolv_conf(&assignment.network),
        };
        self.shared.sandbox.create(spec).await.map_err(|error| error.to_string())
    }

    /// A former agent died while it made the sandbox: nothing has run in it, so it is made anew.
    async fn discard_half_made(&self) -> Result<(), String> {
        let dir = self.dirs.sandbox();
        match self.shared.sandbox.reattach(&dir).await {
            Ok(sandbox) => sandbox.destroy().await.map_err(|error| error.to_string()),
            // Not even its description was written: there is no shim and no cgroup yet.
            Err(_) => std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display())),
        }
    }

    /// For a task that is to be stopped without having been started by this agent.
    pub(super) async fn find_sandbox(&mut self) {
        let dir = self.dirs.sandbox();
        if self.sandbox.is_some() || !dir.exists() {
            return;
        }
        if !self.record.sandbox_made {
            if let Err(error) = self.discard_half_made().await {
                tracing::error!(error, dir = %dir.display(), "a half-made sandbox could not be removed");
            }
            return;
        }
        let sandbox = match self.shared.sandbox.reattach(&dir).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                tracing::error!(%error, dir = %dir.display(), "a sandbox is there but cannot be taken over");
                return;
            }
        };
        // Started in the last moment of the former agent: it is to be stopped as one that runs.
        for found in sandbox.state().await.map(|state| state.containers).unwrap_or_default() {
            if let Some(record) = self.record.containers.get_mut(&found.id)
                && record.status == ContainerStatus::Pending
                && found.started_at_ns.is_some()
            {
                record.status = ContainerStatus::Running;
                record.started_at = found.started_at_ns.and_then(super::containers::timestamp);
            }
        }
        self.sandbox = Some(sandbox);
    }

    async fn serve_credentials(&mut self, assignment: &TaskAssignment) -> Result<(), Stop> {
        if !assignment.has_task_role {
            return Ok(());
        }
        let listener =
            self.shared.fabric.task_listener(&assignment.task_id, credentials::ADDRESS).await.map_err(
                |error| {
                    Stop::failed_to_start(format!(
                        "ResourceInitializationError: failed to serve the credentials endpoint: {error}"
                    ))
                },
            )?;
        self.helpers.spawn(credentials::serve(
            listener,
            Arc::clone(&self.shared.control),
            assignment.task_arn.clone(),
            self.record.credentials_id.clone(),
        ));
        Ok(())
    }

    fn make_volumes(&self, assignment: &TaskAssignment) -> Result<(), Stop> {
        for volume in &assignment.volumes {
            std::fs::create_dir_all(self.dirs.volume(&volume.name)).map_err(|error| {
                Stop::failed_to_start(format!(
                    "CannotCreateVolumeError: failed to create volume {}: {error}",
                    volume.name
                ))
            })?;
        }
        Ok(())
    }

    /// Environment that only the node can know, below what the task definition says.
    pub(super) fn environment(&self, container: &ContainerAssignment) -> BTreeMap<String, String> {
        let assignment = &self.record.assignment;
        let mut environment = BTreeMap::from([("HOSTNAME".to_owned(), assignment.network.hostname.clone())]);
        if assignment.has_task_role {
            let uri = credentials::relative_uri(&self.record.credentials_id);
            environment.insert("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI".into(), uri);
        }
        if let Some(api) = self.shared.fabric.api_address() {
            environment.insert("AWS_ENDPOINT_URL".into(), format!("http://{api}"));
        }
        environment.extend(container.environment.clone());
        environment
    }
}

async fn network(shared: &Shared, assignment: &TaskAssignment) -> Result<(), ferrogate_vpc::Error> {
    shared.fabric.create_netns(&assignment.task_id).await?;
    shared.fabric.attach(&assignment.network.eni_id, &assignment.task_id).await?;
    Ok(())
}

/// The image of every container, by container name.
async fn images(shared: &Shared, assignment: &TaskAssignment) -> Result<BTreeMap<String, Image>, Stop> {
    let pulls = assignment.containers.iter().map(|container| async move {
        let image = image(shared, assignment, container).await?;
        stream(shared, assignment, container).await?;
        Ok((container.name.clone(), image))
    });
    Ok(try_join_all(pulls).await?.into_iter().collect())
}

async fn image(
    shared: &Shared,
    assignment: &TaskAssignment,
    container: &ContainerAssignment,
) -> Result<Image, Stop> {
    let refused =
        |reason: String| Stop::failed_to_start(reason.clone()).of_container(&container.name, reason);
    let reference = ImageRef::parse(&container.image)
        .map_err(|error| refused(format!("CannotPullContainerError: {error}")))?;
    let auth = match shared.control.registry_credentials(&assignment.task_arn, &container.name).await {
        Ok(None) => Auth::Anonymous,
        Ok(Some(credentials)) => Auth::Basic { user: credentials.username, password: credentials.password },
        Err(error) => {
            return Err(refused(format!(
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: {error}"
            )));
        }
    };
    let platform = match assignment.architecture {
        Architecture::X86_64 => Platform::LinuxAmd64,
        Architecture::Arm64 => Platform::LinuxArm64,
    };
    let began = std::time::Instant::now();
    let progress = |progress| shared.pulls.note(&assignment.task_id, &container.image, &progress);
    let image = shared
        .images
        .pull(&reference, auth, platform, progress)
        .await
        .map_err(|error| refused(error.to_string()))?;
    let (image_name, task) = (&container.image, &assignment.task_id);
    tracing::info!(image = image_name, task, bytes = image.size_bytes, took = ?began.elapsed(), "the image is here");
    Ok(image)
}

/// The awslogs stream has to be there before anything is written.
async fn stream(
    shared: &Shared,
    assignment: &TaskAssignment,
    container: &ContainerAssignment,
) -> Result<(), Stop> {
    if container.logs.is_none() {
        return Ok(());
    }
    shared.control.create_log_stream(&assignment.task_arn, &container.name).await.map_err(|error| {
        Stop::failed_to_start(format!(
            "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: \
             failed to create Cloudwatch log stream: {error} : exit status 1"
        ))
    })
}

/// A pull may take minutes; a task that is to stop does not wait for it.
async fn until_stopped<T>(
    mut desired: tokio::sync::watch::Receiver<DesiredStatus>,
    work: impl Future<Output = Result<T, Stop>>,
) -> Result<T, Stop> {
    tokio::select! {
        done = work => done,
        _ = desired.wait_for(|desired| *desired == DesiredStatus::Stopped) => Err(Stop::ASKED),
    }
}
