//! Answers, and refusals in the specification's form.

use std::io;

use bytes::Bytes;
use ferrogate_api::ApiError;
use ferrogate_front::DoorBody;
use futures_util::TryStreamExt;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::ReaderStream;

use crate::blobs::BlobsError;
use crate::upstream::UpstreamError;

const API_VERSION: &str = "docker-distribution-api-version";
const READ_BYTES: usize = 256 << 10;

pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<DoorBody>,
}

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: None }
    }

    /// A value that is no header is ours to avoid; it is left out.
    pub(super) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(super) fn bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        self = self.with(header::CONTENT_LENGTH, bytes.len().to_string());
        self.body = Some(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
        self
    }

    /// `length` bytes of `reader`, as the client takes them.
    pub(super) fn stream(mut self, reader: impl AsyncRead + Send + 'static, length: u64) -> Self {
        self = self.with(header::CONTENT_LENGTH, length.to_string());
        let frames = ReaderStream::with_capacity(reader.take(length), READ_BYTES).map_ok(Frame::data);
        self.body = Some(BodyExt::boxed_unsync(StreamBody::new(frames)));
        self
    }
}

pub(super) fn base() -> Answer {
    Answer::new(StatusCode::OK).with(header::CONTENT_TYPE, "application/json").bytes("{}")
}

pub(super) fn response(answered: Result<Answer, Refusal>, is_head: bool) -> Response<DoorBody> {
    let answer = answered.unwrap_or_else(Refusal::into_answer);
    let body = answer.body.filter(|_| !is_head).unwrap_or_else(empty);
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(API_VERSION), HeaderValue::from_static("registry/2.0"));
    if !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

fn empty() -> DoorBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// `{"errors":[{"code":…,"message":…}]}`
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }

    pub(super) fn unauthorized(realm: &str) -> Self {
        let challenge = format!("Basic realm=\"{realm}\",service=\"ecr.amazonaws.com\"");
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "Not Authorized")
            .with(header::WWW_AUTHENTICATE, challenge)
    }

    pub(super) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", message)
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_INVALID", "Nothing of the distribution API has this path")
    }

    pub(super) fn name_unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
    }

    pub(super) fn manifest_unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message)
    }

    pub(super) fn blob_unknown(digest: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
            format!("The layer with digest '{digest}' does not exist"),
        )
    }

    pub(super) fn digest_invalid(digest: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", format!("'{digest}' is not a sha256 digest"))
    }

    pub(super) fn unsupported() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "The operation is unsupported; a layer goes when no image names it any more",
        )
    }

    pub(super) fn broken(error: &io::Error) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "BLOB_UPLOAD_INVALID",
            format!("The body did not come whole: {error}"),
        )
    }

    fn into_answer(self) -> Answer {
        let body = json!({ "errors": [{ "code": self.code, "message": self.message }] });
        let mut answer = Answer::new(self.status);
        answer.headers.extend(self.headers);
        answer.with(header::CONTENT_TYPE, "application/json").bytes(body.to_string())
    }
}

/// ECR's errors as its registry tells them.
impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let (status, code) = match error.code.as_str() {
            "AccessDeniedException" | "AccessDenied" => (StatusCode::FORBIDDEN, "DENIED"),
            "RepositoryNotFoundException" => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            "ImageNotFoundException" => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            "LayersNotFoundException" => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            "ReferencedImagesNotFoundException" => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            "UploadNotFoundException" => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            "InvalidLayerPartException" => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            "InvalidLayerException" | "EmptyUploadException" | "ImageDigestDoesNotMatchException" => {
                (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
            }
            "ImageTagAlreadyExistsException" => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
            "LimitExceededException" => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            "InvalidParameterException" if error.message.contains("repositoryName") => {
                (StatusCode::BAD_REQUEST, "NAME_INVALID")
            }
            "InvalidParameterException" if error.message.contains("ImageManifest") => {
                (StatusCode::BAD_REQUEST, "MANIFEST_INVALID")
            }
            "InvalidParameterException" if error.message.contains("imageTag") => {
                (StatusCode::BAD_REQUEST, "TAG_INVALID")
            }
            "InvalidParameterException" => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        };
        Self::new(status, code, error.message)
    }
}

impl From<BlobsError> for Refusal {
    fn from(error: BlobsError) -> Self {
        crate::errors::blobs(error).into()
    }
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        let (status, code) = match error.code {
            "ImageNotFound" => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            "UpstreamAccessDenied" => (StatusCode::FORBIDDEN, "DENIED"),
            "UpstreamTooManyRequests" => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            _ => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
        };
        Self::new(status, code, error.reason)
    }
}
