//! Whole connections of HTTP/1, as `fuzz/` reaches them: the server as `connection` has it, with a handler that tells what it
//! was asked.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderValue, Method, Request, Response, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::alarms::Alarms;
use super::body::{ClientBody, ResponseBody};
use super::chunks::Chunks;
use super::client::{ClientStream, Io};
use super::head::{self, Class, Framing, HEADERS_MAX};
use super::server::{self, Arrival, Term};

/// So long that no time passes in a run.
const IDLE: Duration = Duration::from_secs(3600);

/// A request as somebody understood it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    headers: usize,
    body: Vec<u8>,
}

/// What another reader makes of a connection: heads are cut off as whole requests, bodies by hand.
#[derive(Debug, Default)]
struct Expected {
    requests: Vec<Seen>,
    /// After which of them the balancer may take no more.
    last: Option<usize>,
}

/// The first byte says how the others are cut. Whatever comes, the server serves the requests that another reader finds in the
/// whole of it, and no other: same methods, same bodies, in the same order.
pub fn connection(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let expected = expected(bytes);
    for step in [usize::MAX, usize::from(*cut % 61) + 1] {
        let whole = serve(bytes, step);
        let count = whole.len().min(expected.requests.len());
        assert_eq!(whole[..], expected.requests[..count], "cut by {step}: not what was sent");
        let may_end = expected.last.is_some_and(|last| whole.len() > last);
        assert!(may_end || count == expected.requests.len(), "cut by {step}: {whole:?} of {expected:?}");
    }
}

fn expected(mut bytes: &[u8]) -> Expected {
    let mut expected = Expected::default();
    while let Ok(Some((head, _))) = head::take(&mut BytesMut::from(bytes), &mut 0) {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(bytes).expect("what passed is a head");
        let method = request.method.unwrap_or_default().to_owned();
        let closes = request.version == Some(0)
            || head.verdict.class >= Class::Ambiguous
            || matches!(method.as_str(), "CONNECT" | "TRACE")
            || request.headers.iter().any(|field| field.name.eq_ignore_ascii_case("connection"));
        let headers = request.headers.len();
        let rest = &bytes[head.bytes..];
        let Some((body, used)) = body(rest, head.framing) else { break };
        if closes {
            expected.last.get_or_insert(expected.requests.len());
        }
        expected.requests.push(Seen { method, headers, body });
        bytes = &rest[used..];
    }
    expected
}

/// `None`: it is not whole, or breaks its framing.
fn body(bytes: &[u8], framing: Framing) -> Option<(Vec<u8>, usize)> {
    match framing {
        Framing::None => Some((Vec::new(), 0)),
        Framing::Length(length) => {
            let length = usize::try_from(length).ok()?;
            Some((bytes.get(..length)?.to_vec(), length))
        }
        Framing::Chunked => {
            let (used, true) = Chunks::default().pass(bytes).ok()? else { return None };
            let (mut body, mut rest) = (Vec::new(), &bytes[..used]);
            loop {
                let line = memchr::memchr(b'\n', rest)?;
                let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let size = usize::from_str_radix(std::str::from_utf8(&rest[..digits]).ok()?, 16).ok()?;
                if size == 0 {
                    return Some((body, used));
                }
                body.extend_from_slice(&rest[line + 1..][..size]);
                rest = &rest[line + 1 + size + 2..];
            }
        }
    }
}

/// The requests that came through whole.
fn serve(bytes: &[u8], step: usize) -> Vec<Seen> {
    let served = Rc::new(RefCell::new(Vec::new()));
    let alarm = Arc::new(Arc::<Alarms>::default().alarm());
    let (_stop, stopped) = watch::channel(false);
    let term = Term::new(&alarm, IDLE, stopped);
    let client = Client { bytes: bytes.to_vec(), at: 0, step };
    let io = Io::new(client, alarm, Arc::default(), IDLE);
    let serving = server::serve(io, term, |request, arrival| handle(served.clone(), request, arrival));
    as_far_as_it_goes(std::pin::pin!(serving));
    served.take()
}

/// `None`: it waits for more from the client.
fn as_far_as_it_goes<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    while woken.0.swap(false, Relaxed) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
    }
    None
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

async fn handle(
    served: Rc<RefCell<Vec<Seen>>>,
    request: Request<ClientBody>,
    arrival: Arrival,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::nothing());
    let refused = arrival.fault.is_some()
        || arrival.verdict.class >= Class::Ambiguous
        || matches!(*request.method(), Method::CONNECT | Method::TRACE);
    if refused {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if arrival.fault.is_none() {
        let (parts, mut body) = request.into_parts();
        let (method, headers) = (parts.method.to_string(), parts.headers.len());
        let mut whole = Vec::new();
        while let Some(piece) = poll_fn(|cx| body.poll_frame(cx)).await {
            let Ok(piece) = piece else { return response };
            whole.extend_from_slice(&piece.into_data().unwrap_or_default());
        }
        served.borrow_mut().push(Seen { method, headers, body: whole });
    }
    response
}

/// Sends its bytes in pieces and stays; takes all that is written.
struct Client {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = &this.bytes[this.at..];
        let count = rest.len().min(this.step).min(out.remaining());
        if count == 0 {
            return Poll::Pending;
        }
        out.put_slice(&rest[..count]);
        this.at += count;
        Poll::Ready(Ok(()))
    }
}

impl ClientStream for Client {}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
