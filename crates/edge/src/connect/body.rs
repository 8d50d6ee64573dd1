//! Bodies on their way: streamed, never collected.

use std::net::SocketAddrV4;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::DropGuard;

use super::access::Entry;
use super::cluster::Cluster;
use super::hosts::Outcome;
use super::pool::Lease;
use super::quiet::UnderWay;

/// A request's body on its way to an instance.
pub(super) enum RequestBody {
    Empty,
    Client {
        body: Incoming,
        /// Grows with each piece.
        progress: Arc<AtomicU64>,
        /// Grows by its bytes, where a line is written of it.
        received: Option<Arc<AtomicU64>>,
        /// Goes when the body is over.
        _whole: DropGuard,
    },
}

impl RequestBody {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Self::Client { body, progress, received, .. } = this else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *body).poll_frame(cx);
        if let (Some(received), Poll::Ready(Some(Ok(frame)))) = (received, &frame) {
            received.fetch_add(length(frame), Relaxed);
        }
        if frame.is_ready() {
            progress.fetch_add(1, Relaxed);
        }
        if body.is_end_stream() || matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            *this = Self::Empty;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client { body, .. } => body.size_hint(),
        }
    }
}

fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}

/// Why a response that had begun was cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutShort {
    #[error("the instance broke its response off")]
    Instance(#[source] hyper::Error),
    #[error("the response was not over in time")]
    Late,
}

/// What ends with a request: its place among all, its being under way on its connection, and the line that is written of it.
pub(super) struct Place {
    pub(super) entry: Option<Box<Entry>>,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
    pub(super) _under_way: UnderWay,
}

impl Place {
    /// `by`: the instance whose answer it is.
    pub(super) fn answered(&mut self, status: StatusCode, by: Option<SocketAddrV4>) {
        if let Some(entry) = &mut self.entry {
            entry.answered(status.as_u16(), by);
        }
    }
}

/// A response's body on its way to the client.
pub(super) struct ResponseBody {
    from: From,
    place: Place,
}

enum From {
    Empty,
    Own(Bytes),
    Instance(Box<InstanceBody>),
}

pub(super) struct InstanceBody {
    pub(super) body: Incoming,
    pub(super) lease: Option<Lease>,
    /// Ready when it is too late; `None`: it never is.
    pub(super) late: Option<BoxFuture<'static, ()>>,
    /// gRPC says how it went at the end.
    pub(super) judged: Option<(Arc<Cluster>, SocketAddrV4)>,
}

impl ResponseBody {
    pub(super) fn nothing(place: Place) -> Self {
        Self { from: From::Empty, place }
    }

    pub(super) fn own(body: Bytes, place: Place) -> Self {
        Self { from: if body.is_empty() { From::Empty } else { From::Own(body) }, place }
    }

    pub(super) fn instance(mut body: InstanceBody, place: Place) -> Self {
        if !body.body.is_end_stream() {
            return Self { from: From::Instance(Box::new(body)), place };
        }
        body.over(None);
        Self::nothing(place)
    }
}

impl InstanceBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(None) => {
                self.over(None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.over(frame.trailers_ref());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                self.judge(Outcome::Failed);
                Poll::Ready(Some(Err(CutShort::Instance(error))))
            }
            Poll::Pending => {
                let Some(late) = &mut self.late else { return Poll::Pending };
                std::task::ready!(late.as_mut().poll(cx));
                self.judge(Outcome::Failed);
                Poll::Ready(Some(Err(CutShort::Late)))
            }
        }
    }

    fn over(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        // A response of gRPC that has no status is none.
        self.judge(trailers.and_then(grpc_outcome).unwrap_or(Outcome::Failed));
    }

    fn judge(&mut self, outcome: Outcome) {
        if let Some((cluster, address)) = self.judged.take() {
            cluster.settle(address, outcome);
        }
    }
}

/// By the HTTP status that Envoy takes a gRPC status for: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE
/// and DATA_LOSS are 5xx. `None`: there is no status.
pub(super) fn grpc_outcome(headers: &HeaderMap) -> Option<Outcome> {
    let status = headers.get("grpc-status")?.as_bytes();
    let failed = [&b"2"[..], b"4", b"12", b"13", b"14", b"15"].contains(&status);
    Some(if failed { Outcome::Failed } else { Outcome::Good })
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = self.get_mut();
        let frame = match &mut this.from {
            From::Empty => Poll::Ready(None),
            From::Own(body) => {
                let frame = Frame::data(std::mem::take(body));
                this.from = From::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            From::Instance(body) => body.poll_frame(cx),
        };
        if let (Some(entry), Poll::Ready(Some(Ok(frame)))) = (&mut this.place.entry, &frame) {
            entry.sent(length(frame));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Empty => true,
            From::Own(_) => false,
            From::Instance(instance) => instance.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Empty => SizeHint::with_exact(0),
            From::Own(body) => SizeHint::with_exact(body.len() as u64),
            From::Instance(instance) => instance.body.size_hint(),
        }
    }
}
