//! Clients that are slow, greedy, broken or gone, and handlers that fail: the front stays up and others are served.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrogate_front::Limits;
use support::{Call, House};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough for an honest client on a busy machine.
const SOON: Duration = Duration::from_secs(1);
/// A test that waits longer has found a hang.
const PATIENCE: Duration = Duration::from_secs(20);

fn impatient() -> Limits {
    Limits { receive_timeout: SOON, call_timeout: SOON, ..Limits::default() }
}

/// Sends and reads until the other side closes.
async fn converse(house: &House, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    // The answer may come, and the connection go, before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn still_serves(house: &House) {
    Call::query("sts", "Action=GetCallerIdentity").by(&house.root()).send(house).await.is_served();
}

async fn until(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it happens");
}

#[tokio::test]
async fn who_sends_too_slowly_is_cut_off() {
    let house = House::with(impatient()).await;
    let nothing_comes_of = [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX-",
    ];
    let answers = futures_util::future::join_all(nothing_comes_of.map(|bytes| converse(&house, bytes))).await;
    for answer in answers {
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-amz-json-1.1\r\nX-Amz-Target: AmazonEC2ContainerServiceV20141113.ListClusters\r\nContent-Length: 100\r\n\r\n{";
    let answer = converse(&house, head).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("RequestTimeoutException") && answer.contains("x-amzn-requestid"), "{answer}");
    still_serves(&house).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_answer() {
    let house = House::with(impatient()).await;
    let answer = converse(&house, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn bodies_over_the_limit() {
    let house = House::with(Limits { body_bytes_max: 1000, ..Limits::default() }).await;
    let big = format!(r#"{{"cluster":"{}"}}"#, "a".repeat(1000));
    Call::ecs("ListServices", &big)
        .by(&house.root())
        .send(&house)
        .await
        .is_refused("RequestEntityTooLargeException", 413);
    let form = format!("Action=GetUser&UserName={}", "a".repeat(1000));
    Call::query("iam", &form).by(&house.root()).send(&house).await.is_refused("RequestEntityTooLarge", 413);
    // The same without a length told beforehand.
    let mut chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(format!("64\r\n{}\r\n", "a".repeat(100)).as_bytes());
    }
    let answer = converse(&house, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    still_serves(&house).await;
}

#[tokio::test]
async fn bodies_together_are_bounded() {
    let house = House::with(Limits { bodies_bytes_max: 1000, ..Limits::default() }).await;
    let mut holding = TcpStream::connect(house.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n{}", "a".repeat(990));
    holding.write_all(head.as_bytes()).await.unwrap();
    let busy = async {
        while Call::query("sts", "Action=GetCallerIdentity").by(&house.root()).send(&house).await.status
            == 200
        {}
    };
    tokio::time::timeout(PATIENCE, busy).await.expect("the memory is taken");
    Call::ecs("ListClusters", r#"{"maxResults":1}"#)
        .send(&house)
        .await
        .is_refused("ServiceUnavailableException", 503);
    drop(holding);
    let free = async {
        while Call::query("sts", "Action=GetCallerIdentity").by(&house.root()).send(&house).await.status
            != 200
        {}
    };
    tokio::time::timeout(PATIENCE, free).await.expect("the memory is given back");
}

#[tokio::test]
async fn garbage_ends_its_connection_at_most() {
    let house = House::with(impatient()).await;
    let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    let mut inputs: Vec<Vec<u8>> = vec![
        b"\0\0\0\0".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nGET http://x/../y?X-Amz-Algorithm=%zz HTTP/1.1\r\nHost: b\r\n\r\n".to_vec(),
        b"GET /?Action=%ff&%00=& HTTP/1.1\r\nHost: a\r\nAuthorization: AWS4-HMAC-SHA256 \xff\xfe\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".to_vec(),
        b"POST /service/x/operation/y HTTP/1.1\r\nHost: a\r\nX-Amz-Target: .\r\nContent-Length: 1\r\n\r\n{GARBAGE".to_vec(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![0xff; 64]].concat(),
    ];
    for _ in 0..50 {
        let mut input =
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-amz-json-1.1\r\n".to_vec();
        let at = random() as usize % input.len();
        input[at] = random() as u8;
        input.extend_from_slice(b"Content-Length: 8\r\n\r\n");
        input.extend((0..32).map(|_| random() as u8));
        inputs.push(input);
    }
    for answer in futures_util::future::join_all(inputs.iter().map(|input| converse(&house, input))).await {
        assert!(!answer.contains("HTTP/1.1 5") || answer.contains("NotImplemented"), "{answer}");
    }
    still_serves(&house).await;
}

#[tokio::test]
async fn a_panic_is_a_failure_of_ours_and_no_more() {
    let house = House::new().await;
    Call::ecs("ListTasks", "{}").by(&house.root()).send(&house).await.is_refused("InternalFailure", 500);
    Call::query("ec2", "Action=DescribeSubnets")
        .by(&house.root())
        .send(&house)
        .await
        .is_refused("InternalFailure", 500);
    let record = &house.trail.of("ListTasks")[0];
    assert_eq!(record.error_code.as_deref(), Some("InternalFailure"));
    // On the same connection: the next request is served.
    let mut bytes = Vec::new();
    for (operation, connection) in [("ListTasks", "keep-alive"), ("ListClusters", "close")] {
        let mut call = Call::ecs(operation, "{}").by(&house.root());
        call.set("connection", connection);
        call.sign(&house);
        bytes.extend_from_slice(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n");
        for (name, value) in &call.headers {
            bytes.extend_from_slice(format!("{name}: {}\r\n", value.to_str().unwrap()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n{}");
    }
    let answer = converse(&house, &bytes).await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_answered_and_recorded() {
    let house = House::with(impatient()).await;
    Call::ecs("DescribeClusters", "{}")
        .by(&house.root())
        .send(&house)
        .await
        .is_refused("InternalFailure", 500);
    assert_eq!(house.ecs.ended.load(Ordering::SeqCst), 0);
    assert_eq!(house.trail.of("DescribeClusters").len(), 1);
}

#[tokio::test]
async fn a_call_goes_on_when_its_client_is_gone() {
    let house = House::new().await;
    let mut call = Call::ecs("DescribeClusters", "{}").by(&house.root());
    call.sign(&house);
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    let mut bytes = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n".to_vec();
    for (name, value) in &call.headers {
        bytes.extend_from_slice(format!("{name}: {}\r\n", value.to_str().unwrap()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n{}");
    stream.write_all(&bytes).await.unwrap();
    until(|| house.ecs.begun.load(Ordering::SeqCst) == 1).await;
    drop(stream);
    still_serves(&house).await;
    house.ecs.gate.notify_one();
    until(|| !house.trail.of("DescribeClusters").is_empty()).await;
    assert_eq!(house.ecs.ended.load(Ordering::SeqCst), 1);
    assert_eq!(house.trail.of("DescribeClusters")[0].error_code, None);
}

#[tokio::test]
async fn a_stop_lets_calls_end_and_takes_no_more() {
    let mut house = House::new().await;
    let mut call = Call::ecs("DescribeClusters", "{}").by(&house.root());
    call.sign(&house);
    let ecs = Arc::clone(&house.ecs);
    let address = house.address;
    let (answer, ()) = tokio::join!(call.deliver(&house), async {
        until(|| ecs.begun.load(Ordering::SeqCst) == 1).await;
        house.stop.send(true).unwrap();
        // The listener goes first.
        let closed = async { while TcpStream::connect(address).await.is_ok() {} };
        tokio::time::timeout(PATIENCE, closed).await.expect("no more connections");
        ecs.gate.notify_one();
    });
    answer.is_served();
    house.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let house = House::with(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = TcpStream::connect(house.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut some = [0; 12];
    first.read_exact(&mut some).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 400");
    let mut second = TcpStream::connect(house.address).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(
        tokio::time::timeout(SOON / 5, second.read_exact(&mut some)).await.is_err(),
        "it is not served yet"
    );
    drop(first);
    tokio::time::timeout(PATIENCE, second.read_exact(&mut some)).await.expect("it is served now").unwrap();
}
