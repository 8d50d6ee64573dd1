//! Targets and their health.

use std::net::IpAddr;

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_nodeapi::Anomaly;
use ferrogate_store::{Txn, get_json, range_json};

use super::places::Neighbourhood;
use super::{balancer_targets, balancers_by_group};
use crate::call::{Call, given};
use crate::controllers::drain::is_used;
use crate::errors::{contended, failed, invalid, no_groups, refuse, unsupported};
use crate::plan::attributes;
use crate::plan::health::{Health, health};
use crate::state::*;

/// ELB user guides, "Quotas": targets per target group.
pub(crate) const TARGETS_PER_GROUP_MAX: usize = 1000;
/// How often a change that lost a race is made anew.
const ATTEMPTS_MAX: usize = 64;

fn group_of(call: &Call<'_>, arn: &str) -> Result<GroupRecord, ApiError> {
    call.group(arn).map_err(|error| if error.code == "TargetGroupNotFound" { no_groups() } else { error })
}

/// Changes the targets of a group that is there, apart from other decisions: many services register at once.
async fn change<T>(
    call: &Call<'_>,
    group: &GroupRecord,
    mut change: impl FnMut(&mut TargetsRecord) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let key = call.scope.key(Kind::Targets, &group.id);
    for _ in 0..ATTEMPTS_MAX {
        let found = get_json::<TargetsRecord>(&*call.service.store, &key);
        let revision = found.as_ref().map_or(0, |found| found.mod_revision);
        let before = found.map(|found| found.record).unwrap_or_default();
        let mut record = before.clone();
        let result = change(&mut record)?;
        if record == before {
            return Ok(result);
        }
        let txn = Txn::new().when_present(group.key()).when_revision(key.as_str(), revision);
        if call.service.store.txn(txn.put_json(key.as_str(), &record)).await.map_err(failed)?.succeeded {
            return Ok(result);
        }
        if call.service.store.get(&group.key()).is_none() {
            return Err(no_groups());
        }
    }
    Err(contended())
}

/// What a target of this group may be called by.
fn id_of(group: &GroupRecord, text: &str) -> Result<TargetId, ApiError> {
    match group.target_type {
        TargetType::Alb => Ok(TargetId::LoadBalancer(text.to_owned())),
        TargetType::Ip => text
            .parse()
            .map(TargetId::Ip)
            .map_err(|_| invalid(format!("The IP address '{text}' is not a valid IPv4 address"))),
    }
}

/// Its own, or the group's.
pub(super) fn port(group: &GroupRecord, target: &TargetDescription) -> Result<u16, ApiError> {
    match target.port {
        None => Ok(group.port),
        Some(port) => {
            let port = u16::try_from(port).ok().filter(|port| *port > 0);
            port.ok_or_else(|| invalid("The port of a target must be in the range 1-65535"))
        }
    }
}

pub(crate) async fn register(
    call: &Call<'_>,
    input: RegisterTargetsInput,
) -> Result<RegisterTargetsOutput, ApiError> {
    let group = group_of(call, &given(input.target_group_arn))?;
    let wanted = input.targets.unwrap_or_default();
    if wanted.is_empty() {
        return Err(invalid("At least one target must be specified"));
    }
    refuse(&[("QuicServerId", wanted.iter().any(|target| target.quic_server_id.is_some()))])?;
    if wanted
        .iter()
        .any(|target| target.id.as_deref().is_some_and(|id| id.contains(':') && id.parse::<IpAddr>().is_ok()))
    {
        return Err(unsupported("A target with an IPv6 address"));
    }
    if group.target_type == TargetType::Alb {
        return balancer_targets::register(call, &group, &wanted).await;
    }
    let neighbourhood = Neighbourhood::of(call, &group.vpc_id).await?;
    let mut located = Vec::new();
    for target in &wanted {
        let (ip, zone) = neighbourhood.locate(target)?;
        let id = TargetId::Ip(IpAddr::V4(ip));
        located.push((id, port(&group, target)?, zone, !neighbourhood.is_inside(ip)));
    }
    change(call, &group, |record| {
        for (id, port, zone, outside_vpc) in &located {
            match record.targets.iter_mut().find(|known| known.id == *id && known.port == *port) {
                Some(known) => {
                    known.zone = Some(zone.clone());
                    known.outside_vpc = *outside_vpc;
                    if known.draining_since.take().is_some() {
                        known.registered = call.cx.now;
                    }
                }
                None => record.targets.push(TargetRecord {
                    id: id.clone(),
                    port: *port,
                    zone: Some(zone.clone()),
                    outside_vpc: *outside_vpc,
                    registered: call.cx.now,
                    draining_since: None,
                }),
            }
        }
        if record.targets.len() > TARGETS_PER_GROUP_MAX {
            let message = format!("A target group can have at most '{TARGETS_PER_GROUP_MAX}' targets");
            return Err(ApiError::new("TooManyTargets", message));
        }
        Ok(())
    })
    .await?;
    Ok(RegisterTargetsOutput {})
}

