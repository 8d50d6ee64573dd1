//! Routes of a table: to an internet gateway or a network interface. The local ones follow from the VPC's blocks.

use std::collections::{HashMap, HashSet};

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;
use ipnet::Ipv4Net;

use crate::call::Call;
use crate::db::Changes;
use crate::errors::{check_dry_run, invalid_combination, invalid_value, missing, refuse, unsupported};
use crate::plan::cidr;
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas": up to 1,000 on request.
const ROUTES_PER_TABLE_MAX: usize = 1000;

/// What routes may lead to, to tell whether they still do.
pub(crate) struct Targets {
    /// Gateway → its VPC
    gateways: HashMap<String, String>,
    interfaces: HashSet<String>,
}

impl Targets {
    pub(crate) fn new(call: &Call<'_>) -> Result<Self, ApiError> {
        let attached = |gateway: crate::db::Stored<InternetGatewayRecord>| {
            let InternetGatewayRecord { internet_gateway_id, vpc_id, .. } = gateway.record;
            vpc_id.map(|vpc_id| (internet_gateway_id, vpc_id))
        };
        let gateways = call.all::<InternetGatewayRecord>()?.into_iter().filter_map(attached).collect();
        // Only the few interfaces that a route names are looked up: a region may have thousands.
        let mut interfaces = HashSet::new();
        for table in call.all::<RouteTableRecord>()? {
            for route in &table.routes {
                if let RouteTo::NetworkInterface(id) = &route.target
                    && call.find::<EniRecord>(id)?.is_some()
                {
                    interfaces.insert(id.clone());
                }
            }
        }
        Ok(Self { gateways, interfaces })
    }

    pub(crate) fn shape(&self, table: &RouteTableRecord, vpc: Option<&VpcRecord>) -> Vec<Route> {
        let local = vpc.into_iter().flat_map(|vpc| &vpc.cidr_blocks).map(|block| Route {
            destination_cidr_block: Some(block.cidr.to_string()),
            gateway_id: Some("local".into()),
            origin: Some("CreateRouteTable".into()),
            state: Some("active".into()),
            ..Route::default()
        });
        let routes = table.routes.iter().map(|route| {
            let mut shape = Route {
                destination_cidr_block: Some(route.destination.to_string()),
                origin: Some("CreateRoute".into()),
                ..Route::default()
            };
            let active = match &route.target {
                RouteTo::InternetGateway(id) => {
                    shape.gateway_id = Some(id.clone());
                    self.gateways.get(id) == Some(&table.vpc_id)
                }
                RouteTo::NetworkInterface(id) => {
                    shape.network_interface_id = Some(id.clone());
                    self.interfaces.contains(id)
                }
            };
            shape.state = Some(if active { "active" } else { "blackhole" }.into());
            shape
        });
        local.chain(routes).collect()
    }
}

