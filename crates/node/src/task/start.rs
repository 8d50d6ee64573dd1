//! From an assignment to a sandbox with its network and images: everything before the first container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{
    ContainerAssignment, ContainerStatus, DesiredStatus, ObservedStatus, TaskAssignment,
};
use ferrogate_sandbox::{Isolation, TaskSandbox, TaskSandboxSpec};
use futures_util::future::try_join;
use jiff::Timestamp;
use tokio::sync::watch;

use super::pull::{self, images};
use super::storage::secrets;
use super::{Actor, Shared, Stop, way};
use crate::balancer::process::task_log;
use crate::connect::{self, Proxy};
use crate::endpoints::{self, Endpoints, OfTask};
use crate::files;
use crate::logs::Run;
use crate::logs::proxy::ProxyLog;
use crate::timing::{Step, step};

/// Processes and threads of a task. Fargate's own bound is not documented; this one stops a fork bomb.
const PIDS_MAX: u64 = 32_768;
/// Longest a task that is to end waits for a start that was cancelled, and for what its sandbox was asked before.
const ANSWER_DEADLINE: Duration = Duration::from_secs(45);

impl Actor {
    /// Images, network and sandbox, side by side. After a restart of the agent each finds what is there.
    pub(super) async fn start(&mut self) -> Result<(), Stop> {
        if self.stop_wanted() {
            self.find_sandbox().await;
            return Err(Stop::ASKED);
        }
        if !self.record.sandbox_made {
            // What it is to be in is told of one that cannot be made, too.
            self.record.machine = self.shared.sandbox.isolation() == Isolation::MicroVm;
        }
        let first_time = self.record.status == ObservedStatus::Pending;
        if first_time {
            self.record.status = ObservedStatus::Activating;
            self.record.pull_started_at = Some(Timestamp::now());
            self.say();
        }
        let assignment = self.record.assignment.clone();
        let shared = Arc::clone(&self.shared);
        let wanting = self.wanting_secrets();
        let known = self.known_images();
        let begun = self.begun();
        let (network, sandbox, resources) = tokio::join!(
            network(&shared, &assignment),
            self.make_sandbox(&assignment),
            until_stopped(self.desired.clone(), async {
                if !wanting.is_empty() {
                    way::to_secrets(&shared, &assignment).await?;
                }
                let images = images(&shared, &assignment, &known, &begun);
                try_join(secrets(&shared, &assignment, wanting), images).await
            }),
        );
        self.shared.pulls.done(&assignment.task_id);
        let steps = self.shared.timings.take(&assignment.task_id);
        if first_time {
            self.record.timing.extend(steps);
        }
        // The sandbox first: whatever else failed, it is there to be removed.
        let ran = self.record.sandbox_made;
        self.sandbox = Some(sandbox.map_err(|error| {
            if ran {
                Stop::lost(&error)
            } else {
                Stop::failed_to_start(format!(
                    "ResourceInitializationError: failed to create the task's sandbox: {error}"
                ))
            }
        })?);
        self.record.sandbox_made = true;
        self.record.machine =
            self.sandbox.as_ref().is_some_and(|sandbox| sandbox.spec().isolation == Isolation::MicroVm);
        // What may run in it is found by this alone.
        self.record.save_synced(&self.dirs.root).map_err(|error| {
            Stop::failed_to_start(format!(
                "ResourceInitializationError: failed to write the task's record: {error}"
            ))
        })?;
        let runs = self.record.status >= ObservedStatus::Running;
        match resources {
            Ok(resources) => (self.secrets, self.images) = resources,
            Err(Stop { cause: Some(cause), .. }) if runs => {
                tracing::error!(
                    reason = cause.reason,
                    task = assignment.task_arn,
                    "what the task started from cannot be had again; it runs on"
                );
            }
            Err(stop) => return Err(stop),
        }
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
            if runs {
                tracing::error!(%error, task = assignment.task_arn, "the network interface could not be looked after");
            } else {
                return Err(Stop::failed_to_start(format!(
                    "ResourceInitializationError: failed to attach the network interface: {error}"
                )));
            }
        }
        match self.serve_endpoints(&assignment).await {
            Err(Stop { cause: Some(cause), .. }) if runs => {
                tracing::error!(
                    reason = cause.reason,
                    task = assignment.task_arn,
                    "the task's endpoints are not served; it runs on"
                );
            }
            served => served?,
        }
        self.serve_connect(&assignment, runs).await?;
        self.reserve_for_images();
        self.save();
        Ok(())
    }

    async fn make_sandbox(&self, assignment: &TaskAssignment) -> Result<Arc<dyn TaskSandbox>, String> {
        let dir = self.dirs.sandbox();
        if self.record.sandbox_made {
            // Also where it is gone: what ran in it is not to be started again.
            return self.shared.sandbox.reattach(&dir).await.map_err(|error| error.to_string());
        }
        if dir.exists() {
            self.discard_half_made().await?;
        }
        let netns = self.shared.fabric.netns_path(&assignment.task_id).map_err(|error| error.to_string())?;
        let spec = TaskSandboxSpec {
            id: assignment.task_id.clone(),
            instance: self.shared.instance.clone(),
            dir,
            isolation: self.shared.sandbox.isolation(),
            cpu_units: assignment.cpu_units,
            memory_bytes: u64::from(assignment.memory_mib) << 20,
            pids_max: Some(PIDS_MAX),
            shared_pid_namespace: assignment.shared_pid_namespace,
            network_namespace: Some(netns),
            hostname: assignment.network.hostname.clone(),
            hosts: files::hosts(&assignment.network, assignment.connect.as_ref()),
            resolv_conf: files::resolv_conf(&assignment.network),
            ephemeral_storage: Some(self.ephemeral_storage(assignment)),
        };
        let began = Timestamp::now();
        let made = self.shared.sandbox.create(spec).await.map_err(|error| error.to_string());
        self.shared.timings.note(&assignment.task_id, Step::done(step::SANDBOX, None, began));
        for made in made.iter().flat_map(|sandbox| sandbox.made()) {
            self.shared.timings.note(&assignment.task_id, Step::of_sandbox(made));
        }
        made
    }

    /// A former agent died while it made the sandbox: nothing has run in it, so it is made anew.
    async fn discard_half_made(&self) -> Result<(), String> {
        let (dir, task) = (self.dirs.sandbox(), &self.record.assignment.task_id);
        let discarded = self.shared.sandbox.discard(&dir, &self.shared.instance, task);
        discarded.await.map_err(|error| error.to_string())
    }

    /// For a task that is to be stopped without having been started by this agent.
    pub(super) async fn find_sandbox(&mut self) {
        let dir = self.dirs.sandbox();
        // Half made, nothing has run in it: what there is is removed with the task.
        if self.sandbox.is_some() || !self.record.sandbox_made || !dir.exists() {
            return;
        }
        let sandbox = match self.shared.sandbox.reattach(&dir).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                tracing::error!(%error, dir = %dir.display(), "a sandbox is there but cannot be taken over: it is discarded");
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

    /// `None`: the task's end was wanted before the container could run. What it copies into its volumes may take long.
    pub(super) async fn start_or_stop(
        &self,
        sandbox: &Arc<dyn TaskSandbox>,
        name: &str,
    ) -> Option<Result<i32, ferrogate_sandbox::Error>> {
        let mut desired = self.desired.clone();
        let mut start = sandbox.start(name);
        tokio::select! {
            biased;
            started = &mut start => return Some(started),
            _ = desired.wait_for(|desired| *desired == DesiredStatus::Stopped) => {}
        }
        if let Err(error) = sandbox.cancel_start(name).await {
            tracing::warn!(%error, container = name, "its start could not be cancelled");
        }
        // It may have come about all the same.
        tokio::time::timeout(ANSWER_DEADLINE, start).await.ok().filter(Result::is_ok)
    }

    /// `None`: the task's end is wanted, and there was no answer for so long that none may come any more.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut desired = self.desired.clone();
        let patience = async {
            let _ = desired.wait_for(|desired| *desired == DesiredStatus::Stopped).await;
            tokio::time::sleep(ANSWER_DEADLINE).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = patience => None,
        }
    }

    /// For every task, before its first container; until the sandbox is taken away.
    async fn serve_endpoints(&mut self, assignment: &TaskAssignment) -> Result<(), Stop> {
        let Some(sandbox) = self.sandbox.clone() else { return Ok(()) };
        let began = Timestamp::now();
        let listener =
            self.shared.fabric.task_listener(&assignment.task_id, endpoints::ADDRESS).await.map_err(
                |error| {
                    Stop::failed_to_start(format!(
                        "ResourceInitializationError: failed to serve the task metadata endpoint: {error}"
                    ))
                },
            )?;
        let figures =
            OfTask { sandbox, fabric: self.shared.fabric.clone(), task_id: assignment.task_id.clone() };
        let endpoints = Endpoints::new(
            Arc::clone(&self.shared.control),
            self.seen.subscribe(),
            self.desired.clone(),
            Arc::new(figures),
        );
        self.endpoints.spawn(endpoints.serve(listener));
        self.record.note(step::ENDPOINTS, None, began);
        Ok(())
    }

    /// The proxy of Service Connect, before the first container; it ends with the sandbox.
    async fn serve_connect(&mut self, assignment: &TaskAssignment, runs: bool) -> Result<(), Stop> {
        if self.sandbox.is_none() || connect::needed(assignment).is_none() {
            return Ok(());
        }
        let failed = |error: &dyn std::fmt::Display| {
            Stop::failed_to_start(format!(
                "ResourceInitializationError: failed to start the Service Connect proxy: {error}"
            ))
        };
        if !runs {
            self.proxy_stream(assignment).await?;
        }
        let Some(edge) = self.shared.edge.get() else { return Err(failed(&"this node carries none")) };
        let (began, dir) = (Timestamp::now(), self.dirs.sandbox());
        let place = (self.shared.instance.as_str(), dir.as_path());
        let proxy = Proxy::new(edge, &self.shared.fabric, place, assignment, self.record.machine);
        let Some(mut proxy) = proxy else { return Ok(()) };
        match Box::pin(proxy.stand()).await {
            Ok(()) => self.record.note(step::PROXY, None, began),
            Err(error) if runs => {
                tracing::error!(%error, task = assignment.task_arn, "the task has no Service Connect proxy; it is tried again");
            }
            Err(error) => return Err(failed(&error)),
        }
        self.endpoints.spawn(proxy.keep());
        self.pump_proxy_log();
        Ok(())
    }

    /// As a container's.
    async fn proxy_stream(&mut self, assignment: &TaskAssignment) -> Result<(), Stop> {
        let Some(logs) = connect::needed(assignment).and_then(|connect| connect.logs.as_ref()) else {
            return Ok(());
        };
        let shared = Arc::clone(&self.shared);
        let made = pull::stream(&shared, assignment, &logs.container, &logs.to, true);
        let made = until_stopped(self.desired.clone(), made).await;
        self.record.timing.extend(self.shared.timings.take(&assignment.task_id));
        made
    }

    /// Once; the proxy stands, or stood.
    pub(super) fn pump_proxy_log(&mut self) {
        let connect = connect::needed(&self.record.assignment);
        let Some(logs) = connect.and_then(|connect| connect.logs.clone()) else { return };
        if self.sandbox.is_none() || self.runs.contains_key(&logs.container) {
            return;
        }
        let (run, runs) = watch::channel(Run { number: 0, last: false });
        self.runs.insert(logs.container.clone(), run);
        let pump = ProxyLog {
            control: Arc::clone(&self.shared.control),
            task_arn: self.record.assignment.task_arn.clone(),
            logs,
            file: task_log(&self.dirs.sandbox()),
        };
        self.pumps.spawn(pump.run(runs));
    }

    /// Environment that only the node can know: below what the task definition says, but for what leads to the
    /// task's endpoints.
    pub(super) fn environment(&self, container: &ContainerAssignment) -> BTreeMap<String, String> {
        let assignment = &self.record.assignment;
        let mut environment = BTreeMap::from([("HOSTNAME".to_owned(), assignment.network.hostname.clone())]);
        if let Some(api) = self.shared.fabric.api_address() {
            environment.insert("AWS_ENDPOINT_URL".into(), format!("http://{api}"));
        }
        environment.extend(container.environment.clone());
        environment.extend(endpoints::environment(&self.record, &container.runtime_id));
        environment
    }
}

async fn network(shared: &Shared, assignment: &TaskAssignment) -> Result<(), ferrogate_vpc::Error> {
    let note = |step, began| shared.timings.note(&assignment.task_id, Step::done(step, None, began));
    let began = Timestamp::now();
    shared.fabric.create_netns(&assignment.task_id).await?;
    note(step::NETWORK_NAMESPACE, began);
    let began = Timestamp::now();
    shared.fabric.attach(&assignment.network.eni_id, &assignment.task_id).await?;
    note(step::INTERFACE, began);
    Ok(())
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
