//! The shim: one small single-threaded process per task. It outlives the agent, owns the containers' stdio and
//! exit codes, and is the only place that clones, mounts and executes (a process with threads must not).
//!
//! As a library it is the protocol ([`protocol`]), the on-disk log format ([`log`]), control groups ([`cgroup`]) and
//! the default profiles ([`seccomp`], [`capabilities`]); the rest is the `ferrogate-shim` program.

#[macro_use]
mod diagnostics;

pub mod capabilities;
pub mod cgroup;
pub mod descriptor;
mod launcher;
pub mod log;
pub mod machine;
pub mod memory;
pub mod protocol;
pub mod seccomp;
pub mod server;
pub mod storage;
