//! Application load balancers as targets of network load balancers (network load balancers guide, "Use an Application
//! Load Balancer as a target").

use std::collections::BTreeSet;

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_store::Txn;

use super::{balancers_by_group, targets};
use crate::call::Call;
use crate::errors::{in_use, invalid, no_groups};
use crate::state::*;

/// "You can associate an Application Load Balancer as a target of up to two Network Load Balancers."
const NETWORK_BALANCERS_MAX: usize = 2;

/// Target groups of type `alb`, each with the ports by which this load balancer is registered with it.
fn registrations(call: &Call<'_>, balancer_arn: &str) -> Vec<(GroupRecord, Vec<u16>)> {
    let groups = call.groups().into_iter().filter(|group| group.target_type == TargetType::Alb);
    let found = groups.map(|group| {
        let targets = call.targets(&group.id).targets.into_iter();
        let is_it = |id: &TargetId| matches!(id, TargetId::LoadBalancer(arn) if arn == balancer_arn);
        let registered = targets.filter(|target| target.draining_since.is_none() && is_it(&target.id));
        (group, registered.map(|target| target.port).collect::<Vec<u16>>())
    });
    found.filter(|(_, ports)| !ports.is_empty()).collect()
}

/// One load balancer, by one of its listeners' ports; whoever was registered before has to go first.
pub(super) async fn register(
    call: &Call<'_>,
    group: &GroupRecord,
    wanted: &[TargetDescription],
) -> Result<RegisterTargetsOutput, ApiError> {
    let [target] = wanted else { return Err(only_one(group)) };
    if target.availability_zone.is_some() {
        return Err(invalid(
            "You cannot specify an Availability Zone for a target group with target type 'alb'",
        ));
    }
    let arn = target.id.clone().unwrap_or_default();
    let port = targets::port(group, target)?;
    call.decide(|| {
        let group = call.group(&group.arn()).map_err(|_| no_groups())?;
        check(call, &group, &arn, port)?;
        let mut record = call.targets(&group.id);
        let id = TargetId::LoadBalancer(arn.clone());
        let known = record.targets.iter_mut().find(|known| known.id == id && known.port == port);
        match known {
            Some(known) if known.draining_since.is_none() => return Ok((Txn::new(), ())),
            Some(known) => {
                known.draining_since = None;
                known.registered = call.cx.now;
            }
            None => record.targets.push(TargetRecord {
                id,
                port,
                zone: None,
                outside_vpc: false,
                registered: call.cx.now,
                draining_since: None,
            }),
        }
        if record.targets.iter().filter(|target| target.draining_since.is_none()).count() > 1 {
            return Err(only_one(&group));
        }
        Ok((Txn::new().put_json(call.scope.key(Kind::Targets, &group.id), &record), ()))
    })
    .await?;
    Ok(RegisterTargetsOutput {})
}

fn only_one(group: &GroupRecord) -> ApiError {
    let message =
        format!("The target group '{}' with target type 'alb' can have only one target", group.arn());
    ApiError::new("TooManyTargets", message)
}

fn check(call: &Call<'_>, group: &GroupRecord, arn: &str, port: u16) -> Result<(), ApiError> {
    let not = |why: String| ApiError::new("InvalidTarget", why);
    let balancer =
        call.balancer(arn).map_err(|_| not(format!("The load balancer '{arn}' does not exist")))?;
    if balancer.kind != BalancerType::Application {
        return Err(not(format!("The load balancer '{arn}' is not an application load balancer")));
    }
    if balancer.vpc_id != group.vpc_id {
        return Err(not(format!("The load balancer '{arn}' is not in the same VPC as the target group")));
    }
    if !call.listeners(&balancer.id).iter().any(|listener| listener.port == port) {
        return Err(invalid(
            "If the target type is ALB, the target must have at least one listener that matches the target group port \
             or any specified port overrides",
        ));
    }
    let of_group: BTreeSet<String> =
        balancers_by_group(call).remove(&group.arn()).into_iter().flatten().collect();
    check_network_balancers(call, arn, of_group)
}

/// How many network load balancers a load balancer is a target of, these with them.
fn check_network_balancers(call: &Call<'_>, arn: &str, mut all: BTreeSet<String>) -> Result<(), ApiError> {
    let mut by_group = balancers_by_group(call);
    for (group, _) in registrations(call, arn) {
        all.extend(by_group.remove(&group.arn()).into_iter().flatten());
    }
    if all.len() > NETWORK_BALANCERS_MAX {
        let message = format!(
            "The load balancer '{arn}' can be registered as a target of at most '{NETWORK_BALANCERS_MAX}' network load balancers"
        );
        return Err(ApiError::new("TooManyRegistrationsForTargetId", message));
    }
    Ok(())
}

/// Whether a network load balancer may forward to groups, by ARN: their targets have it as one more then.
pub(super) fn check_associations(
    call: &Call<'_>,
    balancer_id: &str,
    groups: &BTreeSet<String>,
) -> Result<(), ApiError> {
    let found = groups.iter().filter_map(|arn| call.group(arn).ok());
    let of_balancers: Vec<GroupRecord> = found.filter(|group| group.target_type == TargetType::Alb).collect();
    if of_balancers.is_empty() {
        return Ok(());
    }
    let this = call.balancers().into_iter().find(|one| one.id == balancer_id).map(|one| one.arn());
    for target in of_balancers.iter().flat_map(|group| call.targets(&group.id).targets) {
        if let TargetId::LoadBalancer(arn) = &target.id
            && target.draining_since.is_none()
        {
            check_network_balancers(call, arn, this.iter().cloned().collect())?;
        }
    }
    Ok(())
}

/// A listener that network load balancers send to stays on its port.
pub(super) fn check_listener_goes(call: &Call<'_>, listener: &ListenerRecord) -> Result<(), ApiError> {
    let arn = listener.balancer_arn();
    let uses = |ports: &[u16]| ports.contains(&listener.port);
    if registrations(call, &arn).iter().any(|(_, ports)| uses(ports)) {
        return Err(in_use(format!(
            "Listener port '{}' is in use by registered target '{arn}' and cannot be removed.",
            listener.port
        )));
    }
    Ok(())
}

/// "You can't delete the Application Load Balancer until you deregister it from all target groups."
pub(super) fn check_balancer_goes(call: &Call<'_>, balancer: &BalancerRecord) -> Result<(), ApiError> {
    let arn = balancer.arn();
    if registrations(call, &arn).is_empty() {
        return Ok(());
    }
    Err(in_use(format!(
        "Load balancer '{arn}' cannot be deleted because it is currently associated with another service"
    )))
}