/// A target that is named without a port: the group's. One that is not there is a success, as on AWS.
pub(crate) async fn deregister(
    call: &Call<'_>,
    input: DeregisterTargetsInput,
) -> Result<DeregisterTargetsOutput, ApiError> {
    let group = group_of(call, &given(input.target_group_arn))?;
    let mut gone = Vec::new();
    for target in input.targets.unwrap_or_default() {
        let id = id_of(&group, target.id.as_deref().unwrap_or_default())?;
        gone.push((id, port(&group, &target)?));
    }
    let named =
        |target: &TargetRecord| gone.iter().any(|(id, port)| target.id == *id && *port == target.port);
    let known = attributes::of_group(&group);
    let delay = attributes::number(&known, &group.attributes, "deregistration_delay.timeout_seconds");
    // What gets no traffic has nothing to finish.
    let at_once = delay == 0 || !is_used(call.service, &call.scope, &group.arn());
    change(call, &group, |record| {
        if at_once {
            record.targets.retain(|target| !named(target));
        }
        for target in record.targets.iter_mut().filter(|target| named(target)) {
            target.draining_since.get_or_insert(call.cx.now);
        }
        Ok(())
    })
    .await?;
    Ok(DeregisterTargetsOutput {})
}

pub(crate) async fn describe_health(
    call: &Call<'_>,
    input: DescribeTargetHealthInput,
) -> Result<DescribeTargetHealthOutput, ApiError> {
    let group = group_of(call, &given(input.target_group_arn))?;
    // Both words there are say so.
    let anomalies = input.include.is_some_and(|include| !include.is_empty()) && group.is_http();
    let record = call.targets(&group.id);
    let view = View { anomalies, ..View::new(call, &group, &record) };
    let descriptions = match input.targets {
        Some(asked) if !asked.is_empty() => {
            let one = |asked: TargetDescription| {
                let port = port(&group, &asked)?;
                let id = id_of(&group, asked.id.as_deref().unwrap_or_default()).ok();
                let found =
                    record.targets.iter().find(|known| Some(&known.id) == id.as_ref() && known.port == port);
                Ok(match found {
                    Some(known) => view.describe(known),
                    None => {
                        let health = Health::not_registered();
                        description(&group, asked.id.unwrap_or_default(), port, None, health)
                    }
                })
            };
            asked.into_iter().map(one).collect::<Result<Vec<_>, ApiError>>()?
        }
        _ => record.targets.iter().map(|target| view.describe(target)).collect(),
    };
    Ok(DescribeTargetHealthOutput { target_health_descriptions: Some(descriptions) })
}

/// What is looked at for each target of a group.
struct View<'a> {
    group: &'a GroupRecord,
    used: bool,
    /// Of the balancer, when a target's own zone matters.
    zones: Option<Vec<String>>,
    /// What each zone says of targets.
    seen: Vec<HealthRecord>,
    /// Zones and addresses of the load balancer that is the group's target.
    nodes: Vec<(String, IpAddr)>,
    /// What its targets' answers are like is to be told as well.
    anomalies: bool,
}