/// The parameters that CreateRoute and ReplaceRoute have in common.
struct Wanted {
    destination: Option<String>,
    gateway: Option<String>,
    interface: Option<String>,
    nat_gateway: Option<String>,
    instance: Option<String>,
    peering: Option<String>,
    transit_gateway: Option<String>,
    endpoint: Option<String>,
    egress_only: Option<String>,
    /// (parameter, is set) of what there is nothing to say about but that it is not supported.
    refused: [(&'static str, bool); 6],
}

/// From either request: the shapes differ, their members do not.
macro_rules! wanted {
    ($input:ident) => {
        Wanted {
            destination: $input.destination_cidr_block,
            gateway: $input.gateway_id,
            interface: $input.network_interface_id,
            nat_gateway: $input.nat_gateway_id,
            instance: $input.instance_id,
            peering: $input.vpc_peering_connection_id,
            transit_gateway: $input.transit_gateway_id,
            endpoint: $input.vpc_endpoint_id,
            egress_only: $input.egress_only_internet_gateway_id,
            refused: [
                ("DestinationPrefixListId", $input.destination_prefix_list_id.is_some()),
                ("DestinationIpv6CidrBlock", $input.destination_ipv6_cidr_block.is_some()),
                ("LocalGatewayId", $input.local_gateway_id.is_some()),
                ("CarrierGatewayId", $input.carrier_gateway_id.is_some()),
                ("CoreNetworkArn", $input.core_network_arn.is_some()),
                ("OdbNetworkArn", $input.odb_network_arn.is_some()),
            ],
        }
    };
}

impl Wanted {
    fn check(self) -> Result<(Ipv4Net, RouteTo), ApiError> {
        refuse(&self.refused)?;
        let destination = cidr::parse(&self.destination.ok_or_else(|| missing("destinationCidrBlock"))?)?;
        let absent = [
            (self.nat_gateway, "NatGatewayNotFound", "The Nat Gateway"),
            (self.instance, "InvalidInstanceID.NotFound", "The instance ID"),
            (self.peering, "InvalidVpcPeeringConnectionID.NotFound", "The vpcPeeringConnection ID"),
            (self.transit_gateway, "InvalidTransitGatewayID.NotFound", "The transitGateway ID"),
            (self.endpoint, "InvalidVpcEndpointId.NotFound", "The Vpc Endpoint Id"),
            (self.egress_only, "InvalidGatewayID.NotFound", "The gateway ID"),
        ];
        let count = absent.iter().filter(|(id, ..)| id.is_some()).count()
            + usize::from(self.gateway.is_some())
            + usize::from(self.interface.is_some());
        match count {
            0 => return Err(missing("gatewayId")),
            1 => {}
            _ => return Err(invalid_combination("A route has exactly one target.")),
        }
        // Nothing of these kinds can be made here, so none exists.
        if let Some((Some(id), code, words)) = absent.into_iter().find(|(id, ..)| id.is_some()) {
            return Err(ApiError::new(code, format!("{words} '{id}' does not exist")));
        }
        let target = match (self.gateway, self.interface) {
            (Some(id), _) if id == "local" => return Err(unsupported("GatewayId=local")),
            (Some(id), _) if id.starts_with("igw-") => RouteTo::InternetGateway(id),
            (Some(id), _) => {
                return Err(ApiError::new(
                    "InvalidGatewayID.NotFound",
                    format!("The gateway ID '{id}' does not exist"),
                ));
            }
            (None, Some(id)) => RouteTo::NetworkInterface(id),
            (None, None) => return Err(missing("gatewayId")),
        };
        Ok((destination, target))
    }
}

/// The target is there, and in reach of the table's VPC. The transaction holds only while it stays so.
fn check_target(
    call: &Call<'_>,
    changes: &mut Changes,
    table: &RouteTableRecord,
    target: &RouteTo,
) -> Result<(), ApiError> {
    let vpc_id = &table.vpc_id;
    match target {
        RouteTo::InternetGateway(id) => {
            let not_found = || {
                ApiError::new("InvalidGatewayID.NotFound", format!("The gateway ID '{id}' does not exist"))
            };
            let gateway = call.find::<InternetGatewayRecord>(id)?.ok_or_else(not_found)?;
            if gateway.vpc_id.as_ref() != Some(vpc_id) {
                let message = format!(
                    "route table {} and network gateway {id} belong to different networks",
                    table.route_table_id
                );
                return Err(invalid_value(message));
            }
            changes.expect(&gateway);
        }
        RouteTo::NetworkInterface(id) => {
            let eni = call.get::<EniRecord>(id)?;
            if eni.vpc_id != *vpc_id {
                let message = format!(
                    "route table {} and interface {id} belong to different networks",
                    table.route_table_id
                );
                return Err(invalid_value(message));
            }
            changes.expect(&eni);
        }
    }
    Ok(())
}

fn check_not_local(call: &Call<'_>, table: &RouteTableRecord, destination: Ipv4Net) -> Result<(), ApiError> {
    let Some(vpc) = call.find::<VpcRecord>(&table.vpc_id)? else { return Ok(()) };
    if vpc.cidr_blocks.iter().any(|block| block.cidr == destination) {
        let message = format!("The route identified by {destination} already exists.");
        return Err(ApiError::new("RouteAlreadyExists", message));
    }
    // More specific than local is for middleboxes; the fabric routes all of a VPC's own traffic by itself.
    if vpc.cidr_blocks.iter().any(|block| block.cidr.contains(&destination)) {
        return Err(unsupported(&format!("DestinationCidrBlock={destination} (within the VPC's own block)")));
    }
    Ok(())
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateRouteRequest,
) -> Result<CreateRouteResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let wanted = wanted!(input);
    let (destination, target) = wanted.check()?;
    let id = input.route_table_id.unwrap_or_default();
    call.transact(|changes| {
        let table = call.get::<RouteTableRecord>(&id)?;
        check_not_local(call, &table, destination)?;
        let mut record = table.record.clone();
        if let Some(route) = record.routes.iter().find(|route| route.destination == destination) {
            // The same route again is no error (EC2 answers it as done).
            if route.target == target {
                return Ok(());
            }
            let message = format!("The route identified by {destination} already exists.");
            return Err(ApiError::new("RouteAlreadyExists", message));
        }
        if record.routes.len() >= ROUTES_PER_TABLE_MAX {
            let message = "The maximum number of routes has been reached.";
            return Err(ApiError::new("RouteLimitExceeded", message));
        }
        check_target(call, changes, &table, &target)?;
        record.routes.push(RouteRecord { destination, target: target.clone() });
        changes.topology(call, &table.vpc_id);
        changes.replace(&table, &record)
    })
    .await?;
    Ok(CreateRouteResult { r#return: Some(true) })
}

pub(crate) async fn replace(
    call: &Call<'_>,
    input: ReplaceRouteRequest,
) -> Result<ReplaceRouteNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[("LocalTarget", input.local_target == Some(true))])?;
    let wanted = wanted!(input);
    let (destination, target) = wanted.check()?;
    let id = input.route_table_id.unwrap_or_default();
    call.transact(|changes| {
        let table = call.get::<RouteTableRecord>(&id)?;
        let mut record = table.record.clone();
        let Some(route) = record.routes.iter_mut().find(|route| route.destination == destination) else {
            return Err(no_route(&id, &destination.to_string()));
        };
        route.target = target.clone();
        check_target(call, changes, &table, &target)?;
        changes.topology(call, &table.vpc_id);
        changes.replace(&table, &record)
    })
    .await?;
    Ok(ReplaceRouteNoOutput {})
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteRouteRequest,
) -> Result<DeleteRouteNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[
        ("DestinationPrefixListId", input.destination_prefix_list_id.is_some()),
        ("DestinationIpv6CidrBlock", input.destination_ipv6_cidr_block.is_some()),
    ])?;
    let destination =
        cidr::parse(&input.destination_cidr_block.ok_or_else(|| missing("destinationCidrBlock"))?)?;
    let id = input.route_table_id.unwrap_or_default();
    call.transact(|changes| {
        let table = call.get::<RouteTableRecord>(&id)?;
        let vpc = call.find::<VpcRecord>(&table.vpc_id)?;
        if vpc.is_some_and(|vpc| vpc.cidr_blocks.iter().any(|block| block.cidr == destination)) {
            let message = format!("cannot remove local route {destination} in route table {id}");
            return Err(invalid_value(message));
        }
        let mut record = table.record.clone();
        record.routes.retain(|route| route.destination != destination);
        if record.routes.len() == table.routes.len() {
            return Err(no_route(&id, &destination.to_string()));
        }
        changes.topology(call, &table.vpc_id);
        changes.replace(&table, &record)
    })
    .await?;
    Ok(DeleteRouteNoOutput {})
}

fn no_route(table: &str, destination: &str) -> ApiError {
    let message = format!("no route with destination-cidr-block {destination} in route table {table}");
    ApiError::new("InvalidRoute.NotFound", message)
}
