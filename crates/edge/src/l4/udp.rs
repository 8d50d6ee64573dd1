//! Datagrams: who sends them is a flow, for as long as it or its target says something.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::choose::{Chosen, Flow, choose};
use super::{Flows, outward};
use crate::metrics::{Counters, Metric};

/// Network load balancers guide, "Connection idle timeout".
const IDLE: Duration = Duration::from_secs(120);
/// Of one listener; datagrams of one more are dropped.
const FLOWS_MAX: usize = 10_000;
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// After an error of the socket itself: a pause, not a spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// A flow as its listener knows it.
struct Known {
    target: Arc<UdpSocket>,
    /// Milliseconds of the listener's life.
    last: Arc<AtomicU64>,
    counters: [Arc<Counters>; 2],
    ended: CancellationToken,
}

pub(super) async fn serve(flows: Flows, port: u16, socket: UdpSocket) {
    let (socket, began) = (Arc::new(socket), Instant::now());
    let mut known: HashMap<SocketAddr, Known> = HashMap::new();
    let mut answering: JoinSet<SocketAddr> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (length, client) = tokio::select! {
            Some(over) = answering.join_next(), if !answering.is_empty() => {
                // A new flow of the same client may stand already, in the place of one that was cut.
                if let Ok(client) = over && known.get(&client).is_some_and(|flow| Arc::strong_count(&flow.last) == 1) {
                    known.remove(&client);
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, port, "no datagram can be taken");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            },
        };
        if known.get(&client).is_none_or(|flow| flow.ended.is_cancelled()) {
            // The client's port is free for the next socket.
            known.remove(&client);
            let room = known.len() < FLOWS_MAX;
            let Some(flow) = open(&flows, client, port, room).await else { continue };
            flow.last.store(began.elapsed().as_millis() as u64, Relaxed);
            answering.spawn(answers(Arc::clone(&socket), client, &flow, began));
            known.insert(client, flow);
        }
        let Some(flow) = known.get(&client) else { continue };
        flow.last.store(began.elapsed().as_millis() as u64, Relaxed);
        for counters in &flow.counters {
            counters.add(Metric::ProcessedBytes, length as u64);
            counters.add(Metric::ProcessedBytesUdp, length as u64);
        }
        // A target that takes no more now loses it, as on any wire.
        let _ = flow.target.try_send(&buffer[..length]);
    }
}

/// `None`: there is no target, or no room.
async fn open(flows: &Flows, client: SocketAddr, port: u16, room: bool) -> Option<Known> {
    let live = flows.edge.live();
    let Chosen { group, target, client_ip } = choose(&live, &Flow { client, port, udp: true }).ok()?;
    if !room {
        tracing::debug!(port, "there are {FLOWS_MAX} flows already: a datagram is dropped");
        return None;
    }
    let socket = match outward::udp(target.address(), client_ip.then_some(client)).await {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(%error, %client, target = %target.address(), "no socket towards a target");
            return None;
        }
    };
    // Known to the runtime as such from its first look on; until then nothing is sent.
    socket.writable().await.ok()?;
    let counters = [Arc::clone(&flows.edge.metrics.balancer), Arc::clone(&group.counters)];
    for counters in &counters {
        counters.add(Metric::NewFlows, 1);
        counters.add(Metric::NewFlowsUdp, 1);
    }
    let ended = flows.cutter.token(&target.key);
    Some(Known { target: Arc::new(socket), last: Arc::default(), counters, ended })
}

/// What the target says goes back, until both are silent.
fn answers(
    listener: Arc<UdpSocket>,
    client: SocketAddr,
    flow: &Known,
    began: Instant,
) -> impl Future<Output = SocketAddr> + use<> {
    let (target, last) = (Arc::clone(&flow.target), Arc::clone(&flow.last));
    let (counters, ended) = (flow.counters.clone(), flow.ended.clone());
    async move {
        let _open = counters.each_ref().map(Counters::connection);
        loop {
            let idle_at = began + Duration::from_millis(last.load(Relaxed)) + IDLE;
            tokio::select! {
                ready = target.readable() => match ready.and_then(|()| pass_back(&target, &listener, client)) {
                    Ok(length) => {
                        last.store(began.elapsed().as_millis() as u64, Relaxed);
                        for counters in &counters {
                            counters.add(Metric::ProcessedBytes, length as u64);
                            counters.add(Metric::ProcessedBytesUdp, length as u64);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Nobody listens there now; it may come back.
                    Err(error) => {
                        tracing::debug!(%error, "a target does not take a datagram");
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                },
                () = tokio::time::sleep_until(idle_at) => {
                    if began + Duration::from_millis(last.load(Relaxed)) + IDLE <= Instant::now() {
                        return client;
                    }
                }
                () = ended.cancelled() => return client,
            }
        }
    }
}

thread_local! {
    /// One per thread, not one per flow.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM_BYTES_MAX]);
}

/// One datagram, which is there; one that the way back has no room for is lost, as on any wire.
fn pass_back(target: &UdpSocket, listener: &UdpSocket, client: SocketAddr) -> io::Result<usize> {
    BUFFER.with_borrow_mut(|buffer| {
        let length = target.try_recv(buffer)?;
        let _ = listener.try_send_to(&buffer[..length], client);
        Ok(length)
    })
}
