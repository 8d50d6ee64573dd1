//! DescribeVpcAttribute, ModifyVpcAttribute.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use crate::call::Call;
use crate::errors::{check_dry_run, invalid_combination, invalid_value, missing, unsupported};
use crate::state::*;

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeVpcAttributeRequest,
) -> Result<DescribeVpcAttributeResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let vpc = call.get::<VpcRecord>(&input.vpc_id.unwrap_or_default())?;
    let value = |value| Some(AttributeBooleanValue { value: Some(value) });
    let mut result = DescribeVpcAttributeResult { vpc_id: Some(vpc.vpc_id.clone()), ..Default::default() };
    match input.attribute.as_deref().unwrap_or_default() {
        "enableDnsSupport" => result.enable_dns_support = value(vpc.enable_dns_support),
        "enableDnsHostnames" => result.enable_dns_hostnames = value(vpc.enable_dns_hostnames),
        "enableNetworkAddressUsageMetrics" => {
            result.enable_network_address_usage_metrics = value(vpc.enable_network_address_usage_metrics);
        }
        other => {
            return Err(invalid_value(format!(
                "Value ({other}) for parameter attribute is invalid. Unknown VPC attribute."
            )));
        }
    }
    Ok(result)
}

pub(crate) async fn modify(
    call: &Call<'_>,
    input: ModifyVpcAttributeRequest,
) -> Result<ModifyVpcAttributeNoOutput, ApiError> {
    let flag = |value: Option<AttributeBooleanValue>| value.and_then(|value| value.value);
    let hostnames = flag(input.enable_dns_hostnames);
    let support = flag(input.enable_dns_support);
    let metrics = flag(input.enable_network_address_usage_metrics);
    match [hostnames, support, metrics].iter().flatten().count() {
        0 => return Err(missing("EnableDnsHostnames")),
        1 => {}
        _ => return Err(invalid_combination("Only one VPC attribute can be modified in one call.")),
    }
    // Every VPC's tasks reach the API and the pools' names through its DNS server, which cannot be left out yet.
    if support == Some(false) {
        return Err(unsupported("EnableDnsSupport=false"));
    }
    if metrics == Some(true) {
        return Err(unsupported("EnableNetworkAddressUsageMetrics=true"));
    }
    let vpc_id = input.vpc_id.unwrap_or_default();
    call.transact(|changes| {
        let vpc = call.get::<VpcRecord>(&vpc_id)?;
        let mut record = vpc.record.clone();
        record.enable_dns_hostnames = hostnames.unwrap_or(record.enable_dns_hostnames);
        changes.replace(&vpc, &record)
    })
    .await?;
    Ok(ModifyVpcAttributeNoOutput {})
}
