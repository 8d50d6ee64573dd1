//! Repositories and their policies.

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context, PrincipalKind};
use ferrogate_model::{hex_id, paginate};
use ferrogate_policy::{self as policy, DocumentKind, Policy};
use ferrogate_store::{Txn, range_json, update_json};

use super::{page_size, tags};
use crate::name::RegistryName;
use crate::state::{self, Kind, Place, RepositoryRecord, repository};
use crate::{EcrService, errors};

/// Of one registry, in one region (Service Quotas allow 100,000).
const REPOSITORIES_MAX: usize = 10_000;

pub(crate) fn shape(service: &EcrService, cx: &Context, record: RepositoryRecord) -> Repository {
    let registry = RegistryName { account: cx.account.clone(), region: cx.region.clone() };
    Repository {
        repository_arn: Some(record.arn(cx)),
        registry_id: Some(cx.account.clone()),
        repository_uri: Some(format!("{}/{}", registry.under(&service.options.domain), record.name)),
        repository_name: Some(record.name),
        created_at: Some(record.created_at),
        image_tag_mutability: Some(record.mutability),
        image_tag_mutability_exclusion_filters: exclusion_shapes(&record.exclusions),
        image_scanning_configuration: Some(ImageScanningConfiguration {
            scan_on_push: Some(record.scan_on_push),
        }),
        encryption_configuration: Some(EncryptionConfiguration {
            encryption_type: Some("AES256".into()),
            kms_key: None,
        }),
    }
}

fn exclusion_shapes(exclusions: &[String]) -> Option<Vec<ImageTagMutabilityExclusionFilter>> {
    let shapes = exclusions.iter().map(|filter| ImageTagMutabilityExclusionFilter {
        filter_type: Some("WILDCARD".into()),
        filter: Some(filter.clone()),
    });
    (!exclusions.is_empty()).then(|| shapes.collect())
}

/// Mutability and the filters it needs, or must not have.
fn mutability(
    mutability: Option<String>,
    filters: Option<Vec<ImageTagMutabilityExclusionFilter>>,
) -> Result<(String, Vec<String>), ApiError> {
    let mutability = mutability.unwrap_or_else(|| "MUTABLE".into());
    let filters: Vec<String> = filters.into_iter().flatten().filter_map(|filter| filter.filter).collect();
    let wants = mutability.ends_with("_WITH_EXCLUSION");
    if wants && filters.is_empty() {
        return Err(errors::constraint(
            "imageTagMutabilityExclusionFilters",
            &format!("at least one filter is needed with imageTagMutability {mutability}"),
        ));
    }
    if !wants && !filters.is_empty() {
        return Err(errors::constraint(
            "imageTagMutabilityExclusionFilters",
            &format!("filters cannot be used with imageTagMutability {mutability}"),
        ));
    }
    if let Some(bad) = filters.iter().find(|filter| filter.matches('*').count() > 2) {
        return Err(errors::constraint(
            "imageTagMutabilityExclusionFilters",
            &format!("'{bad}' has more than 2 wildcards"),
        ));
    }
    Ok((mutability, filters))
}

pub(crate) async fn create(
    service: &EcrService,
    cx: &Context,
    input: CreateRepositoryRequest,
) -> Result<CreateRepositoryResponse, ApiError> {
    state::own_registry(cx, input.registry_id.as_deref())?;
    if let Some(encryption) = input.encryption_configuration
        && (encryption.encryption_type.as_deref().is_some_and(|kind| kind != "AES256")
            || encryption.kms_key.is_some())
    {
        return Err(errors::unsupported("an encryptionConfiguration other than AES256"));
    }
    let name = input.repository_name.unwrap_or_default();
    let (mutability, exclusions) =
        mutability(input.image_tag_mutability, input.image_tag_mutability_exclusion_filters)?;
    let record = RepositoryRecord {
        name,
        id: hex_id(),
        created_at: cx.now,
        mutability,
        exclusions,
        scan_on_push: input.image_scanning_configuration.and_then(|scanning| scanning.scan_on_push)
            == Some(true),
        tags: tags::checked(input.tags.unwrap_or_default())?,
        policy: None,
        lifecycle: None,
        lifecycle_evaluated_at: None,
        preview: None,
    };
    make(service, cx, &record).await?;
    Ok(CreateRepositoryResponse { repository: Some(shape(service, cx, record)) })
}

