//! A host of the test's own, a fabric on it, and packets through it.
//!
//! Every test lives in a thread with its own network and mount namespace, as do all threads it starts: when the
//! test ends, however it ends, nothing of it is left.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{
    AclEntry, EniFabric, Fabric, IpProtocol, NetworkAclFabric, Peer, RouteFabric, RouteTableFabric,
    RouteTarget, SecurityGroupFabric, SecurityGroupRule, SubnetFabric, VpcFabric as VpcDesired,
};
use ferrogate_vpc::{Options, VpcFabric};
use ipnet::Ipv4Net;

/// What is blocked answers nothing; after this long it is taken to be blocked.
pub const SILENCE: Duration = Duration::from_millis(400);
/// What is open answers long before this.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const RUN_DIR: &str = "/mnt";

/// Runs a test on a host of its own.
pub fn on_own_host(test: impl AsyncFnOnce() + Send) {
    on_own_host_after(|| {}, test);
}

/// The same; `prepare` runs first, before any other thread is made.
pub fn on_own_host_after(prepare: impl FnOnce() + Send, test: impl AsyncFnOnce() + Send) {
    std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS);
            mount(None, "/", libc::MS_REC | libc::MS_PRIVATE);
            mount(Some("tmpfs"), RUN_DIR, 0);
            run("ip", &["link", "set", "lo", "up"]);
            prepare();
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(test());
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn unshare(flags: libc::c_int) {
    // SAFETY: takes no pointers; it changes this thread only, which is the test's own.
    assert_eq!(unsafe { libc::unshare(flags) }, 0, "unshare (needs root): {}", io::Error::last_os_error());
}

fn mount(kind: Option<&str>, target: &str, flags: libc::c_ulong) {
    let kind = kind.map(|kind| std::ffi::CString::new(kind).unwrap());
    let name = kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr());
    let target = std::ffi::CString::new(target).unwrap();
    // SAFETY: all strings live during the call; none of these mounts takes data.
    let result = unsafe { libc::mount(name, target.as_ptr(), name, flags, std::ptr::null()) };
    assert_eq!(result, 0, "mount {target:?}: {}", io::Error::last_os_error());
}

