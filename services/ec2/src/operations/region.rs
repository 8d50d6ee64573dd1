//! What a region is by itself: regions, zones, account attributes, DHCP options.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use super::network_interfaces::GROUPS_PER_INTERFACE_MAX;
use super::tags;
use crate::call::Call;
use crate::errors::{check_dry_run, invalid_value};
use crate::filter::{Described, Filters, Values, page};
use crate::plan::addresses::AddressRange;
use crate::plan::zones::{REGIONS, zones};
use crate::state::*;

impl Described for AvailabilityZone {
    const FILTERS: &'static [&'static str] = &[
        "group-long-name",
        "group-name",
        "message",
        "opt-in-status",
        "parent-zone-id",
        "parent-zone-name",
        "region-name",
        "state",
        "zone-id",
        "zone-name",
        "zone-type",
    ];
    const TAGGED: bool = false;

    fn id(&self) -> &str {
        self.zone_name.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        &[]
    }

    fn values(&self, filter: &str) -> Values {
        match filter {
            "group-long-name" => Values::one(&self.group_long_name),
            "group-name" => Values::one(&self.group_name),
            "opt-in-status" => Values::one(&self.opt_in_status),
            "region-name" => Values::one(&self.region_name),
            "state" => Values::one(&self.state),
            "zone-id" => Values::one(&self.zone_id),
            "zone-name" => Values::one(&self.zone_name),
            "zone-type" => Values::one(&self.zone_type),
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe_zones(
    call: &Call<'_>,
    input: DescribeAvailabilityZonesRequest,
) -> Result<DescribeAvailabilityZonesResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<AvailabilityZone>(input.filters)?;
    let region = &call.scope.region;
    let mut all: Vec<_> = zones(region)
        .into_iter()
        .map(|zone| AvailabilityZone {
            opt_in_status: Some("opt-in-not-required".into()),
            messages: Some(Vec::new()),
            region_name: Some(region.clone()),
            zone_name: Some(zone.name),
            zone_id: Some(zone.id),
            group_name: Some(format!("{region}-zg-1")),
            network_border_group: Some(region.clone()),
            zone_type: Some("availability-zone".into()),
            state: Some("available".into()),
            ..AvailabilityZone::default()
        })
        .collect();
    let (names, ids) = (input.zone_names.unwrap_or_default(), input.zone_ids.unwrap_or_default());
    let unknown = |wanted: &[String], of: fn(&AvailabilityZone) -> &Option<String>| {
        wanted.iter().find(|wanted| !all.iter().any(|zone| of(zone).as_ref() == Some(*wanted))).cloned()
    };
    if let Some(name) = unknown(&names, |zone| &zone.zone_name) {
        return Err(invalid_value(format!("Invalid availability zone: [{name}]")));
    }
    if let Some(id) = unknown(&ids, |zone| &zone.zone_id) {
        return Err(invalid_value(format!("Invalid availability zone-id: [{id}]")));
    }
    // AllAvailabilityZones adds zones that were not opted in to: there are none.
    all.retain(|zone| {
        (names.is_empty() || names.iter().any(|name| zone.zone_name.as_ref() == Some(name)))
            && (ids.is_empty() || ids.iter().any(|id| zone.zone_id.as_ref() == Some(id)))
            && filters.match_all(zone)
    });
    Ok(DescribeAvailabilityZonesResult { availability_zones: Some(all) })
}

impl Described for Region {
    const FILTERS: &'static [&'static str] = &["endpoint", "opt-in-status", "region-name"];
    const TAGGED: bool = false;

    fn id(&self) -> &str {
        self.region_name.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        &[]
    }

    fn values(&self, filter: &str) -> Values {
        match filter {
            "endpoint" => Values::one(&self.endpoint),
            "opt-in-status" => Values::one(&self.opt_in_status),
            "region-name" => Values::one(&self.region_name),
            _ => Values::none(),
        }
    }
}

