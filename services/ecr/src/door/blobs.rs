//! Blobs, as they are.

use std::io::SeekFrom;

use ferrogate_api::ecr::*;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::io::AsyncSeekExt;

use super::answer::{Answer, Refusal};
use super::{RegistryDoor, Visit};
use crate::EcrService;
use crate::blobs::Digest;
use crate::state::Place;
use crate::{token, upstream};

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

pub(super) fn digest_of(text: &str) -> Result<Digest, Refusal> {
    Digest::parse(text).ok_or_else(|| Refusal::digest_invalid(text))
}

impl Visit<'_> {
    pub(super) async fn blob(&self, digest: &str, head: &Parts) -> Result<Answer, Refusal> {
        let digest = digest_of(digest)?;
        let input = GetDownloadUrlForLayerRequest {
            repository_name: Some(self.name.clone()),
            layer_digest: Some(digest.to_string()),
            ..Default::default()
        };
        self.client.get_download_url_for_layer(input).await?;
        let now = self.door.clock.now();
        upstream::ensure_blob(&self.door.service, &self.place, &self.name, &digest, now).await?;
        send(self.service(), &digest, &head.headers).await
    }

    pub(super) async fn head_blob(&self, digest: &str) -> Result<Answer, Refusal> {
        let digest = digest_of(digest)?;
        let size = self.layer_size(&digest).await?.ok_or_else(|| Refusal::blob_unknown(digest.as_str()))?;
        Ok(described(Answer::new(StatusCode::OK), &digest).with(header::CONTENT_LENGTH, size.to_string()))
    }

    /// As BatchCheckLayerAvailability tells it.
    pub(super) async fn layer_size(&self, digest: &Digest) -> Result<Option<i64>, Refusal> {
        let input = BatchCheckLayerAvailabilityRequest {
            repository_name: Some(self.name.clone()),
            layer_digests: Some(vec![digest.to_string()]),
            ..Default::default()
        };
        let answer = self.client.batch_check_layer_availability(input).await?;
        Ok(answer.layers.into_iter().flatten().find_map(|layer| layer.layer_size))
    }
}

fn described(answer: Answer, digest: &Digest) -> Answer {
    answer
        .with(CONTENT_DIGEST, digest.as_str())
        .with(header::CONTENT_TYPE, "application/octet-stream")
        .with(header::ETAG, format!("\"{digest}\""))
        .with(header::ACCEPT_RANGES, "bytes")
}

/// A download URL of GetDownloadUrlForLayer: who has it has the right.
pub(super) async fn download(door: &RegistryDoor, head: &Parts, ticket: &str) -> Result<Answer, Refusal> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(Refusal::unsupported());
    }
    let ticket = percent_decode_str(ticket).decode_utf8_lossy();
    let now = door.clock.now();
    let ticket = token::layer(&door.service.sealer, &ticket, now).map_err(|error| match error {
        token::TokenError::Expired => Refusal::denied("Request has expired"),
        token::TokenError::Invalid => Refusal::denied("The layer's download URL is not valid"),
    })?;
    let digest = digest_of(&ticket.digest)?;
    let place = Place::new(&door.service.options.account, &ticket.region);
    upstream::ensure_blob(&door.service, &place, &ticket.repository, &digest, now).await?;
    send(&door.service, &digest, &head.headers).await
}

/// The whole file, or the one range that is asked for.
async fn send(service: &EcrService, digest: &Digest, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let path = service.blobs.path(digest);
    let mut file = tokio::fs::File::open(&path).await.map_err(|error| {
        tracing::error!(%error, path = %path.display(), "a layer's file cannot be opened");
        Refusal::blob_unknown(digest.as_str())
    })?;
    let size = file.metadata().await.map_err(|error| Refusal::broken(&error))?.len();
    match range_of(headers, size) {
        Asked::Whole => Ok(described(Answer::new(StatusCode::OK), digest).stream(file, size)),
        Asked::Part { first, last } => {
            file.seek(SeekFrom::Start(first)).await.map_err(|error| Refusal::broken(&error))?;
            Ok(described(Answer::new(StatusCode::PARTIAL_CONTENT), digest)
                .with(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"))
                .stream(file, last - first + 1))
        }
        Asked::Outside => {
            let message = format!("The layer has {size} bytes");
            Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", message)
                .with(header::CONTENT_RANGE, format!("bytes */{size}")))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part { first: u64, last: u64 },
    Outside,
}

/// One range of bytes; several, or what is none, are answered by the whole (RFC 9110, 14.2).
fn range_of(headers: &HeaderMap, size: u64) -> Asked {
    let text = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Whole;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => Asked::Whole,
        (Ok(first), _) if first >= size => Asked::Outside,
        (Ok(first), Ok(last)) => Asked::Part { first, last: last.min(size - 1) },
        (Ok(first), Err(_)) if last.is_empty() => Asked::Part { first, last: size - 1 },
        (Err(_), Ok(0)) if first.is_empty() => Asked::Outside,
        (Err(_), Ok(count)) if first.is_empty() && size > 0 => {
            Asked::Part { first: size.saturating_sub(count), last: size - 1 }
        }
        _ => Asked::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |first, last| Asked::Part { first, last };
        for (text, size, expected) in [
            ("", 10, Asked::Whole),
            ("bytes=0-3", 10, part(0, 3)),
            ("bytes=4-", 10, part(4, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-30", 10, part(0, 9)),
            ("bytes=5-100", 10, part(5, 9)),
            ("bytes=10-", 10, Asked::Outside),
            ("bytes=0-", 0, Asked::Outside),
            ("bytes=-0", 10, Asked::Outside),
            ("bytes=3-1", 10, Asked::Whole),
            ("bytes=0-1,3-4", 10, Asked::Whole),
            ("lines=0-1", 10, Asked::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            assert_eq!(range_of(&headers, size), expected, "{text}");
        }
    }
}
