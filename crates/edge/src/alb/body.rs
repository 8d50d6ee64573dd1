//! Bodies on their way: streamed, counted, never collected.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::alarms::Moment;
use super::compiled::HttpListener;
use super::connection::Connection;
use super::output::{Output, Relayed};
use super::pool::{Carrier, Lease};
use super::record::Record;
use super::target::{Broken, Tunnel};

/// Why the rest of a request does not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("its connection broke")]
    Http1,
    #[error("its stream broke")]
    Http2(#[source] hyper::Error),
}

/// The body of a request as its client sends it.
pub(crate) enum ClientBody {
    Empty,
    Http1 {
        source: Arc<dyn Source>,
        /// `None`: its chunks tell.
        left: Option<u64>,
    },
    Http2(Incoming),
}

/// Where the bodies of an HTTP/1 connection come from.
pub(crate) trait Source: Send + Sync {
    /// A piece of the body that is on its way; `None`: it is over.
    fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientError>>>;
}

impl ClientBody {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        match self {
            ClientBody::Empty => Poll::Ready(None),
            ClientBody::Http2(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| Some(frame?.map_err(ClientError::Http2)))
            }
            ClientBody::Http1 { source, left } => {
                let piece = ready!(source.poll_piece(cx));
                if let (Some(Ok(data)), Some(left)) = (&piece, &mut *left) {
                    *left -= (data.len() as u64).min(*left);
                }
                if piece.is_none() || *left == Some(0) {
                    *self = ClientBody::Empty;
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            ClientBody::Empty => true,
            ClientBody::Http1 { .. } => false,
            ClientBody::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ClientBody::Empty => SizeHint::with_exact(0),
            ClientBody::Http1 { left, .. } => left.map_or_else(SizeHint::default, SizeHint::with_exact),
            ClientBody::Http2(body) => body.size_hint(),
        }
    }
}

/// A request's body on its way to a target.
pub(crate) enum RequestBody {
    Empty,
    Client { body: ClientBody, connection: Arc<Connection>, bytes: Arc<AtomicU64> },
}

impl RequestBody {
    pub(crate) fn new(body: ClientBody, record: &mut Record) -> RequestBody {
        if body.is_over() {
            return RequestBody::Empty;
        }
        RequestBody::Client { body, connection: record.connection().clone(), bytes: record.body_counter() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Client { body, connection, bytes } => {
                let frame = body.poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &frame {
                    connection.wire.body_moved();
                    bytes.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Relaxed);
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client { body, .. } => body.is_over(),
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
    Target(TargetBody),
    /// After 101.
    Tunnel(Box<Tunnel>),
}

struct TargetBody {
    /// Given back when the body is over.
    lease: Option<Lease>,
    /// The response's head is still the target's own; its client gets it so.
    relayed: Option<Arc<HttpListener>>,
    idle: Duration,
    silent: Silent,
}

/// The target sends nothing of what is to come.
enum Silent {
    No,
    /// On the connection's alarm.
    Until(Moment),
    Since(Instant, Pin<Box<Sleep>>),
}

impl ResponseBody {
    pub(crate) fn own(body: Bytes, record: Box<Record>) -> ResponseBody {
        let from = if body.is_empty() { From::Empty } else { From::Own(body) };
        ResponseBody { from, record: Some(record) }.end_if_over()
    }

    /// Nobody else has a part in it.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.from, From::Empty | From::Own(_))
    }

    pub(crate) fn target(lease: Lease, idle: Duration, record: Box<Record>) -> ResponseBody {
        if lease.is_over() {
            lease.give_back();
            return ResponseBody { from: From::Empty, record: Some(record) }.end_if_over();
        }
        let target = TargetBody { lease: Some(lease), relayed: None, idle, silent: Silent::No };
        ResponseBody { from: From::Target(target), record: Some(record) }
    }

    /// The whole response, its head in the target's own words.
    pub(crate) fn relay(
        lease: Lease,
        idle: Duration,
        listener: Arc<HttpListener>,
        record: Box<Record>,
    ) -> ResponseBody {
        let relayed = Some(listener);
        let target = TargetBody { lease: Some(lease), relayed, idle, silent: Silent::No };
        ResponseBody { from: From::Target(target), record: Some(record) }
    }

    pub(crate) fn tunnel(target: Tunnel, record: Box<Record>) -> ResponseBody {
        ResponseBody { from: From::Tunnel(Box::new(target)), record: Some(record) }
    }

    /// What is to be joined to the client's connection.
    pub(crate) fn take_tunnel(&mut self) -> Option<(Tunnel, Box<Record>)> {
        match std::mem::replace(&mut self.from, From::Empty) {
            From::Tunnel(target) => Some((*target, self.record.take()?)),
            from => {
                self.from = from;
                None
            }
        }
    }

    /// The head that is still the target's own.
    pub(super) fn relayed(&self) -> Option<Relayed<'_>> {
        let From::Target(TargetBody { lease: Some(lease), relayed: Some(listener), .. }) = &self.from else {
            return None;
        };
        let Carrier::Http1(connection) = &lease.carrier else { return None };
        let (head, input) = connection.head()?;
        Some(Relayed { head, input, attributes: &listener.headers })
    }

    /// The head was written: its place is the body's.
    pub(super) fn head_is_out(&mut self) {
        let From::Target(target) = &mut self.from else { return };
        if target.relayed.take().is_some()
            && let Some(lease) = &mut target.lease
            && let Carrier::Http1(connection) = &mut lease.carrier
        {
            connection.drop_head();
            if target.end_if_over() {
                self.end(true);
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_end_stream()
    }

    /// How many bytes are to come, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// Puts out what there is of the body; `None`: it is over.
    pub(super) fn poll_into(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Output,
    ) -> Poll<Option<Result<(), CutShort>>> {
        let piece = match &mut self.from {
            From::Empty | From::Tunnel(_) => Poll::Ready(None),
            From::Own(body) => {
                let body = std::mem::take(body);
                let bytes = body.len();
                self.from = From::Empty;
                out.put_large(body);
                Poll::Ready(Some(Ok(bytes)))
            }
            From::Target(target) => match &self.record {
                Some(record) => target.poll_into(cx, out, record.connection()),
                None => Poll::Ready(None),
            },
        };
        self.moved(&piece);
        piece.map(|piece| Some(piece?.map(|_| ())))
    }

    fn moved(&mut self, piece: &Poll<Option<Result<usize, CutShort>>>) {
        match piece {
            Poll::Ready(Some(Ok(bytes))) => {
                if let Some(record) = &mut self.record {
                    record.sent(*bytes);
                }
                if self.is_end_stream() {
                    self.end(true);
                }
            }
            Poll::Ready(Some(Err(_))) => self.end(false),
            Poll::Ready(None) => self.end(true),
            Poll::Pending => {}
        }
    }

    /// Of a response without a record.
    #[cfg(any(test, feature = "fuzzing"))]
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
                if let Silent::Since(since, _) = &mut self.silent {
                    *since = Instant::now();
                }
                self.end_if(frame.is_none());
                Poll::Ready(frame)
            }
            Poll::Pending => self.poll_silence(cx),
        }
    }

