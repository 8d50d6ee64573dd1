//! Task definitions: families of numbered revisions.

use ferrogate_api::{ApiError, ecs};
use ferrogate_store::{Json, Txn};

use super::{one_of, page, tags};
use crate::call::Call;
use crate::definition::checked;
use crate::errors::{client, contended};
use crate::names::{self, DefinitionName};
use crate::state::{FamilyRecord, Queue, RevisionRecord, RevisionStatus, Scope, get_definition};

const DELETIONS_PER_CALL_MAX: usize = 10;

/// A revision with its status.
pub(crate) struct Found {
    pub definition: ecs::TaskDefinition,
    pub revision: Json<RevisionRecord>,
}

impl Found {
    /// As callers see it.
    pub(crate) fn shape(&self) -> ecs::TaskDefinition {
        let revision = &self.revision.record;
        ecs::TaskDefinition {
            status: Some(revision.status.name().into()),
            deregistered_at: revision.deregistered_at,
            delete_requested_at: revision.delete_requested_at,
            ..self.definition.clone()
        }
    }
}

/// The revision that a caller means; without a number the latest active one.
pub(crate) fn find(call: &Call<'_>, name: &DefinitionName) -> Option<Found> {
    let number = match name.revision {
        Some(number) => number,
        None => call.get::<FamilyRecord>(&call.scope.family(&name.family))?.record.latest_active?,
    };
    let revision = call.get::<RevisionRecord>(&call.scope.revision(&name.family, number))?;
    let definition = get_definition(&*call.service.store, &call.scope, &name.family, number)?;
    Some(Found { definition, revision })
}

pub(crate) async fn register(
    call: &Call<'_>,
    mut input: ecs::RegisterTaskDefinitionRequest,
) -> Result<ecs::RegisterTaskDefinitionResponse, ApiError> {
    let tags = tags::checked(input.tags.take())?;
    let definition = checked(&call.scope, input)?;
    let family = definition.family.clone().unwrap_or_default();
    let found = call
        .transact(|| {
            let key = call.scope.family(&family);
            let before = call.get::<FamilyRecord>(&key);
            let number = before.as_ref().map_or(0, |before| before.record.last_revision) + 1;
            let record = FamilyRecord {
                family: family.clone(),
                last_revision: number,
                latest_active: Some(number),
                has_revisions: true,
            };
            let definition = ecs::TaskDefinition {
                task_definition_arn: Some(call.scope.definition_arn(&family, number)),
                revision: i32::try_from(number).ok(),
                registered_at: Some(call.cx.now),
                registered_by: Some(call.cx.principal.arn.clone()),
                ..definition.clone()
            };
            let revision = RevisionRecord {
                family: family.clone(),
                revision: number,
                status: RevisionStatus::Active,
                deregistered_at: None,
                delete_requested_at: None,
                tags: tags.clone(),
            };
            let revision_key = call.scope.revision(&family, number);
            let txn = Txn::new()
                .when_revision(&key, before.map_or(0, |before| before.mod_revision))
                .put_json(key, &record)
                .put_json(call.scope.definition(&family, number), &definition)
                .put_json(&revision_key, &revision);
            let revision =
                Json { key: revision_key.into(), record: revision, create_revision: 0, mod_revision: 0 };
            Ok((txn, Found { definition, revision }))
        })
        .await?;
    call.service.registrations.tell(&call.scope, &found.definition);
    Ok(ecs::RegisterTaskDefinitionResponse {
        task_definition: Some(found.shape()),
        tags: Some(tags::shape(&tags)),
    })
}

pub(crate) fn describe(
    call: &Call<'_>,
    input: ecs::DescribeTaskDefinitionRequest,
) -> Result<ecs::DescribeTaskDefinitionResponse, ApiError> {
    let name = names::definition(&call.scope, input.task_definition.as_deref().unwrap_or_default())?;
    let found = find(call, &name).ok_or_else(|| client("Unable to describe task definition."))?;
    input.include.iter().flatten().try_for_each(|field| one_of("include", Some(field), &["TAGS"]))?;
    let with_tags = input.include.iter().flatten().any(|field| field == "TAGS");
    let tags = with_tags.then(|| tags::shape(&found.revision.record.tags));
    Ok(ecs::DescribeTaskDefinitionResponse { task_definition: Some(found.shape()), tags })
}

