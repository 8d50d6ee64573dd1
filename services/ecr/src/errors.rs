//! AWS's errors, in AWS's words.

use ferrogate_api::{ApiError, Context};
use ferrogate_store::{StoreError, UpdateError};

use crate::blobs::BlobsError;

pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidParameterException", message)
}

/// `Invalid parameter at 'tagKeys' failed to satisfy constraint: '…'`
pub(crate) fn constraint(member: &str, constraint: &str) -> ApiError {
    invalid(format!("Invalid parameter at '{member}' failed to satisfy constraint: '{constraint}'"))
}

/// AWS has it, this version does not; said rather than ignored.
pub(crate) fn unsupported(parameter: &str) -> ApiError {
    invalid(format!("Ferrogate does not support {parameter} yet; leave it out."))
}

fn in_registry(cx: &Context) -> String {
    format!("in the registry with id '{}'", cx.account)
}

pub(crate) fn no_repository(registry: &str, name: &str) -> ApiError {
    ApiError::new(
        "RepositoryNotFoundException",
        format!("The repository with name '{name}' does not exist in the registry with id '{registry}'"),
    )
}

pub(crate) fn repository_exists(cx: &Context, name: &str) -> ApiError {
    ApiError::new(
        "RepositoryAlreadyExistsException",
        format!("The repository with name '{name}' already exists {}", in_registry(cx)),
    )
}

pub(crate) fn repository_not_empty(cx: &Context, name: &str) -> ApiError {
    ApiError::new(
        "RepositoryNotEmptyException",
        format!(
            "The repository with name '{name}' in registry with id '{}' cannot be deleted because it still contains \
             images",
            cx.account
        ),
    )
}

pub(crate) fn no_repository_policy(cx: &Context, name: &str) -> ApiError {
    ApiError::new(
        "RepositoryPolicyNotFoundException",
        format!("Repository policy does not exist for the repository with name '{name}' {}", in_registry(cx)),
    )
}

pub(crate) fn no_lifecycle_policy(cx: &Context, name: &str) -> ApiError {
    ApiError::new(
        "LifecyclePolicyNotFoundException",
        format!("Lifecycle policy does not exist for the repository with name '{name}' {}", in_registry(cx)),
    )
}

pub(crate) fn no_preview(cx: &Context, name: &str) -> ApiError {
    ApiError::new(
        "LifecyclePolicyPreviewNotFoundException",
        format!(
            "Lifecycle policy preview does not exist for the repository with name '{name}' {}",
            in_registry(cx)
        ),
    )
}

pub(crate) fn no_registry_policy(cx: &Context) -> ApiError {
    ApiError::new(
        "RegistryPolicyNotFoundException",
        format!("Registry policy does not exist {}", in_registry(cx)),
    )
}

/// `{imageDigest:'sha256:…', imageTag:'null'}`
fn image_id(digest: Option<&str>, tag: Option<&str>) -> String {
    format!("{{imageDigest:'{}', imageTag:'{}'}}", digest.unwrap_or("null"), tag.unwrap_or("null"))
}

pub(crate) fn no_image(cx: &Context, repository: &str, digest: Option<&str>, tag: Option<&str>) -> ApiError {
    ApiError::new(
        "ImageNotFoundException",
        format!(
            "The image with imageId {} does not exist within the repository with name '{repository}' {}",
            image_id(digest, tag),
            in_registry(cx)
        ),
    )
}

pub(crate) fn no_scan(cx: &Context, repository: &str, digest: Option<&str>, tag: Option<&str>) -> ApiError {
    ApiError::new(
        "ScanNotFoundException",
        format!(
            "Image scan does not exist for the image with '{}' in the repository with name '{repository}' {}",
            image_id(digest, tag),
            in_registry(cx)
        ),
    )
}

pub(crate) fn image_exists(cx: &Context, repository: &str, digest: &str, tag: Option<&str>) -> ApiError {
    let what = match tag {
        Some(tag) => format!("Image with digest '{digest}' and tag '{tag}' already exists"),
        None => format!("Image with digest '{digest}' already exists"),
    };
    ApiError::new(
        "ImageAlreadyExistsException",
        format!("{what} in the repository with name '{repository}' {}", in_registry(cx)),
    )
}

