//! Worker threads: each has a runtime of its own, accepts from every listener, and keeps a connection from its first byte
//! to its last, so that no request waits for another thread.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use rustls::ClientConfig;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::alarms::Alarms;
use super::connection;
use super::lazy::Lazy;
use crate::l4::tls::unverified;
use crate::metrics::Metric;
use crate::state::{Edge, Live};

pub const WORKERS_MAX: usize = 64;
/// Connections of clients to one worker; more are closed at once (`RejectedConnectionCount`).
pub const CONNECTIONS_MAX: usize = 16 * 1024;
/// Listeners that are added or removed at once; ELB has 50 of them.
const COMMANDS_MAX: usize = 256;
/// Connections that are accepted before those that stand have their turn.
const ACCEPTS_MAX: usize = 32;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Idle connections to targets are looked at this often.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// The configuration as one thread holds it: each request takes and drops the outer count, which no other thread touches.
pub(crate) type Current = Arc<Arc<Live>>;

/// What belongs to one thread.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) edge: Arc<Edge>,
    pub(crate) target_tls: Arc<ClientConfig>,
    pub(crate) target_tls_http2: Arc<ClientConfig>,
    /// The configuration with its version, so that a request takes no lock that another thread holds.
    cached: Mutex<(u64, Current)>,
    connections: AtomicUsize,
    pub(crate) alarms: Arc<Alarms>,
}

impl Worker {
    pub(crate) fn live(&self) -> Current {
        let version = self.edge.version();
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != version {
            *cached = (version, Arc::new(self.edge.live()));
        }
        cached.1.clone()
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs(u64::from(cached.1.assignment.attributes.idle_timeout_seconds.max(1)))
    }
}

enum Command {
    Listen(u16, TcpListener),
    Unlisten(u16),
    /// All listeners go; the thread ends when the last connection is over or after this time.
    Finish(Duration),
}

/// The HTTP and HTTPS listeners of an application load balancer. Dropped, it cuts every connection.
pub struct Alb {
    workers: Vec<(mpsc::Sender<Command>, JoinHandle<()>)>,
    ports: Mutex<Vec<u16>>,
}

impl Alb {
    /// Starts the threads (1 to [`WORKERS_MAX`]); they listen to nothing yet.
    pub fn start(edge: &Arc<Edge>, workers: usize) -> io::Result<Alb> {
        let target_tls = Arc::new(unverified(&[]));
        let target_tls_http2 = Arc::new(unverified(&[b"h2"]));
        let start = |index| {
            let worker = Arc::new(Worker {
                index,
                edge: edge.clone(),
                target_tls: target_tls.clone(),
                target_tls_http2: target_tls_http2.clone(),
                cached: Mutex::new((edge.version(), Arc::new(edge.live()))),
                connections: AtomicUsize::new(0),
                alarms: Arc::default(),
            });
            let (commands, queue) = mpsc::channel(COMMANDS_MAX);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new()
                .name(format!("alb-{index}"))
                .spawn(move || runtime.block_on(run(worker, queue)))?;
            Ok((commands, thread))
        };
        let workers = (0..workers.clamp(1, WORKERS_MAX)).map(start).collect::<io::Result<Vec<_>>>()?;
        Ok(Alb { workers, ports: Mutex::default() })
    }

    /// Takes connections of a listener of the configuration. With one socket all workers accept from it; with as many as
    /// there are workers (`SO_REUSEPORT`), each has its own. A port that is listened to already keeps its sockets.
    pub fn listen(&self, port: u16, sockets: Vec<TcpListener>) -> io::Result<()> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if ports.contains(&port) {
            return Ok(());
        }
        if sockets.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no socket for port {port}")));
        }
        for (at, (commands, _)) in self.workers.iter().enumerate() {
            let socket = sockets[at % sockets.len()].try_clone()?;
            socket.set_nonblocking(true)?;
            // Connections that are accepted have it from their listener: one call less for each.
            SockRef::from(&socket).set_tcp_nodelay(true)?;
            commands.try_send(Command::Listen(port, socket)).map_err(gone)?;
        }
        ports.push(port);
        Ok(())
    }

    /// Accepts no more; requests under way are finished, then their connections are closed.
    pub fn unlisten(&self, port: u16) -> io::Result<()> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|listening| *listening != port);
        self.workers
            .iter()
            .try_for_each(|(commands, _)| commands.try_send(Command::Unlisten(port)).map_err(gone))
    }

    pub fn listening(&self) -> Vec<u16> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all threads; requests under way have `grace`. Blocks: not for an async caller's thread.
    pub fn finish(mut self, grace: Duration) {
        for (commands, _) in &self.workers {
            // A worker that is gone has nothing to finish.
            commands.try_send(Command::Finish(grace)).ok();
        }
        for (_, thread) in self.workers.drain(..) {
            thread.join().ok();
        }
    }
}

