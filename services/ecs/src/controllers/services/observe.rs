//! A service as the planner is told of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ferrogate_api::{ApiError, ecs, elbv2};
use ferrogate_store::get_json;

use super::Worker;
use super::images::Images;
use super::index::Seen;
use super::seen::SeenTask;
use crate::controllers::clients;
use crate::operations::services::configuration;
use crate::plan::service::{
    Alarms, CircuitBreaker, Controller, Deployment, EarlySuccess, Endpoints, Hook, HookAction, Instance,
    Service, ServiceStatus, Snapshot, Stage, Strategy, Target, TargetState, Task, Threshold,
};
use crate::state::Scope;
use crate::state::service;
use crate::state::service::{
    DeploymentController, DeploymentRecord, ServiceKey, ServiceRecord, ServiceRevisionRecord, Spec,
};

/// (target group, address, port)
type TargetKey = (String, String, u16);

/// What ELB says of the targets of some groups.
#[derive(Default)]
pub(super) struct Targets(HashMap<TargetKey, (TargetState, Option<String>)>);

/// A service with what its deployments bring out.
pub(super) struct Observed {
    pub snapshot: Snapshot,
    pub tasks: Arc<Seen>,
    /// By deployment id.
    pub specs: HashMap<String, Spec>,
    /// By deployment id, once a task of its revision has begun.
    pub images: HashMap<String, Images>,
    /// Some target is on its way to or from being healthy.
    pub unsettled: bool,
}

impl Worker {
    pub(super) async fn observe(&self, service: &ServiceRecord) -> Result<Observed, ApiError> {
        let key = service.key();
        let seen = self.index.tasks(&*self.store, &key);
        let (specs, images) = self.revisions(&key, service);
        let targets = self.targets(&key.scope, &seen).await?;
        let deployments = service.deployments.iter();
        let deployments: Vec<Deployment> =
            deployments.map(|one| deployment(one, specs.get(&one.id))).collect();
        let tasks: Vec<Task> =
            seen.values().map(|one| task(one, &targets, specs.get(&one.deployment))).collect();
        let is_settled = |target: &Target| {
            matches!(target.state, TargetState::Healthy | TargetState::Unhealthy | TargetState::Unused)
        };
        let unsettled = tasks.iter().any(|task| task.targets.iter().any(|target| !is_settled(target)));
        let zones = zones(service, &specs);
        let snapshot = Snapshot { service: wanted(service, zones), deployments, tasks };
        Ok(Observed { snapshot, tasks: seen, specs, images, unsettled })
    }

    fn revisions(
        &self,
        key: &ServiceKey,
        service: &ServiceRecord,
    ) -> (HashMap<String, Spec>, HashMap<String, Images>) {
        let (mut specs, mut images) = (HashMap::new(), HashMap::new());
        for one in &service.deployments {
            let found = get_json::<ServiceRevisionRecord>(&*self.store, &key.revision(&one.revision));
            let Some(ServiceRevisionRecord { spec, images: known, .. }) = found.map(|found| found.record)
            else {
                continue;
            };
            specs.insert(one.id.clone(), spec);
            images.extend(known.map(|known| (one.id.clone(), known)));
        }
        (specs, images)
    }

    async fn targets(&self, scope: &Scope, seen: &Seen) -> Result<Targets, ApiError> {
        let groups: BTreeSet<&String> =
            seen.values().flat_map(|task| &task.scheduling.targets).map(|target| &target.group).collect();
        let each = groups.into_iter().map(|group| self.targets_of(scope, group));
        let each = futures_util::future::try_join_all(each).await?;
        Ok(Targets(each.into_iter().flatten().collect()))
    }

