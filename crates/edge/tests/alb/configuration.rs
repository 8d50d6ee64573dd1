//! The configuration changes under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ferrogate_edge::ConfigurationError;
use ferrogate_nodeapi::*;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn targets_come_and_go_and_no_request_fails() {
    let backends = [Backend::named("a").await, Backend::named("b").await, Backend::named("c").await];
    let balancer = Arc::new(Balancer::start(&[&backends[0]], |_| {}));
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (balancer, stop, asked) = (balancer.clone(), stop.clone(), asked.clone());
            tokio::spawn(async move {
                let mut client = balancer.connect().await;
                while !stop.load(Relaxed) {
                    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                    let reply = client.reply().await;
                    assert_eq!(reply.status, 200, "{}", reply.head);
                    asked.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    for round in 0..30 {
        let before = asked.load(Relaxed);
        balancer.change(|assignment| {
            let targets = &mut assignment.target_groups[0].targets;
            let next = target(backends[(round + 1) % 3].address);
            // The old ones drain, the ones before those are gone.
            targets.retain(|target| target.draining_since.is_none() && target.port != next.port);
            targets.iter_mut().for_each(|target| target.draining_since = Some(jiff::Timestamp::UNIX_EPOCH));
            targets.push(next);
        });
        while asked.load(Relaxed) < before + 20 && !clients.iter().any(|client| client.is_finished()) {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(backends.iter().all(|backend| !backend.seen().is_empty()));
}

#[tokio::test]
async fn a_standing_connection_gets_new_rules_and_a_request_under_way_its_old_ones() {
    let slow = Backend::new(|request| if request.path() == "/hang" { Act::Hang } else { ok("old") }).await;
    let balancer = Balancer::start(&[&slow], |_| {});
    let mut under_way = balancer.connect().await;
    under_way.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut standing = balancer.connect().await;
    standing.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(standing.reply().await.text(), "old");
    balancer.change(|assignment| assignment.listeners[0].default_action = fixed(200, "new"));
    standing.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(standing.reply().await.text(), "new");
    let outstanding: u32 = balancer.edge.targets.all().iter().map(|target| target.outstanding()).sum();
    assert_eq!(outstanding, 1, "the request under way stays where it is");
}

#[tokio::test]
async fn a_listener_that_goes_finishes_what_is_under_way() {
    let backend = Backend::named("x").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut idle = balancer.connect().await;
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.reply().await.status, 200);
    let mut half = balancer.connect().await;
    half.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab").await;
    tokio::time::timeout(TOO_LONG, async {
        while balancer.edge.targets.all()[0].outstanding() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    balancer.alb.as_ref().unwrap().unlisten(balancer.address.port()).unwrap();
    assert_eq!(idle.rest().await, b"", "an idle connection is closed");
    half.send("cd").await;
    let reply = half.reply().await;
    assert_eq!(reply.status, 200);
    assert_eq!(half.rest().await, b"");
    // The last worker closes its end in its own time.
    tokio::time::timeout(TOO_LONG, async {
        while tokio::net::TcpStream::connect(balancer.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_end_of_the_process_waits_for_requests() {
    let backend = Backend::named("x").await;
    let mut balancer = Balancer::start(&[&backend], |_| {});
    let mut half = balancer.connect().await;
    half.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab").await;
    tokio::time::timeout(TOO_LONG, async {
        while balancer.edge.targets.all()[0].outstanding() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let alb = balancer.alb.take().unwrap();
    let finished = tokio::task::spawn_blocking(move || alb.finish(Duration::from_secs(10)));
    half.send("cd").await;
    assert_eq!(half.reply().await.status, 200);
    finished.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_put_in_force_leaves_the_old_one() {
    let backend = Backend::named("x").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let with = |change: &dyn Fn(&mut BalancerAssignment)| {
        let mut assignment = BalancerAssignment::clone(&balancer.edge.live().assignment);
        assignment.generation = 7;
        change(&mut assignment);
        balancer.edge.apply(assignment, Default::default()).unwrap_err()
    };
    let regex = |assignment: &mut BalancerAssignment| {
        let bad = Condition::PathPattern { patterns: vec![], regexes: vec!["(".into()] };
        assignment.listeners[0].rules.push(rule(1, vec![bad], fixed(200, "")));
    };
    assert!(matches!(with(&regex), ConfigurationError::Regex { .. }));
    let group = |assignment: &mut BalancerAssignment| {
        assignment.listeners[0].default_action = forward(&[("tg/gone", 1)]);
    };
    assert!(matches!(with(&group), ConfigurationError::TargetGroupMissing { .. }));
    let https = |assignment: &mut BalancerAssignment| {
        assignment.listeners[0].protocol = ListenerProtocol::Https;
        assignment.listeners[0].certificate_arns = vec!["gone".into()];
    };
    assert!(matches!(with(&https), ConfigurationError::CertificateMissing { .. }));
    assert!(matches!(
        with(&|assignment| assignment.generation = 0),
        ConfigurationError::Older { given: 0, in_force: 1 }
    ));
    assert_eq!(balancer.get("/").await.text(), "x");
}
