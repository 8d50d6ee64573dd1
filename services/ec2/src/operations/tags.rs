//! CreateTags, DeleteTags, DescribeTags, and the tags that a creating call brings along.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::*;

use crate::call::Call;
use crate::db::Changes;
use crate::errors::{check_dry_run, invalid_value, missing};
use crate::filter::{Described, Filters, Values, page};
use crate::ids::{self, Kind};
use crate::state::*;

/// EC2 user guide, "Tag restrictions".
const TAGS_PER_RESOURCE_MAX: usize = 50;
const KEY_CHARACTERS_MAX: usize = 128;
const VALUE_CHARACTERS_MAX: usize = 256;
/// EC2 API reference, CreateTags: "up to 1000 resources".
const RESOURCES_PER_CALL_MAX: usize = 1000;

/// Tags in the form of an answer.
pub(crate) fn shape(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// The tags of a creating call, which may only be for what it creates.
pub(crate) fn of_specifications(
    call: &Call<'_>,
    specifications: Option<Vec<TagSpecification>>,
    kind: &Kind,
) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for specification in specifications.unwrap_or_default() {
        let resource_type = specification.resource_type.unwrap_or_default();
        if resource_type != kind.resource_type {
            let message =
                format!("'{resource_type}' is not a valid taggable resource type for this operation.");
            return Err(invalid_value(message));
        }
        for tag in specification.tags.unwrap_or_default() {
            let (key, value) = check(call, tag)?;
            if tags.insert(key.clone(), value).is_some() {
                return Err(invalid_value(format!("Duplicate tag key '{key}' specified.")));
            }
        }
    }
    check_count(&tags)?;
    Ok(tags)
}

fn check(call: &Call<'_>, tag: Tag) -> Result<(String, String), ApiError> {
    let key = tag.key.filter(|key| !key.is_empty()).ok_or_else(|| missing("Tag.Key"))?;
    let value = tag.value.unwrap_or_default();
    if key.chars().count() > KEY_CHARACTERS_MAX {
        return Err(invalid_value(format!(
            "Tag key exceeds the maximum length of {KEY_CHARACTERS_MAX} characters"
        )));
    }
    if value.chars().count() > VALUE_CHARACTERS_MAX {
        return Err(invalid_value(format!(
            "Tag value exceeds the maximum length of {VALUE_CHARACTERS_MAX} characters"
        )));
    }
    check_not_reserved(call, &key)?;
    Ok((key, value))
}

fn check_not_reserved(call: &Call<'_>, key: &str) -> Result<(), ApiError> {
    // Services mark what they make (aws:ecs:serviceName); customers cannot pass for them.
    if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"))
        && call.service_principal().is_none()
    {
        return Err(invalid_value("Tag keys starting with 'aws:' are reserved for internal use"));
    }
    Ok(())
}

fn check_count(tags: &Tags) -> Result<(), ApiError> {
    if tags.keys().filter(|key| !key.starts_with("aws:")).count() > TAGS_PER_RESOURCE_MAX {
        let message = "The maximum number of Tags for a resource has been reached.";
        return Err(ApiError::new("TagLimitExceeded", message));
    }
    Ok(())
}

pub(crate) async fn create_tags(
    call: &Call<'_>,
    input: CreateTagsRequest,
) -> Result<CreateTagsNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let mut tags = Tags::new();
    for tag in input.tags.unwrap_or_default() {
        let (key, value) = check(call, tag)?;
        tags.insert(key, value);
    }
    if tags.is_empty() {
        return Err(missing("Tag"));
    }
    let resources = check_resources(input.resources)?;
    call.transact(|changes| {
        change_all(call, changes, &resources, &|own| {
            own.extend(tags.clone());
            check_count(own)
        })
    })
    .await?;
    Ok(CreateTagsNoOutput {})
}

