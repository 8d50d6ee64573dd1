//! PID 1 inside a micro-VM, and the whole of its user space: a static program in an initramfs of its own.
//!
//! ```text
//! mounts ─ modules ─ ahead: interfaces, disk, shim ─ port ─ timer ─ Hello ▶ …
//!   … ◀ Setup: clock, entropy, name, key, task ─ Ready ▶ calls, streams
//! ```
//!
//! It becomes a task's only with [`Setup`](ferrogate_shim::machine::wire::Setup): until then nothing in it belongs to
//! anybody, so that a snapshot of it may be taken. The same shim server a container task has on its host
//! (`ferrogate_shim::server`) is its child, which waits for the same, and it is that one's only client: what comes over the
//! link goes to the shim, and back. PID 1 ends with the machine: when it returns, or the shim does, the guest is reset, and the
//! host's shim sees it.

#![cfg(target_os = "linux")]

pub mod boot;
mod disks;
mod interface;
mod link;
mod output;
mod setup;
mod shim;
mod storage;
mod timer;

use std::convert::Infallible;

/// The whole program.
pub fn run() -> Result<Infallible, String> {
    let mut steps = boot::Steps::default();
    steps.done("init");
    boot::signals()?;
    boot::mounts()?;
    boot::spare()?;
    steps.done("mounts");
    let own = setup::ahead()?;
    steps.done("ready for anybody");
    let port = boot::port()?;
    steps.done("port");
    link::serve(port, steps, own)
}
