//! The controller EXTERNAL: somebody else says which task sets there are and how large each one is.

use super::reconcile::{Wanted, reconcile};
use super::world::World;
use super::{DeploymentStatus, Phase, Stability, rolling};

/// Each set by itself: `scale` of the service's desired count, rounded up. Unhealthy tasks are replaced first, as there
/// are no percentages here.
pub(super) fn bring(world: &mut World<'_>) {
    for index in 0..world.deployments.len() {
        let set = &world.deployments[index];
        let draining = matches!(set.status, DeploymentStatus::Draining | DeploymentStatus::Inactive);
        let permille = if draining { 0 } else { u64::from(set.scale_permille) };
        let computed = (u64::from(world.service.desired_count) * permille).div_ceil(1000);
        let count = usize::try_from(computed).unwrap_or(usize::MAX);
        let id = set.id.clone();
        let wanted = Wanted {
            count,
            minimum: count,
            maximum: count.saturating_mul(2),
            before_former_go: count,
            rebalance: false,
            ..rolling::wanted(world, index)
        };
        reconcile(world, index, &[], &wanted, &id);
        let group = &world.groups[index];
        let steady = group.healthy.len() == count && group.live() == count;
        let set = &mut world.deployments[index];
        set.desired_count = u32::try_from(count).unwrap_or(u32::MAX);
        set.stability = if steady { Stability::SteadyState } else { Stability::Stabilizing };
        let has_tasks =
            |set: &str| world.tasks.iter().any(|task| task.deployment == set && task.phase < Phase::Stopped);
        if draining && !has_tasks(&set.id) {
            set.status = DeploymentStatus::Inactive;
        }
    }
}

pub(super) fn are_steady(world: &World<'_>) -> bool {
    let mut sets = world.deployments.iter();
    sets.all(|set| match set.status {
        DeploymentStatus::Inactive => true,
        DeploymentStatus::Draining => false,
        DeploymentStatus::Primary | DeploymentStatus::Active => set.stability == Stability::SteadyState,
    })
}
