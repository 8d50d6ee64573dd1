//! Route tables and which subnets they are for. Their routes are `routes.rs`.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::{
    self, AssociateRouteTableRequest, AssociateRouteTableResult, CreateRouteTableRequest,
    CreateRouteTableResult, DeleteRouteTableNoOutput, DeleteRouteTableRequest, DescribeRouteTablesRequest,
    DescribeRouteTablesResult, DisassociateRouteTableNoOutput, DisassociateRouteTableRequest,
    ReplaceRouteTableAssociationRequest, ReplaceRouteTableAssociationResult, RouteTable,
    RouteTableAssociationState, Tag,
};

use super::{routes, tags};
use crate::call::Call;
use crate::db::Stored;
use crate::errors::{check_dry_run, dependency, invalid_combination, invalid_value, missing, refuse};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas".
const ROUTE_TABLES_PER_VPC_MAX: usize = 200;

fn associated() -> Option<RouteTableAssociationState> {
    Some(RouteTableAssociationState { state: Some("associated".into()), status_message: None })
}

/// What the shape of a route table needs to know beside its record.
struct Surroundings {
    vpcs: Vec<Stored<VpcRecord>>,
    subnets: Vec<Stored<SubnetRecord>>,
    targets: routes::Targets,
}

impl Surroundings {
    fn new(call: &Call<'_>) -> Result<Self, ApiError> {
        Ok(Self { vpcs: call.all()?, subnets: call.all()?, targets: routes::Targets::new(call)? })
    }

    fn shape(&self, call: &Call<'_>, table: &RouteTableRecord) -> RouteTable {
        let id = &table.route_table_id;
        let vpc = self.vpcs.iter().find(|vpc| vpc.vpc_id == table.vpc_id);
        let association = |association_id: &str, subnet_id: Option<String>| ec2::RouteTableAssociation {
            main: Some(subnet_id.is_none()),
            route_table_association_id: Some(association_id.to_owned()),
            route_table_id: Some(id.clone()),
            subnet_id,
            association_state: associated(),
            ..Default::default()
        };
        let main = vpc
            .filter(|vpc| vpc.main_route_table_id == *id)
            .map(|vpc| association(&vpc.main_association_id, None));
        let explicit = self.subnets.iter().filter_map(|subnet| {
            let own = subnet.route_table.as_ref().filter(|own| own.route_table_id == *id)?;
            Some(association(&own.association_id, Some(subnet.subnet_id.clone())))
        });
        RouteTable {
            associations: Some(main.into_iter().chain(explicit).collect()),
            propagating_vgws: Some(Vec::new()),
            route_table_id: Some(id.clone()),
            routes: Some(self.targets.shape(table, vpc.map(|vpc| &vpc.record))),
            tags: Some(tags::shape(&table.tags)),
            vpc_id: Some(table.vpc_id.clone()),
            owner_id: Some(call.scope.account.clone()),
        }
    }
}

