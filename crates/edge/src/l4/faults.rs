//! Clients and targets that break off, and changes under connections that stand.

use std::time::Duration;

use ferrogate_nodeapi::{Listener, ListenerProtocol, TargetGroup, TargetState, WeightedTargetGroup};
use futures_util::FutureExt;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fixture::{GROUP, ZONE};
use super::tests::{World, certificate, rest};
use super::*;
use crate::metrics::Metric;

const NAME: &str = "door.example.com";
/// Nothing here takes so long unless it hangs.
const HANDSHAKE: Duration = Duration::from_secs(60);

async fn tls_world(handshake_timeout: Duration) -> World {
    let certificates = [("arn".to_owned(), certificate(NAME))].into();
    World::with(certificates, handshake_timeout, ends_tls).await
}

fn ends_tls(listener: &mut Listener, _: &mut TargetGroup) {
    listener.protocol = ListenerProtocol::Tls;
    listener.certificate_arns = vec!["arn".into()];
}

async fn tls_client(world: &World) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(world.balancer).await.unwrap();
    let connector = TlsConnector::from(Arc::new(tls::unverified(&[])));
    connector.connect(NAME.try_into().unwrap(), stream).await.unwrap()
}

fn shown(client: &TlsStream<TcpStream>) -> Vec<u8> {
    client.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// A byte there and one back.
async fn echo(
    client: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    target: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
) {
    client.write_all(b"x").await.unwrap();
    assert_eq!(target.read_u8().await.unwrap(), b'x');
    target.write_all(b"y").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'y');
}

fn break_off(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn who_never_ends_a_handshake_is_cut_off_and_keeps_nobody_waiting() {
    let world = tls_world(Duration::from_millis(500)).await;
    let mut silent = Vec::new();
    for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00", b"\x16"] {
        let mut client = TcpStream::connect(world.balancer).await.unwrap();
        client.write_all(said).await.unwrap();
        silent.push(client);
    }
    for mut client in silent {
        assert!(rest(&mut client).await.is_err());
    }
    world.counted(Metric::ClientTlsErrors, 3).await;
    // No target was bothered.
    assert!(world.target.accept().now_or_never().is_none());
    let world = tls_world(HANDSHAKE).await;
    let _silent = TcpStream::connect(world.balancer).await.unwrap();
    let (mut client, target) = tokio::join!(tls_client(&world), world.target.accept());
    echo(&mut client, &mut target.unwrap().0).await;
    assert_eq!(world.edge.metrics.balancer.count(Metric::ClientTlsErrors), 0);
}

#[tokio::test]
async fn a_side_that_breaks_off_breaks_off_the_other() {
    let world = World::new(|_, _| {}).await;
    let (mut client, mut target) = world.connect().await;
    echo(&mut client, &mut target).await;
    break_off(target);
    assert!(rest(&mut client).await.is_err());
    world.counted(Metric::TcpTargetResets, 1).await;
    let (mut client, mut target) = world.connect().await;
    echo(&mut client, &mut target).await;
    break_off(client);
    assert!(rest(&mut target).await.is_err());
    world.counted(Metric::TcpClientResets, 1).await;
    assert_eq!(world.edge.metrics.balancer.count(Metric::TcpElbResets), 0);
    // Within TLS a break is no end of what was said either.
    let world = tls_world(HANDSHAKE).await;
    let (mut client, target) = tokio::join!(tls_client(&world), world.target.accept());
    let mut target = target.unwrap().0;
    echo(&mut client, &mut target).await;
    break_off(target);
    assert!(rest(&mut client).await.is_err());
    world.counted(Metric::TcpTargetResets, 1).await;
}

