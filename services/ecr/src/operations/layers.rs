//! Layers: uploaded in parts, completed under their digest, asked for.

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context, Value};
use ferrogate_model::hex_id;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::blobs::{Appended, Digest, Finished};
use crate::state::{self, Change, Kind, LayerRecord, Place, Repository, UploadRecord, repository};
use crate::{EcrService, errors, token};

/// One layer (Service Quotas allow 52,000 MiB); a node takes no larger ones.
pub(crate) const LAYER_BYTES_MAX: u64 = 20 << 30;
/// What UploadLayerPart takes at most, and what parts should have.
const PART_BYTES: i64 = 20 << 20;
/// Uploads of one repository under way at the same time.
const UPLOADS_MAX: usize = 1000;

/// `1d8c…` as UploadLayerPart's pattern wants it: a UUID.
fn upload_id() -> String {
    let hex = hex_id();
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

pub(crate) async fn initiate(
    service: &EcrService,
    cx: &Context,
    input: InitiateLayerUploadRequest,
) -> Result<InitiateLayerUploadResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let name = repository(service, cx, input.registry_id.as_deref(), name)?.record.name;
    let id = upload_id();
    // Under the gate: no sweep sees a file whose record is still to come.
    let held = service.blobs.hold().await;
    service.blobs.begin_upload(&id).await.map_err(errors::blobs)?;
    let place = Place::of(cx);
    let begun = state::change_content(
        &*service.store,
        &place,
        &name,
        || errors::no_repository(&cx.account, &name),
        |repository| {
            let all = repository.place.all(Kind::Upload, &repository.record.id);
            if repository.store.range_from(&all, None, UPLOADS_MAX).len() >= UPLOADS_MAX {
                return Err(errors::limit(format!(
                    "The repository with name '{name}' has {UPLOADS_MAX} uploads under way, the most there may be."
                )));
            }
            let record = UploadRecord { started_at: cx.now, principal: cx.principal.arn.clone() };
            Ok(Change::none(()).put(repository.key(Kind::Upload, &id), &record))
        },
    );
    let begun = begun.await;
    drop(held);
    if let Err(error) = begun {
        service.blobs.drop_upload(&id).await.map_err(errors::blobs)?;
        return Err(error);
    }
    Ok(InitiateLayerUploadResponse { upload_id: Some(id), part_size: Some(PART_BYTES) })
}

/// The repository with that upload.
fn with_upload<'a>(
    service: &'a EcrService,
    cx: &Context,
    registry: Option<&str>,
    name: Option<&str>,
    id: &str,
) -> Result<Repository<'a>, ApiError> {
    let repository = repository(service, cx, registry, name)?;
    if repository.upload(id).is_none() {
        return Err(errors::no_upload(cx, &repository.record.name, id));
    }
    Ok(repository)
}

pub(crate) async fn upload_part(
    service: &EcrService,
    cx: &Context,
    input: UploadLayerPartRequest,
) -> Result<UploadLayerPartResponse, ApiError> {
    let id = input.upload_id.unwrap_or_default();
    let lock = service.blobs.lock_of(&id);
    let _alone = lock.lock().await;
    let registry = input.registry_id.as_deref();
    let name = with_upload(service, cx, registry, input.repository_name.as_deref(), &id)?.record.name;
    let bytes = input.layer_part_blob.unwrap_or_default();
    let (first, last) = (input.part_first_byte.unwrap_or_default(), input.part_last_byte.unwrap_or_default());
    if bytes.is_empty()
        || last.checked_sub(first).and_then(|more| more.checked_add(1)) != Some(bytes.len() as i64)
    {
        return Err(errors::constraint(
            "layerPartBlob",
            &format!("partFirstByte {first} to partLastByte {last} must be the part's {} bytes", bytes.len()),
        ));
    }
    let appended = service.blobs.append(&id, first.unsigned_abs(), bytes, LAYER_BYTES_MAX).await;
    match appended.map_err(errors::blobs)? {
        Appended::To(length) => Ok(UploadLayerPartResponse {
            registry_id: Some(cx.account.clone()),
            repository_name: Some(name),
            upload_id: Some(id),
            last_byte_received: i64::try_from(length).ok().map(|length| length - 1),
        }),
        Appended::Gap { length } => {
            let received = i64::try_from(length).unwrap_or(i64::MAX) - 1;
            let message = format!(
                "The first byte specified, {first}, is not consecutive to the last valid byte received, {received}"
            );
            Err(ApiError::new("InvalidLayerPartException", message)
                .with_member("registryId", Value::String(cx.account.clone()))
                .with_member("repositoryName", Value::String(name))
                .with_member("uploadId", Value::String(id))
                .with_member("lastValidByteReceived", Value::Int(received)))
        }
        Appended::TooLarge => Err(errors::limit(format!("A layer has up to {LAYER_BYTES_MAX} bytes."))),
        Appended::Unknown => Err(errors::no_upload(cx, &name, &id)),
    }
}

