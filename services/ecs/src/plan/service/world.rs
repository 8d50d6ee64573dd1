//! A snapshot put in order, and what is decided about it.
//!
//! Deployments are copies: who decides changes them, and what differs in the end is what is written.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::health::{self, Cause, Health};
use super::registration;
use super::{
    Accounted, Action, Deployment, DeploymentChange, DeploymentStatus, HookStatus, Phase, Plan, RolloutState,
    Service, Snapshot, Task, events,
};

pub(super) struct World<'a> {
    pub service: &'a Service,
    pub now: Timestamp,
    before: &'a [Deployment],
    pub deployments: Vec<Deployment>,
    /// Of each deployment, and in the end those of deployments that nobody knows.
    pub groups: Vec<Group<'a>>,
    pub tasks: &'a [Task],
    /// Of a deployment in `deployments`, by its id.
    pub indexes: HashMap<&'a str, usize>,
    pub out: Out<'a>,
}

/// The tasks of one deployment that are not ending.
#[derive(Default)]
pub(super) struct Group<'a> {
    pub healthy: Vec<&'a Task>,
    pub starting: Vec<&'a Task>,
    pub unhealthy: Vec<(&'a Task, Cause<'a>)>,
}

impl<'a> Group<'a> {
    pub(super) fn tasks(&self) -> impl Iterator<Item = &'a Task> {
        let unhealthy = self.unhealthy.iter().map(|(task, _)| *task);
        self.healthy.iter().chain(&self.starting).copied().chain(unhealthy)
    }

    pub(super) fn live(&self) -> usize {
        self.healthy.len() + self.starting.len() + self.unhealthy.len()
    }
}

/// What is to be done, not yet in order.
#[derive(Default)]
pub(super) struct Out<'a> {
    pub account_healthy: Vec<String>,
    pub account_ended: Vec<String>,
    pub expired_hooks: Vec<Action>,
    /// Why deployments change.
    pub news: Vec<String>,
    pub shifts: Vec<Action>,
    pub stops: Vec<Stop<'a>>,
    pub starts: Vec<Action>,
    /// What is written of the service, and said last.
    pub last: Vec<Action>,
    /// Targets of one group fail for the same reason: that is said once.
    said: HashSet<String>,
    wake_at: Option<Timestamp>,
}

pub(super) struct Stop<'a> {
    pub tasks: Vec<&'a Task>,
    pub reason: String,
    pub unhealthy: bool,
    pub rebalancing: Option<String>,
}

impl Stop<'_> {
    fn action(self) -> Action {
        let Self { tasks, reason, unhealthy, rebalancing } = self;
        let tasks = tasks.into_iter().map(|task| task.id.clone()).collect();
        Action::StopTasks { tasks, reason, unhealthy, rebalancing }
    }
}

impl<'a> Out<'a> {
    /// Plan again at `at`, if it is not past.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    pub(super) fn stop(&mut self, task: &'a Task, reason: String) {
        self.put_stop(task, reason, false, None);
    }

    pub(super) fn stop_to_rebalance(&mut self, task: &'a Task, reason: String) {
        self.put_stop(task, reason, false, Some(task.zone.clone()));
    }

    pub(super) fn stop_unhealthy(&mut self, service: &Service, task: &'a Task, cause: Cause<'_>) {
        let (reason, said) = match cause {
            Cause::Container => {
                (events::FAILED_CONTAINER.to_owned(), events::unhealthy_container(&service.name, &task.id))
            }
            Cause::Target { group, port, reason } => {
                (events::failed_target(group), events::unhealthy_target(&service.name, port, group, reason))
            }
        };
        if self.said.insert(said.clone()) {
            self.news.push(said);
        }
        self.put_stop(task, reason, true, None);
    }

    fn put_stop(&mut self, task: &'a Task, reason: String, unhealthy: bool, rebalancing: Option<String>) {
        let same = |stop: &&mut Stop<'_>| stop.reason == reason && stop.rebalancing == rebalancing;
        match self.stops.iter_mut().find(same) {
            Some(stop) => stop.tasks.push(task),
            None => self.stops.push(Stop { tasks: vec![task], reason, unhealthy, rebalancing }),
        }
    }

    pub(super) fn say(&mut self, text: String) {
        self.last.push(Action::Event { text });
    }
}

