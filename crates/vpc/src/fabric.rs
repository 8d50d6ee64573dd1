//! The handle.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrogate_nodeapi::Fabric;
use ipnet::Ipv4Net;
use tokio::sync::watch;

use crate::addr::API_WIRE;
use crate::error::{Error, Result};
use crate::kernel;
use crate::names::{Named, Names};
use crate::netns::NetNs;
use crate::plan;
use crate::router::Doomed;
use crate::state::State;
use crate::task::{Counters, TaskNs};

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
    /// Attached network interfaces: ENI id and the name of the namespace it is in.
    pub enis: Vec<(String, String)>,
}

/// The handle; cheap to clone. Dropping the last one leaves the network standing: the next `open` of the same
/// instance takes it over and running connections between tasks do not notice.
#[derive(Clone)]
pub struct VpcFabric {
    inner: Arc<Inner>,
}

struct Inner {
    names: Names,
    api: Option<SocketAddr>,
    state: Mutex<State>,
    /// Bumped by every sync, for those who wait for one.
    synced: watch::Sender<u64>,
    /// Held as long as the handle lives.
    _lock: File,
}

/// How long `attach` and `dns_sockets` wait for a sync that has what they need.
const SYNC_WAIT_SECONDS: u64 = 10;

impl VpcFabric {
    /// Takes over what a former process of this instance left standing, removes what dead instances left in
    /// the same `run_dir`, and starts the relay. Call it in the host's network namespace, inside a tokio runtime.
    pub async fn open(options: Options) -> Result<Self> {
        let names = Names::new(&options.run_dir, &options.instance)?;
        let api = options.api;
        let (names, lock, state) = blocking(move || {
            std::fs::create_dir_all(names.dir())
                .map_err(Error::io(format!("making {}", names.dir().display())))?;
            let lock = take_lock(&names)?.ok_or_else(|| Error::AlreadyOpen {
                instance: names.instance().to_owned(),
                run_dir: options.run_dir.clone(),
            })?;
            remove_dead_instances(&names)?;
            let state = State::open(&names, &options)?;
            Ok((names, lock, state))
        })
        .await?;
        let state = Mutex::new(state);
        Ok(Self { inner: Arc::new(Inner { names, api, state, synced: watch::Sender::new(0), _lock: lock }) })
    }

    /// Makes the network equal to `fabric`. A fabric with an older revision than the last one is ignored. When
    /// one VPC cannot be built the others still are, and the first error is returned; the next sync tries again.
    pub async fn sync(&self, fabric: Arc<Fabric>) -> Result<()> {
        let (revision, desired) = blocking(move || {
            let desired = plan::plan(&fabric).map_err(|error| Error::BadFabric(error.0))?;
            Ok((fabric.revision, desired))
        })
        .await?;
        let result = self.with_state(move |_, state| state.sync(revision, desired)).await;
        self.inner.synced.send_modify(|count| *count += 1);
        result
    }

