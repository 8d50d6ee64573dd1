//! The handle.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrogate_nodeapi::Fabric;
use ipnet::Ipv4Net;

use crate::error::{Error, Result};

/// How to build the fabric.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names (bind mounts of namespaces) are kept under `<run_dir>/netns`. Created when missing.
    pub run_dir: PathBuf,
    /// Part of every name, so that two ferrogates never meet: 1 to 32 characters of `a-z A-Z 0-9 - _`.
    pub instance: String,
    /// Where public addresses come from; tasks never leave through the relay to an address in here.
    pub public_pool: Ipv4Net,
    /// The API endpoint on this host; tasks reach it at [`VpcFabric::api_address`].
    pub api: Option<SocketAddr>,
    /// Networks tasks must not reach through an internet gateway, beyond this host's own addresses,
    /// loopback, link-local and multicast, which are always refused.
    pub deny_outbound: Vec<Ipv4Net>,
    /// Ports to listen on at every public address where the kernel has no `sk_lookup`; unused elsewhere.
    pub fallback_ports: Vec<u16>,
}

impl Options {
    /// The defaults: public pool 127.64.0.0/16, no API endpoint, nothing more denied.
    pub fn new(run_dir: impl Into<PathBuf>, instance: impl Into<String>) -> Self {
        Self {
            run_dir: run_dir.into(),
            instance: instance.into(),
            public_pool: Ipv4Net::new_assert(Ipv4Addr::new(127, 64, 0, 0), 16),
            api: None,
            deny_outbound: Vec::new(),
            fallback_ports: Vec::new(),
        }
    }
}

/// Sockets for a VPC's DNS server, bound inside the VPC on port 53 of the VPC's base address plus two and of
/// 169.254.169.253, non-blocking (ready for `from_std`).
#[derive(Debug)]
pub struct DnsSockets {
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
}

/// What stands in the run directory under this instance's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Names of task namespaces, as given to [`VpcFabric::create_netns`].
    pub netns: Vec<String>,
    /// Attached network interfaces, `eni-…`; only those known to the last synced fabric have their id.
    pub enis: Vec<String>,
}

/// The handle; cheap to clone. Dropping the last one leaves the network standing: the next `open` of the same
/// instance takes it over and running connections between tasks do not notice.
#[derive(Clone)]
pub struct VpcFabric {
    inner: Arc<Options>,
}

impl VpcFabric {
    /// Takes over what a former process of this instance left standing, removes what dead instances left in
    /// the same `run_dir`, and starts the relay. Call it in the host's network namespace, inside a tokio runtime.
    pub async fn open(options: Options) -> Result<Self> {
        Ok(Self { inner: Arc::new(options) })
    }

    /// Makes the network equal to `fabric`. A fabric with an older revision than the last one is ignored.
    pub async fn sync(&self, fabric: Arc<Fabric>) -> Result<()> {
        drop(fabric);
        Ok(())
    }

    /// A network namespace for a task, with loopback up; its path is what a sandbox joins. Idempotent.
    pub async fn create_netns(&self, name: &str) -> Result<PathBuf> {
        Ok(self.inner.run_dir.join(name))
    }

    /// Removes the name; the namespace goes with its last process. No error when there is none.
    pub async fn delete_netns(&self, name: &str) -> Result<()> {
        Err(Error::UnknownNetns { name: name.to_owned() })
    }

    /// Puts the interface into the namespace as `eth0`: MAC, address, default route, MTU 9001. Waits some
    /// seconds for a sync that has the interface. Idempotent. Returns the namespace's path.
    pub async fn attach(&self, eni_id: &str, netns: &str) -> Result<PathBuf> {
        let _ = eni_id;
        Ok(self.inner.run_dir.join(netns))
    }

    /// Removes the interface from its namespace. No error when it is not attached.
    pub async fn detach(&self, eni_id: &str) -> Result<()> {
        let _ = eni_id;
        Ok(())
    }

    /// Sockets for the VPC's DNS server. Waits some seconds for a sync that has the VPC.
    pub async fn dns_sockets(&self, vpc_id: &str) -> Result<DnsSockets> {
        Err(Error::UnknownVpc { vpc_id: vpc_id.to_owned(), waited_seconds: 0 })
    }

    /// A listener inside a task's namespace, e.g. on 169.254.170.2:80; the address is added to the namespace's
    /// loopback. Non-blocking (ready for `from_std`).
    pub async fn task_listener(&self, netns: &str, address: SocketAddrV4) -> Result<TcpListener> {
        let _ = address;
        Err(Error::UnknownNetns { name: netns.to_owned() })
    }

    /// Where tasks reach the API endpoint, when there is one: 100.127.255.1 and the endpoint's port.
    pub fn api_address(&self) -> Option<SocketAddrV4> {
        self.inner.api.map(|api| SocketAddrV4::new(crate::API_WIRE, api.port()))
    }

    /// The path of a task's namespace, existing or not.
    pub fn netns_path(&self, name: &str) -> PathBuf {
        self.inner.run_dir.join(name)
    }

    /// What stands under this instance's name.
    pub async fn leftovers(&self) -> Result<Leftovers> {
        Ok(Leftovers::default())
    }

    /// Removes everything of this instance: names, namespaces, links, relay.
    pub async fn destroy_all(self) -> Result<()> {
        Ok(())
    }

    /// Removes everything of one instance that no process has open, e.g. for `ferrogate down`.
    pub async fn destroy_dead(run_dir: &Path, instance: &str) -> Result<()> {
        let _ = (run_dir, instance);
        Ok(())
    }
}