pub(crate) fn tag_is_immutable(repository: &str, tag: &str) -> ApiError {
    ApiError::new(
        "ImageTagAlreadyExistsException",
        format!(
            "The image tag '{tag}' already exists in the '{repository}' repository and cannot be overwritten because \
             the tag is immutable."
        ),
    )
}

pub(crate) fn digest_differs(given: &str, found: &str) -> ApiError {
    ApiError::new(
        "ImageDigestDoesNotMatchException",
        format!("The provided image digest '{given}' does not match the calculated image digest '{found}'"),
    )
}

pub(crate) fn no_layers(cx: &Context, repository: &str, digests: &[&str]) -> ApiError {
    ApiError::new(
        "LayersNotFoundException",
        format!(
            "Layers with digests '[{}]' required for pushing image into repository with name '{repository}' {} do not \
             exist",
            digests.join(", "),
            in_registry(cx)
        ),
    )
}

pub(crate) fn no_referenced_images(cx: &Context, repository: &str, digests: &[&str]) -> ApiError {
    ApiError::new(
        "ReferencedImagesNotFoundException",
        format!(
            "Images with digests '[{}]' required for pushing image into repository with name '{repository}' {} do not \
             exist",
            digests.join(", "),
            in_registry(cx)
        ),
    )
}

/// GetDownloadUrlForLayer of a layer that is not in the repository.
pub(crate) fn no_layer(cx: &Context, repository: &str, digest: &str) -> ApiError {
    ApiError::new(
        "LayersNotFoundException",
        format!(
            "The layer with digest '{digest}' does not exist in the repository with name '{repository}' {}",
            in_registry(cx)
        ),
    )
}

pub(crate) fn layer_exists(cx: &Context, repository: &str, digest: &str) -> ApiError {
    ApiError::new(
        "LayerAlreadyExistsException",
        format!(
            "The layer with digest '{digest}' already exists in the repository with name '{repository}' {}",
            in_registry(cx)
        ),
    )
}

pub(crate) fn no_upload(cx: &Context, repository: &str, id: &str) -> ApiError {
    ApiError::new(
        "UploadNotFoundException",
        format!(
            "The upload with id '{id}' could not be found, or it is not valid for the repository with name \
             '{repository}' {}",
            in_registry(cx)
        ),
    )
}

pub(crate) fn empty_upload(cx: &Context, repository: &str, id: &str) -> ApiError {
    ApiError::new(
        "EmptyUploadException",
        format!(
            "The upload with id '{id}' to the repository with name '{repository}' {} does not contain any layer parts.",
            in_registry(cx)
        ),
    )
}

pub(crate) fn invalid_layer(given: &str, found: &str) -> ApiError {
    ApiError::new(
        "InvalidLayerException",
        format!(
            "Layer digest '{given}' does not match the digest calculated from the uploaded layer parts, '{found}'"
        ),
    )
}

pub(crate) fn no_cache_rule(cx: &Context, prefix: &str) -> ApiError {
    ApiError::new(
        "PullThroughCacheRuleNotFoundException",
        format!(
            "The pull through cache rule with ecrRepositoryPrefix '{prefix}' does not exist {}",
            in_registry(cx)
        ),
    )
}

pub(crate) fn limit(message: impl Into<String>) -> ApiError {
    ApiError::new("LimitExceededException", message)
}

pub(crate) fn bad_token() -> ApiError {
    invalid("Invalid parameter at 'nextToken' failed to satisfy constraint: 'Invalid token'")
}

fn server() -> ApiError {
    ApiError::new("ServerException", "The service cannot complete the request; try again.").with_status(500)
}

pub(crate) fn store(error: StoreError) -> ApiError {
    tracing::error!(%error, "the store failed");
    server()
}

pub(crate) fn contended() -> ApiError {
    ApiError::new("ServerException", "Too many changes of this repository at the same time; try again.")
        .with_status(500)
}

pub(crate) fn update(error: UpdateError<ApiError>) -> ApiError {
    match error {
        UpdateError::Refused(error) => error,
        UpdateError::Contended { .. } => contended(),
        UpdateError::Store(error) => store(error),
    }
}

/// A full disk is the usual cause; nothing of the call is kept.
pub(crate) fn blobs(error: BlobsError) -> ApiError {
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(%error, cause, "the registry's files failed");
    server()
}
