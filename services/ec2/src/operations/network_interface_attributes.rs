//! DescribeNetworkInterfaceAttribute, ModifyNetworkInterfaceAttribute, ResetNetworkInterfaceAttribute.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use super::addresses::next_public;
use super::network_interfaces::{attachment_shape, check_manageable, find_groups, groups_shape};
use crate::call::Call;
use crate::db::Changes;
use crate::errors::{check_dry_run, invalid_combination, invalid_value, missing, refuse, unsupported};
use crate::state::*;

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeNetworkInterfaceAttributeRequest,
) -> Result<DescribeNetworkInterfaceAttributeResult, ApiError> {
    check_dry_run(input.dry_run)?;
    let eni = call.get::<EniRecord>(&input.network_interface_id.unwrap_or_default())?;
    let mut result = DescribeNetworkInterfaceAttributeResult {
        network_interface_id: Some(eni.eni_id.clone()),
        ..DescribeNetworkInterfaceAttributeResult::default()
    };
    match input.attribute.as_deref().ok_or_else(|| missing("attribute"))? {
        "description" => result.description = Some(AttributeValue { value: Some(eni.description.clone()) }),
        "groupSet" => result.groups = Some(groups_shape(&eni)),
        "sourceDestCheck" => {
            result.source_dest_check = Some(AttributeBooleanValue { value: Some(eni.source_dest_check) });
        }
        "attachment" => result.attachment = attachment_shape(call, &eni),
        "associatePublicIpAddress" => result.associate_public_ip_address = Some(has_own_public(&eni)),
        other => {
            let message = format!(
                "Value ({other}) for parameter attribute is invalid. Unknown network interface attribute."
            );
            return Err(invalid_value(message));
        }
    }
    Ok(result)
}

/// A public address for its own lifetime, no Elastic IP.
fn has_own_public(eni: &EniRecord) -> bool {
    eni.public.as_ref().is_some_and(|public| public.elastic.is_none())
}

/// The one attribute that a call changes.
enum Change {
    Description(String),
    SourceDestCheck(bool),
    Groups(Vec<String>),
    DeleteOnTermination { attachment_id: String, value: bool },
    PublicAddress(bool),
}

impl Change {
    fn of(input: ModifyNetworkInterfaceAttributeRequest) -> Result<Self, ApiError> {
        refuse(&[
            ("EnaSrdSpecification", input.ena_srd_specification.is_some()),
            ("EnablePrimaryIpv6", input.enable_primary_ipv6 == Some(true)),
            ("ConnectionTrackingSpecification", input.connection_tracking_specification.is_some()),
            ("AssociatedSubnetIds", input.associated_subnet_ids.is_some_and(|ids| !ids.is_empty())),
        ])?;
        let mut changes = Vec::new();
        if let Some(description) = input.description {
            changes.push(Self::Description(description.value.unwrap_or_default()));
        }
        if let Some(check) = input.source_dest_check {
            changes.push(Self::SourceDestCheck(check.value.ok_or_else(|| missing("SourceDestCheck.Value"))?));
        }
        if let Some(groups) = input.groups.filter(|groups| !groups.is_empty()) {
            changes.push(Self::Groups(groups));
        }
        if let Some(attachment) = input.attachment {
            if attachment.default_ena_queue_count.is_some() || attachment.ena_queue_count.is_some() {
                return Err(unsupported("Attachment.EnaQueueCount"));
            }
            changes.push(Self::DeleteOnTermination {
                attachment_id: attachment.attachment_id.ok_or_else(|| missing("Attachment.AttachmentId"))?,
                value: attachment
                    .delete_on_termination
                    .ok_or_else(|| missing("Attachment.DeleteOnTermination"))?,
            });
        }
        if let Some(value) = input.associate_public_ip_address {
            changes.push(Self::PublicAddress(value));
        }
        match changes.len() {
            0 => Err(missing("Attribute")),
            1 => Ok(changes.remove(0)),
            // EC2 API reference: "You can specify only one attribute at a time."
            _ => {
                Err(invalid_combination("Only one network interface attribute can be modified in one call."))
            }
        }
    }

    fn apply(&self, call: &Call<'_>, changes: &mut Changes, record: &mut EniRecord) -> Result<(), ApiError> {
        match self {
            Self::Description(description) => record.description.clone_from(description),
            Self::SourceDestCheck(check) => record.source_dest_check = *check,
            Self::Groups(ids) => record.groups = find_groups(call, &record.vpc_id, ids)?,
            Self::DeleteOnTermination { attachment_id, value } => {
                let own = record.attachment.as_mut().filter(|own| own.attachment_id == *attachment_id);
                let not_found = || {
                    let message = format!("The attachment '{attachment_id}' does not exist");
                    ApiError::new("InvalidAttachmentID.NotFound", message)
                };
                own.ok_or_else(not_found)?.delete_on_termination = *value;
            }
            Self::PublicAddress(true) => assign_public(call, changes, record)?,
            Self::PublicAddress(false) if has_own_public(record) => {
                if let Some(public) = record.public.take() {
                    changes.remove_key(public_address(public.ip));
                }
            }
            Self::PublicAddress(false) => {}
        }
        Ok(())
    }
}

fn assign_public(call: &Call<'_>, changes: &mut Changes, record: &mut EniRecord) -> Result<(), ApiError> {
    if record.requester.is_none() {
        // On AWS it takes effect on the primary interface of an instance, and there are no instances.
        return Err(unsupported("AssociatePublicIpAddress (for an interface that no service manages)"));
    }
    if record.public.is_none() {
        let ip = next_public(call)?;
        let holder = PublicAddressRecord {
            account: call.scope.account.clone(),
            region: call.scope.region.clone(),
            holder: record.eni_id.clone(),
        };
        changes.create_json(public_address(ip), &holder)?;
        record.public = Some(PublicAddress { ip, elastic: None });
    }
    Ok(())
}

pub(crate) async fn modify(
    call: &Call<'_>,
    input: ModifyNetworkInterfaceAttributeRequest,
) -> Result<ModifyNetworkInterfaceAttributeNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let id = input.network_interface_id.clone().unwrap_or_default();
    let change = Change::of(input)?;
    // A group it joins is not deleted meanwhile.
    let _admission = call.service.admission.read().await;
    call.transact(|changes| {
        let eni = call.get::<EniRecord>(&id)?;
        check_manageable(call, &eni)?;
        let mut record = eni.record.clone();
        change.apply(call, changes, &mut record)?;
        changes.replace(&eni, &record)
    })
    .await?;
    Ok(ModifyNetworkInterfaceAttributeNoOutput {})
}

pub(crate) async fn reset(
    call: &Call<'_>,
    input: ResetNetworkInterfaceAttributeRequest,
) -> Result<ResetNetworkInterfaceAttributeNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    // The value says nothing: that the parameter is there means "reset it".
    input.source_dest_check.ok_or_else(|| missing("SourceDestCheck"))?;
    let id = input.network_interface_id.unwrap_or_default();
    call.transact(|changes| {
        let eni = call.get::<EniRecord>(&id)?;
        check_manageable(call, &eni)?;
        let mut record = eni.record.clone();
        record.source_dest_check = true;
        changes.replace(&eni, &record)
    })
    .await?;
    Ok(ResetNetworkInterfaceAttributeNoOutput {})
}
