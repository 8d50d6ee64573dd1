//! Network load balancers: targets see their clients, and so do the targets' security groups.

use std::process::Command;

use ferrogate_tests::{Cluster, Network, TaskRun, eventually};
use serde_json::{Value, json};

use crate::balancers::{EVERYWHERE, active, balancer, group, healthy, listener, public, text};

/// The host, as the fabric sees it.
const HOST: &str = "100.127.255.254";

/// Tells by TCP and UDP on port 9001 who asks, or sends 8 MiB to who asks for much; port 9002 is for health checks.
const TELL: &str = r#"
import socket, threading
def serve(port, answer):
    server = socket.create_server(("", port))
    while True:
        connection, peer = server.accept()
        said = answer and connection.recv(100)
        if said:
            connection.sendall(bytes(8 << 20) if said == b"much" else ("%s %d" % peer).encode())
        connection.close()
for port in 9001, 9002:
    threading.Thread(target=serve, args=(port, port == 9001), daemon=True).start()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 9001))
while True:
    _, peer = udp.recvfrom(2048)
    udp.sendto(("%s %d" % peer).encode(), peer)
"#;

/// Lets in, or no longer, what comes by TCP and UDP to port 9001 from a block or a group.
fn permit(cluster: &Cluster, group: &str, from: &str, permitted: bool) {
    let permission = |protocol: &str| {
        let mut one = json!({ "IpProtocol": protocol, "FromPort": 9001, "ToPort": 9001 });
        match from.starts_with("sg-") {
            true => one["UserIdGroupPairs"] = json!([{ "GroupId": from }]),
            false => one["IpRanges"] = json!([{ "CidrIp": from }]),
        }
        one
    };
    let input = json!({ "GroupId": group, "IpPermissions": [permission("tcp"), permission("udp")] });
    let verb = if permitted { "authorize" } else { "revoke" };
    cluster.boto().ok("ec2", &format!("{verb}_security_group_ingress"), input);
}

fn target_group(cluster: &Cluster, name: &str, protocol: &str, target: &str) -> String {
    let input = json!({
        "Name": name, "Protocol": protocol, "Port": 9001, "TargetType": "ip", "VpcId": cluster.network().vpc,
        "HealthCheckProtocol": "TCP", "HealthCheckPort": "9002", "HealthCheckIntervalSeconds": 5,
        "HealthyThresholdCount": 2,
    });
    let answer = cluster.boto().ok("elbv2", "create_target_group", input);
    let arn = text(&answer["TargetGroups"][0]["TargetGroupArn"]);
    let input = json!({ "TargetGroupArn": arn, "Targets": [{ "Id": target }] });
    cluster.boto().ok("elbv2", "register_targets", input);
    arn
}

fn preserve(group: &str, on: bool) -> Value {
    let attributes = json!([{ "Key": "preserve_client_ip.enabled", "Value": on.to_string() }]);
    json!({ "TargetGroupArn": group, "Attributes": attributes })
}

/// A task that does nothing; another's script runs in its network.
struct Client {
    id: String,
    address: String,
}

impl Client {
    fn start(cluster: &Cluster, subnet: &str, group: &str) -> Self {
        let network = Network { subnet: subnet.to_owned(), ..cluster.network() };
        let arn = cluster.run_task(&network, &TaskRun::of("client").groups(&[group]));
        let address = cluster.addresses(&cluster.running(&arn)).0;
        Self { id: arn.rsplit('/').next().expect("a task id").to_owned(), address }
    }

    fn ask(&self, cluster: &Cluster, patience: &str, whom: &[String]) -> Vec<String> {
        said(cluster.python_in_task(&self.id, "who_am_i.py").arg(patience).args(whom))
    }
}

