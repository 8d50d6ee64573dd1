//! The trait, forwarded: one line per operation.

use ferrogate_api::elbv2::*;
use ferrogate_api::{ApiError, Context, Demand, Value};

use crate::ElbService;
use crate::call::Call;
use crate::operations::*;

macro_rules! forward {
    ($($method:ident($input:ident) -> $output:ident = $($path:ident)::+;)*) => {
        impl Elbv2 for ElbService {
            fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
                crate::demands::demands(&Call::new(self, cx), operation, input)
            }

            $(async fn $method(&self, cx: &Context, input: $input) -> Result<$output, ApiError> {
                Box::pin($($path)::+(&Call::new(self, cx), input)).await
            })*
        }
    };
}

forward! {
    add_listener_certificates(AddListenerCertificatesInput) -> AddListenerCertificatesOutput = certificates::add;
    add_tags(AddTagsInput) -> AddTagsOutput = tags::add;
    create_listener(CreateListenerInput) -> CreateListenerOutput = listeners::create;
    create_load_balancer(CreateLoadBalancerInput) -> CreateLoadBalancerOutput = balancers::create;
    create_rule(CreateRuleInput) -> CreateRuleOutput = rules::create;
    create_target_group(CreateTargetGroupInput) -> CreateTargetGroupOutput = target_groups::create;
    delete_listener(DeleteListenerInput) -> DeleteListenerOutput = listeners::delete;
    delete_load_balancer(DeleteLoadBalancerInput) -> DeleteLoadBalancerOutput = balancers::delete;
    delete_rule(DeleteRuleInput) -> DeleteRuleOutput = rules::delete;
    delete_target_group(DeleteTargetGroupInput) -> DeleteTargetGroupOutput = target_groups::delete;
    deregister_targets(DeregisterTargetsInput) -> DeregisterTargetsOutput = targets::deregister;
    describe_account_limits(DescribeAccountLimitsInput) -> DescribeAccountLimitsOutput = account::limits;
    describe_capacity_reservation(DescribeCapacityReservationInput) -> DescribeCapacityReservationOutput = account::capacity;
    describe_listener_attributes(DescribeListenerAttributesInput) -> DescribeListenerAttributesOutput = attributes::describe_listener;
    describe_listener_certificates(DescribeListenerCertificatesInput) -> DescribeListenerCertificatesOutput = certificates::describe;
    describe_listeners(DescribeListenersInput) -> DescribeListenersOutput = listeners::describe;
    describe_load_balancer_attributes(DescribeLoadBalancerAttributesInput) -> DescribeLoadBalancerAttributesOutput = attributes::describe_balancer;
    describe_load_balancers(DescribeLoadBalancersInput) -> DescribeLoadBalancersOutput = balancers::describe;
    describe_rules(DescribeRulesInput) -> DescribeRulesOutput = rules::describe;
    describe_ssl_policies(DescribeSSLPoliciesInput) -> DescribeSSLPoliciesOutput = account::ssl_policies;
    describe_tags(DescribeTagsInput) -> DescribeTagsOutput = tags::describe;
    describe_target_group_attributes(DescribeTargetGroupAttributesInput) -> DescribeTargetGroupAttributesOutput = attributes::describe_group;
    describe_target_groups(DescribeTargetGroupsInput) -> DescribeTargetGroupsOutput = target_groups::describe;
    describe_target_health(DescribeTargetHealthInput) -> DescribeTargetHealthOutput = targets::describe_health;
    describe_trust_stores(DescribeTrustStoresInput) -> DescribeTrustStoresOutput = account::trust_stores;
    modify_capacity_reservation(ModifyCapacityReservationInput) -> ModifyCapacityReservationOutput = account::modify_capacity;
    modify_listener(ModifyListenerInput) -> ModifyListenerOutput = listeners::modify;
    modify_listener_attributes(ModifyListenerAttributesInput) -> ModifyListenerAttributesOutput = attributes::modify_listener;
    modify_load_balancer_attributes(ModifyLoadBalancerAttributesInput) -> ModifyLoadBalancerAttributesOutput = attributes::modify_balancer;
    modify_rule(ModifyRuleInput) -> ModifyRuleOutput = rules::modify;
    modify_target_group(ModifyTargetGroupInput) -> ModifyTargetGroupOutput = target_groups::modify;
    modify_target_group_attributes(ModifyTargetGroupAttributesInput) -> ModifyTargetGroupAttributesOutput = attributes::modify_group;
    register_targets(RegisterTargetsInput) -> RegisterTargetsOutput = targets::register;
    remove_listener_certificates(RemoveListenerCertificatesInput) -> RemoveListenerCertificatesOutput = certificates::remove;
    remove_tags(RemoveTagsInput) -> RemoveTagsOutput = tags::remove;
    set_ip_address_type(SetIpAddressTypeInput) -> SetIpAddressTypeOutput = balancers::set_ip_address_type;
    set_rule_priorities(SetRulePrioritiesInput) -> SetRulePrioritiesOutput = rules::set_priorities;
    set_security_groups(SetSecurityGroupsInput) -> SetSecurityGroupsOutput = balancers::set_security_groups;
    set_subnets(SetSubnetsInput) -> SetSubnetsOutput = balancers::set_subnets;
}
