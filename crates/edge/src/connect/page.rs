//! What the proxy itself answers: Envoy's words for it, and what they mean here. To gRPC it answers in gRPC.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};

use super::body::{Place, ResponseBody};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// `UNAVAILABLE`: what Envoy makes of 503 and of 504.
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// Why there is no response of an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no healthy upstream: no task of {0:?} is running")]
    NoInstance(String),
    #[error(
        "upstream connect error or disconnect/reset before headers: no task of {0:?} took the connection"
    )]
    NoConnection(String),
    #[error("upstream connect error or disconnect/reset before headers: a task of {0:?} broke off")]
    Broken(String),
    #[error("upstream request timeout: {0:?} did not answer in time")]
    Late(String),
    #[error("upstream connect error or disconnect/reset before headers: too many requests are under way")]
    Overflow,
    #[error("the request cannot be passed on: {0}")]
    Bad(&'static str),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoInstance(_) | Self::NoConnection(_) | Self::Broken(_) | Self::Overflow => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn response(&self, grpc: bool, mut place: Place) -> Response<ResponseBody> {
        place.answered(if grpc { StatusCode::OK } else { self.status() }, None);
        let words = self.to_string();
        let mut parts = Response::new(()).into_parts().0;
        parts.version = Version::HTTP_11;
        if grpc {
            parts.headers.insert(header::CONTENT_TYPE, GRPC);
            parts.headers.insert("grpc-status", UNAVAILABLE);
            // Plain words: nothing in them has to be written otherwise but what names may bring in.
            if let Ok(words) = HeaderValue::try_from(words.replace('%', "%25")) {
                parts.headers.insert("grpc-message", words);
            }
            return Response::from_parts(parts, ResponseBody::nothing(place));
        }
        let body = Bytes::from(words + "\n");
        parts.status = self.status();
        parts.headers.insert(header::CONTENT_TYPE, TEXT);
        parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        Response::from_parts(parts, ResponseBody::own(body, place))
    }
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
