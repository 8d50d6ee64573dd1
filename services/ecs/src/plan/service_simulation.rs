//! A world in which the service scheduler's plans are done, and which holds every plan to its promises.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::service::{
    Accounted, Action, Alarms, CircuitBreaker, ContainerHealth, Controller, Deployment, DeploymentChange,
    DeploymentStatus, End, Endpoints, HookStatus, Instance, Listener, Phase, Plan, RolloutState, Service,
    ServiceStatus, Snapshot, Strategy, Target, TargetState, Task, Threshold, plan,
};

/// What becomes of the tasks of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Good,
    NeverRuns,
    /// Runs, and exits before it counts as healthy.
    Crashes,
    FailsTarget,
    FailsContainer,
}

pub(crate) struct Simulation {
    pub snapshot: Snapshot,
    pub now: Timestamp,
    pub fates: BTreeMap<String, Fate>,
    /// Tasks whose checks fail, whatever the fate of their deployment.
    pub sick: BTreeSet<String>,
    /// Service events, the newest last.
    pub said: Vec<String>,
    /// Lifecycle stages as they were entered.
    pub stages: Vec<String>,
    /// How much the newest shift of production traffic sends where.
    pub production: Vec<(String, u32)>,
    made: u64,
    pub ended: bool,
}

pub(crate) fn service(name: &str, desired_count: u32) -> Service {
    Service {
        name: name.into(),
        status: ServiceStatus::Active,
        controller: Controller::Ecs,
        desired_count,
        minimum_healthy_percent: 100,
        maximum_percent: 200,
        strategy: Strategy::Rolling,
        bake_time_minutes: 0,
        hooks: Vec::new(),
        circuit_breaker: CircuitBreaker {
            enabled: false,
            rollback: false,
            reset_on_healthy_task: true,
            threshold: Threshold::BoundedPercent(50),
        },
        alarms: Alarms::default(),
        early_success: None,
        grace_period_seconds: 0,
        rebalancing: false,
        zones: ["a", "b", "c"].map(str::to_owned).to_vec(),
        steady: false,
        rebalancing_now: false,
        blocked: false,
    }
}

impl Simulation {
    pub(crate) fn new(service: Service) -> Self {
        Self {
            snapshot: Snapshot { service, deployments: Vec::new(), tasks: Vec::new() },
            now: Timestamp::from_second(1_800_000_000).expect("a time"),
            fates: BTreeMap::new(),
            sick: BTreeSet::new(),
            said: Vec::new(),
            stages: Vec::new(),
            production: Vec::new(),
            made: 0,
            ended: false,
        }
    }

    /// CreateService or UpdateService with a new revision; its identifier.
    pub(crate) fn deploy(&mut self, fate: Fate, groups: &[&str]) -> String {
        self.made += 1;
        // Two updates in one second are told apart.
        self.now += SignedDuration::from_micros(1);
        let id = format!("ecs-svc/{:019}", self.made);
        for former in &mut self.snapshot.deployments {
            if former.status == DeploymentStatus::Primary {
                former.status = DeploymentStatus::Active;
            }
        }
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let new = Deployment { target_groups: groups, has_endpoints: true, ..Deployment::new(&id, self.now) };
        self.snapshot.deployments.push(new);
        self.fates.insert(id.clone(), fate);
        id
    }

    /// ELB or a container's check says that the task is not healthy.
    pub(crate) fn sicken(&mut self, id: &str) {
        self.sick.insert(id.to_owned());
        if let Some(task) = self.snapshot.tasks.iter_mut().find(|task| task.id == id) {
            sicken(task);
        }
    }

    pub(crate) fn primary(&self) -> &Deployment {
        let is_primary = |it: &&Deployment| it.status == DeploymentStatus::Primary;
        self.snapshot.deployments.iter().find(is_primary).expect("a primary deployment")
    }

