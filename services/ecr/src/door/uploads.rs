//! Uploads: whole, in chunks, resumed, given up; and blobs taken over from another repository.

use std::io;
use std::time::Duration;

use ferrogate_api::ApiError;
use ferrogate_api::ecr::*;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::answer::{Answer, Refusal};
use super::blobs::{CONTENT_DIGEST, digest_of};
use super::{Visit, parameter};
use crate::blobs::Digest;
use crate::operations::registry;
use crate::state::{Change, Kind, Repository, change_content};
use crate::{errors, upstream};

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// What is received before it is handed on: one UploadLayerPart.
const PART_BYTES: usize = 4 << 20;
/// Between two pieces of a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

impl Visit<'_> {
    pub(super) async fn begin_upload(&self, head: &Parts, body: Incoming) -> Result<Answer, Refusal> {
        if let (Some(mount), Some(from)) = (parameter(head, "mount"), parameter(head, "from"))
            && let Some(answer) = self.mount(&digest_of(&mount)?, &from).await?
        {
            return Ok(answer);
        }
        let id = self.initiate().await?;
        if let Some(digest) = parameter(head, "digest") {
            let digest = digest_of(&digest)?;
            self.receive(&id, 0, None, body).await?;
            return self.complete(&id, &digest).await;
        }
        Ok(self.under_way(StatusCode::ACCEPTED, &id, 0))
    }

    async fn initiate(&self) -> Result<String, Refusal> {
        let input =
            InitiateLayerUploadRequest { repository_name: Some(self.name.clone()), ..Default::default() };
        let begun = self.client.initiate_layer_upload(input).await?;
        begun.upload_id.ok_or_else(|| ApiError::internal().into())
    }

    /// `None`: it cannot be had from there, and is to be sent instead.
    async fn mount(&self, digest: &Digest, from: &str) -> Result<Option<Answer>, Refusal> {
        if !registry::mounts_blobs(self.service(), &self.place) {
            return Ok(None);
        }
        let input = GetDownloadUrlForLayerRequest {
            repository_name: Some(from.to_owned()),
            layer_digest: Some(digest.to_string()),
            ..Default::default()
        };
        if self.client.get_download_url_for_layer(input).await.is_err() {
            return Ok(None);
        }
        let now = self.door.clock.now();
        if upstream::ensure_blob(&self.door.service, &self.place, from, digest, now).await.is_err() {
            return Ok(None);
        }
        let id = self.initiate().await?;
        self.service().blobs.link_upload(&id, digest).await?;
        self.complete(&id, digest).await.map(Some)
    }

    fn under_way(&self, status: StatusCode, id: &str, length: u64) -> Answer {
        Answer::new(status)
            .with(header::LOCATION, self.path(&format!("blobs/uploads/{id}")))
            .with(header::RANGE, range(length))
            .with(UPLOAD_UUID, id)
    }

    /// How far an upload is, for who began it.
    async fn offset(&self, id: &str) -> Result<u64, Refusal> {
        // Whoever may push may ask this much; AWS's API has no call for it.
        self.layer_size(&Digest::of(b"")).await?;
        self.own_offset(id)
    }

    fn own_offset(&self, id: &str) -> Result<u64, Refusal> {
        let repository = Repository::find(&*self.service().store, &self.place, &self.name);
        let upload = repository.and_then(|repository| repository.upload(id));
        let mine = upload.is_some_and(|upload| upload.principal == self.principal.arn);
        let length = mine.then(|| self.service().blobs.upload_length(id)).flatten();
        length.ok_or_else(|| {
            let message = format!("There is no upload '{id}' to the repository with name '{}'", self.name);
            Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
        })
    }

    pub(super) async fn upload_status(&self, id: &str) -> Result<Answer, Refusal> {
        let length = self.offset(id).await?;
        Ok(self.under_way(StatusCode::NO_CONTENT, id, length))
    }

    pub(super) async fn upload_chunk(
        &self,
        id: &str,
        head: &Parts,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let length = self.own_offset(id)?;
        let bytes = self.follows(id, &head.headers, length)?;
        let length = self.receive(id, length, bytes, body).await?;
        Ok(self.under_way(StatusCode::ACCEPTED, id, length))
    }

    /// A chunk that says where it belongs has to follow what is here, and be as long as it says: how long that is.
    fn follows(&self, id: &str, headers: &HeaderMap, length: u64) -> Result<Option<u64>, Refusal> {
        let Some(text) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
        let text = text.to_str().unwrap_or_default();
        let said =
            headers.get(header::CONTENT_LENGTH).and_then(|said| said.to_str().ok()?.parse::<u64>().ok());
        match chunk_range(text) {
            Some((first, bytes)) if first == length && said.is_none_or(|said| said == bytes) => {
                Ok(Some(bytes))
            }
            Some((first, bytes)) if first == length => {
                let message = format!(
                    "The chunk '{text}' has {bytes} bytes by its Content-Range, and {} by its Content-Length",
                    said.unwrap_or_default()
                );
                Err(self.out_of_range(id, length, message))
            }
            Some(_) => {
                let message = format!("The chunk '{text}' does not follow the {length} bytes received");
                Err(self.out_of_range(id, length, message))
            }
            None => {
                let message = format!("The Content-Range '{text}' is not <first byte>-<last byte>");
                Err(self.out_of_range(id, length, message))
            }
        }
    }

    fn out_of_range(&self, id: &str, length: u64, message: String) -> Refusal {
        Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message)
            .with(header::LOCATION, self.path(&format!("blobs/uploads/{id}")))
            .with(header::RANGE, range(length))
            .with(UPLOAD_UUID, id)
    }

    pub(super) async fn finish_upload(
        &self,
        id: &str,
        head: &Parts,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let digest = parameter(head, "digest").unwrap_or_default();
        let digest = digest_of(&digest)?;
        let length = self.own_offset(id)?;
        let bytes = self.follows(id, &head.headers, length)?;
        self.receive(id, length, bytes, body).await?;
        self.complete(id, &digest).await
    }

    async fn complete(&self, id: &str, digest: &Digest) -> Result<Answer, Refusal> {
        let input = CompleteLayerUploadRequest {
            repository_name: Some(self.name.clone()),
            upload_id: Some(id.to_owned()),
            layer_digests: Some(vec![digest.to_string()]),
            ..Default::default()
        };
        match self.client.complete_layer_upload(input).await {
            // Who sends what is there gets what they wanted.
            Err(error) if error.code != "LayerAlreadyExistsException" => return Err(error.into()),
            _ => {}
        }
        Ok(Answer::new(StatusCode::CREATED)
            .with(header::LOCATION, self.path(&format!("blobs/{digest}")))
            .with(CONTENT_DIGEST, digest.as_str()))
    }

    pub(super) async fn cancel_upload(&self, id: &str) -> Result<Answer, Refusal> {
        self.offset(id).await?;
        let lock = self.service().blobs.lock_of(id);
        let _alone = lock.lock().await;
        let missing = || errors::no_repository(&self.service().options.account, &self.name);
        change_content(&*self.service().store, &self.place, &self.name, missing, |repository| {
            Ok(Change::none(()).delete(repository.key(Kind::Upload, id)))
        })
        .await?;
        self.service().blobs.drop_upload(id).await?;
        Ok(Answer::new(StatusCode::NO_CONTENT))
    }

    /// Hands a body on, part by part; nobody has more than one part of it in memory. Gives the upload's length.
    /// `bytes`: what the body has to have, where that was said.
    async fn receive(
        &self,
        id: &str,
        mut length: u64,
        bytes: Option<u64>,
        mut body: Incoming,
    ) -> Result<u64, Refusal> {
        let first = length;
        let wrong = |length: u64, came: &str| {
            let said = bytes.unwrap_or_default();
            self.out_of_range(
                id,
                length,
                format!("The chunk has {came} than the {said} bytes of its Content-Range"),
            )
        };
        let mut received = 0;
        // What is not read waits at the client.
        let waited = tokio::time::timeout(IDLE_TIMEOUT, self.door.receiving.acquire()).await;
        let _slot = waited.ok().and_then(Result::ok).ok_or_else(|| {
            let message = "Too many layers are being received; try again in a moment";
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
        })?;
        let mut part: Vec<u8> = Vec::new();
        while let Some(frame) = next(&mut body).await? {
            let mut data = &frame[..];
            received += data.len() as u64;
            if bytes.is_some_and(|bytes| received > bytes) {
                return Err(wrong(length, "more"));
            }
            while !data.is_empty() {
                let (now, later) = data.split_at(data.len().min(PART_BYTES - part.len()));
                part.extend_from_slice(now);
                data = later;
                if part.len() == PART_BYTES {
                    length = self.send_part(id, length, std::mem::take(&mut part)).await?;
                }
            }
        }
        if !part.is_empty() {
            length = self.send_part(id, length, part).await?;
        }
        if bytes.is_some_and(|bytes| length - first < bytes) {
            return Err(wrong(length, "less"));
        }
        Ok(length)
    }

    async fn send_part(&self, id: &str, first: u64, bytes: Vec<u8>) -> Result<u64, Refusal> {
        let next = first + bytes.len() as u64;
        let input = UploadLayerPartRequest {
            repository_name: Some(self.name.clone()),
            upload_id: Some(id.to_owned()),
            part_first_byte: i64::try_from(first).ok(),
            part_last_byte: i64::try_from(next - 1).ok(),
            layer_part_blob: Some(bytes),
            ..Default::default()
        };
        self.client.upload_layer_part(input).await?;
        Ok(next)
    }
}