#[tokio::test]
async fn either_side_may_end_first_with_tls_and_without() {
    for target_first in [false, true] {
        for with_tls in [false, true] {
            let world = if with_tls { tls_world(HANDSHAKE).await } else { World::new(|_, _| {}).await };
            if with_tls {
                let (client, target) = tokio::join!(tls_client(&world), world.target.accept());
                one_after_the_other(client, target.unwrap().0, target_first).await;
            } else {
                let (client, target) = world.connect().await;
                one_after_the_other(client, target, target_first).await;
            }
            assert_eq!(world.edge.metrics.balancer.count(Metric::TcpElbResets), 0);
        }
    }
}

async fn one_after_the_other(
    mut client: impl AsyncReadExt + AsyncWriteExt + Unpin,
    mut target: impl AsyncReadExt + AsyncWriteExt + Unpin,
    target_first: bool,
) {
    echo(&mut client, &mut target).await;
    if target_first {
        end_then_hear(&mut target, &mut client).await;
    } else {
        end_then_hear(&mut client, &mut target).await;
    }
}

/// `first` says its last; the other hears all of it, and has much to say still.
async fn end_then_hear(
    first: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    other: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
) {
    first.write_all(b"the last").await.unwrap();
    first.shutdown().await.unwrap();
    assert_eq!(rest(other).await.unwrap(), b"the last");
    let much = vec![7; 1 << 20];
    let answer = async {
        other.write_all(&much).await.unwrap();
        other.shutdown().await.unwrap();
    };
    let ((), heard) = tokio::join!(answer, rest(first));
    assert_eq!(heard.unwrap().len(), much.len());
}