/// A program in the namespace of the calling thread; its standard output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs in a namespace, on a thread that ends with it.
pub fn inside<T: Send>(netns: &Path, action: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = File::open(netns).unwrap();
            // SAFETY: takes no pointers; it changes this thread only, which ends here.
            assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            action()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A fabric and the desired state it is synced to.
pub struct World {
    pub fabric: VpcFabric,
    pub desired: Fabric,
}

/// A task: its namespace and its interface's address.
#[derive(Clone, Debug)]
pub struct Task {
    pub netns: PathBuf,
    pub ip: Ipv4Addr,
}

pub fn options() -> Options {
    Options::new(RUN_DIR, "test")
}

impl World {
    pub async fn open() -> Self {
        Self::open_with(options()).await
    }

    pub async fn open_with(options: Options) -> Self {
        Self { fabric: VpcFabric::open(options).await.unwrap(), desired: Fabric::default() }
    }

    pub async fn sync(&mut self) {
        self.desired.revision += 1;
        self.fabric.sync(Arc::new(self.desired.clone())).await.unwrap();
    }

    pub fn vpc(&mut self, vpc_id: &str) -> &mut VpcDesired {
        self.desired.vpcs.iter_mut().find(|vpc| vpc.vpc_id == vpc_id).unwrap()
    }

    pub fn group(&mut self, group_id: &str) -> &mut SecurityGroupFabric {
        let mut groups = self.desired.vpcs.iter_mut().flat_map(|vpc| &mut vpc.security_groups);
        groups.find(|group| group.group_id == group_id).unwrap()
    }

    pub fn acl(&mut self, acl_id: &str) -> &mut NetworkAclFabric {
        let mut acls = self.desired.vpcs.iter_mut().flat_map(|vpc| &mut vpc.network_acls);
        acls.find(|acl| acl.network_acl_id == acl_id).unwrap()
    }

    pub fn eni(&mut self, eni_id: &str) -> &mut EniFabric {
        let mut enis = self.desired.vpcs.iter_mut().flat_map(|vpc| &mut vpc.enis);
        enis.find(|eni| eni.eni_id == eni_id).unwrap()
    }

    /// A namespace with the interface in it; the fabric must be synced.
    pub async fn task(&mut self, eni_id: &str) -> Task {
        let name = format!("task-{eni_id}");
        self.fabric.create_netns(&name).await.unwrap();
        let netns = self.fabric.attach(eni_id, &name).await.unwrap();
        Task { netns, ip: self.eni(eni_id).private_ip }
    }
}

pub fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// A VPC 10.0.0.0/16 with subnets `…-a` (10.0.1.0/24, network ACL `acl-…-a`) and `…-b` (10.0.2.0/24), a gateway
/// and a route to it; ACLs let everything pass.
pub fn vpc(name: &str) -> VpcDesired {
    let subnet = |zone: &str, cidr: &str| SubnetFabric {
        subnet_id: format!("subnet-{name}-{zone}"),
        cidr: net(cidr),
        route_table_id: format!("rtb-{name}"),
        network_acl_id: format!("acl-{name}-{zone}"),
    };
    let acl = |zone: &str| NetworkAclFabric {
        network_acl_id: format!("acl-{name}-{zone}"),
        ingress: vec![acl_entry(100, true, IpProtocol::All, "0.0.0.0/0", None)],
        egress: vec![acl_entry(100, true, IpProtocol::All, "0.0.0.0/0", None)],
    };
    let route = |destination: &str, target| RouteFabric { destination: net(destination), target };
    VpcDesired {
        vpc_id: format!("vpc-{name}"),
        region: "us-east-1".into(),
        cidrs: vec![net("10.0.0.0/16")],
        subnets: vec![subnet("a", "10.0.1.0/24"), subnet("b", "10.0.2.0/24")],
        route_tables: vec![RouteTableFabric {
            route_table_id: format!("rtb-{name}"),
            routes: vec![
                route("10.0.0.0/16", RouteTarget::Local),
                route("0.0.0.0/0", RouteTarget::InternetGateway(format!("igw-{name}"))),
            ],
        }],
        network_acls: vec![acl("a"), acl("b")],
        security_groups: Vec::new(),
        enis: Vec::new(),
        internet_gateway: Some(format!("igw-{name}")),
    }
}

pub fn acl_entry(
    rule_number: u16,
    allow: bool,
    protocol: IpProtocol,
    cidr: &str,
    ports: Option<(u16, u16)>,
) -> AclEntry {
    AclEntry { rule_number, allow, protocol, cidr: net(cidr), ports, icmp: None }
}

/// The subnet is the one the address is in.
pub fn eni(vpc: &str, name: &str, address: &str, groups: &[&str]) -> EniFabric {
    let private_ip = ip(address);
    let [_, _, c, d] = private_ip.octets();
    let zone = if c == 1 { 'a' } else { 'b' };
    EniFabric {
        eni_id: format!("eni-{name}"),
        subnet_id: format!("subnet-{vpc}-{zone}"),
        mac: format!("0a:00:00:00:{c:02x}:{d:02x}"),
        private_ip,
        public_ip: None,
        security_group_ids: groups.iter().map(|group| (*group).to_owned()).collect(),
        source_dest_check: true,
        network_load_balancer: false,
    }
}

pub fn group(
    id: &str,
    ingress: Vec<SecurityGroupRule>,
    egress: Vec<SecurityGroupRule>,
) -> SecurityGroupFabric {
    SecurityGroupFabric { group_id: id.to_owned(), ingress, egress }
}

pub fn all(peer: Peer) -> SecurityGroupRule {
    SecurityGroupRule { protocol: IpProtocol::All, ports: None, icmp: None, peer }
}

pub fn tcp(first: u16, last: u16, peer: Peer) -> SecurityGroupRule {
    SecurityGroupRule { protocol: IpProtocol::TCP, ports: Some((first, last)), icmp: None, peer }
}

pub fn udp(port: u16, peer: Peer) -> SecurityGroupRule {
    SecurityGroupRule { protocol: IpProtocol::UDP, ports: Some((port, port)), icmp: None, peer }
}

pub fn icmp(kind: u8, peer: Peer) -> SecurityGroupRule {
    SecurityGroupRule { protocol: IpProtocol::ICMP, ports: None, icmp: Some((Some(kind), None)), peer }
}

pub fn anywhere() -> Peer {
    Peer::Cidr(net("0.0.0.0/0"))
}

pub fn cidr(text: &str) -> Peer {
    Peer::Cidr(net(text))
}

pub fn of_group(id: &str) -> Peer {
    Peer::Group(id.to_owned())
}

/// What a connection attempt came to.
#[derive(Debug)]
pub enum Attempt {
    Open(TcpStream),
    Refused,
    /// Nothing answered.
    Silent,
}

impl Attempt {
    pub fn stream(self) -> TcpStream {
        match self {
            Self::Open(stream) => stream,
            other => panic!("expected a connection, not {other:?}"),
        }
    }
}

/// In the calling thread's namespace. Blocking streams with a generous time limit.
pub fn connect(address: Ipv4Addr, port: u16, limit: Duration) -> Attempt {
    match TcpStream::connect_timeout(&SocketAddrV4::new(address, port).into(), limit) {
        Ok(stream) => {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Attempt::Open(stream)
        }
        // The relay may reset what it just accepted before we look.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) =>
        {
            Attempt::Refused
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            ) =>
        {
            Attempt::Silent
        }
        Err(error) => panic!("{address}:{port}: {error}"),
    }
}

/// Whether bytes come back from an echo server.
pub fn echoes(stream: &mut TcpStream, text: &str) -> bool {
    let mut answer = vec![0; text.len()];
    stream.write_all(text.as_bytes()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == text.as_bytes()
}

impl Task {
    pub fn connect(&self, address: Ipv4Addr, port: u16) -> Attempt {
        inside(&self.netns, || connect(address, port, PATIENCE))
    }

    /// A connection that must not come to be.
    pub fn is_silent(&self, address: Ipv4Addr, port: u16) -> bool {
        inside(&self.netns, || matches!(connect(address, port, SILENCE), Attempt::Silent))
    }

    /// A connection to an echo server that must work.
    pub fn reaches(&self, address: Ipv4Addr, port: u16) -> bool {
        let mut stream = self.connect(address, port).stream();
        echoes(&mut stream, "hello")
    }

    /// An echo server on every address of the task; it ends with the runtime. Answers who connected.
    pub fn serve(&self, port: u16) -> tokio::sync::mpsc::UnboundedReceiver<IpAddr> {
        serve_tcp(inside(&self.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()))
    }

    pub fn serve_udp(&self, port: u16) {
        echo_udp(inside(&self.netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()));
    }

    /// Whether a datagram comes back from an echo server within the limit.
    pub fn reaches_udp(&self, address: Ipv4Addr, port: u16, limit: Duration) -> bool {
        inside(&self.netns, || reaches_udp(address, port, limit))
    }

    pub fn pings(&self, address: Ipv4Addr) -> bool {
        inside(&self.netns, || {
            let output = Command::new("ping").args(["-c1", "-W1", &address.to_string()]).output().unwrap();
            output.status.success()
        })
    }
}

/// In the calling thread's namespace. Asks again while there is time: datagrams may be lost while a way is made.
pub fn reaches_udp(address: Ipv4Addr, port: u16, limit: Duration) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((address, port)).unwrap();
    let step = limit.min(Duration::from_millis(200));
    socket.set_read_timeout(Some(step)).unwrap();
    let attempts = limit.as_millis() / step.as_millis();
    (0..attempts).any(|_| {
        let mut answer = [0; 16];
        socket.send(b"datagram").is_ok()
            && socket.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"datagram")
    })
}