/// The family as it is once this revision is no longer active.
fn without_active(call: &Call<'_>, mut family: FamilyRecord, number: u32) -> FamilyRecord {
    if family.latest_active == Some(number) {
        let revisions: Vec<Json<RevisionRecord>> = call.range(&call.scope.revisions(&family.family));
        let others = revisions.iter().map(|found| &found.record);
        let active = others.filter(|one| one.status == RevisionStatus::Active && one.revision != number);
        family.latest_active = active.map(|one| one.revision).max();
    }
    family
}

pub(crate) async fn deregister(
    call: &Call<'_>,
    input: ecs::DeregisterTaskDefinitionRequest,
) -> Result<ecs::DeregisterTaskDefinitionResponse, ApiError> {
    let identifier = input.task_definition.unwrap_or_default();
    let name = names::definition(&call.scope, &identifier)?;
    if name.revision.is_none() {
        return Err(client(format!(
            "Invalid revision number. Name the revision: '{identifier}' is all of a family."
        )));
    }
    let found = call
        .transact(|| {
            let mut found = find(call, &name).ok_or_else(|| client("The specified task definition does not exist."))?;
            if found.revision.record.status != RevisionStatus::Active {
                return Err(client(
                    "The specified task definition is inactive. You are not able to deregister an inactive task definition.",
                ));
            }
            found.revision.record.status = RevisionStatus::Inactive;
            found.revision.record.deregistered_at = Some(call.cx.now);
            let number = found.revision.record.revision;
            let key = call.scope.family(&name.family);
            let family = call.get::<FamilyRecord>(&key).ok_or_else(contended)?;
            let txn = Txn::new()
                .when_revision(&*family.key, family.mod_revision)
                .when_revision(&*found.revision.key, found.revision.mod_revision)
                .put_json(key, &without_active(call, family.record, number))
                .put_json(&*found.revision.key, &found.revision.record);
            Ok((txn, found))
        })
        .await?;
    Ok(ecs::DeregisterTaskDefinitionResponse { task_definition: Some(found.shape()) })
}

pub(crate) async fn delete(
    call: &Call<'_>,
    input: ecs::DeleteTaskDefinitionsRequest,
) -> Result<ecs::DeleteTaskDefinitionsResponse, ApiError> {
    let identifiers = input.task_definitions.unwrap_or_default();
    if identifiers.is_empty() || identifiers.len() > DELETIONS_PER_CALL_MAX {
        let message = format!("Task definitions should have between 1 and {DELETIONS_PER_CALL_MAX} items.");
        return Err(ApiError::new("InvalidParameterException", message));
    }
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for identifier in identifiers {
        let name = names::definition(&call.scope, &identifier)?;
        match delete_one(call, &name).await? {
            Ok(definition) => deleted.push(definition),
            Err(reason) => {
                let arn = if identifier.starts_with("arn:") {
                    identifier
                } else {
                    call.scope.arn(format!("task-definition/{identifier}"))
                };
                failures.push(ecs::Failure { arn: Some(arn), reason: Some(reason.into()), detail: None });
            }
        }
    }
    Ok(ecs::DeleteTaskDefinitionsResponse { task_definitions: Some(deleted), failures: Some(failures) })
}

