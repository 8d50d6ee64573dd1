//! Requests that are no API calls: streamed, upgraded, and never mistaken for a signed call.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_api::BoxFuture;
use ferrogate_front::{Door, DoorBody, Limits};
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use support::{Call, House};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The silence after which the front closes a connection, in these tests.
const SILENCE: Duration = Duration::from_millis(100);

/// Sends back what it gets, as body or as upgraded connection.
struct Echo;

impl Door for Echo {
    fn takes(&self, head: &Parts) -> bool {
        head.uri.path().starts_with("/echo/") && head.headers[header::HOST].as_bytes().starts_with(b"echo.")
    }

    fn serve(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        _: SocketAddr,
    ) -> BoxFuture<'static, Response<DoorBody>> {
        Box::pin(async move {
            if request.headers().contains_key(header::UPGRADE) {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let mut io = TokioIo::new(upgrade.await.expect("an upgraded connection"));
                    let (mut read, mut write) = tokio::io::split(&mut io);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
                let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                return response;
            }
            let frames = request.into_body().into_data_stream().map(|data: Result<Bytes, hyper::Error>| {
                data.map(Frame::data).map_err(std::io::Error::other)
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        })
    }
}

async fn house() -> House {
    let limits = Limits { receive_timeout: SILENCE, ..Limits::default() };
    House::with_doors(limits, vec![Arc::new(Echo)]).await
}

async fn connect(house: &House, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.ends_with(end) {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    text
}

#[tokio::test]
async fn a_body_streams_both_ways_for_longer_than_a_silence() {
    let house = house().await;
    let head = "POST /echo/a HTTP/1.1\r\nHost: echo.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = connect(&house, head).await;
    for word in ["one", "two", "three"] {
        stream.write_all(format!("{:x}\r\n{word}\r\n", word.len()).as_bytes()).await.unwrap();
        read_until(&mut stream, &format!("{word}\r\n")).await;
        tokio::time::sleep(SILENCE * 3).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut stream, "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_connection_can_be_upgraded_and_outlives_the_request() {
    let house = house().await;
    let head = "GET /echo/a HTTP/1.1\r\nHost: echo.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut stream = connect(&house, head).await;
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for word in ["hello", "there"] {
        tokio::time::sleep(SILENCE * 3).await;
        stream.write_all(word.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, word).await, word);
    }
}

#[tokio::test]
async fn what_no_door_takes_and_what_is_signed_is_a_call() {
    let house = house().await;
    for (host, path) in [("other.test", "/echo/a"), ("echo.test", "/other")] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        connect(&house, &head).await.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 4") && text.contains("x-amzn-requestid"), "{text}");
    }
    let mut call = Call::query("sts", "Action=GetCallerIdentity");
    call.path = "/echo/a".into();
    call.set("host", "echo.test");
    let answer = call.by(&house.root()).send(&house).await;
    assert!(answer.headers.contains_key("x-amzn-requestid"), "{}", answer.body);
}
