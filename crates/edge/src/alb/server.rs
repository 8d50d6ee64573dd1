//! HTTP/1 towards a client, one request after the other: its head is read by [`head`](super::head), which decides where its
//! body ends; the answer is written; both by the one task of the connection.
//!
//! ```text
//!            ┌──────────────────── kept alive ────────────────────┐
//!            ▼                                                    │
//!  wait for a head ──whole──▶ handler answers ──▶ write head, body┤
//!      │        └──a fault──▶   (the fault)                       ├──▶ farewell: shut down, read on for a while
//!      │                          │                               └──▶ 101: two streams of bytes
//!      └─ idle, stop, closed      └─ the client went away: the handler is dropped, which is a 460
//! ```

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response, request};
use tokio::sync::watch;

use super::alarms::{Alarm, Moment};
use super::body::{ClientBody, ResponseBody};
use super::client::{ClientStream, Io, Next};
use super::head::{Class, Fault, Framing, Head, Verdict};
use super::output::{Asked, Output};
use super::upgrade;

/// After "no more requests", those under way have this long.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(300);

/// How a request came, or why it is none.
pub(crate) struct Arrival {
    pub(crate) verdict: Verdict,
    pub(crate) fault: Option<Fault>,
    pub(crate) head_bytes: u64,
    /// The first byte of the head.
    pub(crate) began: Instant,
}

/// Until when a connection takes requests.
pub(crate) struct Term {
    /// The sender goes away when the listener does.
    stop: watch::Receiver<bool>,
    /// It has lived as long as a client may keep one.
    old: Moment,
    drained: Option<Moment>,
}

impl Term {
    pub(crate) fn new(alarm: &Alarm, age: Duration, stop: watch::Receiver<bool>) -> Term {
        Term { stop, old: alarm.after(age), drained: None }
    }

    /// No request follows the one under way.
    pub(super) fn is_over(&self, alarm: &Alarm) -> bool {
        self.stop.has_changed().is_err() || alarm.now() >= self.old
    }

    pub(super) fn end(&self) -> Moment {
        self.old
    }

    /// The request under way has had its time, too.
    fn is_drained(&mut self, alarm: &Alarm) -> bool {
        if !self.is_over(alarm) {
            return false;
        }
        let drained = *self.drained.get_or_insert_with(|| alarm.after(DRAIN_TIME_MAX));
        alarm.set(drained);
        alarm.now() >= drained
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve<S, H, F>(io: Arc<Io<S>>, mut term: Term, handle: H)
where
    S: ClientStream,
    H: Fn(Request<ClientBody>, Arrival) -> F,
    F: Future<Output = Response<ResponseBody>>,
{
    let mut output = Output::default();
    poll_fn(|cx| {
        io.alarm().attend(cx);
        Poll::Ready(())
    })
    .await;
    loop {
        let (request, arrival, keep) = match poll_fn(|cx| io.poll_head(cx, &term)).await {
            Next::Head(head, parts, began) => {
                // What follows an ambiguous request may be of it for whoever sent it on.
                let keep = head.keep_alive && head.verdict.class < Class::Ambiguous;
                let (request, arrival) = arrived(&io, &head, parts, began);
                (request, arrival, keep)
            }
            Next::Fault(fault, head_bytes, began) => {
                let arrival = Arrival { verdict: fault.verdict, fault: Some(fault), head_bytes, began };
                (Request::new(ClientBody::Empty), arrival, false)
            }
            Next::End => break,
        };
        let asked = Asked { method: request.method().clone(), version: request.version() };
        let response = {
            let mut answering = pin!(handle(request, arrival));
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending if term.is_drained(io.alarm()) => Poll::Ready(None),
                Poll::Pending => io.poll_gone(cx, true).map(|()| None),
            })
            .await
        };
        let Some(response) = response else { return io.break_off() };
        let (parts, mut body) = response.into_parts();
        // An answer of ours waits for no more of the request: what has not come yet is not read.
        let keep = keep && !term.is_over(io.alarm()) && (!body.is_own() || io.skip_rest());
        let keep = output.head(&asked, &parts, &mut body, keep);
        io.answer_begins();
        let tunnel = body.take_tunnel();
        let over = asked.gets_no_body(parts.status);
        let mut answer = Answer { output: &mut output, body: &mut body, over };
        if !poll_fn(|cx| answer.poll(cx, &io, &mut term)).await {
            return io.break_off();
        }
        if let Some((target, record)) = tunnel {
            return upgrade::join(io, target, record).await;
        }
        drop(body);
        output.rest();
        if !io.end_request() || !keep {
            break;
        }
    }
    io.farewell().await;
}

fn arrived<S: ClientStream>(
    io: &Arc<Io<S>>,
    head: &Head,
    parts: request::Parts,
    began: Instant,
) -> (Request<ClientBody>, Arrival) {
    let body = match head.framing {
        Framing::None => ClientBody::Empty,
        Framing::Length(length) => ClientBody::Http1 { source: io.clone(), left: Some(length) },
        Framing::Chunked => ClientBody::Http1 { source: io.clone(), left: None },
    };
    let arrival = Arrival { verdict: head.verdict, fault: None, head_bytes: head.bytes as u64, began };
    (Request::from_parts(parts, body), arrival)
}

/// A response on its way out.
struct Answer<'a> {
    output: &'a mut Output,
    body: &'a mut ResponseBody,
    over: bool,
}

impl Answer<'_> {
    /// Whether all of it has been written.
    fn poll<S: ClientStream>(&mut self, cx: &mut Context<'_>, io: &Io<S>, term: &mut Term) -> Poll<bool> {
        loop {
            if self.take(cx).is_err() {
                return Poll::Ready(false);
            }
            if self.output.is_empty() {
                break;
            }
            match io.poll_write(cx, self.output) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a client did not take its response");
                    return Poll::Ready(false);
                }
                Poll::Pending if term.is_drained(io.alarm()) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
        match io.poll_flush(cx) {
            Poll::Ready(Ok(())) if self.over => Poll::Ready(true),
            Poll::Ready(Ok(())) | Poll::Pending => {
                if term.is_drained(io.alarm()) {
                    return Poll::Ready(false);
                }
                io.poll_gone(cx, false).map(|()| false)
            }
            Poll::Ready(Err(_)) => Poll::Ready(false),
        }
    }

    /// What the body has to give and `output` has room for. An error: it broke off.
    fn take(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        while !self.over && !self.output.is_full() {
            match self.body.poll_into(cx, self.output) {
                Poll::Ready(Some(Ok(()))) if !self.body.is_over() => {}
                Poll::Ready(Some(Ok(())) | None) => {
                    self.output.end();
                    self.over = true;
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "a response was cut short");
                    return Err(());
                }
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}