fn said(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("python");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The zone's own address of a balancer, by subnet.
fn inner(cluster: &Cluster, balancer: &Value, subnet: &str) -> String {
    let name = text(&balancer["LoadBalancerArn"]);
    let name = name.split_once(":loadbalancer/").expect("an ARN").1;
    let filters = json!({ "Filters": [
        { "Name": "description", "Values": [format!("ELB {name}")] },
        { "Name": "interface-type", "Values": ["network_load_balancer"] },
        { "Name": "subnet-id", "Values": [subnet] },
    ] });
    let answer = cluster.boto().ok("ec2", "describe_network_interfaces", filters);
    text(&answer["NetworkInterfaces"][0]["PrivateIpAddress"])
}

#[test]
fn targets_and_their_groups_see_the_client() {
    let mut cluster = Cluster::start();
    let front = group(&cluster, "front", &[(80, EVERYWHERE)]);
    permit(&cluster, &front, EVERYWHERE, true);
    let [friend, stranger] = ["friend", "stranger"].map(|name| group(&cluster, name, &[]));
    let back = group(&cluster, "back", &[(9002, &front)]);
    permit(&cluster, &back, &friend, true);
    let container = json!([{
        "name": "app", "image": "python3-boto3:latest", "command": ["python3", "-u", "-c", TELL], "stopTimeout": 2,
    }]);
    cluster.define("tell", container, Value::Null);
    cluster.define_busybox("client");
    let here = cluster.network().subnet;
    let task = cluster.run_task(&cluster.network(), &TaskRun::of("tell").groups(&[&back]));
    let target = cluster.addresses(&cluster.running(&task)).0;
    let plain = target_group(&cluster, "plain", "TCP", &target);
    let both = target_group(&cluster, "both", "TCP_UDP", &target);
    cluster.boto().ok("elbv2", "modify_target_group_attributes", preserve(&plain, true));
    let refused = cluster.boto().refused("elbv2", "modify_target_group_attributes", preserve(&both, false));
    assert_eq!(refused.code, "InvalidConfigurationRequest");

    let lb = balancer(&cluster, "flows", &json!({ "Type": "network", "SecurityGroups": [front] }));
    listener(&cluster, &lb, "TCP", 80, &plain);
    listener(&cluster, &lb, "TCP_UDP", 9001, &both);
    let zones = lb["AvailabilityZones"].as_array().expect("zones");
    let there = zones.iter().map(|zone| text(&zone["SubnetId"])).find(|subnet| *subnet != here);
    let near = Client::start(&cluster, &here, &friend);
    let far = Client::start(&cluster, &there.expect("another zone"), &stranger);
    active(&cluster, &lb);
    healthy(&cluster, &plain);
    healthy(&cluster, &both);

    let ways = |address: &str| {
        ["tcp:80", "tcp:9001", "udp:9001"].map(|way| way.replace(':', &format!(":{address}:")))
    };
    let address = inner(&cluster, &lb, &here);
    let known = |client: &str| vec![format!("{client} same port"); 3];
    let none = vec!["none".to_owned(); 3];
    let asked = |cluster: &Cluster, client: &Client| client.ask(cluster, "5", &ways(&address));
    let refused = |cluster: &Cluster, client: &Client| client.ask(cluster, "0.7", &ways(&address)) == none;
    // The target's group names the clients' group, then an address, then the balancer's group.
    assert_eq!(asked(&cluster, &near), known(&near.address));
    assert!(refused(&cluster, &far));
    let only_far = format!("{}/32", far.address);
    permit(&cluster, &back, &only_far, true);
    permit(&cluster, &back, &friend, false);
    eventually("the stranger comes in", || asked(&cluster, &far) == known(&far.address));
    assert!(refused(&cluster, &near));
    permit(&cluster, &back, &front, true);
    permit(&cluster, &back, &only_far, false);
    eventually("all come in", || asked(&cluster, &near) == known(&near.address));
    assert_eq!(asked(&cluster, &far), known(&far.address));

    let much = near.ask(&cluster, "20", &[format!("much:{address}:80")]);
    assert_eq!(much, [(8 << 20).to_string()]);

    // From the host; only the target's zone has a target. The name knows that.
    let open: Vec<String> = public(&cluster, &lb).iter().flat_map(|public| ways(public)).collect();
    let heard = said(cluster.python_command("who_am_i.py", &[]).arg("1").args(&open));
    let of_host = heard.iter().filter(|line| line.starts_with(HOST)).count();
    assert_eq!((of_host, heard.len()), (3, 6), "{heard:?}");
    let lookup = format!("nslookup {} | tail -n +3 | grep -c '^Address'", text(&lb["DNSName"]));
    let run = TaskRun::of("client").command("app", &["sh", "-c", &lookup]);
    let arn = cluster.run_task(&cluster.network(), &run);
    cluster.stopped(&arn);
    assert_eq!(cluster.output(&arn).trim(), "1");

    // A new agent finds it as it stands; without the attribute the balancer speaks for itself.
    cluster.kill();
    cluster.up();
    eventually("it goes on", || asked(&cluster, &near) == known(&near.address));
    cluster.boto().ok("elbv2", "modify_target_group_attributes", preserve(&plain, false));
    let itself = format!("{address} other port");
    eventually("the balancer is seen", || asked(&cluster, &near)[0] == itself);
    assert_eq!(asked(&cluster, &far)[1..], known(&far.address)[1..]);
}