/// First byte and length of a chunk: `0-9` (distribution specification), or `bytes 0-9/…` (RFC 9110).
fn chunk_range(text: &str) -> Option<(u64, u64)> {
    let text = text.strip_prefix("bytes ").unwrap_or(text).trim();
    let range = text.split_once('/').map_or(text, |(range, _)| range);
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

/// `0-9` for ten bytes; for none, as registries say it, `0-0`.
fn range(length: u64) -> String {
    format!("0-{}", length.saturating_sub(1))
}

/// The next piece of a body.
pub(super) async fn next(body: &mut Incoming) -> Result<Option<bytes::Bytes>, Refusal> {
    loop {
        let frame = tokio::time::timeout(IDLE_TIMEOUT, body.frame()).await.map_err(|_| {
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", "The body did not come in time")
        })?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|error| Refusal::broken(&io::Error::other(error)))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_first_and_a_last_byte() {
        for (text, expected) in [
            ("0-9", Some((0, 10))),
            ("10-10", Some((10, 1))),
            ("bytes 5-9/10", Some((5, 5))),
            ("bytes 5-9/*", Some((5, 5))),
            ("9-5", None),
            ("0-", None),
            ("-5", None),
            ("5", None),
            ("", None),
            ("+0-9", None),
            ("0-9-9", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(chunk_range(text), expected, "{text:?}");
        }
    }
}