impl Described for RouteTable {
    const FILTERS: &'static [&'static str] = &[
        "association.gateway-id",
        "association.main",
        "association.route-table-association-id",
        "association.route-table-id",
        "association.subnet-id",
        "owner-id",
        "route-table-id",
        "route.destination-cidr-block",
        "route.destination-ipv6-cidr-block",
        "route.destination-prefix-list-id",
        "route.egress-only-internet-gateway-id",
        "route.gateway-id",
        "route.instance-id",
        "route.nat-gateway-id",
        "route.origin",
        "route.state",
        "route.transit-gateway-id",
        "route.vpc-peering-connection-id",
        "vpc-id",
    ];

    fn id(&self) -> &str {
        self.route_table_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        let (associations, routes) = (&self.associations, &self.routes);
        match filter {
            "association.main" => Values::each(associations, |one| one.main.map(|main| main.to_string())),
            "association.route-table-association-id" => {
                Values::each(associations, |one| one.route_table_association_id.clone())
            }
            "association.route-table-id" => Values::each(associations, |one| one.route_table_id.clone()),
            "association.subnet-id" => Values::each(associations, |one| one.subnet_id.clone()),
            "owner-id" => Values::one(&self.owner_id),
            "route-table-id" => Values::one(&self.route_table_id),
            "route.destination-cidr-block" => {
                Values::each(routes, |route| route.destination_cidr_block.clone())
            }
            "route.gateway-id" => Values::each(routes, |route| route.gateway_id.clone()),
            "route.origin" => Values::each(routes, |route| route.origin.clone()),
            "route.state" => Values::each(routes, |route| route.state.clone()),
            "vpc-id" => Values::one(&self.vpc_id),
            // Targets and destinations that no route has here.
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeRouteTablesRequest,
) -> Result<DescribeRouteTablesResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<RouteTable>(input.filters)?;
    let records = call.named::<RouteTableRecord>(input.route_table_ids)?;
    let around = Surroundings::new(call)?;
    let tables = records.iter().map(|table| around.shape(call, table));
    let page = page(tables, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeRouteTablesResult { route_tables: Some(page.items), next_token: page.next_token })
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateRouteTableRequest,
) -> Result<CreateRouteTableResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let tags = tags::of_specifications(call, input.tag_specifications, &ids::ROUTE_TABLE)?;
    let vpc_id = input.vpc_id.unwrap_or_default();
    let token = call.client_token("CreateRouteTable", input.client_token, &(&vpc_id, &tags))?;
    let table = call
        .transact(|changes| {
            if let Some(id) = call.made_before(token.as_ref())? {
                return Ok(call.get::<RouteTableRecord>(&id)?.record);
            }
            let vpc = call.get::<VpcRecord>(&vpc_id)?;
            let tables = call.all::<RouteTableRecord>()?;
            if tables.iter().filter(|table| table.vpc_id == vpc_id).count() >= ROUTE_TABLES_PER_VPC_MAX {
                let message = "The maximum number of route tables has been reached.";
                return Err(ApiError::new("RouteTableLimitExceeded", message));
            }
            let table = RouteTableRecord {
                route_table_id: ids::ROUTE_TABLE.new_id(),
                vpc_id: vpc_id.clone(),
                routes: Vec::new(),
                client_token: token.as_ref().map(|token| token.token.clone()),
                tags: tags.clone(),
            };
            changes.expect(&vpc);
            changes.topology(call, &vpc_id);
            changes.create(&table)?;
            changes.remember(token.as_ref(), &table.route_table_id)?;
            Ok(table)
        })
        .await?;
    Ok(CreateRouteTableResult {
        route_table: Some(Surroundings::new(call)?.shape(call, &table)),
        client_token: token.map(|token| token.token),
    })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteRouteTableRequest,
) -> Result<DeleteRouteTableNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let id = input.route_table_id.unwrap_or_default();
    call.transact(|changes| {
        let table = call.get::<RouteTableRecord>(&id)?;
        let is_main = call.find::<VpcRecord>(&table.vpc_id)?.is_some_and(|vpc| vpc.main_route_table_id == id);
        let is_used = call
            .all::<SubnetRecord>()?
            .iter()
            .any(|subnet| subnet.route_table.as_ref().is_some_and(|own| own.route_table_id == id));
        if is_main || is_used {
            return Err(dependency(format!("The routeTable '{id}' has dependencies and cannot be deleted.")));
        }
        if let Some(token) = &table.client_token {
            changes.remove_key(call.scope.client_token(token));
        }
        changes.topology(call, &table.vpc_id);
        changes.remove(&table);
        Ok(())
    })
    .await?;
    Ok(DeleteRouteTableNoOutput {})
}

pub(crate) async fn associate(
    call: &Call<'_>,
    input: AssociateRouteTableRequest,
) -> Result<AssociateRouteTableResult, ApiError> {
    check_dry_run(input.dry_run)?;
    refuse(&[
        ("GatewayId", input.gateway_id.is_some()),
        ("PublicIpv4Pool", input.public_ipv4_pool.is_some()),
    ])?;
    let subnet_id = input.subnet_id.ok_or_else(|| missing("SubnetId"))?;
    let id = input.route_table_id.unwrap_or_default();
    let association_id = call
        .transact(|changes| {
            let table = call.get::<RouteTableRecord>(&id)?;
            let subnet = call.get::<SubnetRecord>(&subnet_id)?;
            check_same_vpc(&table, &subnet)?;
            if let Some(own) = &subnet.route_table {
                if own.route_table_id == id {
                    return Ok(own.association_id.clone());
                }
                let message = format!(
                    "the specified association for route table {} conflicts with an existing association",
                    id
                );
                return Err(ApiError::new("Resource.AlreadyAssociated", message));
            }
            let association_id = ids::ROUTE_TABLE_ASSOCIATION.new_id();
            let mut record = subnet.record.clone();
            record.route_table = Some(RouteTableAssociation {
                association_id: association_id.clone(),
                route_table_id: id.clone(),
            });
            changes.expect(&table);
            changes.topology(call, &table.vpc_id);
            changes.replace(&subnet, &record)?;
            Ok(association_id)
        })
        .await?;
    Ok(AssociateRouteTableResult { association_id: Some(association_id), association_state: associated() })
}

