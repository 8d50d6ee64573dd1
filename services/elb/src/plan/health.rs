//! One answer out of what each zone's node sees of a target.

use ferrogate_nodeapi::TargetState;

use crate::state::{SeenRecord, TargetRecord};

/// State, reason and description as DescribeTargetHealth gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) state: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) description: Option<String>,
}

impl Health {
    fn new(state: &'static str, reason: &str, description: &str) -> Self {
        Self { state, reason: Some(reason.into()), description: Some(description.into()) }
    }

    pub(crate) fn not_registered() -> Self {
        Self::new("unused", "Target.NotRegistered", "Target is not registered to the target group")
    }
}

/// `used`: a listener or rule forwards to the group. `zone_enabled`: the balancer has the target's zone, or its zone
/// does not matter. `seen`: what those nodes say that have said anything.
pub(crate) fn health(target: &TargetRecord, used: bool, zone_enabled: bool, seen: &[&SeenRecord]) -> Health {
    if target.draining_since.is_some() {
        return Health::new(
            "draining",
            "Target.DeregistrationInProgress",
            "Target deregistration is in progress",
        );
    }
    if !used {
        return Health::new(
            "unused",
            "Target.NotInUse",
            "Target group is not configured to receive traffic from the load balancer",
        );
    }
    if !zone_enabled {
        return Health::new(
            "unused",
            "Target.NotInUse",
            "Target is in an Availability Zone that is not enabled for the load balancer",
        );
    }
    let of = |state: TargetState| seen.iter().find(|one| one.state == state);
    let told = |name: &'static str, found: &SeenRecord| Health {
        state: name,
        reason: found.reason.clone(),
        description: found.description.clone(),
    };
    // Healthy only when no zone that checks it says otherwise.
    if let Some(found) = of(TargetState::Unhealthy) {
        return told("unhealthy", found);
    }
    if let Some(found) = of(TargetState::UnhealthyDraining) {
        return told("unhealthy.draining", found);
    }
    if let Some(found) = of(TargetState::Unavailable) {
        return told("unavailable", found);
    }
    if let Some(found) = of(TargetState::Initial)
        && found.reason.is_some()
    {
        return told("initial", found);
    }
    if of(TargetState::Initial).is_none() && of(TargetState::Healthy).is_some() {
        return Health { state: "healthy", reason: None, description: None };
    }
    if of(TargetState::Initial).is_some() {
        return Health::new("initial", "Elb.InitialHealthChecking", "Initial health checks in progress");
    }
    Health::new("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
}

#[cfg(test)]
mod tests {
    use ferrogate_nodeapi::Anomaly;

    use super::*;
    use crate::state::TargetId;

    fn target(draining: bool) -> TargetRecord {
        TargetRecord {
            id: TargetId::Ip("10.0.0.1".parse().unwrap()),
            port: 80,
            zone: None,
            outside_vpc: false,
            registered: Default::default(),
            draining_since: draining.then(Default::default),
        }
    }

    fn seen(state: TargetState) -> SeenRecord {
        let reason = (state == TargetState::Unhealthy).then(|| "Target.Timeout".to_owned());
        SeenRecord { state, reason, description: None, anomaly: Anomaly::None }
    }

    #[test]
    fn one_zone_that_says_no_is_enough() {
        use TargetState::*;
        for (states, expected) in [
            (vec![], "initial"),
            (vec![Initial], "initial"),
            (vec![Healthy], "healthy"),
            (vec![Healthy, Initial], "initial"),
            (vec![Healthy, Unhealthy], "unhealthy"),
            (vec![Initial, Unhealthy], "unhealthy"),
            (vec![Healthy, Healthy], "healthy"),
        ] {
            let records: Vec<SeenRecord> = states.iter().map(|state| seen(*state)).collect();
            let records: Vec<&SeenRecord> = records.iter().collect();
            assert_eq!(health(&target(false), true, true, &records).state, expected, "{states:?}");
        }
    }

    #[test]
    fn reasons_that_no_node_knows() {
        let reason = |health: Health| health.reason.unwrap();
        assert_eq!(reason(health(&target(true), true, true, &[])), "Target.DeregistrationInProgress");
        assert_eq!(reason(health(&target(false), false, true, &[])), "Target.NotInUse");
        assert_eq!(reason(health(&target(false), true, false, &[])), "Target.NotInUse");
        assert_eq!(reason(health(&target(false), true, true, &[])), "Elb.RegistrationInProgress");
    }
}
