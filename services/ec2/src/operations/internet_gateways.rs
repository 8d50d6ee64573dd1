//! Internet gateways: one per VPC, one VPC per gateway.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use super::tags;
use crate::call::Call;
use crate::errors::{check_dry_run, dependency};
use crate::filter::{Described, Filters, Values, page};
use crate::ids;
use crate::state::*;

/// VPC user guide, "Amazon VPC quotas": as many as VPCs.
const INTERNET_GATEWAYS_MAX: usize = 100;

pub(crate) fn shape(call: &Call<'_>, gateway: &InternetGatewayRecord) -> InternetGateway {
    let attachment = |vpc_id: &String| InternetGatewayAttachment {
        state: Some("available".into()),
        vpc_id: Some(vpc_id.clone()),
    };
    InternetGateway {
        attachments: Some(gateway.vpc_id.iter().map(attachment).collect()),
        internet_gateway_id: Some(gateway.internet_gateway_id.clone()),
        owner_id: Some(call.scope.account.clone()),
        tags: Some(tags::shape(&gateway.tags)),
    }
}

impl Described for InternetGateway {
    const FILTERS: &'static [&'static str] =
        &["attachment.state", "attachment.vpc-id", "internet-gateway-id", "owner-id"];

    fn id(&self) -> &str {
        self.internet_gateway_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        match filter {
            "attachment.state" => Values::each(&self.attachments, |attachment| attachment.state.clone()),
            "attachment.vpc-id" => Values::each(&self.attachments, |attachment| attachment.vpc_id.clone()),
            "internet-gateway-id" => Values::one(&self.internet_gateway_id),
            "owner-id" => Values::one(&self.owner_id),
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeInternetGatewaysRequest,
) -> Result<DescribeInternetGatewaysResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<InternetGateway>(input.filters)?;
    let records = call.named::<InternetGatewayRecord>(input.internet_gateway_ids)?;
    let gateways = records.iter().map(|gateway| shape(call, gateway));
    let page = page(gateways, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeInternetGatewaysResult { internet_gateways: Some(page.items), next_token: page.next_token })
}

pub(crate) async fn create(
    call: &Call<'_>,
    input: CreateInternetGatewayRequest,
) -> Result<CreateInternetGatewayResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let tags = tags::of_specifications(call, input.tag_specifications, &ids::INTERNET_GATEWAY)?;
    let gateway = call
        .transact(|changes| {
            if call.all::<InternetGatewayRecord>()?.len() >= INTERNET_GATEWAYS_MAX {
                let message = "The maximum number of internet gateways has been reached.";
                return Err(ApiError::new("InternetGatewayLimitExceeded", message));
            }
            let gateway = InternetGatewayRecord {
                internet_gateway_id: ids::INTERNET_GATEWAY.new_id(),
                vpc_id: None,
                tags: tags.clone(),
            };
            changes.create(&gateway)?;
            Ok(gateway)
        })
        .await?;
    Ok(CreateInternetGatewayResult { internet_gateway: Some(shape(call, &gateway)) })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: DeleteInternetGatewayRequest,
) -> Result<DeleteInternetGatewayNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let id = input.internet_gateway_id.unwrap_or_default();
    call.transact(|changes| {
        let gateway = call.get::<InternetGatewayRecord>(&id)?;
        if gateway.vpc_id.is_some() {
            return Err(dependency(format!(
                "The internetGateway '{id}' has dependencies and cannot be deleted."
            )));
        }
        changes.remove(&gateway);
        Ok(())
    })
    .await?;
    Ok(DeleteInternetGatewayNoOutput {})
}

pub(crate) async fn attach(
    call: &Call<'_>,
    input: AttachInternetGatewayRequest,
) -> Result<AttachInternetGatewayNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let (id, vpc_id) = (input.internet_gateway_id.unwrap_or_default(), input.vpc_id.unwrap_or_default());
    call.transact(|changes| {
        let gateway = call.get::<InternetGatewayRecord>(&id)?;
        let vpc = call.get::<VpcRecord>(&vpc_id)?;
        if let Some(other) = &gateway.vpc_id {
            let message = format!("resource {id} is already attached to network {other}");
            return Err(ApiError::new("Resource.AlreadyAssociated", message));
        }
        let of_vpc = |gateway: &InternetGatewayRecord| gateway.vpc_id.as_ref() == Some(&vpc_id);
        if call.all::<InternetGatewayRecord>()?.iter().any(|gateway| of_vpc(gateway)) {
            let message = format!("Network {vpc_id} already has an internet gateway attached");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        let mut record = gateway.record.clone();
        record.vpc_id = Some(vpc_id.clone());
        changes.expect(&vpc);
        changes.topology(call, &vpc_id);
        changes.replace(&gateway, &record)
    })
    .await?;
    Ok(AttachInternetGatewayNoOutput {})
}

pub(crate) async fn detach(
    call: &Call<'_>,
    input: DetachInternetGatewayRequest,
) -> Result<DetachInternetGatewayNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let (id, vpc_id) = (input.internet_gateway_id.unwrap_or_default(), input.vpc_id.unwrap_or_default());
    call.transact(|changes| {
        let gateway = call.get::<InternetGatewayRecord>(&id)?;
        call.get::<VpcRecord>(&vpc_id)?;
        if gateway.vpc_id.as_ref() != Some(&vpc_id) {
            let message = format!("resource {id} is not attached to network {vpc_id}");
            return Err(ApiError::new("Gateway.NotAttached", message));
        }
        // An address that comes to be mapped at this very moment loses its way out, as one mapped without a
        // gateway never had one; nothing else depends on this check.
        if call.all::<EniRecord>()?.iter().any(|eni| eni.vpc_id == vpc_id && eni.public.is_some()) {
            return Err(dependency(format!(
                "Network {vpc_id} has some mapped public address(es). Please unmap those public address(es) before detaching the gateway."
            )));
        }
        let mut record = gateway.record.clone();
        record.vpc_id = None;
        changes.topology(call, &vpc_id);
        changes.replace(&gateway, &record)
    })
    .await?;
    Ok(DetachInternetGatewayNoOutput {})
}
