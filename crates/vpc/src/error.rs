//! Why the fabric could not be built.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Every way the fabric fails; the message names the thing, its value and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} failed")]
    Io {
        /// The action and the thing it was done to.
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the kernel refused {what}")]
    Netlink {
        what: String,
        #[source]
        source: crate::netlink::NetlinkError,
    },
    #[error("nft refused the rules of {namespace}: {message}")]
    Nft { namespace: String, message: String },
    #[error("the program `nft` was not found; install the package nftables")]
    NftMissing,
    #[error(
        "instance {instance} is already open in {run_dir}; stop the other process or choose another data directory",
        run_dir = run_dir.display()
    )]
    AlreadyOpen { instance: String, run_dir: PathBuf },
    #[error("{what} name {name:?} is not usable: 1 to {max} characters of a-z, A-Z, 0-9, '-' and '_'")]
    BadName { what: &'static str, name: String, max: usize },
    #[error("there is no network namespace {name:?}; create_netns makes it")]
    UnknownNetns { name: String },
    #[error("network interface {eni_id} is in no synced fabric; waited {waited_seconds} s for it")]
    UnknownEni { eni_id: String, waited_seconds: u64 },
    #[error("VPC {vpc_id} is in no synced fabric; waited {waited_seconds} s for it")]
    UnknownVpc { vpc_id: String, waited_seconds: u64 },
    #[error(
        "network interface {eni_id} is attached to namespace {attached:?}, not {wanted:?}; detach it first"
    )]
    AttachedElsewhere { eni_id: String, attached: String, wanted: String },
    #[error("the fabric contradicts itself: {0}")]
    BadFabric(String),
    #[error("address {address} is not usable: {why}")]
    BadAddress { address: Ipv4Addr, why: &'static str },
    #[error("a worker thread of namespace {namespace} is gone")]
    WorkerGone { namespace: String },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
