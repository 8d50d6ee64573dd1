//! The real program in a network namespace of its own, with the redirection of names. Needs root.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferrogate_edge::connect::ConnectConfiguration;
use ferrogate_edge::connect::redirect::{places, redirect};
use ferrogate_edge::control::{FromEdge, Link, ToEdge, VERSION};
use ferrogate_nodeapi::{
    AccessLogFormat, AppProtocol, Connect, ConnectAccessLog, ConnectClient, ConnectServer, ConnectTimeouts,
    Endpoint, Endpoints,
};
use tokio::net::UnixStream;

use crate::support::TOO_LONG;

/// Ended with the test, by its own number.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Namespace {
    holder: Running,
}

impl Namespace {
    fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare of util-linux");
        let mut holder = Running(holder);
        let mut up = [0];
        let stdout = holder.0.stdout.as_mut().expect("a pipe");
        std::io::Read::read_exact(stdout, &mut up).expect("the namespace stands");
        Self { holder }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.0.id())).arg("--").arg(program);
        command
    }

    fn nft(&self, rules: &str) {
        let mut nft = self.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
        nft.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("it reads");
        assert!(nft.wait().expect("it ends").success(), "{rules}");
    }

    fn curl(&self, url: &str) -> (bool, String) {
        let output = self.command("curl").args(["-s", "--max-time", "10", url]).output().expect("curl");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn client(dns_name: &str, port: u16, protocol: AppProtocol) -> ConnectClient {
    ConnectClient {
        service_id: format!("srv-{dns_name}"),
        discovery_name: dns_name.to_owned(),
        dns_name: dns_name.to_owned(),
        port,
        protocol,
        timeouts: ConnectTimeouts::default(),
    }
}

async fn agent(socket: &Path, log: &Path) -> Link<ToEdge, FromEdge> {
    let end = Instant::now() + TOO_LONG;
    let stream = loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > end => {
                panic!("{error}: {}", std::fs::read_to_string(log).unwrap_or_default())
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    };
    let mut link = Link::new(stream);
    link.send(&ToEdge::Hello { version: VERSION }).await.expect("it reads");
    let hello = link.receive().await;
    assert!(matches!(hello, Ok(FromEdge::Hello { version: VERSION, .. })), "{hello:?}");
    link
}

/// A container's server on `0.0.0.0:80` of this namespace is an instance of `shop`, which is called at port 80 too.
#[tokio::test]
async fn names_are_called_at_ports_that_containers_listen_on() {
    let namespace = Namespace::new();
    let dir = tempfile::tempdir().expect("a folder");
    let (socket, log, web) =
        (dir.path().join("proxy/control.sock"), dir.path().join("edge.log"), dir.path().join("web"));
    std::fs::create_dir(dir.path().join("proxy")).expect("a folder");
    std::fs::create_dir(&web).expect("a folder");
    std::fs::write(web.join("page"), "from a container").expect("a file");
    let clients = vec![client("shop", 80, AppProtocol::Http), client("shop", 81, AppProtocol::Tcp)];
    let server = ConnectServer {
        discovery_name: "own".into(),
        ingress_port: 8443,
        container_port: 80,
        protocol: AppProtocol::Http,
        timeouts: ConnectTimeouts::default(),
    };
    let access_log = Some(ConnectAccessLog { format: AccessLogFormat::Text, query: false });
    let connect = Connect { clients, servers: vec![server], access_log, logs: None };
    let place = places().next().expect("there is one");
    namespace.nft(&redirect(&connect, place));
    // Twice is as once.
    namespace.nft(&redirect(&connect, place));
    let ingress = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8443);
    let edge = namespace
        .command(env!("CARGO_BIN_EXE_ferrogate-edge"))
        .arg("--socket")
        .arg(&socket)
        .args(["--listen", &place.to_string(), "--listen", &ingress.to_string()])
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("nsenter of util-linux");
    let edge = Running(edge);
    let mut link = agent(&socket, &log).await;
    let _container = Running(
        namespace
            .command("python3")
            .args(["-m", "http.server", "80", "--bind", "0.0.0.0", "--directory"])
            .arg(&web)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3"),
    );
    let end = Instant::now() + TOO_LONG;
    while !namespace.curl("http://127.0.0.1/page").0 {
        assert!(Instant::now() < end, "the container's server does not begin");
    }
    let endpoint =
        Endpoint { instance_id: "1".into(), address: Ipv4Addr::LOCALHOST, port: 80, service_revision: None };
    let services = BTreeMap::from([("srv-shop".to_owned(), vec![endpoint])]);
    let endpoints = Some(Endpoints { revision: 1, services, splits: BTreeMap::new() });
    let configuration = ConnectConfiguration {
        connect,
        address: Ipv4Addr::LOCALHOST,
        containers: Ipv4Addr::LOCALHOST,
        endpoints,
    };
    link.send(&ToEdge::Connect(Box::new(configuration))).await.expect("it reads");
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    for url in ["http://127.255.0.1/page", "http://127.255.0.1:81/page", "http://127.0.0.1:8443/page"] {
        assert_eq!(namespace.curl(url), (true, "from a container".into()), "{url} {}", said());
    }
    // A line of each request and of the connection, when it is over.
    let is_request = |line: &&str| line.contains("\"GET /page HTTP/1.1\" 200 0 16 ");
    let is_connection = |line: &&str| line.starts_with('[') && !line.contains('"');
    let logged =
        |said: &str| (said.lines().filter(is_request).count(), said.lines().filter(is_connection).count());
    while logged(&said()) != (2, 1) {
        assert!(Instant::now() < end, "not all requests are in the log: {}", said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Other ports of the name are nobody's.
    assert!(!namespace.curl("http://127.255.0.1:82/page").0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", edge.0.id())).expect("it runs");
    for line in ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    // The namespace is its containers': nothing in it was changed.
    let setting = namespace.command("cat").arg("/proc/sys/net/ipv4/ip_unprivileged_port_start").output();
    assert_eq!(setting.expect("cat").stdout, b"1024\n");
}
