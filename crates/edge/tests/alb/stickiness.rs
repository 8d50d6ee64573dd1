use ferrogate_nodeapi::*;

use crate::support::*;

fn cookies(reply: &Reply) -> String {
    let pairs: Vec<&str> = reply.headers("set-cookie").map(|line| line.split(';').next().unwrap()).collect();
    pairs.join("; ")
}

async fn with_cookie(balancer: &Balancer, cookie: &str) -> Reply {
    balancer.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n")).await
}

#[tokio::test]
async fn the_balancer_s_cookie_names_its_target_until_that_one_leaves() {
    let (one, two) = (Backend::named("1").await, Backend::named("2").await);
    let balancer = Balancer::start(&[&one, &two], |assignment| {
        assignment.target_groups[0].stickiness = Some(Stickiness::LbCookie { duration_seconds: 3600 });
    });
    let first = balancer.get("/").await;
    let lines: Vec<&str> = first.headers("set-cookie").collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("AWSALB=") && lines[0].contains("; Expires=") && lines[0].ends_with("; Path=/"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("AWSALBCORS=") && lines[1].ends_with("; Path=/; SameSite=None"),
        "{lines:?}"
    );
    let cookie = cookies(&first);
    for _ in 0..6 {
        assert_eq!(with_cookie(&balancer, &cookie).await.text(), first.text());
    }
    let (here, there) = if first.text() == "1" { (&one, "2") } else { (&two, "1") };
    balancer.change(|assignment| {
        for target in &mut assignment.target_groups[0].targets {
            if target.port == here.address.port() {
                target.draining_since = Some(jiff::Timestamp::UNIX_EPOCH);
            }
        }
    });
    for _ in 0..3 {
        assert_eq!(with_cookie(&balancer, &cookie).await.text(), there);
    }
    for made_up in ["AWSALB=abc", "AWSALB=; AWSALBCORS=%00", "AWSALB"] {
        assert_eq!(with_cookie(&balancer, made_up).await.status, 200);
    }
}

#[tokio::test]
async fn an_application_s_cookie_is_sticky_together_with_ours() {
    let backends = [
        Backend::new(|_| {
            Act::Send(b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=1; Path=/\r\nContent-Length: 1\r\n\r\n1".to_vec())
        })
        .await,
        Backend::new(|_| {
            Act::Send(b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=2; Path=/\r\nContent-Length: 1\r\n\r\n2".to_vec())
        })
        .await,
    ];
    let balancer = Balancer::start(&[&backends[0], &backends[1]], |assignment| {
        let stickiness = Stickiness::AppCookie { name: "sid".into(), duration_seconds: 60 };
        assignment.target_groups[0].stickiness = Some(stickiness);
    });
    let first = balancer.get("/").await;
    let cookie = cookies(&first);
    assert!(
        cookie.contains("sid=") && cookie.contains("AWSALBAPP-0=") && cookie.contains("AWSALBAPP-1=_remove_"),
        "{cookie}"
    );
    for _ in 0..4 {
        assert_eq!(with_cookie(&balancer, &cookie).await.text(), first.text());
    }
    let ours = cookie.split("; ").find(|pair| pair.starts_with("AWSALBAPP-0")).unwrap();
    let alone = [with_cookie(&balancer, ours).await, with_cookie(&balancer, ours).await];
    assert_ne!(alone[0].text(), alone[1].text(), "without the application's cookie nothing is sticky");
}

#[tokio::test]
async fn weights_share_out_and_a_group_may_be_sticky() {
    let (blue, green) = (Backend::named("blue").await, Backend::named("green").await);
    let balancer = Balancer::start(&[&blue], |assignment| {
        assignment.target_groups.push(group("tg/green", vec![target(green.address)]));
        assignment.listeners[0].default_action = forward(&[(GROUP, 90), ("tg/green", 10)]);
    });
    for _ in 0..300 {
        balancer.get("/").await;
    }
    let share = green.seen().len();
    assert!((5..=70).contains(&share), "10 of 100 were meant, {share} of 300 came");
    balancer.change(|assignment| {
        let mut sticky = forward(&[(GROUP, 1), ("tg/green", 1)]);
        if let Action::Forward { stickiness_seconds, .. } = &mut sticky {
            *stickiness_seconds = Some(60);
        }
        assignment.listeners[0].default_action = sticky;
    });
    let first = balancer.get("/").await;
    let cookie = cookies(&first);
    assert!(cookie.contains("AWSALBTG=") && cookie.contains("AWSALBTGCORS="), "{cookie}");
    for _ in 0..10 {
        assert_eq!(with_cookie(&balancer, &cookie).await.text(), first.text());
    }
    balancer.change(|assignment| {
        assignment.listeners[0].default_action = forward(&[(GROUP, 0), ("tg/green", 0)])
    });
    assert_eq!(balancer.get("/").await.status, 503);
}

#[tokio::test]
async fn least_outstanding_passes_the_busy_target_by() {
    let busy = Backend::new(|request| if request.path() == "/hang" { Act::Hang } else { ok("busy") }).await;
    let free = Backend::new(|request| if request.path() == "/hang" { Act::Hang } else { ok("free") }).await;
    let balancer = Balancer::start(&[&busy, &free], |assignment| {
        assignment.target_groups[0].algorithm = Algorithm::LeastOutstandingRequests;
    });
    let mut hanging = balancer.connect().await;
    hanging.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::timeout(TOO_LONG, async {
        while busy.seen().len() + free.seen().len() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let other = if busy.seen().is_empty() { "busy" } else { "free" };
    for _ in 0..6 {
        assert_eq!(balancer.get("/").await.text(), other);
    }
}
