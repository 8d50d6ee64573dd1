//! Target groups.

use std::collections::BTreeMap;

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_store::Txn;

use super::places::vpc_cidrs;
use super::{balancers_by_group, check_name, new_id, page, tags};
use crate::call::{Call, given};
use crate::controllers::drain::is_used;
use crate::errors::{configuration, in_use, invalid, no_groups, refuse, unsupported};
use crate::plan::health_check::{self, Wanted};
use crate::state::*;

/// ELB user guides, "Quotas": target groups per region.
pub(crate) const GROUPS_MAX: usize = 3000;

pub(crate) fn shape(record: &GroupRecord, balancers: &BTreeMap<String, Vec<String>>) -> TargetGroup {
    let check = &record.health_check;
    let grpc = record.protocol_version.as_deref() == Some("GRPC");
    let number = |value: u32| i32::try_from(value).ok();
    let matcher = check.matcher.clone().map(|codes| match grpc {
        true => Matcher { http_code: None, grpc_code: Some(codes) },
        false => Matcher { http_code: Some(codes), grpc_code: None },
    });
    TargetGroup {
        target_group_arn: Some(record.arn()),
        target_group_name: Some(record.name.clone()),
        protocol: Some(record.protocol.clone()),
        port: Some(i32::from(record.port)),
        vpc_id: Some(record.vpc_id.clone()),
        health_check_protocol: Some(check.protocol.clone()),
        health_check_port: Some(check.port.clone()),
        health_check_enabled: Some(true),
        health_check_interval_seconds: number(check.interval_seconds),
        health_check_timeout_seconds: number(check.timeout_seconds),
        healthy_threshold_count: number(check.healthy_threshold),
        unhealthy_threshold_count: number(check.unhealthy_threshold),
        health_check_path: check.path.clone(),
        matcher,
        load_balancer_arns: Some(balancers.get(&record.arn()).cloned().unwrap_or_default()),
        target_type: Some(record.target_type.as_str().into()),
        protocol_version: record.protocol_version.clone(),
        ip_address_type: Some("ipv4".into()),
        target_control_port: None,
    }
}

