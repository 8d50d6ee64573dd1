//! Scanning: what is configured is kept and told; nothing is ever scanned, and nothing is said to have been. Refusing the
//! configuration would refuse most templates that are around.

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::wildcard_match;

use super::{images, registry, repositories};
use crate::state::{RegistryRecord, RepositoryRecord, repository, repository_arn};
use crate::{EcrService, errors};

const FILTERS_MAX: usize = 100;
/// Instead of findings.
const NO_SCANNER: &str = "Ferrogate has no image scanner, and no image is scanned.";

/// The registry's filters of scans on push that fit a repository.
fn applied(registry: &RegistryRecord, name: &str) -> Vec<String> {
    registry.scan_on_push.iter().filter(|filter| wildcard_match(filter, name)).cloned().collect()
}

/// What DescribeImages says of images that should have been scanned when they were pushed, by the repository's own setting
/// or a rule of the registry.
pub(crate) fn status(
    service: &EcrService,
    cx: &Context,
    repository: &RepositoryRecord,
) -> Option<ImageScanStatus> {
    let on_push =
        repository.scan_on_push || !applied(&registry::record(service, cx), &repository.name).is_empty();
    on_push.then(|| ImageScanStatus { status: Some("FAILED".into()), description: Some(NO_SCANNER.into()) })
}

pub(crate) async fn put(
    service: &EcrService,
    cx: &Context,
    input: PutImageScanningConfigurationRequest,
) -> Result<PutImageScanningConfigurationResponse, ApiError> {
    let name = input.repository_name.unwrap_or_default();
    let on_push = input.image_scanning_configuration.and_then(|scanning| scanning.scan_on_push) == Some(true);
    repositories::change(service, cx, input.registry_id.as_deref(), &name, |record| {
        record.scan_on_push = on_push;
        Ok(())
    })
    .await?;
    Ok(PutImageScanningConfigurationResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(name),
        image_scanning_configuration: Some(ImageScanningConfiguration { scan_on_push: Some(on_push) }),
    })
}

fn filter_shapes(filters: &[String]) -> Vec<ScanningRepositoryFilter> {
    let shapes = filters.iter().map(|filter| ScanningRepositoryFilter {
        filter: Some(filter.clone()),
        filter_type: Some("WILDCARD".into()),
    });
    shapes.collect()
}

fn shape(record: &RegistryRecord) -> RegistryScanningConfiguration {
    let rules = [("SCAN_ON_PUSH", &record.scan_on_push), ("MANUAL", &record.scan_manual)];
    let rules = rules.into_iter().filter(|(_, filters)| !filters.is_empty()).map(|(frequency, filters)| {
        RegistryScanningRule {
            scan_frequency: Some(frequency.into()),
            repository_filters: Some(filter_shapes(filters)),
        }
    });
    RegistryScanningConfiguration { scan_type: Some("BASIC".into()), rules: Some(rules.collect()) }
}

pub(crate) async fn get_registry(
    service: &EcrService,
    cx: &Context,
    _: GetRegistryScanningConfigurationRequest,
) -> Result<GetRegistryScanningConfigurationResponse, ApiError> {
    Ok(GetRegistryScanningConfigurationResponse {
        registry_id: Some(cx.account.clone()),
        scanning_configuration: Some(shape(&registry::record(service, cx))),
    })
}

pub(crate) async fn put_registry(
    service: &EcrService,
    cx: &Context,
    input: PutRegistryScanningConfigurationRequest,
) -> Result<PutRegistryScanningConfigurationResponse, ApiError> {
    if input.scan_type.as_deref() == Some("ENHANCED") {
        return Err(errors::unsupported("scanType ENHANCED"));
    }
    let (mut on_push, mut manual) = (Vec::new(), Vec::new());
    for rule in input.rules.unwrap_or_default() {
        let into = match rule.scan_frequency.as_deref() {
            Some("SCAN_ON_PUSH") => &mut on_push,
            Some("MANUAL") => &mut manual,
            other => {
                return Err(errors::constraint(
                    "rules",
                    &format!(
                        "scanFrequency {} cannot be used with scanType BASIC",
                        other.unwrap_or_default()
                    ),
                ));
            }
        };
        into.extend(rule.repository_filters.into_iter().flatten().filter_map(|filter| filter.filter));
        if into.len() > FILTERS_MAX {
            return Err(errors::constraint(
                "rules",
                &format!("a rule has up to {FILTERS_MAX} repositoryFilters"),
            ));
        }
    }
    let record = registry::change(service, cx, |record| {
        record.scan_on_push.clone_from(&on_push);
        record.scan_manual.clone_from(&manual);
        Ok(())
    })
    .await?;
    Ok(PutRegistryScanningConfigurationResponse { registry_scanning_configuration: Some(shape(&record)) })
}

pub(crate) async fn batch_get(
    service: &EcrService,
    cx: &Context,
    input: BatchGetRepositoryScanningConfigurationRequest,
) -> Result<BatchGetRepositoryScanningConfigurationResponse, ApiError> {
    let registry = registry::record(service, cx);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in input.repository_names.unwrap_or_default() {
        let Ok(repository) = repository(service, cx, None, Some(&name)) else {
            failures.push(RepositoryScanningConfigurationFailure {
                failure_reason: Some(errors::no_repository(&cx.account, &name).message),
                repository_name: Some(name),
                failure_code: Some("REPOSITORY_NOT_FOUND".into()),
            });
            continue;
        };
        // As AWS: a registry with rules decides, else the repository's own setting does.
        let applied = applied(&registry, &name);
        let on_push = repository.record.scan_on_push || !applied.is_empty();
        found.push(RepositoryScanningConfiguration {
            repository_arn: Some(repository_arn(cx, &name)),
            repository_name: Some(name),
            scan_on_push: Some(on_push),
            scan_frequency: Some(if on_push { "SCAN_ON_PUSH" } else { "MANUAL" }.into()),
            applied_scan_filters: Some(filter_shapes(&applied)),
        });
    }
    Ok(BatchGetRepositoryScanningConfigurationResponse {
        scanning_configurations: Some(found),
        failures: Some(failures),
    })
}

pub(crate) async fn start(
    service: &EcrService,
    cx: &Context,
    input: StartImageScanRequest,
) -> Result<StartImageScanResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let repository = repository(service, cx, input.registry_id.as_deref(), name)?;
    images::find(cx, &repository, &input.image_id.unwrap_or_default())?;
    Err(ApiError::new("ValidationException", format!("This feature is disabled: {NO_SCANNER}")))
}

pub(crate) async fn findings(
    service: &EcrService,
    cx: &Context,
    input: DescribeImageScanFindingsRequest,
) -> Result<DescribeImageScanFindingsResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let repository = repository(service, cx, input.registry_id.as_deref(), name)?;
    let id = input.image_id.unwrap_or_default();
    images::find(cx, &repository, &id)?;
    let (digest, tag) = (id.image_digest.as_deref(), id.image_tag.as_deref());
    Err(errors::no_scan(cx, &repository.record.name, digest, tag))
}
