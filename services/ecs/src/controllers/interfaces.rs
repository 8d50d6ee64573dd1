//! The tasks' network interfaces, by EC2's API and in ECS's own name.

use std::sync::Arc;

use ferrogate_api::{ApiError, Caller, Invoke, ec2};

use crate::state::{EniRecord, Scope, TaskRecord};

pub(crate) const SERVICE_PRINCIPAL: &str = "ecs.amazonaws.com";
/// Values of one filter; EC2 takes 200.
const FILTER_VALUES_MAX: usize = 200;

pub(crate) fn client(invoke: &Arc<dyn Invoke>, scope: &Scope) -> ec2::Client {
    let caller = Caller::Service { name: SERVICE_PRINCIPAL, account: scope.account.clone() };
    ec2::Client::new(Arc::clone(invoke), caller, &scope.region)
}

/// Makes the task's interface. The task's id is the client token: however often this is called, there is one.
pub(super) async fn create(invoke: &Arc<dyn Invoke>, task: &TaskRecord) -> Result<EniRecord, ApiError> {
    let client = client(invoke, &task.scope());
    let request = ec2::CreateNetworkInterfaceRequest {
        client_token: Some(task.task_id.clone()),
        subnet_id: Some(task.network.subnet_id.clone()),
        description: Some(task.attachment_arn()),
        groups: Some(task.network.security_groups.clone()).filter(|groups| !groups.is_empty()),
        ..Default::default()
    };
    let eni = client.create_network_interface(request).await?.network_interface.unwrap_or_default();
    let private_ip = eni.private_ip_address.as_deref().and_then(|ip| ip.parse().ok());
    let (Some(eni_id), Some(mac), Some(private_ip)) = (eni.network_interface_id, eni.mac_address, private_ip)
    else {
        tracing::error!(
            task = task.arn(),
            "EC2 answered with an interface that lacks its id, MAC or address"
        );
        return Err(ApiError::internal());
    };
    if task.network.assign_public_ip && eni.association.is_none() {
        let request = ec2::ModifyNetworkInterfaceAttributeRequest {
            network_interface_id: Some(eni_id.clone()),
            associate_public_ip_address: Some(true),
            ..Default::default()
        };
        client.modify_network_interface_attribute(request).await?;
    }
    let private_dns_name = eni.private_dns_name.unwrap_or_else(|| default_name(private_ip, &task.region));
    Ok(EniRecord { eni_id, mac, private_ip, private_dns_name })
}

/// A VPC without DNS host names gives its interfaces none; a task has one all the same.
fn default_name(ip: std::net::Ipv4Addr, region: &str) -> String {
    let [a, b, c, d] = ip.octets();
    let domain =
        if region == "us-east-1" { "ec2.internal".to_owned() } else { format!("{region}.compute.internal") };
    format!("ip-{a}-{b}-{c}-{d}.{domain}")
}

/// One that is gone already is a success.
pub(super) async fn delete(invoke: &Arc<dyn Invoke>, scope: &Scope, eni_id: &str) -> Result<(), ApiError> {
    let request = ec2::DeleteNetworkInterfaceRequest {
        network_interface_id: Some(eni_id.to_owned()),
        ..Default::default()
    };
    match client(invoke, scope).delete_network_interface(request).await {
        Ok(_) => Ok(()),
        Err(error) if error.code == "InvalidNetworkInterfaceID.NotFound" => Ok(()),
        Err(error) => Err(error),
    }
}

/// (description, id) of the interfaces with one of these descriptions, in which `*` stands for anything.
pub(super) async fn find(
    invoke: &Arc<dyn Invoke>,
    scope: &Scope,
    descriptions: &[String],
) -> Result<Vec<(String, String)>, ApiError> {
    let client = client(invoke, scope);
    let mut found = Vec::new();
    for descriptions in descriptions.chunks(FILTER_VALUES_MAX) {
        let mut next_token = None;
        loop {
            let request = ec2::DescribeNetworkInterfacesRequest {
                filters: Some(vec![ec2::Filter {
                    name: Some("description".into()),
                    values: Some(descriptions.to_vec()),
                }]),
                next_token: next_token.take(),
                ..Default::default()
            };
            let answer = client.describe_network_interfaces(request).await?;
            let enis = answer.network_interfaces.unwrap_or_default();
            found.extend(
                enis.into_iter().filter_map(|eni| Some((eni.description?, eni.network_interface_id?))),
            );
            next_token = answer.next_token;
            if next_token.is_none() {
                break;
            }
        }
    }
    Ok(found)
}
