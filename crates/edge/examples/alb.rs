//! A load balancer on its own, from the JSON of a `BalancerAssignment`: for benchmarks and for trying things out.
//!
//! `alb <assignment.json> [--certificate <pem> --key <pem>] [--threads <n>]`
//!
//! It listens on the assignment's private address, serves every certificate ARN with the one certificate given, checks no
//! target (all are taken for healthy), and logs to standard output when access logs are asked for. It ends with its process.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use ferrogate_edge::alb::Alb;
use ferrogate_edge::l4::Flows;
use ferrogate_edge::{Certificates, Edge, LogKind};
use ferrogate_nodeapi::{BalancerAssignment, Certificate, ListenerProtocol, TargetState};
use socket2::{Domain, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 8192;

type Fault = Box<dyn std::error::Error>;

struct Arguments {
    assignment: BalancerAssignment,
    certificate: Option<Arc<Certificate>>,
    threads: usize,
}

fn arguments() -> Result<Arguments, Fault> {
    let usage = "usage: alb <assignment.json> [--certificate <pem> --key <pem>] [--threads <n>]";
    let mut words = std::env::args().skip(1);
    let file = words.next().ok_or(usage)?;
    let (mut chain, mut key, mut threads) = (None, None, 2);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(usage)?;
        match word.as_str() {
            "--certificate" => chain = Some(std::fs::read_to_string(value)?),
            "--key" => key = Some(std::fs::read_to_string(value)?),
            "--threads" => threads = value.parse()?,
            _ => return Err(usage.into()),
        }
    }
    let certificate = chain
        .zip(key)
        .map(|(chain_pem, private_key_pem)| Arc::new(Certificate { chain_pem, private_key_pem }));
    Ok(Arguments { assignment: serde_json::from_slice(&std::fs::read(file)?)?, certificate, threads })
}

/// One of the sockets of a port: each thread has its own, as in `ferrogate-edge`.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn main() -> Result<(), Fault> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Arguments { assignment, certificate, threads } = arguments()?;
    let arns = assignment.listeners.iter().flat_map(|listener| &listener.certificate_arns);
    let certificates: Certificates =
        arns.filter_map(|arn| Some((arn.clone(), certificate.clone()?))).collect();
    let address = IpAddr::V4(assignment.network.private_ip);
    let listeners: Vec<_> =
        assignment.listeners.iter().map(|listener| (listener.port, listener.protocol)).collect();

    let edge = Edge::new(assignment, certificates)?;
    for target in edge.targets.all() {
        target.set_health(TargetState::Healthy, None, None);
    }
    let alb = Alb::start(&edge, threads)?;
    let flows = Flows::new(edge.clone(), address);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        for (port, protocol) in listeners {
            let at = SocketAddr::new(address, port);
            match protocol {
                ListenerProtocol::Http | ListenerProtocol::Https => {
                    let sockets = (0..threads).map(|_| listen(at));
                    alb.listen(port, sockets.collect::<std::io::Result<_>>()?)?;
                }
                ListenerProtocol::Tcp | ListenerProtocol::Tls => {
                    let socket = tokio::net::TcpListener::from_std(listen(at)?)?;
                    tokio::spawn(flows.clone().tcp(port, socket));
                }
                other => return Err(format!("listener {port}: {other:?} is not served here").into()),
            }
        }
        loop {
            edge.logs.arrived().await;
            for line in edge.logs.take(LogKind::Access) {
                println!("{line}");
            }
        }
    })
}
