//! What attempts are made from, and what they are aimed at.
//!
//! ```text
//!  outside ── wan ── the test's own network: ferrogate up, a server on 0.0.0.0, unix sockets
//!                      └─ default VPC: the attackers' task, the victim
//!                      └─ another VPC: a task that nobody there should reach
//! ```

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ferrogate_tests::{Cluster, Network, Said, Setup, TaskRun, until};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::table::{Attempt, Free};
use crate::names::other_vpc;
use crate::task_role::role;

/// What runs everywhere.
pub(super) const PROGRAM: &str = include_str!("../../python/escapes.py");
const OPEN_PORT: u16 = 9000;
const TALK_PORT: u16 = 9001;
const API_PORT: u16 = 4566;
const HOST: &str = "198.51.100.1";
const OUTSIDE: &str = "198.51.100.2";
/// The router's end of every interface's link.
const ROUTER_MAC: &str = "06:fe:00:00:00:01";
const EVERYWHERE: &str = "0.0.0.0/0";

/// A way out that leads to one other host.
const WAN: &str = "
ip netns add outside
ip link add wan type veth peer name wan netns outside
ip addr add 198.51.100.1/24 dev wan
ip -n outside addr add 198.51.100.2/24 dev wan
ip link set wan up
ip -n outside link set wan up
";

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

fn id(arn: &str) -> &str {
    arn.rsplit('/').next().expect("a task's ARN")
}

/// A server of the test's own.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) struct Prison {
    /// First: servers end before the network they are in.
    _servers: Vec<Server>,
    _memory: NamedTempFile,
    pub(super) cluster: Cluster,
    pub(super) network: Network,
    /// The attackers' security group.
    pub(super) group: String,
    victim: String,
    elsewhere: String,
    /// What programs know as `where`.
    pub(super) knowledge: Value,
}

impl Drop for Prison {
    fn drop(&mut self) {
        // It is nothing of Ferrogate's that is left.
        let _ = self.cluster.command("sh").args(["-c", "ip link del wan; ip netns del outside"]).status();
    }
}

impl Prison {
    /// With these arguments for `ferrogate up`.
    pub(super) fn start(arguments: &[String]) -> Self {
        let cluster = Cluster::start_with(Setup { arguments: arguments.to_vec(), ..Setup::default() });
        let network = cluster.network();
        let boto = cluster.boto();
        let wan = cluster.command("sh").args(["-ec", WAN]).status();
        assert!(wan.is_ok_and(|status| status.success()), "a way out");

        let group = group(&cluster, "attackers");
        let victims = self::group(&cluster, "victims");
        // Whatever an attacker could be sent by a forgery comes through.
        let everything = json!([{ "IpProtocol": "-1", "IpRanges": [{ "CidrIp": EVERYWHERE }] }]);
        authorize(&cluster, &group, everything);
        authorize(
            &cluster,
            &victims,
            json!([
                { "IpProtocol": "udp", "FromPort": OPEN_PORT, "ToPort": OPEN_PORT, "IpRanges": [{ "CidrIp": EVERYWHERE }] },
                { "IpProtocol": "tcp", "FromPort": TALK_PORT, "ToPort": TALK_PORT, "UserIdGroupPairs": [{ "GroupId": group }] },
            ]),
        );
        let subnet = boto.ok("ec2", "describe_subnets", json!({ "SubnetIds": [network.subnet] }));
        let first = text(&subnet["Subnets"][0]["CidrBlock"]);
        let first: Ipv4Addr = first.split('/').next().and_then(|text| text.parse().ok()).expect("a block");
        let address = |offset: u32| Ipv4Addr::from(u32::from(first) + offset).to_string();
        let vpc = boto.ok("ec2", "describe_vpcs", json!({ "VpcIds": [network.vpc] }));
        let vpc = text(&vpc["Vpcs"][0]["CidrBlock"]);
        let vpc: Ipv4Addr = vpc.split('/').next().and_then(|text| text.parse().ok()).expect("a block");

        let third = address(1000);
        let role = role(
            &cluster,
            "victim",
            json!({ "Effect": "Allow", "Action": "ecs:ListClusters", "Resource": "*" }),
        );
        let serving = json!({ "third": third }).to_string();
        let container = json!([{
            "name": "app", "image": "python3-boto3", "command": ["python3", "-c", PROGRAM, "--serve", serving],
            "stopTimeout": 2,
        }]);
        cluster.define("victim", container, json!({ "taskRoleArn": role }));
        let other = other_vpc(&cluster);
        let groups = [victims.as_str()];
        let victim = cluster.run_task(&network, &TaskRun::of("victim").groups(&groups));
        let elsewhere = cluster.run_task(&other, &TaskRun::of("victim"));

        let memory =
            NamedTempFile::with_prefix_in("ferrogate-escape-", "/dev/shm").expect("a file in /dev/shm");
        let name = memory.path().file_name().and_then(|name| name.to_str()).expect("a plain name");
        let unix =
            [cluster.folder().join("service.sock").display().to_string(), "\0ferrogate-escape".to_owned()];
        let served = json!({ "unix": unix }).to_string();
        let serve = |command: &mut Command, knowledge: &str| {
            let mut child = command
                .args(["-c", PROGRAM, "--serve", knowledge])
                .stdout(Stdio::piped())
                .spawn()
                .expect("python");
            let mut line = String::new();
            let read = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line);
            let server = Server(child);
            assert!(read.is_ok_and(|count| count > 0), "the server says that it serves");
            server
        };
        let mut outside = cluster.command("ip");
        outside.args(["netns", "exec", "outside", "python3"]);
        let servers = vec![serve(&mut cluster.command("python3"), &served), serve(&mut outside, "{}")];