impl<'a> World<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, now: Timestamp) -> Self {
        let deployments = snapshot.deployments.clone();
        let mut groups: Vec<Group<'a>> = Vec::new();
        groups.resize_with(deployments.len() + 1, Group::default);
        let indexes: HashMap<&str, usize> =
            snapshot.deployments.iter().enumerate().map(|(index, it)| (it.id.as_str(), index)).collect();
        let mut world = Self {
            service: &snapshot.service,
            now,
            before: &snapshot.deployments,
            deployments,
            groups,
            tasks: &snapshot.tasks,
            indexes,
            out: Out::default(),
        };
        for task in &snapshot.tasks {
            let nobodys = world.deployments.len();
            let index = world.indexes.get(task.deployment.as_str()).copied().unwrap_or(nobodys);
            world.put(task, index);
        }
        world.count_tasks();
        world
    }

    fn put(&mut self, task: &'a Task, index: usize) {
        if !is_live(task) {
            return;
        }
        let target_groups = self.before.get(index).map_or(&[][..], |it| &it.target_groups);
        let grace = SignedDuration::from_secs(i64::from(self.service.grace_period_seconds));
        let group = &mut self.groups[index];
        match health::of(task, target_groups, grace, self.now) {
            Health::Healthy => group.healthy.push(task),
            Health::Unhealthy(cause) => group.unhealthy.push((task, cause)),
            Health::Starting { until } => {
                group.starting.push(task);
                if let Some(until) = until {
                    self.out.wake(until);
                }
            }
        }
    }

    fn count_tasks(&mut self) {
        for deployment in &mut self.deployments {
            (deployment.running_count, deployment.pending_count) = (0, 0);
        }
        for task in self.tasks.iter().filter(|task| is_live(task)) {
            let Some(&index) = self.indexes.get(task.deployment.as_str()) else { continue };
            let deployment = &mut self.deployments[index];
            match task.phase {
                Phase::Running => deployment.running_count += 1,
                _ => deployment.pending_count += 1,
            }
        }
    }

    pub(super) fn primary(&self) -> Option<usize> {
        let is_primary = |&index: &usize| self.deployments[index].status == DeploymentStatus::Primary;
        // Two of them would be somebody's mistake: the newest is meant.
        (0..self.deployments.len()).filter(is_primary).max_by_key(|&index| self.deployments[index].created_at)
    }

    /// What the service can be rolled back to, or is being changed from: the newest that was COMPLETED, `primary` apart.
    pub(super) fn source(&self, primary: usize) -> Option<usize> {
        let completed = |&index: &usize| {
            index != primary && self.deployments[index].rollout_state == RolloutState::Completed
        };
        (0..self.deployments.len()).filter(completed).max_by_key(|&index| self.deployments[index].created_at)
    }

    /// Whether the deployment takes the place of a failed one.
    pub(super) fn is_rollback(&self, index: usize) -> bool {
        let deployment = &self.deployments[index];
        deployment.rollout_state == RolloutState::InProgress
            && self.deployments.iter().any(|other| {
                other.rolling_back_to.as_ref() == Some(&deployment.id) && !other.service_deployment.is_final()
            })
    }

    /// All groups but that of `index` that have tasks, the oldest deployment first.
    pub(super) fn others(&self, index: usize) -> Vec<usize> {
        let mut others: Vec<usize> =
            (0..self.groups.len()).filter(|&it| it != index && self.groups[it].live() > 0).collect();
        others.sort_by_key(|&it| self.deployments.get(it).map(|it| it.created_at));
        others
    }

    /// In order: what is written, traffic, stops, what follows from them, what is registered, starts (these can be refused
    /// for long, and what runs has to be registered all the same), the last word.
    pub(super) fn into_plan(self) -> Plan {
        let mut actions = Vec::new();
        let account = |tasks: Vec<String>, as_| (!tasks.is_empty()).then_some(Action::Account { tasks, as_ });
        let Out {
            account_healthy,
            account_ended,
            expired_hooks,
            news,
            shifts,
            stops,
            starts,
            last,
            wake_at,
            ..
        } = self.out;
        actions.extend(account(account_healthy, Accounted::Healthy));
        actions.extend(account(account_ended, Accounted::Ended));
        actions.extend(expired_hooks);
        for (before, after) in self.before.iter().zip(&self.deployments) {
            let change = DeploymentChange::between(before, after);
            if change != DeploymentChange::default() {
                actions.push(Action::SetDeployment { deployment: after.id.clone(), change });
            }
            if let Some(run) = after.stage.as_ref().filter(|run| is_begun(before, run)) {
                actions.push(Action::BeginStage { deployment: after.id.clone(), run: run.clone() });
            }
        }
        actions.extend(news.into_iter().map(|text| Action::Event { text }));
        actions.extend(shifts);
        let stopping: HashSet<&str> =
            stops.iter().flat_map(|stop| &stop.tasks).map(|task| task.id.as_str()).collect();
        actions.extend(stops.into_iter().map(Stop::action));
        actions.extend(registration::ending(self.tasks, &stopping));
        actions.extend(registration::joining(&self.groups, &self.deployments, &stopping));
        actions.extend(starts);
        actions.extend(last);
        Plan { actions, wake_at: wake_at.filter(|wake_at| *wake_at > self.now) }
    }
}