pub(crate) async fn delete_tags(
    call: &Call<'_>,
    input: DeleteTagsRequest,
) -> Result<DeleteTagsNoOutput, ApiError> {
    check_dry_run(input.dry_run)?;
    let tags = input.tags.unwrap_or_default();
    for tag in &tags {
        check_not_reserved(call, tag.key.as_deref().unwrap_or_default())?;
    }
    let resources = check_resources(input.resources)?;
    let is_service = call.service_principal().is_some();
    call.transact(|changes| {
        change_all(call, changes, &resources, &|own| {
            if tags.is_empty() {
                own.retain(|key, _| key.starts_with("aws:") && !is_service);
            }
            for tag in &tags {
                let key = tag.key.as_deref().unwrap_or_default();
                // EC2 API reference, DeleteTags: with a value, the tag goes only if it has that value.
                if tag.value.is_none() || own.get(key) == tag.value.as_ref() {
                    own.remove(key);
                }
            }
            Ok(())
        })
    })
    .await?;
    Ok(DeleteTagsNoOutput {})
}

fn check_resources(resources: Option<Vec<String>>) -> Result<Vec<String>, ApiError> {
    let mut resources = resources.unwrap_or_default();
    resources.sort();
    resources.dedup();
    if resources.is_empty() {
        return Err(missing("ResourceId"));
    }
    if resources.len() > RESOURCES_PER_CALL_MAX {
        return Err(invalid_value(format!(
            "At most {RESOURCES_PER_CALL_MAX} resources can be tagged in one call"
        )));
    }
    Ok(resources)
}

type ChangeTags<'a> = dyn Fn(&mut Tags) -> Result<(), ApiError> + 'a;

fn change_all(
    call: &Call<'_>,
    changes: &mut Changes,
    resources: &[String],
    change: &ChangeTags<'_>,
) -> Result<(), ApiError> {
    let (rules, others): (Vec<&String>, Vec<&String>) =
        resources.iter().partition(|id| id.starts_with("sgr-"));
    for id in others {
        match ids::kind_of(id)?.prefix {
            "vpc" => change_one::<VpcRecord>(call, changes, id, change)?,
            "subnet" => change_one::<SubnetRecord>(call, changes, id, change)?,
            "sg" => {
                // A group's record holds its rules too: both change in one write.
                let stored = call.get::<GroupRecord>(id)?;
                let mut record = stored.record.clone();
                change(&mut record.tags)?;
                change_rules(&mut record, &rules, change)?;
                changes.replace(&stored, &record)?;
            }
            "eni" => change_one::<EniRecord>(call, changes, id, change)?,
            "igw" => change_one::<InternetGatewayRecord>(call, changes, id, change)?,
            "rtb" => change_one::<RouteTableRecord>(call, changes, id, change)?,
            "acl" => change_one::<NetworkAclRecord>(call, changes, id, change)?,
            "eipalloc" => change_one::<AddressRecord>(call, changes, id, change)?,
            _ => change_one::<DhcpOptionsRecord>(call, changes, id, change)?,
        }
    }
    if rules.is_empty() {
        return Ok(());
    }
    let groups = call.all::<GroupRecord>()?;
    for id in &rules {
        ids::GROUP_RULE.check(id)?;
        if !groups.iter().any(|group| group.rules.iter().any(|rule| rule.rule_id == **id)) {
            return Err(ids::GROUP_RULE.not_found(id));
        }
    }
    for stored in groups.iter().filter(|group| !resources.contains(&group.group_id)) {
        let mut record = stored.record.clone();
        change_rules(&mut record, &rules, change)?;
        if record != stored.record {
            changes.replace(stored, &record)?;
        }
    }
    Ok(())
}

fn change_one<R: Record>(
    call: &Call<'_>,
    changes: &mut Changes,
    id: &str,
    change: &ChangeTags<'_>,
) -> Result<(), ApiError> {
    let stored = call.get::<R>(id)?;
    let mut record = stored.record.clone();
    change(record.tags_mut())?;
    changes.replace(&stored, &record)
}

