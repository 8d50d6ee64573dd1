//! HTTP/1 to targets, down to the byte: what they may say that is unusual and right, and clients that say no more.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::*;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn informational_responses_are_passed_over() {
    let backend = Backend::new(|request| {
        let count = if request.path() == "/endless" { 100 } else { 3 };
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(count);
        Act::Send(format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").into_bytes())
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let reply = balancer.get("/").await;
    assert_eq!((reply.status, reply.text(), reply.header("link")), (200, "ok", None));
    assert_eq!(balancer.get("/endless").await.status, 502);
}

#[tokio::test]
async fn old_servers_are_understood() {
    let backend = Backend::new(|request| match request.path() {
        "/old" => Act::SendAndClose(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall there is".to_vec()),
        "/lines" => Act::Send(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nlines".to_vec()),
        _ => Act::Send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4  \r\nwiki\r\n3;a=b\r\nped\r\n0\r\nT: v\r\n\r\n".to_vec(),
        ),
    })
    .await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    for (path, text) in
        [("/padded", "wikiped"), ("/lines", "lines"), ("/old", "all there is"), ("/lines", "lines")]
    {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.text()), (200, text), "{path}");
    }
    let connections: Vec<usize> = backend.seen().iter().map(|request| request.connection).collect();
    let [first, second, third, fourth] = connections[..] else { panic!("{connections:?}") };
    assert!(first == second && second == third && third != fourth, "{connections:?}");
}

/// It closes with a reset, since it read nothing of the body; what it said before that is its answer.
#[tokio::test]
async fn a_target_that_refuses_a_body_unread_has_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = target(listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        // Something of the body is there, and stays unread.
        stream.peek(&mut [0]).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig").await.unwrap();
    });
    let balancer = Balancer::start(&[], |assignment| assignment.target_groups[0].targets = vec![at]);
    let mut client = balancer.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (413, "big"));
    serving.await.unwrap();
}

/// ELB, "HTTP 460": a client that closes its side has closed, as with nginx; none waits for an answer behind its own FIN.
#[tokio::test]
async fn a_client_that_closes_its_half_is_460() {
    let backend = Backend::new(|_| Act::Hang).await;
    let balancer = Balancer::start(&[&backend], |_| {});
    let mut client = balancer.connect().await;
    client.send(REQUEST).await;
    client.shut().await;
    assert_eq!(client.rest().await, b"");
    let line = balancer.log(1).await.remove(0);
    assert!(line.contains(" 460 - "), "{line}");
    assert_eq!(balancer.edge.targets.all()[0].outstanding(), 0);
}