impl<'a> View<'a> {
    fn new(call: &Call<'_>, group: &'a GroupRecord, targets: &TargetsRecord) -> Self {
        let by_group = balancers_by_group(call);
        let balancers: Vec<BalancerRecord> = by_group
            .get(&group.arn())
            .into_iter()
            .flatten()
            .filter_map(|arn| call.balancer(arn).ok())
            .collect();
        let known = attributes::of_group(group);
        let own = attributes::value(&known, &group.attributes, "load_balancing.cross_zone.enabled");
        let cross = match (own, balancers.first()) {
            ("true", _) | (_, None) => true,
            ("false", _) => false,
            (_, Some(balancer)) => attributes::is_on(
                &attributes::of_balancer(balancer.kind),
                &balancer.attributes,
                "load_balancing.cross_zone.enabled",
            ),
        };
        let zones = balancers.iter().flat_map(|balancer| balancer.zones.iter().map(|zone| zone.zone.clone()));
        let mut seen = Vec::new();
        for balancer in &balancers {
            let prefix = call.scope.key(Kind::Health, &format!("{}/", balancer.id));
            let of_group = range_json::<HealthRecord>(&*call.service.store, &prefix)
                .into_iter()
                .filter(|found| found.key.rsplit('/').next() == Some(group.id.as_str()));
            seen.extend(of_group.map(|found| found.record));
        }
        let ids = targets.targets.iter().filter_map(|target| target.id.balancer_id());
        let interfaces = |id| call.all::<InterfaceRecord>(Kind::Interface, &format!("{id}/"));
        let nodes =
            ids.flat_map(interfaces).map(|interface| (interface.zone, interface.private_ip.into())).collect();
        let zones = (!cross).then(|| zones.collect());
        Self { group, used: !balancers.is_empty(), zones, seen, nodes, anomalies: false }
    }

    fn describe(&self, target: &TargetRecord) -> TargetHealthDescription {
        let has =
            |zone: &str| self.zones.as_ref().is_none_or(|zones| zones.iter().any(|known| known == zone));
        let enabled = match (&target.id, target.zone.as_deref()) {
            (TargetId::LoadBalancer(_), _) => {
                self.nodes.is_empty() || self.nodes.iter().any(|(zone, _)| has(zone))
            }
            (TargetId::Ip(_), Some(zone)) => zone == "all" || has(zone),
            (TargetId::Ip(_), None) => true,
        };
        let keys: Vec<String> = match &target.id {
            TargetId::Ip(ip) => vec![target_key(*ip, target.port)],
            TargetId::LoadBalancer(_) => {
                self.nodes.iter().map(|(_, ip)| target_key(*ip, target.port)).collect()
            }
        };
        let seen: Vec<&SeenRecord> =
            self.seen.iter().flat_map(|zone| keys.iter().filter_map(|key| zone.targets.get(key))).collect();
        let health = health(target, self.used, enabled, &seen);
        let said = description(self.group, target.id.to_string(), target.port, target.zone.clone(), health);
        let anomaly = seen.iter().map(|one| one.anomaly).max().unwrap_or_default();
        TargetHealthDescription { anomaly_detection: self.anomalies.then(|| anomaly_shape(anomaly)), ..said }
    }
}

fn anomaly_shape(anomaly: Anomaly) -> AnomalyDetection {
    let result = if anomaly == Anomaly::None { "normal" } else { "anomalous" };
    let mitigated = if anomaly == Anomaly::Mitigated { "yes" } else { "no" };
    AnomalyDetection { result: Some(result.into()), mitigation_in_effect: Some(mitigated.into()) }
}

fn description(
    group: &GroupRecord,
    id: String,
    port: u16,
    zone: Option<String>,
    health: Health,
) -> TargetHealthDescription {
    let check_port = match group.health_check.port.as_str() {
        "traffic-port" => port.to_string(),
        number => number.to_owned(),
    };
    TargetHealthDescription {
        target: Some(TargetDescription {
            id: Some(id),
            port: Some(i32::from(port)),
            availability_zone: zone,
            quic_server_id: None,
        }),
        health_check_port: Some(check_port),
        target_health: Some(TargetHealth {
            state: Some(health.state.into()),
            reason: health.reason,
            description: health.description,
        }),
        ..TargetHealthDescription::default()
    }
}