    /// A network namespace for a task, with loopback up; its path is what a sandbox joins. Idempotent.
    pub async fn create_netns(&self, name: &str) -> Result<PathBuf> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        blocking(move || {
            let path = inner.names.task(&name)?;
            if let Some(known) = inner.lock().task(&inner.names, &name)? {
                return Ok(known.path().to_owned());
            }
            // Outside the lock: making a namespace is the slowest part of a task's start.
            let task = TaskNs::create(&name, &path)?;
            inner.lock().tasks.insert(name, task);
            Ok(path)
        })
        .await
    }

    /// Removes the name; the namespace goes with its last process. No error when there is none.
    pub async fn delete_netns(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.with_state(move |names, state| {
            let path = names.task(&name)?;
            state.detach_all(&name)?;
            state.tasks.remove(&name);
            NetNs::remove_name(&path)
        })
        .await
    }

    /// Puts the interface into the namespace as `eth0`: MAC, address, default route, MTU 9001. Waits up to 10
    /// seconds for a sync that has the interface. Idempotent. Returns the namespace's path.
    pub async fn attach(&self, eni_id: &str, netns: &str) -> Result<PathBuf> {
        let (eni, name) = (eni_id.to_owned(), netns.to_owned());
        let found = move |names: &Names, state: &mut State| state.attach(names, &eni, &name);
        let unknown = Error::UnknownEni { eni_id: eni_id.to_owned(), waited_seconds: SYNC_WAIT_SECONDS };
        self.when_synced(found, unknown).await
    }

    /// Removes the interface from its namespace and forgets its connections. No error when it is not attached.
    pub async fn detach(&self, eni_id: &str) -> Result<()> {
        let eni_id = eni_id.to_owned();
        self.with_state(move |_, state| {
            state.routers.values_mut().try_for_each(|router| router.detach(&eni_id))
        })
        .await
    }

    /// Sockets for the VPC's DNS server; builds the VPC's namespace when it does not stand yet. Waits up to 10
    /// seconds for a sync that has the VPC.
    pub async fn dns_sockets(&self, vpc_id: &str) -> Result<DnsSockets> {
        let vpc = vpc_id.to_owned();
        let found = move |names: &Names, state: &mut State| state.dns_sockets(names, &vpc);
        let unknown = Error::UnknownVpc { vpc_id: vpc_id.to_owned(), waited_seconds: SYNC_WAIT_SECONDS };
        self.when_synced(found, unknown).await
    }

    /// A listener inside a task's namespace, e.g. on 169.254.170.2:80; the address (link-local or loopback) is
    /// added to the namespace's loopback. Non-blocking (ready for `from_std`).
    pub async fn task_listener(&self, netns: &str, address: SocketAddrV4) -> Result<TcpListener> {
        let name = netns.to_owned();
        self.with_state(move |names, state| {
            let task = state.task(names, &name)?.ok_or(Error::UnknownNetns { name: name.clone() })?;
            task.listen(address)
        })
        .await
    }

    /// Does `action` on a thread inside the namespace, which ends with it: sockets it makes and processes it starts are
    /// in there for good. It may block.
    pub async fn run_in<T: Send + 'static>(
        &self,
        netns: &str,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let name = netns.to_owned();
        let namespace = self.with_state(move |names, state| {
            let task = state.task(names, &name)?.ok_or(Error::UnknownNetns { name: name.clone() })?;
            Ok(task.namespace().clone())
        });
        let namespace = namespace.await?;
        // Outside the lock: a program takes milliseconds to start.
        blocking(move || namespace.run(action)).await
    }

    /// What went through the namespace's interface so far; `None` while it has none.
    pub async fn counters(&self, netns: &str) -> Result<Option<Counters>> {
        let name = netns.to_owned();
        self.with_state(move |names, state| {
            let task = state.task(names, &name)?.ok_or(Error::UnknownNetns { name: name.clone() })?;
            task.counters()
        })
        .await
    }

    /// Where tasks reach the API endpoint, when there is one: 100.127.255.1 and the endpoint's port.
    pub fn api_address(&self) -> Option<SocketAddrV4> {
        self.inner.api.map(|api| SocketAddrV4::new(API_WIRE, api.port()))
    }

    /// The path of a task's namespace, existing or not.
    pub fn netns_path(&self, name: &str) -> Result<PathBuf> {
        self.inner.names.task(name)
    }

    /// What stands under this instance's name.
    pub async fn leftovers(&self) -> Result<Leftovers> {
        self.with_state(|names, state| {
            let mut found = Leftovers::default();
            for (_, named) in names.list()? {
                if let Named::Task(name) = named {
                    found.netns.push(name);
                }
            }
            for router in state.routers.values_mut() {
                router.forget_vanished()?;
                found.enis.extend(
                    router.attached().map(|(eni_id, attached)| (eni_id.clone(), attached.netns.clone())),
                );
            }
            Ok(found)
        })
        .await
    }

    /// Removes everything of this instance: names, namespaces, links, relay. Other clones of the handle find
    /// nothing any more.
    pub async fn destroy_all(self) -> Result<()> {
        self.with_state(|names, state| {
            let State { routers, uplink, tasks, .. } = state;
            tasks.clear();
            let routers = std::mem::take(routers).into_values();
            let mut result = routers.map(|router| router.destroy(uplink)).fold(Ok(()), Result::and);
            state.relay = None;
            result = result.and(kernel::remove_all(names));
            result.and(
                std::fs::remove_file(names.lock())
                    .map_err(Error::io(format!("removing {}", names.lock().display()))),
            )
        })
        .await
    }

    /// Removes everything of one instance that no process has open, e.g. for `ferrogate down`.
    pub async fn destroy_dead(run_dir: &Path, instance: &str) -> Result<()> {
        let names = Names::new(run_dir, instance)?;
        let run_dir = run_dir.to_owned();
        blocking(move || {
            if !names.dir().exists() {
                return Ok(());
            }
            let Some(_lock) = take_lock(&names)? else {
                return Err(Error::AlreadyOpen { instance: names.instance().to_owned(), run_dir });
            };
            remove_instance(&names)
        })
        .await
    }

    async fn with_state<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Names, &mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        blocking(move || {
            let mut state = inner.lock();
            let result = action(&inner.names, &mut state);
            let doomed = state.take_doomed();
            drop(state);
            let deleted = doomed.into_iter().try_for_each(Doomed::delete);
            result.and_then(|result| deleted.map(|()| result))
        })
        .await
    }

    /// Tries now and after every sync, until it is found (`Some`) or the time is up.
    async fn when_synced<T: Send + 'static>(
        &self,
        action: impl Fn(&Names, &mut State) -> Result<Option<T>> + Clone + Send + 'static,
        unknown: Error,
    ) -> Result<T> {
        let mut synced = self.inner.synced.subscribe();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(SYNC_WAIT_SECONDS);
        loop {
            if let Some(found) = self.with_state(action.clone()).await? {
                return Ok(found);
            }
            // The sender lives as long as this handle.
            if tokio::time::timeout_at(deadline, synced.changed()).await.is_err() {
                return Err(unknown);
            }
        }
    }
}

impl Inner {
    /// A panic elsewhere leaves at most an operation half done, which the next sync completes.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Netlink calls block for some microseconds, `nft` for milliseconds: not on the runtime's own threads.
async fn blocking<T: Send + 'static>(action: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(action).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::WorkerGone { namespace: "the host".into() }),
        },
    }
}

/// `None` when a live process has it.
fn take_lock(names: &Names) -> Result<Option<File>> {
    let path = names.lock();
    let what = format!("locking {}", path.display());
    let file = File::options().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(Error::io(what.clone()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Error::io(what)(error)),
    }
}

fn remove_dead_instances(names: &Names) -> Result<()> {
    for other in names.others()? {
        if let Some(_lock) = take_lock(&other)? {
            tracing::info!(instance = other.instance(), "removing what a dead instance left");
            remove_instance(&other)?;
        }
    }
    Ok(())
}

fn remove_instance(names: &Names) -> Result<()> {
    kernel::remove_all(names)?;
    let path = names.lock();
    std::fs::remove_file(&path).map_err(Error::io(format!("removing {}", path.display())))
}