fn change_rules(record: &mut GroupRecord, ids: &[&String], change: &ChangeTags<'_>) -> Result<(), ApiError> {
    record
        .rules
        .iter_mut()
        .filter(|rule| ids.contains(&&rule.rule_id))
        .try_for_each(|rule| change(&mut rule.tags))
}

/// A tag with the key its pages are sorted by.
struct DescribedTag {
    sort: String,
    description: TagDescription,
}

impl Described for DescribedTag {
    const FILTERS: &'static [&'static str] = &["key", "resource-id", "resource-type", "value"];
    const TAGGED: bool = false;

    fn id(&self) -> &str {
        &self.sort
    }

    fn tags(&self) -> &[Tag] {
        &[]
    }

    fn values(&self, filter: &str) -> Values {
        match filter {
            "key" => Values::one(&self.description.key),
            "resource-id" => Values::one(&self.description.resource_id),
            "resource-type" => Values::one(&self.description.resource_type),
            "value" => Values::one(&self.description.value),
            _ => Values::none(),
        }
    }
}

pub(crate) async fn describe_tags(
    call: &Call<'_>,
    input: DescribeTagsRequest,
) -> Result<DescribeTagsResult, ApiError> {
    check_dry_run(input.dry_run)?;
    // Here `tag:K` means: the tag K itself, with one of the values.
    let (by_tag, others): (Vec<Filter>, Vec<Filter>) = input
        .filters
        .unwrap_or_default()
        .into_iter()
        .partition(|filter| filter.name.as_deref().is_some_and(|name| name.starts_with("tag:")));
    let as_key_and_value = by_tag.into_iter().flat_map(|filter| {
        let name = filter.name.unwrap_or_default();
        let key = name["tag:".len()..].replace('\\', "\\\\").replace('*', "\\*").replace('?', "\\?");
        let is_key = Filter { name: Some("key".into()), values: Some(vec![key]) };
        [is_key, Filter { name: Some("value".into()), values: filter.values }]
    });
    let filters = Filters::new::<DescribedTag>(Some(others.into_iter().chain(as_key_and_value).collect()))?;
    let mut tags = Vec::new();
    collect::<VpcRecord>(call, &mut tags)?;
    collect::<SubnetRecord>(call, &mut tags)?;
    collect::<EniRecord>(call, &mut tags)?;
    collect::<InternetGatewayRecord>(call, &mut tags)?;
    collect::<RouteTableRecord>(call, &mut tags)?;
    collect::<NetworkAclRecord>(call, &mut tags)?;
    collect::<AddressRecord>(call, &mut tags)?;
    collect::<DhcpOptionsRecord>(call, &mut tags)?;
    for mut group in call.all::<GroupRecord>()? {
        for rule in &group.record.rules {
            push(&mut tags, &ids::GROUP_RULE, &rule.rule_id, &rule.tags);
        }
        let own = std::mem::take(group.record.tags_mut());
        push(&mut tags, &ids::GROUP, &group.record.group_id, &own);
    }
    let page = page(tags, &filters, input.max_results, input.next_token.as_deref())?;
    Ok(DescribeTagsResult {
        tags: Some(page.items.into_iter().map(|tag| tag.description).collect()),
        next_token: page.next_token,
    })
}

fn collect<R: Record>(call: &Call<'_>, into: &mut Vec<DescribedTag>) -> Result<(), ApiError> {
    for mut stored in call.all::<R>()? {
        let tags = std::mem::take(stored.record.tags_mut());
        push(into, R::KIND, stored.record.id(), &tags);
    }
    Ok(())
}

fn push(into: &mut Vec<DescribedTag>, kind: &Kind, id: &str, tags: &Tags) {
    into.extend(tags.iter().map(|(key, value)| DescribedTag {
        sort: format!("{id}/{key}"),
        description: TagDescription {
            key: Some(key.clone()),
            resource_id: Some(id.to_owned()),
            resource_type: Some(kind.resource_type.to_owned()),
            value: Some(value.clone()),
        },
    }));
}
