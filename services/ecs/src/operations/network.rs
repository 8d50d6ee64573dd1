//! Where a task's interface may be: what RunTask names, checked against EC2 and the roles against IAM.

use std::sync::Arc;

use ferrogate_api::{ApiError, Caller, Invoke, ec2, ecs, sts};
use ipnet::Ipv4Net;

use super::overrides::Effective;
use crate::controllers::interfaces;
use crate::errors::{client, invalid};
use crate::state::{NetworkRecord, Scope};

pub(crate) const TASKS_PRINCIPAL: &str = "ecs-tasks.amazonaws.com";
const SUBNETS_MAX: usize = 16;
const SECURITY_GROUPS_MAX: usize = 5;

/// What a request says of the network, well-formed.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    subnets: Vec<String>,
    security_groups: Vec<String>,
    assign_public_ip: bool,
}

pub(crate) fn wanted(configuration: Option<ecs::NetworkConfiguration>) -> Result<Wanted, ApiError> {
    let Some(configuration) = configuration.and_then(|configuration| configuration.awsvpc_configuration)
    else {
        return Err(invalid(
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        ));
    };
    let mut subnets = configuration.subnets.unwrap_or_default();
    let mut security_groups = configuration.security_groups.unwrap_or_default();
    if subnets.is_empty() {
        return Err(invalid("subnets can not be empty."));
    }
    for (what, count, max) in [
        ("subnets", subnets.len(), SUBNETS_MAX),
        ("securityGroups", security_groups.len(), SECURITY_GROUPS_MAX),
    ] {
        if count > max {
            return Err(invalid(format!("{what} can have at most {max} items.")));
        }
    }
    let assign_public_ip = match configuration.assign_public_ip.as_deref() {
        None | Some("DISABLED") => false,
        Some("ENABLED") => true,
        Some(other) => {
            return Err(invalid(format!(
                "Invalid assignPublicIp '{other}'. Must be one of [ENABLED,DISABLED]"
            )));
        }
    };
    for list in [&mut subnets, &mut security_groups] {
        list.sort();
        list.dedup();
    }
    Ok(Wanted { subnets, security_groups, assign_public_ip })
}

/// The subnets there are for the task, all in one VPC.
pub(crate) async fn resolve(
    invoke: &Arc<dyn Invoke>,
    scope: &Scope,
    wanted: &Wanted,
) -> Result<Vec<NetworkRecord>, ApiError> {
    let client = interfaces::client(invoke, scope);
    let (subnets, groups) = tokio::join!(subnets(&client, wanted), security_groups(&client, wanted));
    let subnets = subnets?;
    let vpc_id = subnets[0].vpc_id.clone().unwrap_or_default();
    if subnets.iter().any(|subnet| subnet.vpc_id.as_deref() != Some(&vpc_id)) {
        return Err(invalid(format!("The subnets [{}] must be in the same VPC.", wanted.subnets.join(", "))));
    }
    if let Some(group) = groups?.iter().find(|group| group.vpc_id.as_deref() != Some(&vpc_id)) {
        let id = group.group_id.as_deref().unwrap_or_default();
        return Err(invalid(format!(
            "Security group {id} does not appear to belong to the same VPC as the input subnets."
        )));
    }
    let vpc_cidr = vpc_cidr(&client, &vpc_id).await?;
    let record = |subnet: ec2::Subnet| {
        Some(NetworkRecord {
            vpc_id: vpc_id.clone(),
            vpc_cidr,
            subnet_id: subnet.subnet_id?,
            subnet_cidr: subnet.cidr_block?.parse().ok()?,
            availability_zone: subnet.availability_zone?,
            availability_zone_id: subnet.availability_zone_id.unwrap_or_default(),
            security_groups: wanted.security_groups.clone(),
            assign_public_ip: wanted.assign_public_ip,
        })
    };
    subnets.into_iter().map(record).collect::<Option<Vec<_>>>().ok_or_else(|| incomplete("subnet"))
}

fn incomplete(what: &str) -> ApiError {
    tracing::error!("EC2 described a {what} without its zone or block");
    ApiError::internal()
}

/// EC2's word on what a caller named, in ECS's.
fn retrieving(what: &str, ids: &[String], error: ApiError) -> ApiError {
    if error.status.is_some_and(|status| status >= 500) {
        return error;
    }
    invalid(format!(
        "Error retrieving {what} information for [{}]: {} (ErrorCode: {})",
        ids.join(", "),
        error.message,
        error.code
    ))
}

async fn subnets(client: &ec2::Client, wanted: &Wanted) -> Result<Vec<ec2::Subnet>, ApiError> {
    let request =
        ec2::DescribeSubnetsRequest { subnet_ids: Some(wanted.subnets.clone()), ..Default::default() };
    let answer = client
        .describe_subnets(request)
        .await
        .map_err(|error| retrieving("subnet", &wanted.subnets, error))?;
    answer.subnets.filter(|subnets| !subnets.is_empty()).ok_or_else(|| incomplete("subnet"))
}

async fn security_groups(client: &ec2::Client, wanted: &Wanted) -> Result<Vec<ec2::SecurityGroup>, ApiError> {
    let ids = &wanted.security_groups;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let request = ec2::DescribeSecurityGroupsRequest { group_ids: Some(ids.clone()), ..Default::default() };
    let answer = client
        .describe_security_groups(request)
        .await
        .map_err(|error| retrieving("security group", ids, error))?;
    Ok(answer.security_groups.unwrap_or_default())
}

async fn vpc_cidr(client: &ec2::Client, vpc_id: &str) -> Result<Ipv4Net, ApiError> {
    let request = ec2::DescribeVpcsRequest { vpc_ids: Some(vec![vpc_id.to_owned()]), ..Default::default() };
    let answer = client.describe_vpcs(request).await?;
    let vpc = answer.vpcs.into_iter().flatten().next();
    vpc.and_then(|vpc| vpc.cidr_block?.parse().ok()).ok_or_else(|| incomplete("VPC"))
}

/// Whether the tasks can have their roles.
pub(crate) async fn check_roles(
    invoke: &Arc<dyn Invoke>,
    scope: &Scope,
    effective: &Effective,
) -> Result<(), ApiError> {
    let mut roles: Vec<&String> =
        effective.execution_role_arn.iter().chain(&effective.task_role_arn).collect();
    roles.dedup();
    futures_util::future::try_join_all(roles.into_iter().map(|role| check_role(invoke, scope, role)))
        .await
        .map(drop)
}

/// Whether tasks can have this role: tried by doing what needs no rights.
async fn check_role(invoke: &Arc<dyn Invoke>, scope: &Scope, role_arn: &str) -> Result<(), ApiError> {
    let caller = Caller::Role {
        role_arn: role_arn.to_owned(),
        service: TASKS_PRINCIPAL,
        session_name: "ecs-run-task".into(),
    };
    let sts = sts::Client::new(Arc::clone(invoke), caller, &scope.region);
    match sts.get_caller_identity(sts::GetCallerIdentityRequest::default()).await {
        Ok(_) => Ok(()),
        Err(error) if error.status.is_some_and(|status| status >= 500) => Err(error),
        Err(_) => Err(client(format!(
            "ECS was unable to assume the role '{role_arn}' that was provided for this task. Please verify that the role \
             being passed has the proper trust relationship and permissions and that your IAM user has permissions to \
             pass this role."
        ))),
    }
}
