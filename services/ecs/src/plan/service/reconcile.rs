//! The tasks of one deployment brought to their count, and those of former ones to an end.
//!
//! Never more than `maximum` tasks by a start, never fewer than `minimum` healthy ones by a stop. In order:
//!
//! 1. Former tasks that were never healthy are stopped: they are of no use to anybody.
//! 2. Tasks beyond the count are stopped, those not healthy yet first, so that zones stay even.
//! 3. Unhealthy tasks whose replacements are healthy are stopped.
//! 4. Where `maximum` leaves no room for what is missing, room is made: by unhealthy tasks (all that are needed if enough
//!    others are healthy, else one at a time), then by healthy former ones as far as `minimum` allows.
//! 5. Former tasks whose place is taken by healthy ones are stopped.
//! 6. What is missing is started, each task in the zone that has the fewest.

use super::health::Cause;
use super::world::{World, is_protected};
use super::{Accounted, Action, Task, events, zones};

/// What a deployment is to be brought to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub count: usize,
    /// Healthy tasks there have to be, former ones among them.
    pub minimum: usize,
    /// Tasks there may be.
    pub maximum: usize,
    pub may_start: bool,
    /// Healthy tasks that have to be there before the last former one goes.
    pub before_former_go: usize,
    pub rebalance: bool,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub started: usize,
    pub stopped: usize,
    /// Tasks that are missing and were not started.
    pub missing: usize,
    /// A protected task would have been stopped.
    pub protected: bool,
}

/// `index` of the deployment; `former`: groups that are to go. `initiator`: the deployment that stopped tasks name.
pub(super) fn reconcile(
    world: &mut World<'_>,
    index: usize,
    former: &[usize],
    wanted: &Wanted,
    initiator: &str,
) -> Outcome {
    let mut work = Work::new(world, index, former, wanted, initiator);
    work.stop_useless_former();
    work.scale_in();
    work.stop_unhealthy();
    work.stop_former();
    work.start();
    work.outcome
}

struct Work<'w, 'a> {
    world: &'w mut World<'a>,
    wanted: Wanted,
    /// `stoppedReason`
    scaling: String,
    index: usize,

    healthy: Vec<&'a Task>,
    starting: Vec<&'a Task>,
    /// In the order in which to stop them.
    unhealthy: Vec<(&'a Task, Cause<'a>)>,
    former_healthy: Vec<&'a Task>,
    /// Never healthy so far.
    former_useless: Vec<&'a Task>,
    /// Not healthy any more.
    former_lapsed: Vec<&'a Task>,
    /// What may not be stopped.
    former_protected: usize,
    former_protected_healthy: usize,
    outcome: Outcome,
}

impl<'w, 'a> Work<'w, 'a> {
    fn new(
        world: &'w mut World<'a>,
        index: usize,
        former: &[usize],
        wanted: &Wanted,
        initiator: &str,
    ) -> Self {
        let group = &world.groups[index];
        let mut unhealthy = group.unhealthy.clone();
        unhealthy.sort_by_key(|(task, _)| (task.accounted, task.created_at, &task.id));
        let mut work = Self {
            wanted: *wanted,
            scaling: events::scaling(initiator),
            index,
            healthy: group.healthy.clone(),
            starting: group.starting.clone(),
            unhealthy,
            former_healthy: Vec::new(),
            former_useless: Vec::new(),
            former_lapsed: Vec::new(),
            former_protected: 0,
            former_protected_healthy: 0,
            outcome: Outcome::default(),
            world,
        };
        for &index in former {
            work.take_former(index);
        }
        work
    }