/// Marks it; the sweep deletes it once nothing refers to it. `Err`: why not.
async fn delete_one(
    call: &Call<'_>,
    name: &DefinitionName,
) -> Result<Result<ecs::TaskDefinition, &'static str>, ApiError> {
    let missing = "The specified task definition does not exist. Specify a valid account, family, revision and try again.";
    let active = "The specified task definition is still in ACTIVE status. Please deregister the target and try again.";
    if name.revision.is_none() {
        return Ok(Err(missing));
    }
    call.transact(|| {
        let Some(mut found) = find(call, name) else { return Ok((Txn::new(), Err(missing))) };
        let revision = &mut found.revision.record;
        match revision.status {
            RevisionStatus::Active => return Ok((Txn::new(), Err(active))),
            RevisionStatus::DeleteInProgress => return Ok((Txn::new(), Ok(found.shape()))),
            RevisionStatus::Inactive => revision.status = RevisionStatus::DeleteInProgress,
        }
        revision.delete_requested_at = Some(call.cx.now);
        let txn = Txn::new()
            .when_revision(&*found.revision.key, found.revision.mod_revision)
            .put_json(&*found.revision.key, revision)
            .put(Queue::delete_definition(&call.scope, &revision.family, revision.revision), *b"");
        Ok((txn, Ok(found.shape())))
    })
    .await
}

pub(crate) fn list_families(
    call: &Call<'_>,
    input: ecs::ListTaskDefinitionFamiliesRequest,
) -> Result<ecs::ListTaskDefinitionFamiliesResponse, ApiError> {
    one_of("status", input.status.as_deref(), &["ACTIVE", "INACTIVE", "ALL"])?;
    let prefix = format!("{}{}", call.scope.families(), input.family_prefix.unwrap_or_default());
    let families: Vec<Json<FamilyRecord>> = call.range(&prefix);
    let status = input.status.as_deref().unwrap_or("ACTIVE");
    let wanted = families.into_iter().map(|found| found.record).filter(|family| match status {
        "ALL" => family.has_revisions,
        "INACTIVE" => family.has_revisions && family.latest_active.is_none(),
        _ => family.latest_active.is_some(),
    });
    let page = page(wanted, |family| &family.family, input.next_token.as_deref(), input.max_results)?;
    let families = page.items.into_iter().map(|family| family.family).collect();
    Ok(ecs::ListTaskDefinitionFamiliesResponse { families: Some(families), next_token: page.next_token })
}

pub(crate) fn list(
    call: &Call<'_>,
    input: ecs::ListTaskDefinitionsRequest,
) -> Result<ecs::ListTaskDefinitionsResponse, ApiError> {
    one_of("status", input.status.as_deref(), &["ACTIVE", "INACTIVE", "DELETE_IN_PROGRESS"])?;
    one_of("sort", input.sort.as_deref(), &["ASC", "DESC"])?;
    let status = input.status.as_deref().unwrap_or("ACTIVE");
    let prefix = match input.family_prefix.filter(|family| !family.is_empty()) {
        Some(family) => call.scope.revisions(&family),
        None => call.scope.all_revisions(),
    };
    let revisions: Vec<Json<RevisionRecord>> = call.range(&prefix);
    let revisions = revisions.into_iter().map(|found| found.record).filter(|one| one.status.name() == status);
    let descending = input.sort.as_deref() == Some("DESC");
    let mut wanted: Vec<(String, String)> =
        revisions.map(|one| (sort_key(&one, descending), arn(&call.scope, &one))).collect();
    wanted.sort();
    let page = page(wanted, |(key, _)| key, input.next_token.as_deref(), input.max_results)?;
    let arns = page.items.into_iter().map(|(_, arn)| arn).collect();
    Ok(ecs::ListTaskDefinitionsResponse { task_definition_arns: Some(arns), next_token: page.next_token })
}

fn arn(scope: &Scope, revision: &RevisionRecord) -> String {
    scope.definition_arn(&revision.family, revision.revision)
}

/// By family and revision; backwards, every character stands for its opposite and the shorter comes last.
fn sort_key(revision: &RevisionRecord, descending: bool) -> String {
    // The separator is below whatever a family can have in it.
    let key = format!("{}\u{1}{:010}", revision.family, revision.revision);
    if !descending {
        return key;
    }
    key.bytes().map(|byte| format!("{:02x}", u8::MAX - byte)).chain(["~".to_owned()]).collect()
}