    async fn targets_of(
        &self,
        scope: &Scope,
        group: &str,
    ) -> Result<Vec<(TargetKey, (TargetState, Option<String>))>, ApiError> {
        let request = elbv2::DescribeTargetHealthInput {
            target_group_arn: Some(group.to_owned()),
            ..Default::default()
        };
        let answer = match clients::elb(&self.invoke, scope).describe_target_health(request).await {
            Ok(answer) => answer,
            // With the group its targets are gone.
            Err(error) if error.code.starts_with("TargetGroupNotFound") => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let of = |described: elbv2::TargetHealthDescription| {
            let target = described.target?;
            let health = described.target_health.unwrap_or_default();
            let state = match health.state.as_deref().unwrap_or_default() {
                "healthy" => TargetState::Healthy,
                "unhealthy" => TargetState::Unhealthy,
                "unused" => TargetState::Unused,
                "draining" | "unhealthy.draining" => TargetState::Draining,
                _ => TargetState::Initial,
            };
            let port = u16::try_from(target.port?).ok()?;
            Some(((group.to_owned(), target.id?, port), (state, health.description)))
        };
        Ok(answer.target_health_descriptions.into_iter().flatten().filter_map(of).collect())
    }
}

/// Of what is to run. Task sets may be in subnets of their own: then all of theirs.
fn zones(service: &ServiceRecord, specs: &HashMap<String, Spec>) -> Vec<String> {
    if service.controller == DeploymentController::Ecs {
        return service.primary().and_then(|one| specs.get(&one.id)).unwrap_or(&service.spec).zones();
    }
    let all: BTreeSet<String> = specs.values().flat_map(Spec::zones).collect();
    all.into_iter().collect()
}

fn task(seen: &SeenTask, targets: &Targets, spec: Option<&Spec>) -> Task {
    let target = |recorded: &service::TargetRecord| {
        let key = (recorded.group.clone(), seen.ip.clone()?, recorded.port);
        // What ELB does not know (any more) is registered again, or let go, as the task needs it.
        let (state, reason) = targets.0.get(&key).cloned()?;
        let state = if recorded.draining { TargetState::Draining } else { state };
        Some(Target { group: recorded.group.clone(), port: recorded.port, state, reason })
    };
    let instance = seen.scheduling.instance.as_ref();
    // Until Cloud Map has said that it took it, it is registered again, or taken away, as the task needs it.
    let known = instance.filter(|one| one.confirmed || seen.end.is_some());
    Task {
        id: seen.id.clone(),
        deployment: seen.deployment.clone(),
        zone: seen.zone.clone(),
        created_at: seen.created_at,
        phase: seen.phase,
        end: seen.end,
        started_at: seen.started_at,
        health: seen.health,
        targets: seen.scheduling.targets.iter().filter_map(target).collect(),
        instance: known.map_or(Instance::None, |one| Instance::Registered { healthy: one.healthy }),
        endpoints: endpoints(seen, spec),
        protected_until: seen.protected_until,
        accounted: seen.scheduling.accounted,
        released: seen.scheduling.released,
    }
}

/// What Cloud Map has of those that the task's deployment brings out.
fn endpoints(seen: &SeenTask, spec: Option<&Spec>) -> Endpoints {
    let noted = &seen.scheduling.endpoints;
    let is_confirmed = |id: &String| noted.iter().any(|one| one.service_id == *id && one.confirmed);
    let wanted = spec.map_or(&[][..], Spec::endpoints);
    if noted.is_empty() {
        Endpoints::None
    } else if wanted.iter().all(|endpoint| is_confirmed(&endpoint.service_id)) {
        Endpoints::Registered
    } else {
        Endpoints::Partly
    }
}

fn deployment(one: &DeploymentRecord, spec: Option<&Spec>) -> Deployment {
    Deployment {
        id: one.id.clone(),
        created_at: one.created_at,
        status: one.status,
        target_groups: one.target_groups.clone(),
        has_registry: spec.is_some_and(|spec| !spec.registries.is_empty()),
        has_endpoints: spec.is_some_and(|spec| !spec.endpoints().is_empty()),
        scale_permille: one.task_set.as_ref().map_or(1000, |set| set.scale_permille),
        stop_request: one.stop_request,
        rollout_state: one.rollout_state,
        rollout_reason: one.rollout_reason.clone(),
        service_deployment: one.service_deployment,
        service_deployment_reason: one.service_deployment_reason.clone(),
        rolling_back_to: one.rolling_back_to.clone(),
        failed_tasks: one.failed_tasks,
        launches: one.launches,
        stage: one.stage.clone(),
        production_permille: one.production_permille,
        test_permille: one.test_permille,
        desired_count: one.desired_count,
        running_count: one.running_count,
        pending_count: one.pending_count,
        stability: one.stability,
    }
}

/// A number that was checked when it was taken in.
fn number(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
}

/// Tenths of a percent, from 0 to 1000.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped just before")]
pub(crate) fn permille(percent: f64) -> u32 {
    (percent * 10.0).round().clamp(0.0, 1000.0) as u32
}

fn wanted(service: &ServiceRecord, zones: Vec<String>) -> Service {
    let configuration = &service.configuration;
    Service {
        name: service.name.clone(),
        status: match service.status {
            service::ServiceStatus::Active => ServiceStatus::Active,
            _ => ServiceStatus::Draining,
        },
        controller: match service.controller {
            DeploymentController::Ecs => Controller::Ecs,
            DeploymentController::External => Controller::External,
        },
        desired_count: service.desired_count,
        minimum_healthy_percent: number(configuration.minimum_healthy_percent, 100),
        maximum_percent: number(configuration.maximum_percent, 200),
        strategy: strategy(configuration),
        bake_time_minutes: number(configuration.bake_time_in_minutes, 0),
        hooks: configuration.lifecycle_hooks.iter().flatten().map(hook).collect(),
        circuit_breaker: breaker(configuration.deployment_circuit_breaker.as_ref()),
        alarms: alarms(configuration.alarms.as_ref()),
        early_success: early_success(configuration),
        grace_period_seconds: number(service.grace_period_seconds, 0),
        rebalancing: service.rebalancing,
        zones,
        steady: service.steady,
        rebalancing_now: service.rebalancing_now,
        blocked: service.blocked,
    }
}

fn strategy(configuration: &ecs::DeploymentConfiguration) -> Strategy {
    let linear = configuration.linear_configuration.clone().unwrap_or_default();
    let canary = configuration.canary_configuration.clone().unwrap_or_default();
    match configuration::strategy(configuration) {
        "BLUE_GREEN" => Strategy::BlueGreen,
        "LINEAR" => Strategy::Linear {
            step_permille: permille(linear.step_percent.unwrap_or(10.0)),
            bake_minutes: number(linear.step_bake_time_in_minutes, 6),
        },
        "CANARY" => Strategy::Canary {
            permille: permille(canary.canary_percent.unwrap_or(5.0)),
            bake_minutes: number(canary.canary_bake_time_in_minutes, 10),
        },
        _ => Strategy::Rolling,
    }
}

fn hook(hook: &ecs::DeploymentLifecycleHook) -> Hook {
    let timeout = hook.timeout_configuration.clone().unwrap_or_default();
    let stages = hook.lifecycle_stages.iter().flatten();
    let rolls_on = timeout.action.as_deref() == Some("CONTINUE");
    Hook {
        stages: stages.filter_map(|name| stage(name)).collect(),
        timeout_minutes: number(timeout.timeout_in_minutes, 1440),
        timeout_action: if rolls_on { HookAction::Continue } else { HookAction::Rollback },
    }
}

fn stage(name: &str) -> Option<Stage> {
    const ALL: [Stage; 11] = [
        Stage::ReconcileService,
        Stage::PreScaleUp,
        Stage::ScaleUp,
        Stage::PostScaleUp,
        Stage::TestTrafficShift,
        Stage::PostTestTrafficShift,
        Stage::PreProductionTrafficShift,
        Stage::ProductionTrafficShift,
        Stage::PostProductionTrafficShift,
        Stage::BakeTime,
        Stage::CleanUp,
    ];
    ALL.into_iter().find(|stage| stage.name() == name)
}

pub(crate) fn breaker(breaker: Option<&ecs::DeploymentCircuitBreaker>) -> CircuitBreaker {
    let breaker = breaker.cloned().unwrap_or_default();
    let threshold = breaker.threshold_configuration.unwrap_or_default();
    let value = number(threshold.value, 50);
    CircuitBreaker {
        enabled: breaker.enable == Some(true),
        rollback: breaker.rollback == Some(true),
        reset_on_healthy_task: breaker.reset_on_healthy_task != Some(false),
        threshold: match threshold.r#type.as_deref() {
            Some("COUNT") => Threshold::Count(value),
            Some("UNBOUNDED_PERCENT") => Threshold::UnboundedPercent(value),
            _ => Threshold::BoundedPercent(value),
        },
    }
}

/// `triggered` is what CloudWatch says of them, once there is one: until then an enabled alarm is refused
/// (`operations/services/configuration.rs`).
fn alarms(configured: Option<&ecs::DeploymentAlarms>) -> Alarms {
    let configured = configured.cloned().unwrap_or_default();
    Alarms {
        enabled: configured.enable == Some(true),
        rollback: configured.rollback == Some(true),
        triggered: Vec::new(),
    }
}

fn early_success(configuration: &ecs::DeploymentConfiguration) -> Option<EarlySuccess> {
    let criteria = configuration.early_success_criteria.as_ref()?;
    let minimum = number(configuration.minimum_healthy_percent, 100);
    (criteria.enable == Some(true)).then(|| EarlySuccess {
        healthy_percent: number(criteria.healthy_percent, minimum),
        after_cleanup: criteria.source_service_revision_cleanup.as_deref() != Some("DEFERRED"),
    })
}
