//! TCP through the proxy.

use ferrogate_nodeapi::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

/// Says its name, then what it hears, until the client has said all; then its last word.
async fn instance(name: &'static str) -> Instance {
    Instance::raw(move |mut connection| async move {
        let (mut reader, mut writer) = connection.split();
        let _ = writer.write_all(name.as_bytes()).await;
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.write_all(b".").await;
    })
    .await
}

async fn say(world: &World, words: &str) -> String {
    let mut connection = TcpStream::connect(world.alias).await.unwrap();
    connection.write_all(words.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(connection.read_to_string(&mut heard)).await.unwrap();
    heard
}

#[tokio::test]
async fn connections_go_to_one_after_the_other_and_around_those_that_are_not_there() {
    let (one, other) = (instance("one ").await, instance("other ").await);
    let world = World::new(Called::by(AppProtocol::Tcp), &[one.address, other.address]);
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(say(&world, "hello").await);
    }
    heard.sort();
    assert_eq!(heard, ["one hello.", "one hello.", "other hello.", "other hello."]);
    let world = World::new(Called::by(AppProtocol::Tcp), &[nobody().await, one.address, nobody().await]);
    for _ in 0..6 {
        assert_eq!(say(&world, "hello").await, "one hello.");
    }
}

#[tokio::test]
async fn a_connection_to_nobody_is_closed() {
    for instances in [Vec::new(), vec![nobody().await]] {
        let world = World::new(Called::by(AppProtocol::Tcp), &instances);
        let mut connection = TcpStream::connect(world.alias).await.unwrap();
        let mut heard = Vec::new();
        soon(connection.read_to_end(&mut heard)).await.unwrap();
        assert!(heard.is_empty());
    }
}

#[tokio::test]
async fn a_connection_outlives_its_instance_in_the_list() {
    let (old, new) = (instance("old ").await, instance("new ").await);
    let mut world = World::new(Called::by(AppProtocol::Tcp), &[old.address]);
    let mut connection = TcpStream::connect(world.alias).await.unwrap();
    let mut name = [0; 4];
    soon(connection.read_exact(&mut name)).await.unwrap();
    world.instances(&[new.address]);
    assert_eq!(say(&world, "hello").await, "new hello.");
    connection.write_all(b"still").await.unwrap();
    connection.shutdown().await.unwrap();
    let mut heard = String::new();
    soon(connection.read_to_string(&mut heard)).await.unwrap();
    assert_eq!((&name, heard.as_str()), (b"old ", "still."));
}

#[tokio::test]
async fn a_silent_connection_ends() {
    let instance = instance("one ").await;
    let called = Called { idle_seconds: Some(1), ..Called::by(AppProtocol::Tcp) };
    let world = World::new(called, &[instance.address]);
    let mut connection = TcpStream::connect(world.alias).await.unwrap();
    let mut heard = Vec::new();
    // A reset: nobody takes it for the whole of it.
    soon(connection.read_to_end(&mut heard)).await.unwrap_err();
    assert_eq!(heard, b"one ");
}
