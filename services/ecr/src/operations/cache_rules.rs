//! Pull through cache rules.

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::{Txn, get_json, range_json};

use super::page_size;
use crate::state::{self, CacheRuleRecord, Place};
use crate::{EcrService, errors, upstream};

/// "Pull through cache rules per registry" (Service Quotas).
const RULES_MAX: usize = 50;
const ROOT: &str = "ROOT";

/// What can be an upstream: name, host, and whether the host is any that ends so. In the order of the API reference.
const UPSTREAMS: [(&str, &str, bool); 8] = [
    ("ecr-public", "public.ecr.aws", false),
    ("k8s", "registry.k8s.io", false),
    ("quay", "quay.io", false),
    ("docker-hub", "registry-1.docker.io", false),
    ("github-container-registry", "ghcr.io", false),
    ("azure-container-registry", ".azurecr.io", true),
    ("gitlab-container-registry", "registry.gitlab.com", false),
    ("chainguard", "cgr.dev", false),
];

fn upstream_of(host: &str) -> Option<&'static str> {
    let found = UPSTREAMS.iter().find(|(_, known, suffix)| {
        if *suffix { host.ends_with(known) && host.len() > known.len() } else { host == *known }
    });
    found.map(|(name, ..)| *name)
}

/// The rule for a repository, the one of the longest prefix.
pub(crate) fn rule_for(service: &EcrService, place: &Place, repository: &str) -> Option<CacheRuleRecord> {
    let rules = range_json::<CacheRuleRecord>(&*service.store, &place.cache_rule(""));
    let fits = |rule: &CacheRuleRecord| {
        rule.prefix == ROOT || repository.strip_prefix(&rule.prefix).is_some_and(|rest| rest.starts_with('/'))
    };
    let length = |rule: &CacheRuleRecord| if rule.prefix == ROOT { 0 } else { rule.prefix.len() };
    rules.into_iter().map(|found| found.record).filter(fits).max_by_key(length)
}

/// What a repository is called at the rule's upstream.
pub(crate) fn name_upstream(rule: &CacheRuleRecord, repository: &str) -> String {
    let rest = match rule.prefix.as_str() {
        ROOT => repository,
        prefix => repository.strip_prefix(prefix).unwrap_or(repository).trim_start_matches('/'),
    };
    match &rule.upstream_prefix {
        Some(prefix) => format!("{prefix}/{rest}"),
        None => rest.to_owned(),
    }
}

fn key(cx: &Context, prefix: &str) -> (String, String) {
    let prefix = prefix.trim_end_matches('/').to_owned();
    (Place::of(cx).cache_rule(&prefix), prefix)
}

fn find(service: &EcrService, cx: &Context, prefix: &str) -> Result<CacheRuleRecord, ApiError> {
    let (key, prefix) = key(cx, prefix);
    let found = get_json(&*service.store, &key).map(|found| found.record);
    found.ok_or_else(|| errors::no_cache_rule(cx, &prefix))
}

pub(crate) async fn create(
    service: &EcrService,
    cx: &Context,
    input: CreatePullThroughCacheRuleRequest,
) -> Result<CreatePullThroughCacheRuleResponse, ApiError> {
    state::own_registry(cx, input.registry_id.as_deref())?;
    if input.credential_arn.is_some() {
        return Err(errors::unsupported("credentialArn"));
    }
    if input.custom_role_arn.is_some() {
        return Err(errors::unsupported("customRoleArn"));
    }
    let upstream_url = input.upstream_registry_url.unwrap_or_default();
    let host = upstream_url.trim_start_matches("https://").trim_end_matches('/').to_owned();
    let refuse = |why: String| ApiError::new("UnsupportedUpstreamRegistryException", why);
    let upstream = upstream_of(&host).ok_or_else(|| {
        let known = UPSTREAMS.map(|(_, host, _)| host).join(", ");
        refuse(format!("The upstream registry '{upstream_url}' is not supported; supported are: {known}"))
    })?;
    if let Some(other) = input.upstream_registry.filter(|other| other != upstream) {
        return Err(refuse(format!(
            "The upstream registry URL '{upstream_url}' is not of the registry '{other}'"
        )));
    }
    let given = input.ecr_repository_prefix.unwrap_or_default();
    let (key, prefix) = key(cx, &given);
    let upstream_prefix = input
        .upstream_repository_prefix
        .map(|prefix| prefix.trim_end_matches('/').to_owned())
        .filter(|prefix| prefix != ROOT);
    let record = CacheRuleRecord {
        prefix,
        prefix_given: given,
        upstream_url: host,
        upstream: upstream.to_owned(),
        upstream_prefix,
        created_at: cx.now,
        updated_at: cx.now,
    };
    if service.store.range(&Place::of(cx).cache_rule("")).len() >= RULES_MAX {
        return Err(errors::limit(format!(
            "The registry has {RULES_MAX} pull through cache rules, the most there may be."
        )));
    }
    let txn = Txn::new().when_absent(&key).put_json(&key, &record);
    if !service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        let message = format!(
            "A pull through cache rule with ecrRepositoryPrefix '{}' already exists in the registry with id '{}'",
            record.prefix, cx.account
        );
        return Err(ApiError::new("PullThroughCacheRuleAlreadyExistsException", message));
    }
    Ok(CreatePullThroughCacheRuleResponse {
        ecr_repository_prefix: Some(record.prefix_given),
        upstream_registry_url: Some(record.upstream_url),
        created_at: Some(record.created_at),
        registry_id: Some(cx.account.clone()),
        upstream_registry: Some(record.upstream),
        credential_arn: None,
        custom_role_arn: None,
        upstream_repository_prefix: Some(record.upstream_prefix.unwrap_or_else(|| ROOT.into())),
    })
}

