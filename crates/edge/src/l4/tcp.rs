//! Connections, with TLS or without.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ferrogate_nodeapi::{Listener, ListenerProtocol, TargetProtocol};
use rustls::server::Acceptor;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::choose::{self, Chosen, Flow};
use super::copy::{Count, End, copy, copy_tcp};
use super::record::Record;
use super::{Flows, outward, proxy, tls};
use crate::logs::LogKind;
use crate::metrics::{Counters, Metric};
use crate::state::Live;

/// How long a target may take to answer; then the client is reset.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A TLS listener's (network load balancers guide, "Connection idle timeout").
const TLS_IDLE: Duration = Duration::from_secs(350);
/// A peer that is gone without a word is found by probes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);
/// After an error of accept itself (no descriptors left): a pause, not a spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve(flows: Flows, port: u16, listener: TcpListener) {
    loop {
        let (client, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, port, "no connection can be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&flows.places).try_acquire_owned() else {
            flows.edge.metrics.balancer.add(Metric::TcpElbResets, 1);
            reset(&client);
            continue;
        };
        let flows = flows.clone();
        // Not the listener's: a listener that is deleted leaves its flows alone.
        tokio::spawn(async move {
            Box::pin(flow(&flows, client, Flow { client: peer, port, udp: false })).await;
            drop(place);
        });
    }
}

/// How a flow came to its end.
enum Outcome {
    Copied(End),
    /// No target, no TLS configuration, or the target's end ends it.
    Balancer,
    ClientTls,
    TargetRefused,
    TargetTls,
}

async fn flow(flows: &Flows, mut client: TcpStream, flow: Flow) {
    let live = flows.edge.live();
    let balancer = &flows.edge.metrics.balancer;
    let listeners = &live.assignment.listeners;
    let listener = listeners.iter().find(|l| l.port == flow.port && l.protocol != ListenerProtocol::Udp);
    let (Some(listener), Ok(chosen)) = (listener, choose::choose(&live, &flow)) else {
        balancer.add(Metric::TcpElbResets, 1);
        return reset(&client);
    };
    let counters: [&Arc<Counters>; 2] = [balancer, &chosen.group.counters];
    let terminates = listener.protocol == ListenerProtocol::Tls;
    let (kind, bytes) = if terminates {
        (Metric::NewFlowsTls, Metric::ProcessedBytesTls)
    } else {
        (Metric::NewFlowsTcp, Metric::ProcessedBytesTcp)
    };
    for counters in counters {
        counters.add(Metric::NewFlows, 1);
        counters.add(kind, 1);
    }
    let _open = counters.map(Counters::connection);
    let _outstanding = chosen.target.begin();
    let ended = flows.cutter.token(&chosen.target.key);
    prepare(&client);
    let (count, mut target) = (Count::default(), None);
    let mut record = Record::begin();
    let outcome = tokio::select! {
        outcome = relay(flows, &live, listener, &chosen, (&mut client, &mut target, &mut record), &count, &flow) => outcome,
        () = ended.cancelled() => Outcome::Balancer,
    };
    let blame = match &outcome {
        Outcome::Copied(End::Whole) => None,
        Outcome::Copied(End::Client(_)) => Some(Metric::TcpClientResets),
        Outcome::Copied(End::Target(_)) | Outcome::TargetRefused => Some(Metric::TcpTargetResets),
        Outcome::Copied(End::Idle) | Outcome::Balancer => Some(Metric::TcpElbResets),
        Outcome::ClientTls => Some(Metric::ClientTlsErrors),
        Outcome::TargetTls => Some(Metric::TargetTlsErrors),
    };
    if let Outcome::Copied(End::Client(error) | End::Target(error)) = &outcome {
        tracing::debug!(%error, client = %flow.client, "a flow broke off");
    }
    if blame.is_some() {
        // Neither side may take this for the whole of it.
        reset(&client);
        if let Some(target) = &target {
            reset(target);
        }
    }
    let passed = (count.to_target.load(Relaxed), count.to_client.load(Relaxed));
    if terminates && live.assignment.attributes.access_logs.is_some() {
        let balancer = SocketAddr::new(flows.address, flow.port);
        let line = record.line(&live.assignment, listener, (flow.client, balancer), passed);
        flows.edge.logs.push(LogKind::Access, line);
    }
    let moved = passed.0 + passed.1;
    for counters in counters {
        if let Some(metric) = blame {
            counters.add(metric, 1);
        }
        counters.add(Metric::ProcessedBytes, moved);
        counters.add(bytes, moved);
    }
}

