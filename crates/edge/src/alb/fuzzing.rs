//! Whole connections of HTTP/1, as `fuzz/` reaches them: guard and HTTP library put together as `connection` does it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use super::chunks::Chunks;
use super::guard::Guard;
use super::head::{self, Class, Framing, HEAD_BYTES_MAX, HEADERS_MAX};
use super::wire::Wire;

/// So long that no time passes in a run.
const IDLE: Duration = Duration::from_secs(3600);

/// A request as somebody understood it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    /// Those that do not frame the body: of two that do, the library drops one.
    headers: usize,
    body: Vec<u8>,
}

fn frames_body(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
}

/// What the guard's own reader makes of a connection.
#[derive(Debug, Default)]
struct Expected {
    requests: Vec<Seen>,
    /// After which of them the library or the balancer may take no more.
    last: Option<usize>,
}

/// The first byte says how the others are cut. Whatever comes, the library behind the guard serves the requests
/// that the guard has seen and no other: same methods, same bodies, in the same order.
pub fn connection(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let expected = expected(bytes);
    for step in [usize::MAX, usize::from(*cut % 61) + 1] {
        let Served { whole, broken } = serve(bytes, step);
        let count = whole.len().min(expected.requests.len());
        assert_eq!(whole[..], expected.requests[..count], "cut by {step}: not what the guard has passed");
        let may_end = expected.last.is_some_and(|last| whole.len() > last) || broken;
        assert!(may_end || count == expected.requests.len(), "cut by {step}: {whole:?} of {expected:?}");
    }
}

fn expected(mut bytes: &[u8]) -> Expected {
    let mut expected = Expected::default();
    while let Ok(Some(head)) = head::read(bytes, 0) {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(bytes).expect("what passed is a head");
        let method = request.method.unwrap_or_default().to_owned();
        let closes = request.version == Some(0)
            || head.upgrade
            || head.verdict.class >= Class::Ambiguous
            || matches!(method.as_str(), "CONNECT" | "TRACE")
            || request.headers.iter().any(|field| field.name.eq_ignore_ascii_case("connection"));
        let headers = request.headers.iter().filter(|field| !frames_body(field.name)).count();
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

/// What came through.
#[derive(Debug, Default)]
struct Served {
    whole: Vec<Seen>,
    /// The library found a fault that the guard had not: in a trailer, in a URI.
    broken: bool,
}

fn serve(bytes: &[u8], step: usize) -> Served {
    thread_local! {
        static RUNTIME: Runtime =
            Builder::new_current_thread().enable_time().build().expect("a runtime without I/O");
    }
    let wire = Arc::<Wire>::default();
    let served = Rc::new(RefCell::new(Served::default()));
    let client = Client { bytes: bytes.to_vec(), at: 0, step };
    let result = RUNTIME.with(|runtime| {
        let _entered = runtime.enter();
        let guard = Guard::http1(client, wire.clone(), Arc::default(), IDLE);
        let handler = service_fn(|request| handle(wire.clone(), served.clone(), request));
        let serving = hyper::server::conn::http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX * 2)
            .serve_connection(TokioIo::new(guard), handler);
        as_far_as_it_goes(std::pin::pin!(serving))
    });
    let mut served = served.take();
    served.broken |= matches!(result, Some(Err(error)) if error.is_parse());
    served
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
    wire: Arc<Wire>,
    served: Rc<RefCell<Served>>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let arrival = wire.take_arrival().expect("a request that the guard has not seen");
    let mut response = Response::new(Empty::new());
    let refused = arrival.fault.is_some()
        || arrival.verdict.class >= Class::Ambiguous
        || matches!(*request.method(), Method::CONNECT | Method::TRACE);
    if refused {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if arrival.fault.is_none() {
        let method = request.method().to_string();
        let headers = request.headers().iter().filter(|(name, _)| !frames_body(name.as_str())).count();
        let body = request.into_body().collect().await;
        let mut served = served.borrow_mut();
        assert!(!served.broken, "a request after one whose body was not taken");
        match body {
            Ok(body) => served.whole.push(Seen { method, headers, body: body.to_bytes().into() }),
            Err(_) => served.broken = true,
        }
    }
    wire.decide_upgrade(false);
    Ok(response)
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
