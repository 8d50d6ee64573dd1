//! The kernel leads connections to names to the proxy's listener.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::{Command, Stdio};

use ferrogate_edge::connect::redirect::{places, redirect};
use ferrogate_nodeapi::Connect;
use ferrogate_vpc::VpcFabric;

use super::{ConnectError, machine};

/// Where the proxy is to listen. A proxy before it is gone.
pub(super) async fn lead(
    fabric: &VpcFabric,
    netns: &str,
    connect: &Connect,
) -> Result<SocketAddrV4, ConnectError> {
    let connect = connect.clone();
    led(fabric, netns, places(), move |place| redirect(&connect, place)).await
}

/// … of a task whose containers are in a machine beside the namespace.
pub(super) async fn lead_from_machine(
    fabric: &VpcFabric,
    netns: &str,
    connect: &Connect,
    address: Ipv4Addr,
) -> Result<SocketAddrV4, ConnectError> {
    let connect = connect.clone();
    let places = places().map(|place| SocketAddrV4::new(*machine::ADDRESS.ip(), place.port()));
    led(fabric, netns, places, move |place| machine::rules(&connect, address, place)).await
}

async fn led(
    fabric: &VpcFabric,
    netns: &str,
    mut places: impl Iterator<Item = SocketAddrV4> + Send + 'static,
    rules: impl FnOnce(SocketAddrV4) -> String + Send + 'static,
) -> Result<SocketAddrV4, ConnectError> {
    let led = fabric.run_in(netns, move || {
        let free = |place: &SocketAddrV4| TcpListener::bind(place).is_ok();
        let place = places.find(free).ok_or(ConnectError::NoPort)?;
        nft(&rules(place)).map_err(ConnectError::Rules)?;
        Ok(place)
    });
    led.await?
}

fn nft(rules: &str) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(words)?;
    // One that does not read says why.
    let written = nft.stdin.take().map(|mut stdin| stdin.write_all(rules.as_bytes()));
    let output = nft.wait_with_output().map_err(words)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    written.unwrap_or(Ok(())).map_err(words)
}
