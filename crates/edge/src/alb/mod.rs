//! Application load balancers: HTTP and HTTPS listeners. The request path is in the crate's own words in [`crate`].

mod alarms;
mod body;
mod choose;
mod chunks;
mod client;
mod compiled;
mod connection;
mod cookies;
mod date;
mod fields;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod guard;
pub mod head;
pub(crate) mod headers;
mod lazy;
mod output;
mod page;
mod pool;
pub(crate) mod random;
mod record;
mod reply;
mod request;
mod server;
mod sticky;
mod target;
mod upgrade;
mod wire;
mod workers;

pub use compiled::Compiled;
pub(crate) use pool::IdleConnections;
pub use workers::{Alb, CONNECTIONS_MAX, WORKERS_MAX};

/// For the fuzz target: how many bytes of these pieces belong to a chunked body, and whether it ends.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn pass_chunks(pieces: &[&[u8]]) -> Result<(usize, bool), &'static str> {
    let mut chunks = chunks::Chunks::default();
    let mut passed = (0, false);
    for piece in pieces {
        let (used, end) = chunks.pass(piece).map_err(|_| "bad")?;
        passed = (passed.0 + used, end);
        if end {
            break;
        }
    }
    Ok(passed)
}

/// For the fuzz target: status, headers and body of the response in these pieces; `None` if it is none, or none yet.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_reply(pieces: &[&[u8]]) -> Option<(u16, usize, Vec<u8>)> {
    let (mut buffer, mut seen, mut head) = (bytes::BytesMut::new(), 0, reply::Head::default());
    let mut reply = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if reply.is_none() {
            reply = reply::read(&mut buffer, &mut seen, &http::Method::GET, &mut head).ok()?;
        }
    }
    let reply = reply?;
    let fields = head.fields(&buffer).count();
    let headers = head.take_from(&mut buffer, &reply).headers.len();
    assert_eq!(fields, headers, "the HTTP library takes every field that passed");
    let status = reply.status.as_u16();
    let mut body = Vec::new();
    match reply.framing {
        reply::Framing::Close => body.extend_from_slice(&buffer),
        reply::Framing::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
            body.extend_from_slice(&buffer[..length]);
        }
        reply::Framing::Chunked => {
            let mut chunks = chunks::Chunks::of_target();
            let mut rest = &buffer[..];
            while !rest.is_empty() && !chunks.is_over() {
                let used = match chunks.piece(rest).ok()? {
                    chunks::Piece::Framing(bytes) => bytes,
                    chunks::Piece::Data(bytes) => {
                        body.extend_from_slice(&rest[..bytes]);
                        bytes
                    }
                };
                rest = &rest[used..];
            }
        }
    }
    Some((status, headers, body))
}