/// Commits a new repository.
pub(crate) async fn make(
    service: &EcrService,
    cx: &Context,
    record: &RepositoryRecord,
) -> Result<(), ApiError> {
    let place = Place::of(cx);
    if service.store.range_from(&place.repository(""), None, REPOSITORIES_MAX).len() >= REPOSITORIES_MAX {
        return Err(errors::limit(format!(
            "The maximum number of repositories, {REPOSITORIES_MAX}, of this registry is reached; delete some."
        )));
    }
    let key = place.repository(&record.name);
    let txn = Txn::new().when_absent(&key).put_json(&key, record).put(place.content(&record.id), *b"");
    if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        Ok(())
    } else {
        Err(errors::repository_exists(cx, &record.name))
    }
}

pub(crate) async fn describe(
    service: &EcrService,
    cx: &Context,
    input: DescribeRepositoriesRequest,
) -> Result<DescribeRepositoriesResponse, ApiError> {
    if let Some(names) = input.repository_names.filter(|names| !names.is_empty()) {
        if input.next_token.is_some() || input.max_results.is_some() {
            return Err(errors::invalid(
                "repositoryNames cannot be used together with nextToken or maxResults.",
            ));
        }
        let found = names.iter().map(|name| {
            let found = repository(service, cx, input.registry_id.as_deref(), Some(name))?;
            Ok(shape(service, cx, found.record))
        });
        let repositories = found.collect::<Result<Vec<_>, ApiError>>()?;
        return Ok(DescribeRepositoriesResponse { repositories: Some(repositories), next_token: None });
    }
    state::own_registry(cx, input.registry_id.as_deref())?;
    let all = range_json::<RepositoryRecord>(&*service.store, &Place::of(cx).repository(""));
    let page =
        paginate(all, |found| &found.record.name, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let repositories = page.items.into_iter().map(|found| shape(service, cx, found.record)).collect();
    Ok(DescribeRepositoriesResponse { repositories: Some(repositories), next_token: page.next_token })
}

pub(crate) async fn delete(
    service: &EcrService,
    cx: &Context,
    input: DeleteRepositoryRequest,
) -> Result<DeleteRepositoryResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let found = repository(service, cx, input.registry_id.as_deref(), name)?;
    let name = found.record.name.clone();
    let force = input.force == Some(true);
    let deleted = state::change_content(
        &*service.store,
        &Place::of(cx),
        &name,
        || errors::no_repository(&cx.account, &name),
        |repository| {
            let id = &repository.record.id;
            if !force && !service.store.range_from(&repository.place.all(Kind::Image, id), None, 1).is_empty()
            {
                return Err(errors::repository_not_empty(cx, &name));
            }
            let mut change = state::Change::none(repository.record.clone())
                .delete(repository.place.repository(&name))
                .delete(repository.place.content(id));
            let prefixes = Kind::ALL.map(|kind| repository.place.all(kind, id));
            change.ops.extend(prefixes.map(ferrogate_store::Op::DeletePrefix));
            Ok(change)
        },
    )
    .await?;
    // Files go with the sweep.
    Ok(DeleteRepositoryResponse { repository: Some(shape(service, cx, deleted)) })
}

/// Changes a repository's record, which has to be there. Returns what was written.
pub(crate) async fn change(
    service: &EcrService,
    cx: &Context,
    registry: Option<&str>,
    name: &str,
    mut change: impl FnMut(&mut RepositoryRecord) -> Result<(), ApiError>,
) -> Result<RepositoryRecord, ApiError> {
    let found = repository(service, cx, registry, Some(name))?;
    let key = found.place.repository(name);
    let changed = update_json(&*service.store, &key, |record: Option<RepositoryRecord>| {
        let mut record = record.ok_or_else(|| errors::no_repository(&cx.account, name))?;
        change(&mut record)?;
        Ok(Some(record))
    });
    let written = changed.await.map_err(errors::update)?;
    written.ok_or_else(|| errors::no_repository(&cx.account, name))
}

