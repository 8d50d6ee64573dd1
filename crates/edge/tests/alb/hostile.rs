//! Clients that mean no good, down to the byte.

use ferrogate_nodeapi::DesyncMitigation;

use crate::support::*;

/// What a target must never see: a second request that the client put inside the first.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn no_request_is_smuggled() {
    let backend = Backend::named("fine").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let post = "POST /first HTTP/1.1\r\nHost: a\r\n";
    let zero = "0\r\n\r\n";
    let inside = SMUGGLED.len();
    let heads = [
        format!("{post}Content-Length: 6\r\nContent-Length: 5\r\n\r\n{zero}G"),
        format!("{post}Transfer-Encoding: xchunked\r\nContent-Length: {inside}\r\n\r\n{SMUGGLED}"),
        format!("{post}Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n{zero}"),
        format!("{post}Transfer-Encoding:\x0bchunked\r\nContent-Length: 5\r\n\r\n{zero}"),
        format!("{post}X: y\nTransfer-Encoding: chunked\r\n\r\n{zero}"),
        format!("{post}X: y\r\n\tTransfer-Encoding: chunked\r\n\r\n{zero}"),
        format!("{post}Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n{zero}"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n{zero}"),
        format!("{post}Content-Length: 0\r\nTransfer_Encoding: chunked\r\n\r\n{zero}"),
        format!("{post}Content-Length: {inside} \x01\r\n\r\n{SMUGGLED}"),
        "GET /first HTTP/1.1\r\nHost: a\r\nX: y\rGET /smuggled HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /first HTTP/1.1\nHost: a\n\n{SMUGGLED}"),
        "GET /first HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        format!("POST /first HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{zero}"),
    ];
    for text in heads {
        let mut client = balancer.connect().await;
        client.send(format!("{text}{SMUGGLED}")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("server")), (400, Some("awselb/2.0")), "{text:?}");
        assert_eq!(reply.header("connection"), Some("close"), "{text:?}");
        assert_eq!(client.rest().await, b"", "nothing comes after a refusal: {text:?}");
    }
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
}

#[tokio::test]
async fn a_chunked_body_that_breaks_its_framing_never_ends_at_the_target() {
    let backend = Backend::named("fine").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let post = "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
    ] {
        let mut client = balancer.connect().await;
        client.send(format!("{post}{body}{SMUGGLED}")).await;
        let rest = String::from_utf8(client.rest().await).unwrap();
        assert!(!rest.contains("200 OK"), "{body:?}: {rest}");
    }
    assert!(backend.seen().is_empty(), "a whole request came through: {:?}", backend.seen());
}

#[tokio::test]
async fn an_ambiguous_request_goes_on_in_one_meaning_and_both_connections_end() {
    let backend = Backend::named("fine").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let text = format!(
        "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        5 + SMUGGLED.len()
    );
    let mut client = balancer.connect().await;
    client.send(format!("{text}{SMUGGLED}")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(client.rest().await, b"");
    let got = backend.last();
    assert!(
        got.header("content-length").is_none() != got.header("transfer-encoding").is_none(),
        "{}",
        got.head
    );
    assert_eq!(backend.seen().len(), 1);
    // The next request has a connection of its own.
    balancer.get("/next").await;
    assert_ne!(backend.last().connection, got.connection);
    let line = balancer.log(1).await.remove(0);
    assert!(line.contains("\"Ambiguous\" \"BothTeClPresent\""), "{line}");
}

/// Whoever sent it on may have read another end into it: what follows on the connection may be another's.
#[tokio::test]
async fn an_ambiguous_request_is_the_last_one_for_the_balancers_own_answers_too() {
    let backend = Backend::named("fine").await;
    let balancer = Balancer::start(&[&backend], |assignment| {
        assignment.listeners[0].rules = vec![rule(1, vec![path("/fixed")], fixed(200, "fixed"))];
    });
    let text = format!(
        "POST /fixed HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        5 + SMUGGLED.len()
    );
    let mut client = balancer.connect().await;
    client.send(format!("{text}{SMUGGLED}")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text(), reply.header("connection")), (200, "fixed", Some("close")));
    assert_eq!(client.rest().await, b"");
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
}