/// What a creation or a change says of the health check: two shapes with the same members.
macro_rules! wanted {
    ($input:ident) => {{
        let matcher = $input.matcher.unwrap_or_default();
        Wanted {
            enabled: $input.health_check_enabled,
            protocol: $input.health_check_protocol,
            port: $input.health_check_port,
            path: $input.health_check_path,
            http_code: matcher.http_code,
            grpc_code: matcher.grpc_code,
            interval_seconds: $input.health_check_interval_seconds,
            timeout_seconds: $input.health_check_timeout_seconds,
            healthy_threshold: $input.healthy_threshold_count,
            unhealthy_threshold: $input.unhealthy_threshold_count,
        }
    }};
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateTargetGroupInput,
) -> Result<CreateTargetGroupOutput, ApiError> {
    let name = given(input.name);
    check_name(&name, "Target group name")?;
    let target_type = match input.target_type.as_deref() {
        Some("ip") => TargetType::Ip,
        Some("alb") => TargetType::Alb,
        other => {
            // AWS's default is `instance`.
            return Err(unsupported(&format!(
                "The target type {} (those that are served are ip and alb)",
                other.unwrap_or("instance")
            )));
        }
    };
    if input.ip_address_type.as_deref().is_some_and(|kind| kind != "ipv4") {
        return Err(unsupported("The IP address type ipv6"));
    }
    refuse(&[("TargetControlPort", input.target_control_port.is_some())])?;
    let protocol = input.protocol.ok_or_else(|| invalid("A protocol must be specified"))?;
    health_check::check_protocol(&protocol)?;
    if target_type == TargetType::Alb && protocol != "TCP" {
        return Err(configuration(format!(
            "The protocol '{protocol}' is not supported for target groups with the target type 'alb'; it must be 'TCP'"
        )));
    }
    let port = input.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let port = port.ok_or_else(|| invalid("A port must be specified"))?;
    let vpc_id =
        input.vpc_id.filter(|id| !id.is_empty()).ok_or_else(|| invalid("A VPC ID must be specified"))?;
    let protocol_version = health_check::protocol_version(&protocol, input.protocol_version)?;
    let wanted = wanted!(input);
    let health_check =
        health_check::decide(&protocol, protocol_version.as_deref(), target_type, None, wanted)?;
    let tags = tags::new(input.tags)?;
    vpc_cidrs(call, &vpc_id).await?;
    let record = GroupRecord {
        id: new_id(),
        scope: call.scope.clone(),
        name,
        protocol,
        protocol_version,
        target_type,
        port,
        vpc_id,
        health_check,
        attributes: Default::default(),
        tags,
    };
    let made = call.decide(|| {
        let all = call.groups();
        if let Some(found) = all.iter().find(|found| found.name == record.name) {
            let same =
                GroupRecord { id: found.id.clone(), attributes: found.attributes.clone(), ..record.clone() };
            if same == *found {
                return Ok((Txn::new(), found.clone()));
            }
            return Err(ApiError::new(
                "DuplicateTargetGroupName",
                format!(
                    "A target group with the same name '{}' exists, but with different settings",
                    record.name
                ),
            ));
        }
        if all.len() >= GROUPS_MAX {
            return Err(ApiError::new(
                "TooManyTargetGroups",
                format!("The maximum number of target groups has been reached: '{GROUPS_MAX}'"),
            ));
        }
        Ok((Txn::new().put_json(record.key(), &record), record.clone()))
    });
    Ok(CreateTargetGroupOutput { target_groups: Some(vec![shape(&made.await?, &balancers_by_group(call))]) })
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeTargetGroupsInput,
) -> Result<DescribeTargetGroupsOutput, ApiError> {
    let (arns, names) = (input.target_group_arns.unwrap_or_default(), input.names.unwrap_or_default());
    let asked = [input.load_balancer_arn.is_some(), !arns.is_empty(), !names.is_empty()];
    if asked.iter().filter(|asked| **asked).count() > 1 {
        return Err(invalid(
            "Only one of the following can be specified: a load balancer ARN, target group ARNs, target group names",
        ));
    }
    let balancers = balancers_by_group(call);
    let mut found = call.groups();
    if let Some(arn) = &input.load_balancer_arn {
        let balancer = call.balancer(arn)?.arn();
        found.retain(|group| balancers.get(&group.arn()).is_some_and(|of| of.contains(&balancer)));
    }
    if !arns.is_empty() {
        for arn in &arns {
            call.group(arn)
                .map_err(|error| if error.code == "TargetGroupNotFound" { no_groups() } else { error })?;
        }
        found.retain(|group| arns.contains(&group.arn()));
    }
    if !names.is_empty() {
        if !names.iter().all(|name| found.iter().any(|group| group.name == *name)) {
            return Err(no_groups());
        }
        found.retain(|group| names.contains(&group.name));
    }
    let (found, next_marker) = page(found, |group| &group.name, input.marker.as_deref(), input.page_size)?;
    let shapes = found.iter().map(|group| shape(group, &balancers)).collect();
    Ok(DescribeTargetGroupsOutput { target_groups: Some(shapes), next_marker })
}

pub(crate) async fn modify(
    call: &Call<'_>,
    input: ModifyTargetGroupInput,
) -> Result<ModifyTargetGroupOutput, ApiError> {
    let arn = given(input.target_group_arn);
    let wanted = wanted!(input);
    let made = change(call, &arn, |record| {
        let version = record.protocol_version.as_deref();
        let was = Some(&record.health_check);
        record.health_check =
            health_check::decide(&record.protocol, version, record.target_type, was, wanted.clone())?;
        Ok(())
    });
    Ok(ModifyTargetGroupOutput { target_groups: Some(vec![shape(&made.await?, &balancers_by_group(call))]) })
}

/// Changes a group that is there.
pub(crate) async fn change(
    call: &Call<'_>,
    arn: &str,
    mut change: impl FnMut(&mut GroupRecord) -> Result<(), ApiError>,
) -> Result<GroupRecord, ApiError> {
    call.decide(|| {
        let mut record = call
            .group(arn)
            .map_err(|error| if error.code == "TargetGroupNotFound" { no_groups() } else { error })?;
        change(&mut record)?;
        Ok((Txn::new().put_json(record.key(), &record), record))
    })
    .await
}

/// One that is gone already is a success, as on AWS.
pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteTargetGroupInput,
) -> Result<DeleteTargetGroupOutput, ApiError> {
    let arn = given(input.target_group_arn);
    call.decide(|| {
        let record = match call.group(&arn) {
            Ok(record) => record,
            Err(error) if error.code == "TargetGroupNotFound" => return Ok((Txn::new(), ())),
            Err(error) => return Err(error),
        };
        if is_used(call.service, &call.scope, &record.arn()) {
            return Err(in_use(format!("Target group '{arn}' is currently in use by a listener or a rule")));
        }
        Ok((Txn::new().delete(record.key()).delete(call.scope.key(Kind::Targets, &record.id)), ()))
    })
    .await?;
    Ok(DeleteTargetGroupOutput {})
}