pub(crate) async fn put_mutability(
    service: &EcrService,
    cx: &Context,
    input: PutImageTagMutabilityRequest,
) -> Result<PutImageTagMutabilityResponse, ApiError> {
    let (mutability, exclusions) =
        mutability(input.image_tag_mutability, input.image_tag_mutability_exclusion_filters)?;
    let name = input.repository_name.unwrap_or_default();
    let record = change(service, cx, input.registry_id.as_deref(), &name, |record| {
        record.mutability.clone_from(&mutability);
        record.exclusions.clone_from(&exclusions);
        Ok(())
    })
    .await?;
    Ok(PutImageTagMutabilityResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(name),
        image_tag_mutability_exclusion_filters: exclusion_shapes(&record.exclusions),
        image_tag_mutability: Some(record.mutability),
    })
}

pub(crate) async fn get_policy(
    service: &EcrService,
    cx: &Context,
    input: GetRepositoryPolicyRequest,
) -> Result<GetRepositoryPolicyResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let found = repository(service, cx, input.registry_id.as_deref(), name)?;
    let text = found.record.policy.ok_or_else(|| errors::no_repository_policy(cx, &found.record.name))?;
    Ok(GetRepositoryPolicyResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(found.record.name),
        policy_text: Some(text),
    })
}

pub(crate) async fn set_policy(
    service: &EcrService,
    cx: &Context,
    input: SetRepositoryPolicyRequest,
) -> Result<SetRepositoryPolicyResponse, ApiError> {
    let name = input.repository_name.unwrap_or_default();
    let found = repository(service, cx, input.registry_id.as_deref(), Some(&name))?;
    let text = input.policy_text.unwrap_or_default();
    let parsed = Policy::parse(&text, DocumentKind::Resource).map_err(|error| {
        errors::constraint("PolicyText", &format!("Invalid repository policy provided: {error}"))
    })?;
    if input.force != Some(true) && locks_out(cx, &found.record.arn(cx), parsed) {
        return Err(errors::constraint(
            "PolicyText",
            "The policy would not let you set or delete the repository's policy again; use force to do so anyway",
        ));
    }
    change(service, cx, None, &name, |record| {
        record.policy = Some(text.clone());
        Ok(())
    })
    .await?;
    Ok(SetRepositoryPolicyResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(name),
        policy_text: Some(text),
    })
}

/// Whether the policy denies its caller the next change of it.
fn locks_out(cx: &Context, arn: &str, parsed: std::sync::Arc<Policy>) -> bool {
    let principal = &*cx.principal;
    let mut context = policy::Context::new();
    context.set_time(cx.now);
    let request = policy::Request {
        principal: policy::Principal {
            arn: &principal.arn,
            account: &principal.account,
            id: &principal.user_id,
            kind: match &principal.kind {
                PrincipalKind::Root => policy::PrincipalKind::Root,
                PrincipalKind::User { name } => policy::PrincipalKind::User { name },
                PrincipalKind::AssumedRole { role_arn, .. } => {
                    policy::PrincipalKind::AssumedRole { role_arn }
                }
                PrincipalKind::Service { name } => policy::PrincipalKind::Service { name },
            },
            tags: &principal.tags,
        },
        action: "ecr:SetRepositoryPolicy",
        resource: arn,
        resource_account: &cx.account,
        context: &context,
    };
    let named = policy::Named { name: "repository policy".into(), policy: parsed };
    let policies = policy::Policies { resource: Some(&named), ..policy::Policies::default() };
    matches!(policy::evaluate(&request, &policies).outcome, policy::Outcome::ExplicitDeny)
}

pub(crate) async fn delete_policy(
    service: &EcrService,
    cx: &Context,
    input: DeleteRepositoryPolicyRequest,
) -> Result<DeleteRepositoryPolicyResponse, ApiError> {
    let name = input.repository_name.unwrap_or_default();
    let mut text = None;
    change(service, cx, input.registry_id.as_deref(), &name, |record| {
        text = record.policy.take();
        if text.is_some() { Ok(()) } else { Err(errors::no_repository_policy(cx, &name)) }
    })
    .await?;
    Ok(DeleteRepositoryPolicyResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(name),
        policy_text: text,
    })
}