/// An answer of the balancer's own comes before the body, and nobody reads that: the client is told that it was the last.
#[tokio::test]
async fn an_answer_that_waits_for_no_body_ends_the_connection_and_says_so() {
    let balancer = Balancer::start(&[], |assignment| {
        assignment.listeners[0].rules = vec![rule(1, vec![path("/fixed")], fixed(204, "never sent"))];
    });
    for (body, connection) in [("abc", None), ("a", Some("close"))] {
        let mut client = balancer.connect().await;
        client.send(format!("POST /fixed HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n{body}")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (204, connection), "{body}");
        assert_eq!(reply.header("content-length"), None);
    }
}

#[tokio::test]
async fn strictest_lets_only_compliant_requests_through() {
    let backend = Backend::named("fine").await;
    let balancer =
        Balancer::start(&[&backend], |it| it.attributes.desync_mitigation = DesyncMitigation::Strictest);
    let reply = balancer.ask("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(reply.status, 400);
    assert_eq!(balancer.get("/").await.status, 200);
    balancer.change(|assignment| assignment.attributes.desync_mitigation = DesyncMitigation::Monitor);
    let reply = balancer.ask("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(reply.status, 200);
    assert_eq!(backend.last().body, b"abc");
    let metrics = balancer.edge.metrics.drain();
    let found =
        metrics.iter().find(|metric| metric.name == "DesyncMitigationMode_NonCompliant_Request_Count");
    assert_eq!(found.unwrap().sum, 2.0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::new(|request| if request.path() == "/2" { ok("two") } else { ok("one") }).await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client
        .send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\n\r\nBAD\r\n\r\n")
        .await;
    for text in ["one", "two", "one"] {
        assert_eq!(client.reply().await.text(), text);
    }
    assert_eq!(client.reply().await.status, 400);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn what_is_too_large_or_unknown_has_its_status() {
    let backend = Backend::named("fine").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let long = |bytes: usize| "a".repeat(bytes);
    for (text, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(17_000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(17_000)), 400),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X: {}\r\n", long(9000)).repeat(8)), 400),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)), 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(), 405),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(), 501),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {}\r\n\r\n",
                vec!["1.1.1.1"; 31].join(",")
            ),
            463,
        ),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("\x16\x03\x01\x00\x05hello".to_owned(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
    ] {
        let mut client = balancer.connect().await;
        client.send(&text).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, status, "{:?}", &text[..text.len().min(60)]);
        assert_eq!(reply.header("connection"), Some("close"), "{status}");
        assert_eq!(client.rest().await, b"");
    }
    assert!(backend.seen().is_empty());
    let lines = balancer.log(12).await;
    assert!(lines[0].contains(" 414 - "), "{}", lines[0]);
    assert!(lines[0].contains("\"- http://127.0.0.1:"), "{}", lines[0]);
}

#[tokio::test]
async fn a_client_that_dribbles_or_falls_silent_is_let_go() {
    let backend = Backend::named("fine").await;
    let balancer = Balancer::start(&[&backend], |assignment| assignment.attributes.idle_timeout_seconds = 1);
    // Half a head: 408. Half a body: closed. Nothing at all: closed without a word.
    let mut half_head = balancer.connect().await;
    half_head.send("GET / HTTP/1.1\r\nHos").await;
    let mut half_body = balancer.connect().await;
    half_body.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    let mut silent = balancer.connect().await;
    assert_eq!(half_head.reply().await.status, 408);
    let rest = String::from_utf8(half_body.rest().await).unwrap();
    assert!(!rest.starts_with("HTTP/1.1 2"), "{rest}");
    assert_eq!(silent.rest().await, b"");
    assert!(backend.seen().is_empty());
}

#[tokio::test]
async fn a_client_that_goes_away_is_460_and_its_target_is_let_go() {
    let backend = Backend::new(|_| Act::Hang).await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::timeout(TOO_LONG, async {
        while backend.seen().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(balancer.edge.targets.all()[0].outstanding(), 1);
    drop(client);
    let line = balancer.log(1).await.remove(0);
    assert!(line.contains(" 460 - "), "{line}");
    assert_eq!(balancer.edge.targets.all()[0].outstanding(), 0);
}

#[tokio::test]
async fn no_tunnel_for_requests_past_the_rules() {
    let backend = Backend::named("plain").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let reply = balancer.ask(upgrade).await;
    assert_eq!((reply.status, reply.text()), (200, "plain"));
    let got = backend.last();
    for header in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(got.header(header), None, "{header}");
    }
}
