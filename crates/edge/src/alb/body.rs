//! Bodies on their way: streamed, counted, never collected.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::pool::{Carrier, Lease};
use super::record::Record;
use super::target::Broken;
use super::wire::Wire;

/// A request's body on its way to a target.
pub(crate) enum RequestBody {
    Empty,
    Client { body: Incoming, wire: Arc<Wire>, bytes: Arc<AtomicU64> },
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, wire: &Arc<Wire>, bytes: &Arc<AtomicU64>) -> RequestBody {
        if body.is_end_stream() {
            return RequestBody::Empty;
        }
        RequestBody::Client { body, wire: wire.clone(), bytes: bytes.clone() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Client { body, wire, bytes } => {
                let frame = Pin::new(body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &frame {
                    wire.body_moved();
                    bytes.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Relaxed);
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Client { body, .. } => body.size_hint(),
        }
    }
}

/// Why a response that had begun was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutShort {
    #[error("the target broke its response off")]
    Target(#[source] Broken),
    #[error("the target broke its response off")]
    Http2(#[source] hyper::Error),
    #[error("the target sent nothing more of its response for {0:?}")]
    Idle(Duration),
}

/// A response's body on its way to the client; its record is written when it is over or nobody wants it any more.
pub(crate) struct ResponseBody {
    from: From,
    record: Option<Box<Record>>,
}

enum From {
    Empty,
    Own(Bytes),
    Target(Box<TargetBody>),
}

struct TargetBody {
    /// Given back when the body is over.
    lease: Option<Lease>,
    idle: Duration,
    silent: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl ResponseBody {
    pub(crate) fn own(body: Bytes, record: Box<Record>) -> ResponseBody {
        let from = if body.is_empty() { From::Empty } else { From::Own(body) };
        ResponseBody { from, record: Some(record) }.end_if_over()
    }

    pub(crate) fn target(lease: Lease, idle: Duration, record: Box<Record>) -> ResponseBody {
        if lease.is_over() {
            lease.give_back();
            return ResponseBody { from: From::Empty, record: Some(record) }.end_if_over();
        }
        let target = TargetBody { lease: Some(lease), idle, silent: None };
        ResponseBody { from: From::Target(Box::new(target)), record: Some(record) }
    }

    /// Of a response without a record: its exchange goes on elsewhere.
    pub(crate) fn nothing() -> ResponseBody {
        ResponseBody { from: From::Empty, record: None }
    }

    fn end_if_over(mut self) -> ResponseBody {
        if self.is_end_stream() {
            self.end(true);
        }
        self
    }

    fn end(&mut self, whole: bool) {
        if let Some(mut record) = self.record.take() {
            record.body_over(whole);
        }
    }
}

impl Lease {
    /// The response has no more body.
    pub(super) fn is_over(&self) -> bool {
        match &self.carrier {
            Carrier::Http1(connection) => connection.is_over(),
            Carrier::Http2(_, body) => body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    /// How long the rest of the response's body is.
    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.carrier {
            Carrier::Http1(connection) => {
                connection.length().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Carrier::Http2(_, body) => body.as_ref().map_or_else(SizeHint::default, Body::size_hint),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match &mut self.carrier {
            Carrier::Http1(connection) => {
                connection.poll_body(cx).map(|piece| Some(piece?.map(Frame::data).map_err(CutShort::Target)))
            }
            Carrier::Http2(_, Some(body)) => {
                Pin::new(body).poll_frame(cx).map(|frame| Some(frame?.map_err(CutShort::Http2)))
            }
            Carrier::Http2(_, None) => Poll::Ready(None),
        }
    }
}

impl TargetBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        match lease.poll_frame(cx) {
            Poll::Ready(frame) => {
                // The timer stays: the next wait would make it anew.
                if let Some((since, _)) = &mut self.silent {
                    *since = Instant::now();
                }
                if (frame.is_none() || lease.is_over())
                    && let Some(lease) = self.lease.take()
                {
                    lease.give_back();
                }
                Poll::Ready(frame)
            }
            Poll::Pending => self.poll_silence(cx),
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let idle = self.idle;
        let timer = || (Instant::now(), Box::pin(tokio::time::sleep(idle)));
        let (since, sleep) = self.silent.get_or_insert_with(timer);
        while sleep.as_mut().poll(cx).is_ready() {
            if since.elapsed() >= idle {
                return Poll::Ready(Some(Err(CutShort::Idle(idle))));
            }
            sleep.as_mut().reset((*since + idle).into());
        }
        Poll::Pending
    }
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
            From::Own(body) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(body))))),
            From::Target(target) => target.poll_frame(cx),
        };
        if matches!(this.from, From::Own(_)) {
            this.from = From::Empty;
        }
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if let Some(record) = &mut this.record {
                    record.sent(bytes);
                }
                if this.is_end_stream() {
                    this.end(true);
                }
            }
            Poll::Ready(Some(Err(_))) => this.end(false),
            Poll::Ready(None) => this.end(true),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Empty => true,
            From::Own(_) => false,
            From::Target(target) => target.lease.as_ref().is_none_or(Lease::is_over),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Empty => SizeHint::with_exact(0),
            From::Own(body) => SizeHint::with_exact(body.len() as u64),
            From::Target(target) => {
                target.lease.as_ref().map_or_else(|| SizeHint::with_exact(0), Lease::size_hint)
            }
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.end(false);
    }
}