pub fn serve_tcp(listener: TcpListener) -> tokio::sync::mpsc::UnboundedReceiver<IpAddr> {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (peers, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            // Not every test looks at who it was.
            let _ = peers.send(peer.ip());
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    seen
}

pub fn echo_udp(socket: UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], peer).await;
        }
    });
}

/// A network beside the host, reached by an ordinary link: the world. Its address is 203.0.113.10.
pub struct Outside {
    pub netns: PathBuf,
}

pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The host's own address on that link.
pub const HOST_OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

impl Outside {
    /// A task's namespace serves: what makes it outside is the link.
    pub async fn make(world: &World) -> Self {
        let netns = world.fabric.create_netns("outside").await.unwrap();
        let file = File::open(&netns).unwrap();
        let descriptor = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        run("ip", &["link", "add", "wan", "type", "veth", "peer", "name", "lan", "netns", &descriptor]);
        run("ip", &["addr", "add", &format!("{HOST_OUTSIDE}/24"), "dev", "wan"]);
        run("ip", &["link", "set", "wan", "up"]);
        inside(&netns, || {
            run("ip", &["addr", "add", &format!("{OUTSIDE}/24"), "dev", "lan"]);
            run("ip", &["link", "set", "lan", "up"]);
        });
        Self { netns }
    }

    pub fn serve(&self, port: u16) -> tokio::sync::mpsc::UnboundedReceiver<IpAddr> {
        serve_tcp(inside(&self.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()))
    }

    pub fn serve_udp(&self, port: u16) {
        echo_udp(inside(&self.netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()));
    }
}

/// Everything a fabric might change in the calling thread's namespace.
pub fn network_state() -> String {
    [
        run("nft", &["list", "ruleset"]),
        run("ip", &["-o", "link"]),
        run("ip", &["-o", "addr"]),
        run("ip", &["route", "show", "table", "all"]),
        run("ip", &["rule"]),
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
    ]
    .join("\n--\n")
}