        let serves = |arn: &str| -> Value {
            cluster.running(arn);
            until("it serves", || {
                let output = cluster.output(arn);
                output.lines().next().map(|line| serde_json::from_str(line).expect("its environment"))
            })
        };
        let environment = serves(&victim);
        serves(&elsewhere);
        let process = cluster.task_processes(id(&victim))[0];
        let path = |name: &str| text(&environment[name]).replace("http://169.254.170.2", "");
        let knowledge = json!({
            "victim": cluster.addresses(&cluster.task(&victim)).0,
            "elsewhere": cluster.addresses(&cluster.task(&elsewhere)).0,
            "third": third, "gateway": address(1), "resolver": Ipv4Addr::from(u32::from(vpc) + 2).to_string(),
            "router": ROUTER_MAC, "host": HOST, "outside": OUTSIDE, "api": API_PORT,
            "admin": cluster.data().join("admin.sock"), "unix": unix, "memory": name,
            "process": process, "shim": cluster.shim_of(id(&victim)).expect("the victim's shim"),
            "credentials": path("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            "metadata": path("ECS_CONTAINER_METADATA_URI_V4"),
        });
        Self { _servers: servers, _memory: memory, cluster, network, group, victim, elsewhere, knowledge }
    }

    /// What attempts come to where nothing stops them.
    pub(super) fn free(&self, place: Free, attempts: &[&Attempt]) -> Said {
        let file = |name: String, value: &Value| -> PathBuf {
            let path = self.cluster.folder().join(name);
            std::fs::write(&path, value.to_string()).expect("a file of the test");
            path
        };
        let listed = listed(attempts);
        let attempts = file(format!("{place:?}.json"), &listed);
        let mut knowledge = self.knowledge.clone();
        knowledge["free"] = format!("{place:?}").into();
        let knowledge = file(format!("{place:?}-where.json"), &knowledge);
        let mut command = match place {
            Free::Kernel => {
                let mut command = self.cluster.command("unshare");
                let own =
                    ["--mount", "--pid", "--fork", "--mount-proc", "--ipc", "--uts", "--cgroup", "--net"];
                command.args(own).arg("python3");
                command
            }
            Free::Host => self.cluster.command("python3"),
            Free::Victim | Free::Elsewhere => {
                let task = if place == Free::Victim { &self.victim } else { &self.elsewhere };
                let namespace = format!("/run/ferrogate/netns/{}.t.{}", self.cluster.instance(), id(task));
                let mut command = self.cluster.command("nsenter");
                command.arg(format!("--net={namespace}")).args(["--", "python3"]);
                command
            }
            Free::Nowhere | Free::Test => unreachable!("{place:?} is no place"),
        };
        let output = command.args(["-c", PROGRAM]).arg(attempts).arg(knowledge).output().expect("python3");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// As the program reads them.
pub(super) fn listed(attempts: &[&Attempt]) -> Value {
    attempts.iter().map(|attempt| json!([attempt.name, attempt.program])).collect()
}

fn group(cluster: &Cluster, name: &str) -> String {
    let input = json!({ "GroupName": name, "Description": name, "VpcId": cluster.network().vpc });
    text(&cluster.boto().ok("ec2", "create_security_group", input)["GroupId"])
}

fn authorize(cluster: &Cluster, group: &str, permissions: Value) {
    let input = json!({ "GroupId": group, "IpPermissions": permissions });
    cluster.boto().ok("ec2", "authorize_security_group_ingress", input);
}
