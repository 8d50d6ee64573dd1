//! A task's proxy with real sockets on loopback: what a container sees of services, and what they see of it.

mod process;
mod requests;
mod streams;
mod support;
mod trouble;