fn check_same_vpc(table: &RouteTableRecord, subnet: &SubnetRecord) -> Result<(), ApiError> {
    if table.vpc_id == subnet.vpc_id {
        return Ok(());
    }
    let message = format!(
        "Route table {} and subnet {} belong to different networks",
        table.route_table_id, subnet.subnet_id
    );
    Err(ApiError::new("InvalidParameterValue", message))
}

/// Where an association is kept.
enum Association {
    Main(Stored<VpcRecord>),
    Of(Stored<SubnetRecord>),
}

fn find_association(call: &Call<'_>, id: &str) -> Result<Association, ApiError> {
    let of_subnet = |subnet: &Stored<SubnetRecord>| {
        subnet.route_table.as_ref().is_some_and(|own| own.association_id == id)
    };
    if let Some(subnet) = call.all::<SubnetRecord>()?.into_iter().find(of_subnet) {
        return Ok(Association::Of(subnet));
    }
    let main = call.all::<VpcRecord>()?.into_iter().find(|vpc| vpc.main_association_id == id);
    main.map(Association::Main).ok_or_else(|| ids::ROUTE_TABLE_ASSOCIATION.not_found(id))
}

pub(crate) async fn disassociate(
    call: &Call<'_>,
    input: DisassociateRouteTableRequest,
) -> Result<DisassociateRouteTableNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let id = input.association_id.unwrap_or_default();
    call.transact(|changes| match find_association(call, &id)? {
        Association::Main(vpc) => {
            let message = format!(
                "cannot disassociate the main route table association {id} of the VPC {}",
                vpc.vpc_id
            );
            Err(invalid_value(message))
        }
        Association::Of(subnet) => {
            let mut record = subnet.record.clone();
            record.route_table = None;
            changes.topology(call, &subnet.vpc_id);
            changes.replace(&subnet, &record)
        }
    })
    .await?;
    Ok(DisassociateRouteTableNoOutput {})
}

pub(crate) async fn replace_association(
    call: &Call<'_>,
    input: ReplaceRouteTableAssociationRequest,
) -> Result<ReplaceRouteTableAssociationResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let (id, table_id) = (input.association_id.unwrap_or_default(), input.route_table_id.unwrap_or_default());
    let new_id = call
        .transact(|changes| {
            let table = call.get::<RouteTableRecord>(&table_id)?;
            let new_id = ids::ROUTE_TABLE_ASSOCIATION.new_id();
            changes.expect(&table);
            changes.topology(call, &table.vpc_id);
            match find_association(call, &id)? {
                Association::Main(vpc) if vpc.vpc_id != table.vpc_id => {
                    let message = format!(
                        "Route table {table_id} and network {} belong to different networks",
                        vpc.vpc_id
                    );
                    return Err(invalid_combination(message));
                }
                Association::Main(vpc) => {
                    let mut record = vpc.record.clone();
                    record.main_route_table_id = table_id.clone();
                    record.main_association_id = new_id.clone();
                    changes.replace(&vpc, &record)?;
                }
                Association::Of(subnet) => {
                    check_same_vpc(&table, &subnet)?;
                    let mut record = subnet.record.clone();
                    record.route_table = Some(RouteTableAssociation {
                        association_id: new_id.clone(),
                        route_table_id: table_id.clone(),
                    });
                    changes.replace(&subnet, &record)?;
                }
            }
            Ok(new_id)
        })
        .await?;
    Ok(ReplaceRouteTableAssociationResult {
        new_association_id: Some(new_id),
        association_state: associated(),
    })
}