async fn relay(
    flows: &Flows,
    live: &Arc<Live>,
    listener: &Listener,
    chosen: &Chosen,
    (client, target, record): (&mut TcpStream, &mut Option<TcpStream>, &mut Record),
    count: &Count,
    flow: &Flow,
) -> Outcome {
    if listener.protocol != ListenerProtocol::Tls {
        let Some(target) = connect(flows, chosen, flow, target).await else { return Outcome::TargetRefused };
        let idle = Duration::from_secs(listener.tcp_idle_timeout_seconds.max(1).into());
        if chosen.group.config.protocol != TargetProtocol::Tls {
            return Outcome::Copied(copy_tcp(client, target, idle, count).await);
        }
        return to_target(flows, (client, target, record), chosen, &[], idle, count).await;
    }
    let Some(tls) = flows.tls.listener(live, listener) else { return Outcome::Balancer };
    let accepting = async {
        let started = LazyConfigAcceptor::new(Acceptor::default(), client).await?;
        record.hello(&started.client_hello(), listener, &tls);
        started.into_stream(Arc::clone(&tls.config)).await
    };
    let accepted = tokio::time::timeout(flows.handshake_timeout, accepting).await;
    let client = match accepted {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => {
            record.failed(&error);
            return Outcome::ClientTls;
        }
        Err(_) => return Outcome::ClientTls,
    };
    record.agreed(client.get_ref().1);
    let spoken = client.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let spoken: Vec<&[u8]> = spoken.as_deref().into_iter().collect();
    let Some(target) = connect(flows, chosen, flow, target).await else { return Outcome::TargetRefused };
    to_target(flows, (client, target, record), chosen, &spoken, TLS_IDLE, count).await
}

/// A connection of a target, which knows who the client is if it wants to; `None`: there is none in time.
async fn connect<'a>(
    flows: &Flows,
    chosen: &Chosen,
    flow: &Flow,
    target: &'a mut Option<TcpStream>,
) -> Option<&'a mut TcpStream> {
    let address = chosen.target.address();
    let connecting = async {
        let mut stream = outward::tcp(address, chosen.client_ip.then_some(flow.client)).await?;
        prepare(&stream);
        if chosen.group.config.proxy_protocol_v2 {
            let balancer = SocketAddr::new(flows.address, flow.port);
            stream.write_all(&proxy::header(flow.client, balancer)).await?;
        }
        io::Result::Ok(stream)
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Some(target.insert(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "no connection to a target");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "no connection to a target in time");
            None
        }
    }
}

async fn to_target<C>(
    flows: &Flows,
    (client, target, record): (C, &mut TcpStream, &mut Record),
    chosen: &Chosen,
    alpn: &[&[u8]],
    idle: Duration,
    count: &Count,
) -> Outcome
where
    C: AsyncRead + AsyncWrite,
{
    if chosen.group.config.protocol != TargetProtocol::Tls {
        return Outcome::Copied(copy(client, target, idle, count).await);
    }
    let connector = TlsConnector::from(Arc::new(tls::unverified(alpn)));
    let connecting = connector.connect(tls::server_name(chosen.target.key.ip), target);
    match tokio::time::timeout(flows.handshake_timeout, connecting).await {
        Ok(Ok(target)) => {
            record.target_agreed(target.get_ref().1.alpn_protocol());
            Outcome::Copied(copy(client, target, idle, count).await)
        }
        Ok(Err(_)) | Err(_) => Outcome::TargetTls,
    }
}

fn prepare(stream: &TcpStream) {
    // Options of a socket that may be gone already.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE);
}

/// Its end, when it is dropped, is a reset.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
