//! Tags of load balancers, listeners, rules and target groups.

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_store::Txn;

use crate::call::{AnyRule, Call};
use crate::errors::invalid;
use crate::state::Tags;

/// ELB user guides, "Quotas".
const TAGS_MAX: usize = 50;

pub(crate) fn new(given: Option<Vec<Tag>>) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    add_to(&mut tags, given.unwrap_or_default())?;
    Ok(tags)
}

fn add_to(tags: &mut Tags, given: Vec<Tag>) -> Result<(), ApiError> {
    let mut seen = std::collections::BTreeSet::new();
    for tag in given {
        let key = tag.key.unwrap_or_default();
        if !seen.insert(key.clone()) {
            return Err(ApiError::new(
                "DuplicateTagKeys",
                format!("The tag key '{key}' was specified more than once"),
            ));
        }
        if key.to_lowercase().starts_with("aws:") {
            return Err(invalid(format!("The tag key '{key}' cannot begin with 'aws:'; it is reserved")));
        }
        tags.insert(key, tag.value.unwrap_or_default());
    }
    if tags.len() > TAGS_MAX {
        return Err(ApiError::new("TooManyTags", format!("A resource can have at most '{TAGS_MAX}' tags")));
    }
    Ok(())
}

/// Changes the tags of a resource, into the transaction.
fn change(
    call: &Call<'_>,
    txn: Txn,
    arn: &str,
    change: &mut dyn FnMut(&mut Tags) -> Result<(), ApiError>,
) -> Result<Txn, ApiError> {
    let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
    Ok(match resource.split('/').next().unwrap_or_default() {
        "loadbalancer" => {
            let mut record = call.balancer(arn)?;
            change(&mut record.tags)?;
            txn.put_json(record.key(), &record)
        }
        "listener" => {
            let mut record = call.listener(arn)?;
            change(&mut record.tags)?;
            txn.put_json(record.key(), &record)
        }
        "listener-rule" => match call.rule(arn)? {
            AnyRule::Own(mut record) => {
                change(&mut record.tags)?;
                txn.put_json(record.key(), &*record)
            }
            AnyRule::Default(_) => return Err(invalid(format!("The default rule '{arn}' cannot have tags"))),
        },
        "targetgroup" => {
            let mut record = call.group(arn)?;
            change(&mut record.tags)?;
            txn.put_json(record.key(), &record)
        }
        _ => {
            return Err(invalid(format!(
                "'{arn}' is not a valid load balancer, listener, rule or target group ARN"
            )));
        }
    })
}

/// The tags of whatever the ARN names.
pub(crate) fn of(call: &Call<'_>, arn: &str) -> Result<Tags, ApiError> {
    let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
    match resource.split('/').next().unwrap_or_default() {
        "loadbalancer" => call.balancer(arn).map(|record| record.tags),
        "listener" => call.listener(arn).map(|record| record.tags),
        "listener-rule" => call.rule(arn).map(|rule| match rule {
            AnyRule::Own(record) => record.tags,
            AnyRule::Default(_) => Tags::new(),
        }),
        "targetgroup" => call.group(arn).map(|record| record.tags),
        _ => {
            Err(invalid(format!("'{arn}' is not a valid load balancer, listener, rule or target group ARN")))
        }
    }
}

pub(crate) fn shape(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// Each once: two puts of one record in a transaction would lose the first.
fn distinct(arns: Option<Vec<String>>) -> Vec<String> {
    let mut arns = arns.unwrap_or_default();
    arns.sort();
    arns.dedup();
    arns
}

pub(crate) async fn add(call: &Call<'_>, input: AddTagsInput) -> Result<AddTagsOutput, ApiError> {
    let (arns, given) = (distinct(input.resource_arns), input.tags.unwrap_or_default());
    call.decide(|| {
        let txn = arns
            .iter()
            .try_fold(Txn::new(), |txn, arn| change(call, txn, arn, &mut |tags| add_to(tags, given.clone())));
        Ok((txn?, ()))
    })
    .await?;
    Ok(AddTagsOutput {})
}

pub(crate) async fn remove(call: &Call<'_>, input: RemoveTagsInput) -> Result<RemoveTagsOutput, ApiError> {
    let (arns, keys) = (distinct(input.resource_arns), input.tag_keys.unwrap_or_default());
    call.decide(|| {
        let txn = arns.iter().try_fold(Txn::new(), |txn, arn| {
            change(call, txn, arn, &mut |tags| {
                tags.retain(|key, _| !keys.contains(key));
                Ok(())
            })
        });
        Ok((txn?, ()))
    })
    .await?;
    Ok(RemoveTagsOutput {})
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeTagsInput,
) -> Result<DescribeTagsOutput, ApiError> {
    let describe = |arn: String| {
        let tags = shape(&of(call, &arn)?);
        Ok(TagDescription { resource_arn: Some(arn), tags: Some(tags) })
    };
    let all: Result<Vec<TagDescription>, ApiError> =
        input.resource_arns.unwrap_or_default().into_iter().map(describe).collect();
    Ok(DescribeTagsOutput { tag_descriptions: Some(all?) })
}