/// Not the one it was in; a hook whose state changed is no new stage.
fn is_begun(before: &Deployment, run: &super::StageRun) -> bool {
    before.stage.as_ref().is_none_or(|was| (was.stage, was.step) != (run.stage, run.step))
}

/// It runs or will.
pub(super) fn is_live(task: &Task) -> bool {
    task.end.is_none() && task.phase <= Phase::Running
}

/// Neither scaling in nor a deployment ends it now.
pub(super) fn is_protected(task: &Task, now: Timestamp) -> bool {
    task.protected_until.is_some_and(|until| until > now)
}

impl DeploymentChange {
    fn between(before: &Deployment, after: &Deployment) -> Self {
        fn changed<T: PartialEq + Clone>(before: &T, after: &T) -> Option<T> {
            (before != after).then(|| after.clone())
        }
        Self {
            status: changed(&before.status, &after.status),
            rollout_state: changed(&before.rollout_state, &after.rollout_state),
            rollout_reason: changed(&before.rollout_reason, &after.rollout_reason),
            service_deployment: changed(&before.service_deployment, &after.service_deployment),
            service_deployment_reason: changed(
                &before.service_deployment_reason,
                &after.service_deployment_reason,
            )
            .flatten(),
            rolling_back_to: changed(&before.rolling_back_to, &after.rolling_back_to).flatten(),
            failed_tasks: changed(&before.failed_tasks, &after.failed_tasks),
            launches: changed(&before.launches, &after.launches),
            desired_count: changed(&before.desired_count, &after.desired_count),
            running_count: changed(&before.running_count, &after.running_count),
            pending_count: changed(&before.pending_count, &after.pending_count),
            stability: changed(&before.stability, &after.stability),
            leave_stage: before.stage.is_some() && after.stage.is_none(),
            clear_stop_request: before.stop_request.is_some() && after.stop_request.is_none(),
        }
    }
}

/// Whether a hook of the stage is still open.
pub(super) fn is_open(status: HookStatus) -> bool {
    matches!(status, HookStatus::AwaitingAction | HookStatus::InProgress)
}
