//! The shim: one small single-threaded process per task. It outlives the agent, owns the containers' stdio and
//! exit codes, and is the only place that clones, mounts and executes (a process with threads must not).
//!
//! As a library it is the protocol ([`protocol`]), the on-disk log format ([`log`]) and the default profiles
//! ([`seccomp`], [`capabilities`]); everything else is reached through the `ferrogate-shim` program.

pub mod protocol;
pub mod log;
pub mod capabilities;
pub mod cgroup;
pub mod seccomp;