/// Every region name is served; listed are AWS's own and the one of the call.
pub(crate) async fn describe_regions(
    call: &Call<'_>,
    input: DescribeRegionsRequest,
) -> Result<DescribeRegionsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<Region>(input.filters)?;
    let wanted = input.region_names.unwrap_or_default();
    let mut names: Vec<&str> = REGIONS.to_vec();
    if !names.contains(&call.scope.region.as_str()) {
        names.push(&call.scope.region);
    }
    if let Some(unknown) = wanted.iter().find(|wanted| !names.contains(&wanted.as_str())) {
        return Err(invalid_value(format!("Invalid region name: [{unknown}]")));
    }
    names.sort_unstable();
    let regions =
        names.into_iter().filter(|name| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name));
    let regions = regions.map(|name| Region {
        opt_in_status: Some("opt-in-not-required".into()),
        geography: None,
        region_name: Some(name.to_owned()),
        endpoint: Some(format!("ec2.{name}.amazonaws.com")),
    });
    Ok(DescribeRegionsResult { regions: Some(regions.filter(|region| filters.match_all(region)).collect()) })
}

pub(crate) async fn describe_account_attributes(
    call: &Call<'_>,
    input: DescribeAccountAttributesRequest,
) -> Result<DescribeAccountAttributesResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let default_vpc = call.default_vpc()?.map_or_else(|| "none".to_owned(), |vpc| vpc.record.vpc_id);
    let addresses = AddressRange::of_pool(call.service.options.public_pool).len().to_string();
    let all = [
        ("supported-platforms", "VPC".to_owned()),
        ("default-vpc", default_vpc),
        ("max-instances", "0".to_owned()),
        ("vpc-max-security-groups-per-interface", GROUPS_PER_INTERFACE_MAX.to_string()),
        ("max-elastic-ips", addresses.clone()),
        ("vpc-max-elastic-ips", addresses),
    ];
    let wanted = input.attribute_names.unwrap_or_default();
    if let Some(unknown) = wanted.iter().find(|wanted| !all.iter().any(|(name, _)| name == wanted)) {
        return Err(invalid_value(format!("Value ({unknown}) for parameter attributeName is invalid.")));
    }
    let attributes =
        all.into_iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name));
    let attributes = attributes.map(|(name, value)| AccountAttribute {
        attribute_name: Some(name.to_owned()),
        attribute_values: Some(vec![AccountAttributeValue { attribute_value: Some(value) }]),
    });
    Ok(DescribeAccountAttributesResult { account_attributes: Some(attributes.collect()) })
}

impl Described for DhcpOptions {
    const FILTERS: &'static [&'static str] = &["dhcp-options-id", "key", "owner-id", "value"];

    fn id(&self) -> &str {
        self.dhcp_options_id.as_deref().unwrap_or_default()
    }

    fn tags(&self) -> &[Tag] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn values(&self, filter: &str) -> Values {
        match filter {
            "dhcp-options-id" => Values::one(&self.dhcp_options_id),
            "key" => Values::each(&self.dhcp_configurations, |one| one.key.clone()),
            "owner-id" => Values::one(&self.owner_id),
            "value" => {
                let values =
                    self.dhcp_configurations.iter().flatten().filter_map(|one| one.values.as_ref()).flatten();
                Values::each(&Some(values.collect::<Vec<_>>()), |value| value.value.clone())
            }
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe_dhcp_options(
    call: &Call<'_>,
    input: DescribeDhcpOptionsRequest,
) -> Result<DescribeDhcpOptionsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let filters = Filters::new::<DhcpOptions>(input.filters)?;
    let value = |value: &String| AttributeValue { value: Some(value.clone()) };
    let options =
        call.named::<DhcpOptionsRecord>(input.dhcp_options_ids)?.into_iter().map(|options| DhcpOptions {
            owner_id: Some(call.scope.account.clone()),
            tags: Some(tags::shape(&options.tags)),
            dhcp_options_id: Some(options.dhcp_options_id.clone()),
            dhcp_configurations: Some(
                options
                    .configurations
                    .iter()
                    .map(|(key, values)| DhcpConfiguration {
                        key: Some(key.clone()),
                        values: Some(values.iter().map(value).collect()),
                    })
                    .collect(),
            ),
        });
    let page = page(options, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeDhcpOptionsResult { next_token: page.next_token, dhcp_options: Some(page.items) })
}
