//! Network load balancers: targets see their clients, and so do the targets' security groups.

use std::process::Command;

use ferrogate_tests::{Cluster, Network, TaskRun, eventually};
use serde_json::{Value, json};

use crate::balancers::{
    EVERYWHERE, active, balancer, group, healthy, listener, public, serve, target_group as web_group, text,
};

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
    let mut filters = json!({ "Filters": [
        { "Name": "description", "Values": [format!("ELB {name}")] },
        { "Name": "subnet-id", "Values": [subnet] },
    ] });
    if balancer["Type"] == "network" {
        let kind = json!({ "Name": "interface-type", "Values": ["network_load_balancer"] });
        filters["Filters"].as_array_mut().expect("filters").push(kind);
    }
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

/// Says who asks by the load balancer in front, and who that is.
const WHO: &str = "echo 'server { listen 80; location / { return 200 \"$http_x_forwarded_for $remote_addr\"; } }' \
    > /etc/nginx/conf.d/default.conf; exec nginx -g 'daemon off;'";

#[test]
fn an_application_load_balancer_is_a_target() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let front = group(&cluster, "front", &[(80, EVERYWHERE)]);
    // Health checks and what is said in clients' names, both by the network load balancer's group.
    let middle = group(&cluster, "middle", &[(80, &front)]);
    let back = group(&cluster, "back", &[(80, &middle)]);
    let app = serve(&cluster, "who", WHO, &[&back]);
    let apps = web_group(&cluster, "apps", &[&app]);
    let web = balancer(&cluster, "web", &json!({ "Scheme": "internal", "SecurityGroups": [middle] }));
    let web_arn = text(&web["LoadBalancerArn"]);
    let input = json!({
        "Name": "web", "Protocol": "TCP", "Port": 80, "TargetType": "alb", "VpcId": cluster.network().vpc,
        "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2, "HealthyThresholdCount": 2,
    });
    let group = text(&boto.ok("elbv2", "create_target_group", input)["TargetGroups"][0]["TargetGroupArn"]);
    let register = json!({ "TargetGroupArn": group, "Targets": [{ "Id": web_arn }] });
    let refused = boto.refused("elbv2", "register_targets", register.clone());
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        (
            "ValidationError",
            "If the target type is ALB, the target must have at least one listener that matches the target group \
             port or any specified port overrides"
        )
    );
    let door = listener(&cluster, &web, "HTTP", 80, &apps);
    boto.ok("elbv2", "register_targets", register.clone());
    let net = balancer(&cluster, "net", &json!({ "Type": "network", "SecurityGroups": [front] }));
    listener(&cluster, &net, "TCP", 80, &group);
    active(&cluster, &web);
    active(&cluster, &net);
    healthy(&cluster, &apps);
    healthy(&cluster, &group);
    let health = || {
        let answer = boto.ok("elbv2", "describe_target_health", json!({ "TargetGroupArn": group }));
        answer["TargetHealthDescriptions"].clone()
    };
    assert_eq!(health()[0]["Target"], json!({ "Id": web_arn, "Port": 80 }));

    // Each zone has a node of both. The target sees the second one, which was told of the client by the first.
    let nodes: Vec<String> = web["AvailabilityZones"]
        .as_array()
        .expect("zones")
        .iter()
        .map(|zone| inner(&cluster, &web, &text(&zone["SubnetId"])))
        .collect();
    let doors = public(&cluster, &net);
    assert_eq!((nodes.len(), doors.len()), (2, 2));
    for door in doors {
        let url = format!("http://{door}/");
        let said = cluster.curl(&["--max-time", "10", &url]).expect("an answer");
        let (client, node) = said.trim().split_once(' ').expect("two addresses");
        assert_eq!(client, HOST, "{said}");
        assert!(nodes.iter().any(|known| known == node), "{said}: {nodes:?}");
    }

    let refused = boto.refused("elbv2", "delete_listener", json!({ "ListenerArn": door }));
    let in_use =
        format!("Listener port '80' is in use by registered target '{web_arn}' and cannot be removed.");
    assert_eq!((refused.code, refused.message), ("ResourceInUse".to_owned(), in_use));
    let gone = json!({ "LoadBalancerArn": web_arn });
    assert_eq!(boto.refused("elbv2", "delete_load_balancer", gone.clone()).code, "ResourceInUse");

    // It is as well as what is behind it.
    let apps = json!({ "TargetGroupArn": apps, "Targets": [{ "Id": app }] });
    boto.ok("elbv2", "deregister_targets", apps);
    eventually("it is not well", || health()[0]["TargetHealth"]["State"] == "unhealthy");
    let why = &health()[0]["TargetHealth"];
    assert_eq!(why["Reason"], "Target.ResponseCodeMismatch", "{why}");
    boto.ok("elbv2", "deregister_targets", register);
    boto.ok("elbv2", "delete_load_balancer", gone);
}