    pub(crate) fn deployment(&mut self, id: &str) -> &mut Deployment {
        self.snapshot.deployments.iter_mut().find(|it| it.id == id).expect("the deployment")
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Task> {
        self.snapshot.tasks.iter().filter(|task| task.end.is_none())
    }

    pub(crate) fn live_of(&self, deployment: &str) -> usize {
        self.live().filter(|task| task.deployment == deployment).count()
    }

    pub(crate) fn healthy(&self) -> usize {
        self.live().filter(|task| self.is_healthy(task)).count()
    }

    fn healthy_of(&self, deployment: &str) -> usize {
        self.live().filter(|task| task.deployment == deployment && self.is_healthy(task)).count()
    }

    /// Those that are known to have production traffic, and how many healthy tasks they have.
    fn serving(&self) -> BTreeMap<String, usize> {
        let serves = |it: &&Deployment| it.production_permille > Some(0);
        let all = self.snapshot.deployments.iter().filter(serves);
        all.map(|it| (it.id.clone(), self.healthy_of(&it.id))).collect()
    }

    /// Said in another way than by the planner.
    pub(crate) fn is_healthy(&self, task: &Task) -> bool {
        let groups = self.snapshot.deployments.iter().find(|it| it.id == task.deployment);
        let groups = groups.map_or(&[][..], |it| &it.target_groups);
        let state_in = |group: &String| {
            task.targets.iter().find(|target| target.group == *group).map(|target| target.state)
        };
        let states: Vec<Option<TargetState>> = groups.iter().map(state_in).collect();
        let running_seconds = task.started_at.map_or(0, |at| self.now.duration_since(at).as_secs());
        task.end.is_none()
            && task.phase == Phase::Running
            && matches!(task.health, ContainerHealth::None | ContainerHealth::Healthy)
            && states.iter().all(|state| *state == Some(TargetState::Healthy))
            && (!states.is_empty() || task.health == ContainerHealth::Healthy || running_seconds >= 40)
    }

    /// Plans, does it, and again until there is nothing to do; what the last plan waits for.
    pub(crate) fn act(&mut self) -> Option<Timestamp> {
        const PLANS_MAX: usize = 60;
        for turn in 0..PLANS_MAX {
            self.forget_ended_tasks();
            let plan = plan(&self.snapshot, self.now);
            if plan.actions.is_empty() {
                assert!(plan.wake_at.is_none_or(|at| at > self.now), "it wakes for nothing");
                return plan.wake_at;
            }
            assert!(!self.ended, "an INACTIVE service is left alone: {:?}", plan.actions);
            // A task that was stopped for its health is counted by the plan after, which may fail its deployment; the one
            // that is rolled back to is complete at once, and after that its zones are looked at. No more than that.
            let settled = turn < 5 || self.snapshot.service.strategy != Strategy::Rolling;
            let moves =
                |action: &Action| matches!(action, Action::StartTasks { .. } | Action::StopTasks { .. });
            assert!(settled || !plan.actions.iter().any(moves), "what was done is not done again: {plan:?}");
            self.apply(&plan);
        }
        panic!("it does not come to rest: {:?}", plan(&self.snapshot, self.now));
    }

    pub(crate) fn apply(&mut self, plan: &Plan) {
        let (healthy_before, serving) = (self.healthy(), self.serving());
        for action in &plan.actions {
            self.check_before(action);
            let started = self.apply_one(action);
            self.said.extend(action.events(&self.snapshot.service.name, &started));
        }
        self.check_bounds(plan, healthy_before, &serving);
        self.forget_old_deployments();
    }

    pub(crate) fn forget_ended_tasks(&mut self) {
        let is_over = |task: &Task| {
            task.phase == Phase::Stopped && task.accounted == Accounted::Ended && task.is_nowhere()
        };
        self.snapshot.tasks.retain(|task| !is_over(task));
    }

    /// As the contract of a snapshot allows.
    fn forget_old_deployments(&mut self) {
        let is_over = |it: &&Deployment| it.status == DeploymentStatus::Inactive;
        let can_come_back = |it: &&Deployment| is_over(it) && it.rollout_state == RolloutState::Completed;
        let newest = self.snapshot.deployments.iter().filter(can_come_back).max_by_key(|it| it.created_at);
        let newest = newest.map(|it| it.id.clone());
        let has_rollouts = self.snapshot.service.controller == Controller::Ecs;
        for gone in self.snapshot.deployments.iter().filter(is_over).filter(|_| has_rollouts) {
            assert!(gone.service_deployment.is_final(), "{gone:?}");
            assert_eq!(self.live_of(&gone.id), 0, "{gone:?}");
        }
        self.snapshot.deployments.retain(|it| !is_over(&it) || Some(&it.id) == newest.as_ref());
    }

    pub(crate) fn task(&mut self, id: &str) -> &mut Task {
        self.snapshot.tasks.iter_mut().find(|task| task.id == id).expect("a task that is known")
    }

    fn check_before(&self, action: &Action) {
        let by_id: HashMap<&str, &Task> = match action {
            Action::StopTasks { .. }
            | Action::RegisterTargets { .. }
            | Action::RegisterInstance { .. }
            | Action::RegisterEndpoints { .. }
            | Action::SetInstanceHealth { .. }
            | Action::ReleaseTasks { .. } => {
                self.snapshot.tasks.iter().map(|task| (task.id.as_str(), task)).collect()
            }
            _ => HashMap::new(),
        };
        let find = |id: &String| *by_id.get(id.as_str()).expect("a task that is known");
        match action {
            Action::StopTasks { tasks, unhealthy, .. } => {
                let draining = self.snapshot.service.status == ServiceStatus::Draining;
                for task in tasks.iter().map(find) {
                    assert!(task.end.is_none() && task.phase <= Phase::Running, "{task:?} is stopped twice");
                    let is_protected = task.protected_until.is_some_and(|until| until > self.now);
                    let fails = *unhealthy || draining || self.fails(task);
                    assert!(!is_protected || fails, "{task:?} is protected");
                }
            }
            Action::RegisterTargets { tasks, .. } => {
                for task in tasks.iter().map(find) {
                    assert!(task.phase == Phase::Running && task.end.is_none(), "{task:?} joins");
                }
            }
            Action::RegisterInstance { task, .. }
            | Action::SetInstanceHealth { task, .. }
            | Action::RegisterEndpoints { task } => {
                let task = find(task);
                assert!(task.phase == Phase::Running && task.end.is_none(), "{task:?} joins");
            }
            Action::ReleaseTasks { tasks } => {
                for task in tasks.iter().map(find) {
                    assert!(
                        task.end.is_some() && task.is_nowhere() && !task.released,
                        "{task:?} is released"
                    );
                    assert!(task.phase < Phase::Stopped, "{task:?} is released");
                }
            }
            Action::ShiftTraffic { listener: Listener::Production, permille } => self.check_shift(permille),
            _ => {}
        }
    }

    fn fails(&self, task: &Task) -> bool {
        task.health == ContainerHealth::Unhealthy
            || task.targets.iter().any(|target| target.state == TargetState::Unhealthy)
    }

    /// Traffic goes to who can take it, unless there is nobody else.
    fn check_shift(&self, permille: &[(String, u32)]) {
        assert_eq!(permille.iter().map(|(_, permille)| permille).sum::<u32>(), 1000);
        let percent = self.snapshot.service.minimum_healthy_percent;
        let least = (u64::from(self.snapshot.service.desired_count) * u64::from(percent)).div_ceil(100);
        for (id, permille) in permille {
            let to = self.snapshot.deployments.iter().find(|it| it.id == *id).expect("a deployment");
            let was = to.production_permille;
            let healthy = self.healthy_of(id);
            let has_other = self
                .snapshot
                .deployments
                .iter()
                .any(|it| it.production_permille > Some(0) && self.live_of(&it.id) > 0);
            let grows = *permille > was.unwrap_or(0) && has_other && to.rollout_state != RolloutState::Failed;
            assert!(!grows || healthy as u64 >= least, "{id} gets {permille} with {healthy} healthy tasks");
        }
    }

    fn check_bounds(&self, plan: &Plan, healthy_before: usize, serving: &BTreeMap<String, usize>) {
        let service = &self.snapshot.service;
        if service.status == ServiceStatus::Draining || service.controller == Controller::External {
            return;
        }
        let desired = service.desired_count as usize;
        let least = (desired * service.minimum_healthy_percent as usize).div_ceil(100);
        let most = desired * service.maximum_percent as usize / 100;
        if service.strategy != Strategy::Rolling {
            return self.check_bounds_of_each(plan, serving, least, most);
        }
        let starts = |action: &Action| matches!(action, Action::StartTasks { .. });
        let live = self.live().count();
        if plan.actions.iter().any(starts) {
            assert!(live <= most, "{live} tasks where {most} may be: {plan:?}");
        }
        let healthy = self.healthy();
        assert!(
            healthy >= least.min(healthy_before),
            "{healthy} healthy tasks, {healthy_before} before, {least} at least: {plan:?}"
        );
    }

    /// Where traffic is shifted they hold for each revision by itself. Who had traffic before the plan keeps its tasks, whatever
    /// the plan shifts: that may be refused.
    fn check_bounds_of_each(
        &self,
        plan: &Plan,
        serving: &BTreeMap<String, usize>,
        least: usize,
        most: usize,
    ) {
        for action in &plan.actions {
            let Action::StartTasks { deployment, .. } = action else { continue };
            let live = self.live_of(deployment);
            assert!(live <= most, "{live} tasks of {deployment} where {most} may be: {plan:?}");
        }
        for (deployment, before) in serving {
            let healthy = self.healthy_of(deployment);
            assert!(
                healthy >= least.min(*before),
                "{healthy} healthy tasks of {deployment}, {before} before, {least} at least: {plan:?}"
            );
        }
    }

    fn apply_one(&mut self, action: &Action) -> Vec<String> {
        match action {
            Action::StartTasks { deployment, zones, .. } => return self.start(deployment, zones),
            Action::StopTasks { tasks, unhealthy, .. } => {
                let ids: HashSet<&str> = tasks.iter().map(String::as_str).collect();
                for task in self.snapshot.tasks.iter_mut().filter(|task| ids.contains(task.id.as_str())) {
                    task.end = Some(if *unhealthy { End::Unhealthy } else { End::Scaled });
                }
            }
            Action::ReleaseTasks { tasks } => self.each(tasks, |task| {
                task.released = true;
                task.phase = Phase::Ending;
            }),
            Action::RegisterTargets { group, tasks } => self.each(tasks, |task| {
                task.targets.retain(|target| target.group != *group);
                let state = TargetState::Initial;
                task.targets.push(Target { group: group.clone(), port: 80, state, reason: None });
            }),
            Action::DeregisterTargets { group, tasks, .. } => self.each(tasks, |task| {
                for target in task.targets.iter_mut().filter(|target| target.group == *group) {
                    target.state = TargetState::Draining;
                }
            }),
            Action::RegisterInstance { task, healthy } | Action::SetInstanceHealth { task, healthy } => {
                self.task(task).instance = Instance::Registered { healthy: *healthy };
            }
            Action::DeregisterInstance { task } => self.task(task).instance = Instance::None,
            Action::RegisterEndpoints { task } => self.task(task).endpoints = Endpoints::Registered,
            Action::DeregisterEndpoints { task } => self.task(task).endpoints = Endpoints::None,
            Action::Account { tasks, as_ } => self.each(tasks, |task| task.accounted = *as_),
            Action::SetDeployment { deployment, change } => {
                change_deployment(self.deployment(deployment), change)
            }
            Action::BeginStage { deployment, run } => {
                self.stages.push(run.stage.name().to_owned());
                self.deployment(deployment).stage = Some(run.clone());
            }
            Action::ExpireHook { deployment, index } => {
                // Its deployment may have left the stage by the same plan.
                let stage = self.deployment(deployment).stage.as_mut();
                for hook in
                    stage.into_iter().flat_map(|run| &mut run.hooks).filter(|hook| hook.index == *index)
                {
                    hook.status = HookStatus::TimedOut;
                }
            }
            Action::ShiftTraffic { listener, permille } => self.shift(*listener, permille),
            Action::SetSteady(steady) => self.snapshot.service.steady = *steady,
            Action::SetRebalancing(now) => self.snapshot.service.rebalancing_now = *now,
            Action::SetBlocked(blocked) => self.snapshot.service.blocked = *blocked,
            Action::Event { .. } => {}
            Action::EndService => self.ended = true,
        }
        Vec::new()
    }

    fn each(&mut self, ids: &[String], change: impl Fn(&mut Task)) {
        let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let mut met = 0;
        for task in self.snapshot.tasks.iter_mut().filter(|task| ids.contains(task.id.as_str())) {
            change(task);
            met += 1;
        }
        assert_eq!(met, ids.len(), "all tasks are known, none is named twice");
    }

    fn shift(&mut self, listener: Listener, permille: &[(String, u32)]) {
        let wanted: HashMap<&str, u32> =
            permille.iter().map(|(id, permille)| (id.as_str(), *permille)).collect();
        for deployment in &mut self.snapshot.deployments {
            let share = wanted.get(deployment.id.as_str()).copied();
            match listener {
                Listener::Production => deployment.production_permille = share,
                Listener::Test => deployment.test_permille = share,
            }
        }
        if listener == Listener::Production {
            self.production = permille.to_vec();
        }
    }

    fn start(&mut self, deployment: &str, zones: &[(String, u32)]) -> Vec<String> {
        let has_check = self.fates.get(deployment) == Some(&Fate::FailsContainer);
        let mut started = Vec::new();
        for (zone, count) in zones {
            for _ in 0..*count {
                self.made += 1;
                let id = format!("{:032x}", self.made);
                started.push(id.clone());
                self.snapshot.tasks.push(Task {
                    id,
                    deployment: deployment.to_owned(),
                    zone: zone.clone(),
                    created_at: self.now,
                    phase: Phase::Pending,
                    end: None,
                    started_at: None,
                    health: if has_check { ContainerHealth::Unknown } else { ContainerHealth::None },
                    targets: Vec::new(),
                    instance: Instance::None,
                    endpoints: Endpoints::None,
                    protected_until: None,
                    accounted: Accounted::New,
                    released: false,
                });
            }
        }
        started
    }

    /// Every task goes on by one step, as is its fate. What ends goes at once.
    fn progress(&mut self) {
        let (now, fates) = (self.now, &self.fates);
        for task in &mut self.snapshot.tasks {
            let fate = fates.get(&task.deployment).copied().unwrap_or(Fate::Good);
            progress(task, fate, now);
            if self.sick.contains(&task.id) && task.phase == Phase::Running {
                sicken(task);
            }
        }
    }

    /// Time and tasks go on; `false`: nothing has to be done any more.
    pub(crate) fn live_on(&mut self) -> bool {
        let wake_at = self.act();
        let goes_on = self.go_on(wake_at);
        self.act();
        goes_on
    }

    /// Tasks go on, or time does, to `wake_at`; `false`: neither.
    pub(crate) fn go_on(&mut self, wake_at: Option<Timestamp>) -> bool {
        let before = self.snapshot.tasks.clone();
        self.progress();
        if before != self.snapshot.tasks {
            self.now += SignedDuration::from_secs(1);
        } else if let Some(wake_at) = wake_at {
            self.now = wake_at;
        } else {
            return false;
        }
        true
    }

    /// Until nothing changes any more.
    ///
    /// # Panics
    /// If that does not happen within `steps`.
    pub(crate) fn settle(&mut self, steps: usize) {
        for _ in 0..steps {
            if !self.live_on() {
                return;
            }
        }
        panic!("not at rest after {steps} steps: {:?}", self.snapshot);
    }
}

fn progress(task: &mut Task, fate: Fate, now: Timestamp) {
    task.targets.retain(|target| target.state != TargetState::Draining);
    match (task.end, task.phase) {
        (Some(_), Phase::Stopped) => {}
        (Some(End::Failed), _) => task.phase = Phase::Stopped,
        (Some(_), _) if task.released => task.phase = Phase::Stopped,
        (Some(_), _) => {}
        (None, Phase::Pending) if fate == Fate::NeverRuns => task.end = Some(End::Failed),
        (None, Phase::Pending) => {
            task.phase = Phase::Running;
            task.started_at = Some(now);
        }
        (None, _) if fate == Fate::Crashes && task.accounted == Accounted::New => {
            task.end = Some(End::Failed)
        }
        (None, _) => {
            if fate == Fate::FailsContainer {
                task.health = ContainerHealth::Unhealthy;
            } else if task.health != ContainerHealth::None {
                task.health = ContainerHealth::Healthy;
            }
            for target in &mut task.targets {
                let fails = fate == Fate::FailsTarget;
                target.state = if fails { TargetState::Unhealthy } else { TargetState::Healthy };
            }
        }
    }
}

/// Its load balancer says so; its containers where it has none.
fn sicken(task: &mut Task) {
    if task.targets.is_empty() {
        task.health = ContainerHealth::Unhealthy;
    }
    for target in task.targets.iter_mut().filter(|target| target.state != TargetState::Draining) {
        target.state = TargetState::Unhealthy;
        target.reason = Some("Health checks failed with these codes: [502]".into());
    }
}

fn change_deployment(deployment: &mut Deployment, change: &DeploymentChange) {
    let change = change.clone();
    let was = deployment.clone();
    *deployment = Deployment {
        status: change.status.unwrap_or(was.status),
        rollout_state: change.rollout_state.unwrap_or(was.rollout_state),
        rollout_reason: change.rollout_reason.unwrap_or(was.rollout_reason),
        service_deployment: change.service_deployment.unwrap_or(was.service_deployment),
        service_deployment_reason: change.service_deployment_reason.or(was.service_deployment_reason),
        rolling_back_to: change.rolling_back_to.or(was.rolling_back_to),
        failed_tasks: change.failed_tasks.unwrap_or(was.failed_tasks),
        launches: change.launches.unwrap_or(was.launches),
        desired_count: change.desired_count.unwrap_or(was.desired_count),
        running_count: change.running_count.unwrap_or(was.running_count),
        pending_count: change.pending_count.unwrap_or(was.pending_count),
        stability: change.stability.unwrap_or(was.stability),
        stage: was.stage.filter(|_| !change.leave_stage),
        stop_request: was.stop_request.filter(|_| !change.clear_stop_request),
        ..deployment.clone()
    };
}
