//! One file per command.

pub(crate) mod down;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod logs;
pub(crate) mod ps;
pub(crate) mod status;
mod timing;
pub(crate) mod up;

use anyhow::Result;

/// A small runtime for commands that make calls.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
