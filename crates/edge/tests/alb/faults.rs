//! What breaks in the middle, what never ends, and certificates that are not what they should be.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;
use crate::tls_and_http2::{certificate_of, https, https_client, serve_tls};
use ferrogate_edge::Certificates;
use ferrogate_nodeapi::*;

/// Clients that do nothing of use.
const IDLERS: usize = 300;
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Bodies that break their framing: the client gets what came, sees that it is not whole, and nobody gets the rest.
#[tokio::test]
async fn a_body_that_breaks_its_framing_is_cut() {
    for broken in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "5\nhello\r\n-1\r\n\r\n",
        "5\r\nhello\r\n0\r\nno trailer at all\r\n\r\n",
    ] {
        let backend = Backend::new(move |request| match request.path() {
            "/well" => ok("well"),
            _ => Act::Send(
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{broken}").into_bytes(),
            ),
        })
        .await;
        let balancer = Balancer::start(&[&backend], |_| {});
        let mut client = balancer.connect().await;
        client.send(REQUEST).await;
        let got = String::from_utf8(client.rest().await).unwrap();
        assert!(!got.ends_with("0\r\n\r\n"), "{broken:?}: an end was made up: {got}");
        assert!(got.starts_with("HTTP/1.1 200 OK") || got.starts_with("HTTP/1.1 502"), "{broken:?}: {got}");
        assert_eq!(balancer.get("/well").await.text(), "well");
        let seen = backend.seen();
        assert_ne!(seen[0].connection, seen[1].connection, "{broken:?}: its connection is used again");
        assert_eq!(balancer.edge.targets.all()[0].outstanding(), 0);
    }
}

/// Sends `answer` to whoever asks, and then does `end` to the connection.
async fn half_answering(answer: &'static [u8], resets: bool) -> (Target, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = target(listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                stream.write_all(answer).await.ok();
            }
            if resets {
                stream.set_zero_linger().unwrap();
            } else {
                held.push(stream);
            }
        }
    });
    (at, serving)
}

#[tokio::test]
async fn a_target_that_stops_in_the_middle_is_let_go() {
    for (answer, resets) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of"[..], true),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of", false),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nhalf of", true),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nhalf of", false),
    ] {
        let (at, serving) = half_answering(answer, resets).await;
        let balancer = Balancer::start(&[], |assignment| {
            assignment.attributes.idle_timeout_seconds = 1;
            assignment.target_groups[0].targets = vec![at];
        });
        let mut client = balancer.connect().await;
        client.send(REQUEST).await;
        let got = String::from_utf8(client.rest().await).unwrap();
        // A reset may overtake what was sent before it.
        assert!(got.starts_with("HTTP/1.1 200 OK") || resets && got.starts_with("HTTP/1.1 502"), "{got}");
        assert!(!got.ends_with("0\r\n\r\n"), "{got}");
        let line = balancer.log(1).await.remove(0);
        assert!(line.contains("GET http://"), "{line}");
        assert_eq!(balancer.edge.targets.all()[0].outstanding(), 0);
        serving.abort();
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_504() {
    for answer in [&b"HTTP/1.1 200 OK\r\nX-Half: a"[..], b"HTTP/1.1 100 Continue\r\n\r\n", b""] {
        let (at, serving) = half_answering(answer, false).await;
        let balancer = Balancer::start(&[], |assignment| {
            assignment.attributes.idle_timeout_seconds = 1;
            assignment.target_groups[0].targets = vec![at];
        });
        assert_eq!(balancer.get("/").await.status, 504);
        serving.abort();
    }
    // One that says for ever that it will say something.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = target(listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(&b"HTTP/1.1 102 Processing\r\n\r\n".repeat(100)).await.is_ok() {}
    });
    let balancer = Balancer::start(&[], |assignment| {
        assignment.attributes.idle_timeout_seconds = 1;
        assignment.target_groups[0].targets = vec![at];
    });
    let status = balancer.get("/").await.status;
    assert!([502, 504].contains(&status), "{status}");
    // And it is let go.
    tokio::time::timeout(TOO_LONG, serving).await.expect("the balancer closes").unwrap();
}

#[tokio::test]
async fn clients_that_dribble_leave_room_for_others() {
    let backend = Backend::named("fine").await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut slow = Vec::new();
    for number in 0..IDLERS {
        let mut client = balancer.connect().await;
        client.send(&REQUEST[..number % REQUEST.len()]).await;
        slow.push(client);
    }
    for _ in 0..20 {
        assert_eq!(balancer.get("/").await.text(), "fine");
        for client in &mut slow {
            client.send("x").await;
        }
    }
    assert_eq!(backend.seen().len(), 20);
}

#[tokio::test]
async fn handshakes_that_never_end_leave_room_for_others() {
    let backend = Backend::named("fine").await;
    let certificates: Certificates = [("c".to_owned(), certificate_of(&["a.example.com"], None))].into();
    let balancer = Balancer::with_certificates(certificates, &[&backend], https(&["c"]));
    let mut silent = Vec::new();
    for number in 0..IDLERS {
        let mut tcp = TcpStream::connect(balancer.address).await.unwrap();
        // Nothing; the beginning of a ClientHello; a record that is announced and does not come.
        let begun: &[u8] = [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\x16\x03\x01\xff"][number % 3];
        tcp.write_all(begun).await.unwrap();
        silent.push(tcp);
    }
    for _ in 0..5 {
        let (mut client, _) = https_client(&balancer, "a.example.com").await;
        client.send(REQUEST).await;
        assert_eq!(client.reply().await.text(), "fine");
    }
    // Who does not speak TLS at all is told so, as far as TLS has a word for it, and let go.
    for words in [REQUEST.as_bytes(), &[0xff; 2000]] {
        let mut tcp = TcpStream::connect(balancer.address).await.unwrap();
        tcp.write_all(words).await.unwrap();
        let mut rest = Vec::new();
        let reading = tcp.read_to_end(&mut rest);
        tokio::time::timeout(TOO_LONG, reading).await.expect("the connection is closed").ok();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    }
    assert_eq!(backend.seen().len(), 5);
}

/// As ELB: whether a certificate is of any worth is for the client to say.
#[tokio::test]
async fn an_expired_certificate_is_shown_and_one_of_another_name_is_the_default() {
    let expired = certificate_of(&["old.example.com"], Some(["20200101000000Z", "20200102000000Z"]));
    let future = certificate_of(&["new.example.com"], Some(["20990101000000Z", "20990102000000Z"]));
    let backend = Backend::named("served").await;
    let certificates: Certificates = [("old".to_owned(), expired), ("new".to_owned(), future)].into();
    let balancer = Balancer::with_certificates(certificates, &[&backend], https(&["old", "new"]));
    let mut shown = Vec::new();
    for name in ["old.example.com", "new.example.com", "other.example.com"] {
        let (mut client, certificate) = https_client(&balancer, name).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert_eq!(client.reply().await.text(), "served", "{name}");
        shown.push(certificate);
    }
    assert_ne!(shown[0], shown[1]);
    assert_eq!(shown[2], shown[0], "a name of no certificate gets the default one");
}

#[tokio::test]
async fn a_target_s_certificate_may_be_expired_or_another_s() {
    let made = certificate_of(&["nobody"], Some(["20200101000000Z", "20200102000000Z"]));
    let (at, serving) = serve_tls(&made).await;
    let balancer = Balancer::start(&[], |assignment| {
        assignment.target_groups[0].targets = vec![at];
        assignment.target_groups[0].protocol = TargetProtocol::Https;
    });
    assert_eq!(balancer.get("/").await.text(), "over TLS");
    serving.abort();
}