pub(crate) async fn complete(
    service: &EcrService,
    cx: &Context,
    input: CompleteLayerUploadRequest,
) -> Result<CompleteLayerUploadResponse, ApiError> {
    let id = input.upload_id.unwrap_or_default();
    let lock = service.blobs.lock_of(&id);
    let _alone = lock.lock().await;
    let registry = input.registry_id.as_deref();
    let name = with_upload(service, cx, registry, input.repository_name.as_deref(), &id)?.record.name;
    let digests = input.layer_digests.unwrap_or_default();
    let Some(expected) = digests.iter().find_map(|digest| Digest::parse(digest)) else {
        return Err(errors::constraint("layerDigests", "a sha256 digest is needed"));
    };
    let verified = service.blobs.verify_upload(&id, expected.clone(), empty_is_fine(&expected)).await;
    let (digest, size) = match verified.map_err(errors::blobs)? {
        Finished::Blob { digest, size } => (digest, size),
        Finished::Differs { digest } => {
            return Err(errors::invalid_layer(expected.as_str(), digest.as_str()));
        }
        Finished::Empty => return Err(errors::empty_upload(cx, &name, &id)),
        Finished::Unknown => return Err(errors::no_upload(cx, &name, &id)),
    };
    let held = service.blobs.hold().await;
    service.blobs.name_upload(&id, &digest).await.map_err(errors::blobs)?;
    let existed = state::change_content(
        &*service.store,
        &Place::of(cx),
        &name,
        || errors::no_repository(&cx.account, &name),
        |repository| {
            let existed = repository.layer(digest.as_str()).is_some();
            let layer = LayerRecord { size, pushed_at: cx.now };
            // One that was there has a new term: whoever pushed it again relies on it.
            Ok(Change::none(existed)
                .put(repository.key(Kind::Layer, digest.as_str()), &layer)
                .delete(repository.key(Kind::Upload, &id)))
        },
    )
    .await?;
    drop(held);
    service.blobs.drop_upload(&id).await.map_err(errors::blobs)?;
    if existed {
        return Err(errors::layer_exists(cx, &name, digest.as_str()));
    }
    Ok(CompleteLayerUploadResponse {
        registry_id: Some(cx.account.clone()),
        repository_name: Some(name),
        upload_id: Some(id),
        layer_digest: Some(digest.to_string()),
    })
}

/// Nothing at all is a blob as well, if that is what its digest says.
fn empty_is_fine(expected: &Digest) -> bool {
    *expected == Digest::of(b"")
}

/// The size of a layer that a pull would get.
pub(crate) fn available(repository: &Repository<'_>, digest: &str) -> Option<u64> {
    repository
        .layer(digest)
        .map(|layer| layer.size)
        .or_else(|| repository.cached_blob(digest).map(|blob| blob.size))
}

pub(crate) async fn check(
    service: &EcrService,
    cx: &Context,
    input: BatchCheckLayerAvailabilityRequest,
) -> Result<BatchCheckLayerAvailabilityResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let repository = repository(service, cx, input.registry_id.as_deref(), name)?;
    let (mut layers, mut failures) = (Vec::new(), Vec::new());
    for digest in input.layer_digests.unwrap_or_default() {
        if Digest::parse(&digest).is_none() {
            failures.push(LayerFailure {
                failure_code: Some("InvalidLayerDigest".into()),
                failure_reason: Some(format!("Invalid layer digest: '{digest}' is not a sha256 digest")),
                layer_digest: Some(digest),
            });
            continue;
        }
        let size = available(&repository, &digest);
        layers.push(Layer {
            layer_availability: Some(if size.is_some() { "AVAILABLE" } else { "UNAVAILABLE" }.into()),
            layer_size: size.and_then(|size| i64::try_from(size).ok()),
            layer_digest: Some(digest),
            media_type: None,
        });
    }
    Ok(BatchCheckLayerAvailabilityResponse { layers: Some(layers), failures: Some(failures) })
}

pub(crate) async fn download_url(
    service: &EcrService,
    cx: &Context,
    input: GetDownloadUrlForLayerRequest,
) -> Result<GetDownloadUrlForLayerResponse, ApiError> {
    let name = input.repository_name.as_deref();
    let repository = repository(service, cx, input.registry_id.as_deref(), name)?;
    let (name, digest) = (&repository.record.name, input.layer_digest.unwrap_or_default());
    if available(&repository, &digest).is_none() {
        return Err(errors::no_layer(cx, name, &digest));
    }
    let ticket = token::for_layer(&service.sealer, &cx.region, name, &digest, cx.now);
    let ticket = utf8_percent_encode(&ticket, NON_ALPHANUMERIC);
    let download_url = format!("{}{}{ticket}", service.options.endpoint, crate::door::LAYERS_PATH);
    Ok(GetDownloadUrlForLayerResponse { download_url: Some(download_url), layer_digest: Some(digest) })
}