#[tokio::test]
async fn who_says_nothing_for_too_long_is_cut_off_on_both_sides() {
    let world = World::new(|listener, _| listener.tcp_idle_timeout_seconds = 1).await;
    let (mut client, mut target) = world.connect().await;
    echo(&mut client, &mut target).await;
    let (client, target) = tokio::join!(rest(&mut client), rest(&mut target));
    assert!(client.is_err() && target.is_err());
    world.counted(Metric::TcpElbResets, 1).await;
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_shown_to_new_clients_and_costs_no_old_one() {
    let world = tls_world(HANDSHAKE).await;
    let (mut old, target) = tokio::join!(tls_client(&world), world.target.accept());
    let mut old_target = target.unwrap().0;
    echo(&mut old, &mut old_target).await;
    world.certify("arn", certificate(NAME));
    let (mut new, target) = tokio::join!(tls_client(&world), world.target.accept());
    let mut new_target = target.unwrap().0;
    assert_ne!(shown(&old), shown(&new));
    echo(&mut new, &mut new_target).await;
    echo(&mut old, &mut old_target).await;
}

#[tokio::test]
async fn changes_of_weight_zone_and_group_cost_no_connection() {
    type Change = Box<dyn FnOnce(&mut BalancerAssignment)>;
    const OTHER: &str = "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/green/2";
    let world = World::new(|_, group| group.targets[0].availability_zone = Some(ZONE.into())).await;
    let (mut client, mut target) = world.connect().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let green = TargetGroup {
        target_group_arn: OTHER.into(),
        ..super::fixture::group(
            ferrogate_nodeapi::TargetProtocol::Tcp,
            vec![super::fixture::target(other.local_addr().unwrap())],
        )
    };
    let weights = |blue: u32, green: u32| {
        move |assignment: &mut BalancerAssignment| {
            let to = |arn: &str, weight| WeightedTargetGroup { target_group_arn: arn.into(), weight };
            let target_groups = vec![to(GROUP, blue), to(OTHER, green)];
            assignment.listeners[0].default_action =
                ferrogate_nodeapi::Action::Forward { target_groups, stickiness_seconds: None };
        }
    };
    let changes: Vec<Change> = vec![
        Box::new(move |assignment| {
            assignment.target_groups.push(green);
            weights(1, 1)(assignment);
        }),
        Box::new(weights(0, 1)),
        // In another zone, which this one does not send to.
        Box::new(|assignment| {
            assignment.target_groups[0].targets[0].availability_zone = Some("us-east-1b".into());
        }),
        Box::new(|assignment| assignment.attributes.cross_zone = true),
        Box::new(|assignment| assignment.listeners[0].tcp_idle_timeout_seconds = 60),
        Box::new(|assignment| assignment.target_groups[0].preserve_client_ip = true),
        // No longer forwarded to at all.
        Box::new(move |assignment| {
            weights(0, 1)(assignment);
            let ferrogate_nodeapi::Action::Forward { target_groups, .. } =
                &mut assignment.listeners[0].default_action
            else {
                panic!("it forwards")
            };
            target_groups.remove(0);
            assignment.target_groups.remove(0);
        }),
    ];
    for change in changes {
        world.put(change);
        echo(&mut client, &mut target).await;
    }
    // What is new goes where it goes now; by then the cutter has seen all of it.
    for entry in world.edge.targets.all() {
        entry.set_health(TargetState::Healthy, None, None);
    }
    let (new, at_other) = tokio::join!(TcpStream::connect(world.balancer), other.accept());
    echo(&mut new.unwrap(), &mut at_other.unwrap().0).await;
    echo(&mut client, &mut target).await;
    assert_eq!(world.edge.metrics.balancer.count(Metric::TcpElbResets), 0);
}

#[tokio::test]
async fn each_tls_connection_has_its_line() {
    let certificates = [("arn".to_owned(), certificate(NAME))].into();
    let world = World::with(certificates, HANDSHAKE, |listener, group| {
        ends_tls(listener, group);
        listener.alpn_policy = Some("HTTP2Preferred".into());
    });
    let world = world.await;
    world.put(|assignment| {
        let to = ferrogate_nodeapi::LogDestination { bucket: "logs".into(), prefix: String::new() };
        assignment.attributes.access_logs = Some(to);
    });
    let stream = TcpStream::connect(world.balancer).await.unwrap();
    let from = stream.local_addr().unwrap();
    let connector = TlsConnector::from(Arc::new(tls::unverified(&[b"http/1.1", b"h2"])));
    let connecting = connector.connect(NAME.try_into().unwrap(), stream);
    let (client, target) = tokio::join!(connecting, world.target.accept());
    one_after_the_other(client.unwrap(), target.unwrap().0, false).await;
    let bytes = ("x".len() + "the last".len(), "y".len() + (1 << 20));
    world.counted(Metric::ProcessedBytesTls, (bytes.0 + bytes.1) as u64).await;
    // A client that takes another certificate for wrong says so by an alert.
    let mut refusing = tls::unverified(&[]);
    let mut roots = rustls::RootCertStore::empty();
    let other = certificate("other.example.com");
    roots.add(CertificateDer::from_pem_slice(other.chain_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    refusing.dangerous().set_certificate_verifier(verifier.build().unwrap());
    let stream = TcpStream::connect(world.balancer).await.unwrap();
    let connector = TlsConnector::from(Arc::new(refusing));
    assert!(connector.connect(NAME.try_into().unwrap(), stream).await.is_err());
    world.counted(Metric::ClientTlsErrors, 1).await;

    let lines = world.edge.logs.take(crate::LogKind::Access);
    let [whole, refused] = lines.as_slice() else { panic!("{lines:#?}") };
    let fields: Vec<&str> = whole.split(' ').collect();
    assert_eq!(fields.len(), 22, "{whole}");
    let port = world.balancer.port().to_string();
    let expected = ["net/door/1", &port, &from.to_string(), &world.balancer.to_string()];
    assert_eq!(fields[3..7], expected);
    assert_eq!(fields[9..14], [&*bytes.0.to_string(), &*bytes.1.to_string(), "-", "arn", "-"]);
    assert_eq!(fields[15..21], ["tlsv12", "-", NAME, "h2", "-", r#""http/1.1","h2""#]);
    let fields: Vec<&str> = refused.split(' ').collect();
    assert!(fields[11].parse::<u8>().is_ok(), "{refused}");
    // What had been agreed on does not count.
    assert_eq!((fields[8], fields[12], fields[15]), ("-", "arn", "-"));
}
