//! Attributes of load balancers, listeners and target groups.

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_store::Txn;

use super::{balancers, pairs, target_groups};
use crate::call::{Call, given};
use crate::errors::configuration;
use crate::plan::attributes;
use crate::state::{BalancerRecord, GroupRecord, ListenerRecord};

fn of_balancer(record: &BalancerRecord) -> Vec<LoadBalancerAttribute> {
    let all = attributes::complete(&attributes::of_balancer(record.kind), &record.attributes);
    all.into_iter().map(|(key, value)| LoadBalancerAttribute { key: Some(key), value: Some(value) }).collect()
}

fn of_group(record: &GroupRecord) -> Vec<TargetGroupAttribute> {
    let all = attributes::complete(&attributes::of_group(record), &record.attributes);
    all.into_iter().map(|(key, value)| TargetGroupAttribute { key: Some(key), value: Some(value) }).collect()
}

fn of_listener(record: &ListenerRecord) -> Vec<ListenerAttribute> {
    let all = attributes::complete(&attributes::of_listener(&record.protocol), &record.attributes);
    all.into_iter().map(|(key, value)| ListenerAttribute { key: Some(key), value: Some(value) }).collect()
}

pub(crate) async fn describe_balancer(
    call: &Call<'_>,
    input: DescribeLoadBalancerAttributesInput,
) -> Result<DescribeLoadBalancerAttributesOutput, ApiError> {
    let record = call.balancer(&given(input.load_balancer_arn))?;
    Ok(DescribeLoadBalancerAttributesOutput { attributes: Some(of_balancer(&record)) })
}

pub(crate) async fn modify_balancer(
    call: &Call<'_>,
    input: ModifyLoadBalancerAttributesInput,
) -> Result<ModifyLoadBalancerAttributesOutput, ApiError> {
    let wanted = pairs(input.attributes.unwrap_or_default().into_iter().map(|one| (one.key, one.value)))?;
    let arn = given(input.load_balancer_arn);
    let record = balancers::change(call, &arn, |record| {
        let known = attributes::of_balancer(record.kind);
        attributes::change(&known, &mut record.attributes, wanted.clone(), "Load balancer")?;
        attributes::check_balancer(record.kind, &record.attributes)
    });
    Ok(ModifyLoadBalancerAttributesOutput { attributes: Some(of_balancer(&record.await?)) })
}

pub(crate) async fn describe_group(
    call: &Call<'_>,
    input: DescribeTargetGroupAttributesInput,
) -> Result<DescribeTargetGroupAttributesOutput, ApiError> {
    let record = call.group(&given(input.target_group_arn))?;
    Ok(DescribeTargetGroupAttributesOutput { attributes: Some(of_group(&record)) })
}

pub(crate) async fn modify_group(
    call: &Call<'_>,
    input: ModifyTargetGroupAttributesInput,
) -> Result<ModifyTargetGroupAttributesOutput, ApiError> {
    let wanted = pairs(input.attributes.unwrap_or_default().into_iter().map(|one| (one.key, one.value)))?;
    let arn = given(input.target_group_arn);
    let record = target_groups::change(call, &arn, |record| {
        let known = attributes::of_group(record);
        attributes::change(&known, &mut record.attributes, wanted.clone(), "Target group")?;
        attributes::check_group(record)
    });
    Ok(ModifyTargetGroupAttributesOutput { attributes: Some(of_group(&record.await?)) })
}

pub(crate) async fn describe_listener(
    call: &Call<'_>,
    input: DescribeListenerAttributesInput,
) -> Result<DescribeListenerAttributesOutput, ApiError> {
    let record = call.listener(&given(input.listener_arn))?;
    Ok(DescribeListenerAttributesOutput { attributes: Some(of_listener(&record)) })
}

pub(crate) async fn modify_listener(
    call: &Call<'_>,
    input: ModifyListenerAttributesInput,
) -> Result<ModifyListenerAttributesOutput, ApiError> {
    let wanted = pairs(input.attributes.unwrap_or_default().into_iter().map(|one| (one.key, one.value)))?;
    if wanted.is_empty() {
        return Err(configuration("At least one attribute must be specified"));
    }
    let arn = given(input.listener_arn);
    let record = call.decide(|| {
        let mut record = call.listener(&arn)?;
        let known = attributes::of_listener(&record.protocol);
        attributes::change(&known, &mut record.attributes, wanted.clone(), "Listener")?;
        Ok((Txn::new().put_json(record.key(), &record), record))
    });
    Ok(ModifyListenerAttributesOutput { attributes: Some(of_listener(&record.await?)) })
}