fn gone<T>(error: mpsc::error::TrySendError<T>) -> io::Error {
    io::Error::other(format!("a worker takes no command: {error}"))
}

async fn run(worker: Arc<Worker>, mut commands: mpsc::Receiver<Command>) {
    let mut listeners: HashMap<u16, watch::Sender<bool>> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP_PERIOD);
    let alarms = worker.alarms.clone();
    tokio::spawn(async move { alarms.run().await });
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = sweep.tick() => {
                sweep_idle(&worker);
                continue;
            }
        };
        match command {
            Some(Command::Listen(port, socket)) => {
                let (stop, stopped) = watch::channel(false);
                #[expect(
                    deprecated,
                    reason = "its socket is owned and stays; the way that is not deprecated is unsafe"
                )]
                let socket = AsyncFd::new(socket);
                match socket {
                    Ok(socket) => {
                        tokio::spawn(accept(worker.clone(), socket, port, stopped));
                        listeners.insert(port, stop);
                    }
                    Err(error) => tracing::error!(port, %error, "a listener's socket cannot be used"),
                }
            }
            // Dropping the sender is the stop.
            Some(Command::Unlisten(port)) => {
                listeners.remove(&port);
                worker.alarms.wake_all();
            }
            Some(Command::Finish(grace)) => {
                listeners.clear();
                worker.alarms.wake_all();
                tokio::time::timeout(grace, idle(&worker)).await.ok();
                return;
            }
            None => return,
        }
    }
}

async fn idle(worker: &Worker) {
    const LOOK_PERIOD: Duration = Duration::from_millis(10);
    while worker.connections.load(Relaxed) > 0 {
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

fn sweep_idle(worker: &Worker) {
    // A change of the configuration reaches the timeout here also when no request comes.
    worker.live();
    let idle = worker.idle_timeout();
    for target in worker.edge.targets.all() {
        target.idle.sweep(worker.index, idle);
    }
}

async fn accept(
    worker: Arc<Worker>,
    socket: AsyncFd<TcpListener>,
    port: u16,
    mut stop: watch::Receiver<bool>,
) {
    let connections = stop.clone();
    loop {
        let ready = tokio::select! {
            ready = socket.readable() => ready,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Ok(mut ready) = ready else { return };
        let mut accepts = 0..ACCEPTS_MAX;
        while accepts.next().is_some() {
            match ready.try_io(|socket| accept_one(socket.get_ref())) {
                // The runtime tells when there is another.
                Err(_) => break,
                Ok(Ok((tcp, peer))) => begin(&worker, tcp, peer, port, &connections),
                Ok(Err(error)) if is_of_the_client(&error) => {}
                Ok(Err(error)) => {
                    tracing::warn!(port, %error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    break;
                }
            }
        }
        if accepts.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

/// One connection; it does not block.
fn accept_one(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((stream.into(), peer.ok_or(Errno::AFNOSUPPORT)?))
}

fn begin(
    worker: &Arc<Worker>,
    tcp: TcpStream,
    peer: SocketAddr,
    port: u16,
    connections: &watch::Receiver<bool>,
) {
    let Some(slot) = Slot::take(worker) else {
        worker.edge.metrics.balancer.add(Metric::RejectedConnections, 1);
        return;
    };
    let serving = connection::serve(worker.clone(), Lazy::new(tcp), peer, port, connections.clone());
    tokio::spawn(async move {
        let _slot = slot;
        serving.await;
    });
}

/// It went away between its SYN and our accept.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// One of the connections that a worker may have.
struct Slot {
    worker: Arc<Worker>,
}

impl Slot {
    fn take(worker: &Arc<Worker>) -> Option<Slot> {
        if worker.connections.load(Relaxed) >= CONNECTIONS_MAX {
            return None;
        }
        worker.connections.fetch_add(1, Relaxed);
        Some(Slot { worker: worker.clone() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.worker.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// A connection that is accepted is copied some times before it is polled.
    #[test]
    fn a_new_connection_is_small() {
        let bytes = size_of_future(connection::serve);
        assert!(bytes <= CONNECTION_BYTES_MAX, "{bytes}");
    }

    const CONNECTION_BYTES_MAX: usize = 1024;
}
