//! Describing what cannot be made here: there is none of it, and what is named does not exist.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use crate::call::Call;
use crate::errors::check_dry_run;

/// None named, so all: none.
fn none<T>(named: Option<Vec<String>>, code: &str, noun: &str) -> Result<Option<Vec<T>>, ApiError> {
    match named.unwrap_or_default().first() {
        None => Ok(Some(Vec::new())),
        Some(id) => Err(ApiError::new(code, format!("The {noun} '{id}' does not exist"))),
    }
}

macro_rules! absent {
    ($($function:ident($input:ident) -> $output:ident { $set:ident: $named:ident, $code:literal, $noun:literal })*) => {$(
        pub(crate) async fn $function(_call: &Call<'_>, input: $input) -> Result<$output, ApiError> {
            check_dry_run(input.dry_run)?;
            // Some answers have no more members than this one.
            #[allow(clippy::needless_update)]
            Ok($output { $set: none(input.$named, $code, $noun)?, ..$output::default() })
        }
    )*};
}

absent! {
    egress_only_internet_gateways(DescribeEgressOnlyInternetGatewaysRequest) -> DescribeEgressOnlyInternetGatewaysResult {
        egress_only_internet_gateways: egress_only_internet_gateway_ids, "InvalidGatewayID.NotFound", "gateway ID"
    }
    flow_logs(DescribeFlowLogsRequest) -> DescribeFlowLogsResult {
        flow_logs: flow_log_ids, "InvalidFlowLogId.NotFound", "flow log ID"
    }
    images(DescribeImagesRequest) -> DescribeImagesResult {
        images: image_ids, "InvalidAMIID.NotFound", "image id"
    }
    instance_types(DescribeInstanceTypesRequest) -> DescribeInstanceTypesResult {
        instance_types: instance_types, "InvalidInstanceType", "instance type"
    }
    instances(DescribeInstancesRequest) -> DescribeInstancesResult {
        reservations: instance_ids, "InvalidInstanceID.NotFound", "instance ID"
    }
    managed_prefix_lists(DescribeManagedPrefixListsRequest) -> DescribeManagedPrefixListsResult {
        prefix_lists: prefix_list_ids, "InvalidPrefixListID.NotFound", "prefix list ID"
    }
    nat_gateways(DescribeNatGatewaysRequest) -> DescribeNatGatewaysResult {
        nat_gateways: nat_gateway_ids, "NatGatewayNotFound", "Nat Gateway"
    }
    prefix_lists(DescribePrefixListsRequest) -> DescribePrefixListsResult {
        prefix_lists: prefix_list_ids, "InvalidPrefixListId.NotFound", "prefix list ID"
    }
    vpc_endpoints(DescribeVpcEndpointsRequest) -> DescribeVpcEndpointsResult {
        vpc_endpoints: vpc_endpoint_ids, "InvalidVpcEndpointId.NotFound", "Vpc Endpoint Id"
    }
    vpc_endpoint_services(DescribeVpcEndpointServicesRequest) -> DescribeVpcEndpointServicesResult {
        service_names: service_names, "InvalidServiceName", "Vpc Endpoint Service"
    }
    vpc_peering_connections(DescribeVpcPeeringConnectionsRequest) -> DescribeVpcPeeringConnectionsResult {
        vpc_peering_connections: vpc_peering_connection_ids, "InvalidVpcPeeringConnectionID.NotFound", "vpcPeeringConnection ID"
    }
    vpn_gateways(DescribeVpnGatewaysRequest) -> DescribeVpnGatewaysResult {
        vpn_gateways: vpn_gateway_ids, "InvalidVpnGatewayID.NotFound", "vpnGateway ID"
    }
}

pub(crate) async fn vpc_endpoint_connections(
    _call: &Call<'_>,
    input: DescribeVpcEndpointConnectionsRequest,
) -> Result<DescribeVpcEndpointConnectionsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    Ok(DescribeVpcEndpointConnectionsResult { vpc_endpoint_connections: Some(Vec::new()), next_token: None })
}
