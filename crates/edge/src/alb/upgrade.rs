//! WebSocket: once the target agrees with 101, two streams of bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use http::{HeaderValue, Response, header, response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::body::ResponseBody;
use super::client::{ClientStream, Io, Pipe};
use super::headers;
use super::record::{Kind, Record};
use super::request::{CONNECTION, Exchange};
use super::target::Tunnel;

/// 101 to the client; its connection [joins](join) the target's behind it.
pub(crate) fn accept(
    mut exchange: Exchange,
    mut parts: response::Parts,
    target: Tunnel,
) -> Response<ResponseBody> {
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(header::UPGRADE, protocol);
    }
    exchange.record.kind = Kind::WebSocket;
    Response::from_parts(parts, ResponseBody::tunnel(target, exchange.record))
}

/// The bytes go through until one side ends or nothing has moved for the idle timeout.
pub(super) async fn join<S: ClientStream>(client: Arc<Io<S>>, target: Tunnel, mut record: Box<Record>) {
    let idle = record.idle_timeout();
    let moved = AtomicU64::new(0);
    let sent = AtomicU64::new(0);
    let mut client = Metered { io: Pipe(client), moved: &moved, read: &record.body_counter() };
    let mut target = Metered { io: target, moved: &moved, read: &sent };
    let copying = copy_bidirectional(&mut client, &mut target);
    let mut copying = std::pin::pin!(copying);
    loop {
        let before = moved.load(Relaxed);
        match tokio::time::timeout(idle, copying.as_mut()).await {
            Err(_) if moved.load(Relaxed) != before => {}
            // Ended, broken or idle: the record tells how much went through.
            _ => break,
        }
    }
    record.sent(usize::try_from(sent.load(Relaxed)).unwrap_or(usize::MAX));
}

struct Metered<'a, S> {
    io: S,
    moved: &'a AtomicU64,
    read: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let done = Pin::new(&mut self.io).poll_read(cx, out);
        let bytes = out.filled().len() - before;
        if bytes > 0 {
            self.moved.fetch_add(1, Relaxed);
            self.read.fetch_add(bytes as u64, Relaxed);
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