    fn poll_into(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Output,
        client: &Connection,
    ) -> Poll<Option<Result<usize, CutShort>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        let piece = match &mut lease.carrier {
            Carrier::Http1(connection) => {
                connection.poll_body_into(cx, out).map(|piece| Some(piece?.map_err(CutShort::Target)))
            }
            Carrier::Http2(..) => lease.poll_frame(cx).map(|frame| {
                Some(frame?.map(|frame| {
                    // Trailers are not for a client of HTTP/1.
                    let data = frame.into_data().unwrap_or_default();
                    let bytes = data.len();
                    out.put_large(data);
                    bytes
                }))
            }),
        };
        match piece {
            Poll::Ready(piece) => {
                self.silent = Silent::No;
                self.end_if(piece.is_none());
                Poll::Ready(piece)
            }
            Poll::Pending => {
                let Silent::Until(until) = self.silent else {
                    let until = client.alarm.after(self.idle);
                    self.silent = Silent::Until(until);
                    client.alarm.set(until);
                    return Poll::Pending;
                };
                if client.alarm.now() >= until {
                    return Poll::Ready(Some(Err(CutShort::Idle(self.idle))));
                }
                client.alarm.set(until);
                Poll::Pending
            }
        }
    }

    fn end_if_over(&mut self) -> bool {
        let over = self.lease.as_ref().is_none_or(Lease::is_over);
        self.end_if(over);
        over
    }

    fn end_if(&mut self, over: bool) {
        if (over || self.lease.as_ref().is_some_and(Lease::is_over))
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let idle = self.idle;
        if !matches!(self.silent, Silent::Since(..)) {
            self.silent = Silent::Since(Instant::now(), Box::pin(tokio::time::sleep(idle)));
        }
        let Silent::Since(since, sleep) = &mut self.silent else { return Poll::Pending };
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
            From::Empty | From::Tunnel(_) => Poll::Ready(None),
            From::Own(body) => {
                let body = std::mem::take(body);
                this.from = From::Empty;
                Poll::Ready(Some(Ok(Frame::data(body))))
            }
            From::Target(target) => target.poll_frame(cx),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                this.moved(&Poll::Ready(Some(Ok(frame.data_ref().map_or(0, Bytes::len)))));
            }
            Poll::Ready(Some(Err(_))) => this.end(false),
            Poll::Ready(None) => this.end(true),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Empty | From::Tunnel(_) => true,
            From::Own(_) => false,
            From::Target(target) => target.lease.as_ref().is_none_or(Lease::is_over),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Empty | From::Tunnel(_) => SizeHint::with_exact(0),
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
