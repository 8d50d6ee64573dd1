//! The trait, forwarded: one line per operation that is served. What is not here answers that it is not.

use ferrogate_api::ec2::*;
use ferrogate_api::{ApiError, Context, Demand, Value};

use crate::Ec2Service;
use crate::call::Call;
use crate::operations::*;

macro_rules! forward {
    ($($method:ident($input:ident) -> $output:ident = $($path:ident)::+;)*) => {
        impl Ec2 for Ec2Service {
            fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
                crate::demands::demands(&Call::unprepared(self, cx), operation, input)
            }

            $(async fn $method(&self, cx: &Context, input: $input) -> Result<$output, ApiError> {
                $($path)::+(&Call::new(self, cx).await?, input).await
            })*
        }
    };
}

forward! {
    allocate_address(AllocateAddressRequest) -> AllocateAddressResult = addresses::allocate;
    associate_address(AssociateAddressRequest) -> AssociateAddressResult = addresses::associate;
    associate_route_table(AssociateRouteTableRequest) -> AssociateRouteTableResult = route_tables::associate;
    associate_vpc_cidr_block(AssociateVpcCidrBlockRequest) -> AssociateVpcCidrBlockResult = vpcs::associate_cidr_block;
    attach_internet_gateway(AttachInternetGatewayRequest) -> AttachInternetGatewayNoOutput = internet_gateways::attach;
    attach_network_interface(AttachNetworkInterfaceRequest) -> AttachNetworkInterfaceResult = network_interfaces::attach;
    authorize_security_group_egress(AuthorizeSecurityGroupEgressRequest) -> AuthorizeSecurityGroupEgressResult = security_group_rules::authorize_egress;
    authorize_security_group_ingress(AuthorizeSecurityGroupIngressRequest) -> AuthorizeSecurityGroupIngressResult = security_group_rules::authorize_ingress;
    create_default_subnet(CreateDefaultSubnetRequest) -> CreateDefaultSubnetResult = defaults::create_default_subnet;
    create_default_vpc(CreateDefaultVpcRequest) -> CreateDefaultVpcResult = defaults::create_default_vpc;
    create_internet_gateway(CreateInternetGatewayRequest) -> CreateInternetGatewayResult = internet_gateways::create;
    create_network_acl(CreateNetworkAclRequest) -> CreateNetworkAclResult = network_acls::create;
    create_network_acl_entry(CreateNetworkAclEntryRequest) -> CreateNetworkAclEntryNoOutput = network_acls::create_entry;
    create_network_interface(CreateNetworkInterfaceRequest) -> CreateNetworkInterfaceResult = network_interfaces::create;
    create_route(CreateRouteRequest) -> CreateRouteResult = routes::create;
    create_route_table(CreateRouteTableRequest) -> CreateRouteTableResult = route_tables::create;
    create_security_group(CreateSecurityGroupRequest) -> CreateSecurityGroupResult = security_groups::create;
    create_subnet(CreateSubnetRequest) -> CreateSubnetResult = subnets::create;
    create_tags(CreateTagsRequest) -> CreateTagsNoOutput = tags::create_tags;
    create_vpc(CreateVpcRequest) -> CreateVpcResult = vpcs::create;
    delete_internet_gateway(DeleteInternetGatewayRequest) -> DeleteInternetGatewayNoOutput = internet_gateways::delete;
    delete_network_acl(DeleteNetworkAclRequest) -> DeleteNetworkAclNoOutput = network_acls::delete;
    delete_network_acl_entry(DeleteNetworkAclEntryRequest) -> DeleteNetworkAclEntryNoOutput = network_acls::delete_entry;
    delete_network_interface(DeleteNetworkInterfaceRequest) -> DeleteNetworkInterfaceNoOutput = network_interfaces::delete;
    delete_route(DeleteRouteRequest) -> DeleteRouteNoOutput = routes::delete;
    delete_route_table(DeleteRouteTableRequest) -> DeleteRouteTableNoOutput = route_tables::delete;
    delete_security_group(DeleteSecurityGroupRequest) -> DeleteSecurityGroupResult = security_groups::delete;
    delete_subnet(DeleteSubnetRequest) -> DeleteSubnetNoOutput = subnets::delete;
    delete_tags(DeleteTagsRequest) -> DeleteTagsNoOutput = tags::delete_tags;
    delete_vpc(DeleteVpcRequest) -> DeleteVpcNoOutput = vpcs::delete;
    describe_account_attributes(DescribeAccountAttributesRequest) -> DescribeAccountAttributesResult = region::describe_account_attributes;
    describe_addresses(DescribeAddressesRequest) -> DescribeAddressesResult = addresses::describe;
    describe_addresses_attribute(DescribeAddressesAttributeRequest) -> DescribeAddressesAttributeResult = addresses::describe_attribute;
    describe_availability_zones(DescribeAvailabilityZonesRequest) -> DescribeAvailabilityZonesResult = region::describe_zones;
    describe_dhcp_options(DescribeDhcpOptionsRequest) -> DescribeDhcpOptionsResult = region::describe_dhcp_options;
    describe_egress_only_internet_gateways(DescribeEgressOnlyInternetGatewaysRequest) -> DescribeEgressOnlyInternetGatewaysResult = absent::egress_only_internet_gateways;
    describe_flow_logs(DescribeFlowLogsRequest) -> DescribeFlowLogsResult = absent::flow_logs;
    describe_images(DescribeImagesRequest) -> DescribeImagesResult = absent::images;
    describe_instance_types(DescribeInstanceTypesRequest) -> DescribeInstanceTypesResult = absent::instance_types;
    describe_instances(DescribeInstancesRequest) -> DescribeInstancesResult = absent::instances;
    describe_internet_gateways(DescribeInternetGatewaysRequest) -> DescribeInternetGatewaysResult = internet_gateways::describe;
    describe_managed_prefix_lists(DescribeManagedPrefixListsRequest) -> DescribeManagedPrefixListsResult = absent::managed_prefix_lists;
    describe_nat_gateways(DescribeNatGatewaysRequest) -> DescribeNatGatewaysResult = absent::nat_gateways;
    describe_network_acls(DescribeNetworkAclsRequest) -> DescribeNetworkAclsResult = network_acls::describe;
    describe_network_interface_attribute(DescribeNetworkInterfaceAttributeRequest) -> DescribeNetworkInterfaceAttributeResult = network_interface_attributes::describe;
    describe_network_interfaces(DescribeNetworkInterfacesRequest) -> DescribeNetworkInterfacesResult = network_interfaces::describe;
    describe_prefix_lists(DescribePrefixListsRequest) -> DescribePrefixListsResult = absent::prefix_lists;
    describe_regions(DescribeRegionsRequest) -> DescribeRegionsResult = region::describe_regions;
    describe_route_tables(DescribeRouteTablesRequest) -> DescribeRouteTablesResult = route_tables::describe;
    describe_security_group_references(DescribeSecurityGroupReferencesRequest) -> DescribeSecurityGroupReferencesResult = security_groups::references;
    describe_security_group_rules(DescribeSecurityGroupRulesRequest) -> DescribeSecurityGroupRulesResult = security_group_rules::describe;
    describe_security_groups(DescribeSecurityGroupsRequest) -> DescribeSecurityGroupsResult = security_groups::describe;
    describe_stale_security_groups(DescribeStaleSecurityGroupsRequest) -> DescribeStaleSecurityGroupsResult = security_groups::stale;
    describe_subnets(DescribeSubnetsRequest) -> DescribeSubnetsResult = subnets::describe;
    describe_tags(DescribeTagsRequest) -> DescribeTagsResult = tags::describe_tags;
    describe_vpc_attribute(DescribeVpcAttributeRequest) -> DescribeVpcAttributeResult = vpc_attributes::describe;
    describe_vpc_endpoint_connections(DescribeVpcEndpointConnectionsRequest) -> DescribeVpcEndpointConnectionsResult = absent::vpc_endpoint_connections;
    describe_vpc_endpoint_services(DescribeVpcEndpointServicesRequest) -> DescribeVpcEndpointServicesResult = absent::vpc_endpoint_services;
    describe_vpc_endpoints(DescribeVpcEndpointsRequest) -> DescribeVpcEndpointsResult = absent::vpc_endpoints;
    describe_vpc_peering_connections(DescribeVpcPeeringConnectionsRequest) -> DescribeVpcPeeringConnectionsResult = absent::vpc_peering_connections;
    describe_vpcs(DescribeVpcsRequest) -> DescribeVpcsResult = vpcs::describe;
    describe_vpn_gateways(DescribeVpnGatewaysRequest) -> DescribeVpnGatewaysResult = absent::vpn_gateways;
    detach_internet_gateway(DetachInternetGatewayRequest) -> DetachInternetGatewayNoOutput = internet_gateways::detach;
    detach_network_interface(DetachNetworkInterfaceRequest) -> DetachNetworkInterfaceNoOutput = network_interfaces::detach;
    disassociate_address(DisassociateAddressRequest) -> DisassociateAddressNoOutput = addresses::disassociate;
    disassociate_route_table(DisassociateRouteTableRequest) -> DisassociateRouteTableNoOutput = route_tables::disassociate;
    disassociate_vpc_cidr_block(DisassociateVpcCidrBlockRequest) -> DisassociateVpcCidrBlockResult = vpcs::disassociate_cidr_block;
    get_security_groups_for_vpc(GetSecurityGroupsForVpcRequest) -> GetSecurityGroupsForVpcResult = security_groups::for_vpc;
    modify_network_interface_attribute(ModifyNetworkInterfaceAttributeRequest) -> ModifyNetworkInterfaceAttributeNoOutput = network_interface_attributes::modify;
    modify_security_group_rules(ModifySecurityGroupRulesRequest) -> ModifySecurityGroupRulesResult = security_group_rules::modify;
    modify_subnet_attribute(ModifySubnetAttributeRequest) -> ModifySubnetAttributeNoOutput = subnets::modify_attribute;
    modify_vpc_attribute(ModifyVpcAttributeRequest) -> ModifyVpcAttributeNoOutput = vpc_attributes::modify;
    release_address(ReleaseAddressRequest) -> ReleaseAddressNoOutput = addresses::release;
    replace_network_acl_association(ReplaceNetworkAclAssociationRequest) -> ReplaceNetworkAclAssociationResult = network_acls::replace_association;
    replace_network_acl_entry(ReplaceNetworkAclEntryRequest) -> ReplaceNetworkAclEntryNoOutput = network_acls::replace_entry;
    replace_route(ReplaceRouteRequest) -> ReplaceRouteNoOutput = routes::replace;
    replace_route_table_association(ReplaceRouteTableAssociationRequest) -> ReplaceRouteTableAssociationResult = route_tables::replace_association;
    reset_network_interface_attribute(ResetNetworkInterfaceAttributeRequest) -> ResetNetworkInterfaceAttributeNoOutput = network_interface_attributes::reset;
    revoke_security_group_egress(RevokeSecurityGroupEgressRequest) -> RevokeSecurityGroupEgressResult = security_group_rules::revoke_egress;
    revoke_security_group_ingress(RevokeSecurityGroupIngressRequest) -> RevokeSecurityGroupIngressResult = security_group_rules::revoke_ingress;
    update_security_group_rule_descriptions_egress(UpdateSecurityGroupRuleDescriptionsEgressRequest) -> UpdateSecurityGroupRuleDescriptionsEgressResult = security_group_rules::update_descriptions_egress;
    update_security_group_rule_descriptions_ingress(UpdateSecurityGroupRuleDescriptionsIngressRequest) -> UpdateSecurityGroupRuleDescriptionsIngressResult = security_group_rules::update_descriptions_ingress;
}