pub(crate) async fn describe(
    service: &EcrService,
    cx: &Context,
    input: DescribePullThroughCacheRulesRequest,
) -> Result<DescribePullThroughCacheRulesResponse, ApiError> {
    state::own_registry(cx, input.registry_id.as_deref())?;
    let rules = match input.ecr_repository_prefixes.filter(|prefixes| !prefixes.is_empty()) {
        Some(prefixes) => {
            prefixes.iter().map(|prefix| find(service, cx, prefix)).collect::<Result<Vec<_>, _>>()?
        }
        None => {
            let all = range_json::<CacheRuleRecord>(&*service.store, &Place::of(cx).cache_rule(""));
            all.into_iter().map(|found| found.record).collect()
        }
    };
    let page =
        paginate(rules, |rule| &rule.prefix, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let rules = page.items.into_iter().map(|rule| PullThroughCacheRule {
        ecr_repository_prefix: Some(rule.prefix_given),
        upstream_registry_url: Some(rule.upstream_url),
        created_at: Some(rule.created_at),
        registry_id: Some(cx.account.clone()),
        credential_arn: None,
        custom_role_arn: None,
        upstream_repository_prefix: Some(rule.upstream_prefix.unwrap_or_else(|| ROOT.into())),
        upstream_registry: Some(rule.upstream),
        updated_at: Some(rule.updated_at),
    });
    Ok(DescribePullThroughCacheRulesResponse {
        pull_through_cache_rules: Some(rules.collect()),
        next_token: page.next_token,
    })
}

/// What it could change, credentials and role, is not supported: it finds the rule and says so.
pub(crate) async fn update(
    service: &EcrService,
    cx: &Context,
    input: UpdatePullThroughCacheRuleRequest,
) -> Result<UpdatePullThroughCacheRuleResponse, ApiError> {
    state::own_registry(cx, input.registry_id.as_deref())?;
    find(service, cx, input.ecr_repository_prefix.as_deref().unwrap_or_default())?;
    if input.credential_arn.is_some() {
        return Err(errors::unsupported("credentialArn"));
    }
    if input.custom_role_arn.is_some() {
        return Err(errors::unsupported("customRoleArn"));
    }
    Err(errors::invalid("At least one of credentialArn and customRoleArn must be given."))
}

pub(crate) async fn delete(
    service: &EcrService,
    cx: &Context,
    input: DeletePullThroughCacheRuleRequest,
) -> Result<DeletePullThroughCacheRuleResponse, ApiError> {
    state::own_registry(cx, input.registry_id.as_deref())?;
    let given = input.ecr_repository_prefix.unwrap_or_default();
    let rule = find(service, cx, &given)?;
    let (key, prefix) = key(cx, &given);
    let txn = Txn::new().when_present(&key).delete(&key);
    if !service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        return Err(errors::no_cache_rule(cx, &prefix));
    }
    Ok(DeletePullThroughCacheRuleResponse {
        ecr_repository_prefix: Some(rule.prefix_given),
        upstream_registry_url: Some(rule.upstream_url),
        created_at: Some(rule.created_at),
        registry_id: Some(cx.account.clone()),
        credential_arn: None,
        custom_role_arn: None,
        upstream_repository_prefix: Some(rule.upstream_prefix.unwrap_or_else(|| ROOT.into())),
    })
}

pub(crate) async fn validate(
    service: &EcrService,
    cx: &Context,
    input: ValidatePullThroughCacheRuleRequest,
) -> Result<ValidatePullThroughCacheRuleResponse, ApiError> {
    state::own_registry(cx, input.registry_id.as_deref())?;
    let rule = find(service, cx, input.ecr_repository_prefix.as_deref().unwrap_or_default())?;
    let failure = upstream::check(service, &rule).await.err();
    Ok(ValidatePullThroughCacheRuleResponse {
        ecr_repository_prefix: Some(rule.prefix_given),
        registry_id: Some(cx.account.clone()),
        upstream_registry_url: Some(rule.upstream_url),
        credential_arn: None,
        custom_role_arn: None,
        upstream_repository_prefix: Some(rule.upstream_prefix.unwrap_or_else(|| ROOT.into())),
        is_valid: Some(failure.is_none()),
        failure: failure.map(|error| error.reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, upstream_prefix: Option<&str>) -> CacheRuleRecord {
        CacheRuleRecord {
            prefix: prefix.into(),
            prefix_given: prefix.into(),
            upstream_url: "quay.io".into(),
            upstream: "quay".into(),
            upstream_prefix: upstream_prefix.map(str::to_owned),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            updated_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn names_at_the_upstream() {
        for (prefix, upstream, name, expected) in [
            ("quay", None, "quay/a/b", "a/b"),
            ("team/quay", None, "team/quay/a", "a"),
            ("quay", Some("org"), "quay/a", "org/a"),
            ("ROOT", None, "a/b", "a/b"),
            ("ROOT", Some("org"), "a", "org/a"),
        ] {
            assert_eq!(name_upstream(&rule(prefix, upstream), name), expected);
        }
    }

    #[test]
    fn only_known_upstreams() {
        assert_eq!(upstream_of("quay.io"), Some("quay"));
        assert_eq!(upstream_of("mine.azurecr.io"), Some("azure-container-registry"));
        for host in ["evil.example", ".azurecr.io", "quay.io.evil.example", "127.0.0.1:5000", ""] {
            assert_eq!(upstream_of(host), None, "{host}");
        }
    }
}