    fn take_former(&mut self, index: usize) {
        let World { groups, now, out, .. } = &mut *self.world;
        let group = &groups[index];
        let mut may_go = |task: &&'a Task, healthy: bool| {
            let protected = is_protected(task, *now);
            if protected {
                self.former_protected += 1;
                self.former_protected_healthy += usize::from(healthy);
                self.outcome.protected = true;
                out.wake(task.protected_until.unwrap_or(*now));
            }
            !protected
        };
        self.former_healthy.extend(group.healthy.iter().filter(|task| may_go(task, true)));
        let starting = group.starting.iter().filter(|task| may_go(task, false));
        let (useless, lapsed): (Vec<&'a Task>, Vec<&'a Task>) =
            starting.partition(|task| task.accounted == Accounted::New);
        self.former_useless.extend(useless);
        self.former_lapsed.extend(lapsed);
        // Protection is for what works.
        self.former_lapsed.extend(group.unhealthy.iter().map(|(task, _)| *task));
    }

    fn former(&self) -> usize {
        self.former_healthy.len()
            + self.former_useless.len()
            + self.former_lapsed.len()
            + self.former_protected
    }

    fn live(&self) -> usize {
        self.healthy.len() + self.starting.len() + self.unhealthy.len() + self.former()
    }

    fn all_healthy(&self) -> usize {
        self.healthy.len() + self.former_healthy.len() + self.former_protected_healthy
    }

    /// Of this deployment, those that will be or are healthy.
    fn missing(&self) -> usize {
        self.wanted.count.saturating_sub(self.healthy.len() + self.starting.len())
    }

    /// How many tasks have to go before what is missing can be started.
    fn lacking_room(&self) -> usize {
        let to_start = if self.wanted.may_start { self.missing() } else { 0 };
        if to_start == 0 { 0 } else { (to_start + self.live()).saturating_sub(self.wanted.maximum) }
    }

    fn stop(&mut self, task: &'a Task) {
        self.outcome.stopped += 1;
        self.world.out.stop(task, self.scaling.clone());
    }

    fn stop_useless_former(&mut self) {
        for task in std::mem::take(&mut self.former_useless) {
            self.stop(task);
        }
    }

    fn scale_in(&mut self) {
        let mut excess = (self.healthy.len() + self.starting.len()).saturating_sub(self.wanted.count);
        if excess == 0 {
            return;
        }
        let healthy: std::collections::HashSet<&str> =
            self.healthy.iter().map(|task| task.id.as_str()).collect();
        let all: Vec<&'a Task> = self.healthy.iter().chain(&self.starting).copied().collect();
        let order = zones::stop_order(&all, |task| {
            (!healthy.contains(task.id.as_str()), task.created_at, task.id.clone())
        });
        let rebalancing = self.wanted.rebalance && self.world.service.rebalancing_now && excess == 1;
        let spare = self.healthy.len().saturating_sub(self.wanted.count);
        let (mut stopped, mut stopped_healthy) = (std::collections::HashSet::new(), 0);
        for task in order {
            if excess == 0 {
                break;
            }
            let is_healthy = healthy.contains(task.id.as_str());
            if is_healthy && stopped_healthy == spare {
                if rebalancing {
                    // The one that was started in another zone is not healthy yet.
                    break;
                }
                continue;
            }
            if is_protected(task, self.world.now) {
                self.outcome.protected = true;
                self.world.out.wake(task.protected_until.unwrap_or(self.world.now));
                continue;
            }
            excess -= 1;
            stopped_healthy += usize::from(is_healthy);
            stopped.insert(task.id.as_str());
            if rebalancing {
                self.outcome.stopped += 1;
                self.world.out.stop_to_rebalance(task, self.scaling.clone());
            } else {
                self.stop(task);
            }
        }
        self.healthy.retain(|task| !stopped.contains(task.id.as_str()));
        self.starting.retain(|task| !stopped.contains(task.id.as_str()));
    }

    /// How many unhealthy tasks may go only because their place is needed.
    fn unhealthy_for_room(&self) -> usize {
        if self.all_healthy() >= self.wanted.minimum {
            usize::MAX
        } else if self.starting.is_empty() {
            // For one start; another one when it is known what became of this.
            (self.live() + 1).saturating_sub(self.wanted.maximum)
        } else {
            0
        }
    }

    fn stop_unhealthy(&mut self) {
        let replaced = (self.healthy.len() + self.unhealthy.len()).saturating_sub(self.wanted.count);
        let for_room = self.lacking_room().min(self.unhealthy_for_room());
        let count = replaced.max(for_room).min(self.unhealthy.len());
        for (task, cause) in self.unhealthy.drain(..count) {
            self.outcome.stopped += 1;
            self.world.out.stop_unhealthy(self.world.service, task, cause);
        }
    }

    /// How many former tasks have had their place taken.
    fn former_surplus(&self) -> usize {
        self.former().saturating_sub(self.wanted.before_former_go.saturating_sub(self.healthy.len()))
    }

    fn stop_former(&mut self) {
        if self.former_healthy.is_empty() && self.former_lapsed.is_empty() {
            return;
        }
        let for_room = self.lacking_room().min(self.unhealthy_for_room());
        let lapsed = self.former_surplus().max(for_room).min(self.former_lapsed.len());
        let stopped: Vec<&'a Task> = self.former_lapsed.drain(..lapsed).collect();
        for task in stopped {
            self.stop(task);
        }
        let spare = self.all_healthy().saturating_sub(self.wanted.minimum);
        let count = self.former_surplus().max(self.lacking_room()).min(spare).min(self.former_healthy.len());
        if count == 0 {
            return;
        }
        // The oldest go first.
        let mut order = zones::stop_order(&self.former_healthy, |task| {
            (std::cmp::Reverse(task.created_at), task.id.clone())
        });
        self.former_healthy = order.split_off(count);
        for task in order {
            self.stop(task);
        }
    }

    fn start(&mut self) {
        let missing = self.missing();
        let count = if self.wanted.may_start && self.lacking_room() <= missing {
            missing - self.lacking_room()
        } else {
            0
        };
        let there: Vec<&Task> = self.healthy.iter().chain(&self.starting).copied().collect();
        let Some(deployment) = self.world.deployments.get(self.index) else { return };
        let zones =
            zones::spread(&self.world.service.zones, &there, u32::try_from(count).unwrap_or(u32::MAX));
        if !zones.is_empty() {
            self.outcome.started += count;
            let deployment = deployment.id.clone();
            self.world.out.starts.push(Action::StartTasks { deployment, zones, rebalancing: false });
        }
        self.outcome.missing = missing - self.outcome.started;
        self.rebalance(&there);
    }

    /// One more in the zone that has too few, when all is quiet; the one in the zone that has too many goes when that is
    /// healthy, as one beyond the count.
    fn rebalance(&mut self, there: &[&Task]) {
        let World { service, out, .. } = &mut *self.world;
        let name = &service.name;
        if !self.wanted.rebalance {
            if service.rebalancing_now {
                out.last.push(Action::SetRebalancing(false));
            }
            return;
        }
        let quiet = self.starting.is_empty()
            && self.unhealthy.is_empty()
            && self.outcome.stopped == 0
            && self.healthy.len() == self.wanted.count;
        if !quiet {
            return;
        }
        let load = zones::loads(&service.zones, there);
        let Some(zone) = zones::starved(&load) else {
            if service.rebalancing_now {
                out.last.push(Action::SetRebalancing(false));
                out.say(events::balanced(name, &load));
            }
            return;
        };
        if !self.wanted.may_start || there.len() >= self.wanted.maximum {
            return;
        }
        if !service.rebalancing_now {
            out.last.push(Action::SetRebalancing(true));
            out.news.push(events::unbalanced(name, &load));
        }
        let deployment = self.world.deployments[self.index].id.clone();
        let zones = vec![(zone.to_owned(), 1)];
        self.outcome.started += 1;
        self.world.out.starts.push(Action::StartTasks { deployment, zones, rebalancing: true });
    }
}
