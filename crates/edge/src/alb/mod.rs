//! Application load balancers: HTTP and HTTPS listeners. The request path is in the crate's own words in [`crate`].

mod body;
mod choose;
mod chunks;
mod compiled;
mod connection;
mod cookies;
mod forward;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guard;
pub mod head;
mod headers;
mod page;
mod pool;
mod random;
mod record;
mod request;
mod sticky;
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
