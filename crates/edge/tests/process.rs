//! The real program in a network namespace of its own: what it gives up, and that it serves all the same. Needs root.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferrogate_edge::control::{Configuration, FromEdge, Link, ToEdge, VERSION};
use ferrogate_nodeapi::{
    Action, BalancerAssignment, BalancerAttributes, BalancerKind, BalancerReport, Listener, ListenerProtocol,
    TaskNetwork,
};
use tokio::net::UnixStream;

const DEADLINE: Duration = Duration::from_secs(30);

struct World {
    dir: tempfile::TempDir,
    edge: Child,
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let edge = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_ferrogate-edge"))
            .arg("--socket")
            .arg(dir.path().join("control.sock"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("edge.log")).expect("a log"))
            .spawn()
            .expect("unshare of util-linux");
        Self { dir, edge }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    async fn agent(&self) -> Link<ToEdge, FromEdge> {
        let end = Instant::now() + DEADLINE;
        let stream = loop {
            match UnixStream::connect(self.socket()).await {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => panic!("{error}: {}", self.log()),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let mut link = Link::new(stream);
        link.send(&ToEdge::Hello { version: VERSION }).await.expect("it reads");
        let hello = link.receive().await;
        assert!(matches!(hello, Ok(FromEdge::Hello { version: VERSION, .. })), "{hello:?} {}", self.log());
        link
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("edge.log")).unwrap_or_default()
    }

    fn curl(&self, url: &str) -> String {
        let net = format!("--net=/proc/{}/ns/net", self.edge.id());
        let output = Command::new("nsenter").args([&net, "curl", "-s", "--max-time", "10", url]).output();
        let output = output.expect("nsenter and curl");
        assert!(output.status.success(), "{url}: {output:?} {}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn proc(&self, file: &str) -> String {
        let path = Path::new("/proc").join(self.edge.id().to_string()).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.edge.kill();
        let _ = self.edge.wait();
    }
}

/// The next report, answered.
async fn report(link: &mut Link<ToEdge, FromEdge>) -> BalancerReport {
    loop {
        if let FromEdge::Report { sequence, report } = link.receive().await.expect("it goes on") {
            link.send(&ToEdge::Answer { sequence, taken: true }).await.expect("it reads");
            return *report;
        }
    }
}

async fn configure(link: &mut Link<ToEdge, FromEdge>, assignment: BalancerAssignment) -> BalancerReport {
    let generation = assignment.generation;
    let configuration = Configuration { assignment, certificates: BTreeMap::new() };
    link.send(&ToEdge::Configure(Box::new(configuration))).await.expect("it reads");
    loop {
        let report = report(link).await;
        if report.generation == generation {
            return report;
        }
    }
}

fn assignment(generation: u64, listeners: &[(u16, &str)]) -> BalancerAssignment {
    let listener = |(port, body): &(u16, &str)| Listener {
        listener_arn: format!("listener/{port}"),
        port: *port,
        protocol: ListenerProtocol::Http,
        ssl_policy: None,
        certificate_arns: Vec::new(),
        alpn_policy: None,
        mtls_passthrough: false,
        tcp_idle_timeout_seconds: 350,
        header_attributes: Vec::new(),
        rules: Vec::new(),
        default_action: Action::FixedResponse {
            status: 200,
            content_type: Some("text/plain".into()),
            body: (*body).into(),
        },
    };
    BalancerAssignment {
        load_balancer_arn: "arn:aws:elasticloadbalancing:us-east-1:1:loadbalancer/app/door/1".into(),
        name: "door".into(),
        account: "1".into(),
        region: "us-east-1".into(),
        availability_zone: "us-east-1a".into(),
        kind: BalancerKind::Application,
        dns_name: "door-1.us-east-1.elb.amazonaws.com".into(),
        network: TaskNetwork {
            eni_id: "eni-1".into(),
            vpc_id: "vpc-1".into(),
            subnet_id: "subnet-1".into(),
            mac: "0a:00:00:00:00:01".into(),
            private_ip: Ipv4Addr::LOCALHOST,
            subnet_cidr: "127.0.0.0/8".parse().expect("a network"),
            gateway: Ipv4Addr::LOCALHOST,
            dns_servers: Vec::new(),
            dns_search: Vec::new(),
            hostname: String::new(),
        },
        public_ip: None,
        generation,
        attributes: BalancerAttributes::default(),
        listeners: listeners.iter().map(listener).collect(),
        target_groups: Vec::new(),
    }
}

#[tokio::test]
async fn it_is_nobody_and_serves_port_80() {
    let world = World::start();
    let mut agent = world.agent().await;
    let said = configure(&mut agent, assignment(1, &[(80, "first")])).await;
    assert_eq!((said.active, said.problem), (true, None));
    assert_eq!(world.curl("http://127.0.0.1/"), "first");

    let status = world.proc("status");
    let wanted = [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ];
    for line in wanted {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(status.lines().any(|line| line.split_whitespace().eq(["Groups:"])), "{status}");
    let root = std::fs::read_link(format!("/proc/{}/root", world.edge.id())).expect("it runs");
    assert_eq!(root, world.dir.path().canonicalize().expect("a folder"));

    // In place: the agent's death takes nothing along, and another one changes the listeners.
    drop(agent);
    assert_eq!(world.curl("http://127.0.0.1/"), "first");
    let mut agent = world.agent().await;
    let said = configure(&mut agent, assignment(2, &[(80, "second"), (81, "new")])).await;
    assert_eq!((said.active, said.problem), (true, None));
    assert_eq!(world.curl("http://127.0.0.1/"), "second");
    assert_eq!(world.curl("http://127.0.0.1:81/"), "new");
    assert_eq!(
        world.proc("status").lines().find(|line| line.starts_with("Name:")),
        Some("Name:\tferrogate-edge")
    );
}

#[tokio::test]
async fn a_listener_that_cannot_be_is_told() {
    let world = World::start();
    let mut agent = world.agent().await;
    let mut elsewhere = assignment(1, &[(80, "x")]);
    elsewhere.network.private_ip = Ipv4Addr::new(192, 0, 2, 1);
    let mut said = configure(&mut agent, elsewhere).await;
    let problem = loop {
        match said.problem {
            Some(problem) => break problem,
            None => said = report(&mut agent).await,
        }
    };
    assert!(problem.contains("listener 80"), "{problem}");
}
