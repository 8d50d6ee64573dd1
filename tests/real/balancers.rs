//! Load balancers: requests from the host and from tasks, rules, security groups, deaths of every process.

use ferrogate_tests::{Cluster, TaskRun, eventually, until};
use serde_json::{Value, json};

const LEAF: &str = include_str!("../../crates/certificate/testdata/leaf.pem");
const CA: &str = include_str!("../../crates/certificate/testdata/ca.pem");
const KEY: &str = include_str!("../../crates/certificate/testdata/leaf.key");

/// One of the certificate's names.
const NAME: &str = "shop.example.com";

/// Two subnets of the default VPC, in two zones.
pub(super) fn subnets(cluster: &Cluster) -> Vec<String> {
    let answer = cluster.boto().ok("ec2", "describe_subnets", json!({}));
    let mut subnets: Vec<(String, String)> = Vec::new();
    for subnet in answer["Subnets"].as_array().expect("subnets") {
        let (zone, id) = (text(&subnet["AvailabilityZone"]), text(&subnet["SubnetId"]));
        if !subnets.iter().any(|(known, _)| *known == zone) {
            subnets.push((zone, id));
        }
    }
    assert!(subnets.len() > 1, "{answer}");
    subnets.into_iter().take(2).map(|(_, id)| id).collect()
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

/// A security group that lets in these ports from these sources.
pub(super) fn group(cluster: &Cluster, name: &str, ports: &[(u16, &str)]) -> String {
    let vpc = cluster.network().vpc;
    let input = json!({ "GroupName": name, "Description": name, "VpcId": vpc });
    let id = text(&cluster.boto().ok("ec2", "create_security_group", input)["GroupId"]);
    for (port, from) in ports {
        let mut permission = json!({ "IpProtocol": "tcp", "FromPort": port, "ToPort": port });
        if from.starts_with("sg-") {
            permission["UserIdGroupPairs"] = json!([{ "GroupId": from }]);
        } else {
            permission["IpRanges"] = json!([{ "CidrIp": from }]);
        }
        let input = json!({ "GroupId": id, "IpPermissions": [permission] });
        cluster.boto().ok("ec2", "authorize_security_group_ingress", input);
    }
    id
}

/// A task of nginx that says its name.
fn web(cluster: &Cluster, name: &str, groups: &[&str]) -> String {
    let script = format!("echo {name} > /usr/share/nginx/html/index.html; exec nginx -g 'daemon off;'");
    serve(cluster, name, &script, groups)
}

/// The address of a task of nginx that begins with this script.
pub(super) fn serve(cluster: &Cluster, name: &str, script: &str, groups: &[&str]) -> String {
    let container = json!([{
        "name": "app", "image": "nginx:latest", "entryPoint": ["sh", "-c"], "command": [script], "stopTimeout": 2,
    }]);
    cluster.define(name, container, Value::Null);
    let arn = cluster.run_task(&cluster.network(), &TaskRun::of(name).groups(groups));
    let task = cluster.running(&arn);
    cluster.addresses(&task).0
}

/// A target group of HTTP on port 80 with these targets.
pub(super) fn target_group(cluster: &Cluster, name: &str, targets: &[&str]) -> String {
    let input = json!({
        "Name": name, "Protocol": "HTTP", "Port": 80, "TargetType": "ip", "VpcId": cluster.network().vpc,
        "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2, "HealthyThresholdCount": 2,
    });
    let answer = cluster.boto().ok("elbv2", "create_target_group", input);
    let arn = text(&answer["TargetGroups"][0]["TargetGroupArn"]);
    let targets: Vec<Value> = targets.iter().map(|ip| json!({ "Id": ip })).collect();
    cluster.boto().ok("elbv2", "register_targets", json!({ "TargetGroupArn": arn, "Targets": targets }));
    arn
}

pub(super) fn balancer(cluster: &Cluster, name: &str, more: &Value) -> Value {
    let mut places = json!({ "Subnets": subnets(cluster) });
    places.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    balancer_at(cluster, name, &places)
}

/// `more`: where as well.
pub(super) fn balancer_at(cluster: &Cluster, name: &str, more: &Value) -> Value {
    let mut input = json!({ "Name": name });
    input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    cluster.boto().ok("elbv2", "create_load_balancer", input)["LoadBalancers"][0].take()
}

pub(super) fn listener(
    cluster: &Cluster,
    balancer: &Value,
    protocol: &str,
    port: u16,
    group: &str,
) -> String {
    let input = json!({
        "LoadBalancerArn": balancer["LoadBalancerArn"], "Protocol": protocol, "Port": port,
        "DefaultActions": [{ "Type": "forward", "TargetGroupArn": group }],
    });
    let answer = cluster.boto().ok("elbv2", "create_listener", input);
    text(&answer["Listeners"][0]["ListenerArn"])
}

pub(super) fn active(cluster: &Cluster, balancer: &Value) {
    let arns = json!({ "LoadBalancerArns": [balancer["LoadBalancerArn"]] });
    until("the load balancer is active", || {
        let answer = cluster.boto().ok("elbv2", "describe_load_balancers", arns.clone());
        (answer["LoadBalancers"][0]["State"]["Code"] == "active").then_some(())
    });
}

fn states(cluster: &Cluster, group: &str) -> Vec<String> {
    let answer = cluster.boto().ok("elbv2", "describe_target_health", json!({ "TargetGroupArn": group }));
    let all = answer["TargetHealthDescriptions"].as_array().expect("targets");
    all.iter().map(|target| text(&target["TargetHealth"]["State"])).collect()
}

pub(super) fn healthy(cluster: &Cluster, group: &str) {
    eventually("all targets are healthy", || {
        let states = states(cluster, group);
        !states.is_empty() && states.iter().all(|state| state == "healthy")
    });
}

/// Public addresses of a balancer's interfaces.
pub(super) fn public(cluster: &Cluster, balancer: &Value) -> Vec<String> {
    let name = text(&balancer["LoadBalancerArn"]);
    let name = name.split_once(":loadbalancer/").expect("an ARN").1;
    let filters = json!({ "Filters": [{ "Name": "description", "Values": [format!("ELB {name}")] }] });
    let answer = cluster.boto().ok("ec2", "describe_network_interfaces", filters);
    let enis = answer["NetworkInterfaces"].as_array().expect("interfaces");
    enis.iter().map(|eni| text(&eni["Association"]["PublicIp"])).collect()
}

/// What a request gets, and its status.
fn get(cluster: &Cluster, arguments: &[&str]) -> Option<(String, String)> {
    let mut all = vec!["--max-time", "10", "-w", "\n%{http_code}"];
    all.extend(arguments);
    let said = cluster.curl(&all).ok()?;
    let (body, status) = said.rsplit_once('\n')?;
    Some((status.to_owned(), body.trim().to_owned()))
}

pub(super) const EVERYWHERE: &str = "0.0.0.0/0";

#[test]
fn requests_are_routed_by_rules_from_everywhere_that_may() {
    let cluster = Cluster::start();
    let front = group(&cluster, "front", &[(80, EVERYWHERE)]);
    let back = group(&cluster, "back", &[(80, &front)]);
    let one = web(&cluster, "one", &[&back]);
    let two = web(&cluster, "two", &[&back]);
    let blue = target_group(&cluster, "blue", &[&one, &two]);
    let green = target_group(&cluster, "green", &[&two]);
    let lb = balancer(&cluster, "shop", &json!({ "SecurityGroups": [front] }));
    let door = listener(&cluster, &lb, "HTTP", 80, &blue);
    let rule = |priority: i32, condition: Value, action: Value| {
        let input = json!({
            "ListenerArn": door, "Priority": priority, "Conditions": [condition], "Actions": [action],
        });
        cluster.boto().ok("elbv2", "create_rule", input);
    };
    rule(
        1,
        json!({ "Field": "path-pattern", "Values": ["/static/*"] }),
        json!({ "Type": "fixed-response",
                "FixedResponseConfig": { "StatusCode": "418", "ContentType": "text/plain", "MessageBody": "short" } }),
    );
    rule(
        2,
        json!({ "Field": "http-header",
                "HttpHeaderConfig": { "HttpHeaderName": "X-Only", "Values": ["two"] } }),
        json!({ "Type": "forward", "TargetGroupArn": green }),
    );
    active(&cluster, &lb);
    healthy(&cluster, &blue);
    healthy(&cluster, &green);

    // By name, on the API's own port; by the whole name as Host; by the address itself.
    let whole = format!("Host: {}", text(&lb["DNSName"]));
    let addresses = public(&cluster, &lb);
    assert_eq!(addresses.len(), 2, "one for each zone");
    let mut ways: Vec<Vec<String>> = vec![
        vec!["-H".into(), "Host: shop.elb.localhost:4566".into(), "http://127.0.0.1:4566".into()],
        vec!["-H".into(), whole, "http://127.0.0.1:4566".into()],
    ];
    ways.extend(addresses.iter().map(|address| vec![format!("http://{address}")]));
    for way in &ways {
        let ask = |path: &str, more: &[&str]| {
            let (url, head) = way.split_last().expect("a URL");
            let url = format!("{url}{path}");
            let mut arguments: Vec<&str> = head.iter().map(String::as_str).collect();
            arguments.extend(more);
            arguments.push(&url);
            get(&cluster, &arguments)
        };
        let answered = |status: &str, body: &str| Some((status.to_owned(), body.to_owned()));
        assert_eq!(ask("/static/x", &[]), answered("418", "short"), "{way:?}");
        assert_eq!(ask("/", &["-H", "X-Only: two"]), answered("200", "two"), "{way:?}");
        let mut seen: Vec<String> = (0..10).filter_map(|_| ask("/", &[]).map(|(_, body)| body)).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["one", "two"], "{way:?}");
    }
    let nobody = get(&cluster, &["-H", "Host: shoe.elb.localhost:4566", "http://127.0.0.1:4566/"]);
    let (status, words) = nobody.expect("an answer");
    assert_eq!(status, "404");
    assert!(words.contains("there are shop"), "{words}");

    // The balancer's own processes are nobody's.
    let edges = cluster.edges();
    assert_eq!(edges.len(), 2, "one for each zone");
    for pid in edges {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        for line in [
            "Uid:\t65534\t65534\t65534\t65534",
            "CapEff:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
    cluster.boto().ok("elbv2", "delete_load_balancer", json!({ "LoadBalancerArn": lb["LoadBalancerArn"] }));
    eventually("its processes are gone", || cluster.edges().is_empty());
}

#[test]
fn an_internal_balancer_is_reached_by_those_its_group_lets_in() {
    let cluster = Cluster::start();
    let friend = group(&cluster, "friend", &[]);
    let stranger = group(&cluster, "stranger", &[]);
    let front = group(&cluster, "front", &[(80, &friend)]);
    let back = group(&cluster, "back", &[(80, &front)]);
    let one = web(&cluster, "one", &[&back]);
    let blue = target_group(&cluster, "blue", &[&one]);
    let lb = balancer(&cluster, "inner", &json!({ "SecurityGroups": [front], "Scheme": "internal" }));
    listener(&cluster, &lb, "HTTP", 80, &blue);
    active(&cluster, &lb);
    healthy(&cluster, &blue);
    cluster.define_busybox("client");
    let fetch = format!("timeout 3 wget -qO- http://{}/ && exit 0 || exit 7", text(&lb["DNSName"]));
    let ask = |group: &str| {
        let run = TaskRun::of("client").command("app", &["sh", "-c", &fetch]);
        let arn = cluster.run_task(&cluster.network(), &run.groups(&[group]));
        let task = cluster.stopped(&arn);
        (task["containers"][0]["exitCode"].clone(), cluster.output(&arn).trim().to_owned())
    };
    let (code, said) = ask(&friend);
    assert_eq!((code, said.lines().last()), (json!(0), Some("one")));
    assert_eq!(ask(&stranger).0, json!(7));
    let door = get(&cluster, &["-H", "Host: inner.elb.localhost:4566", "http://127.0.0.1:4566/"]);
    assert_eq!(door.expect("an answer").0, "403");
}

/// A task asks without a pause and says what it gets; the output so far.
struct Load {
    arn: String,
}

impl Load {
    fn start(cluster: &Cluster, url: &str, group: &str) -> Self {
        let script = format!("while :; do timeout 5 wget -qO- {url} || echo failed; done");
        let run = TaskRun::of("client").command("app", &["sh", "-c", &script]);
        let arn = cluster.run_task(&cluster.network(), &run.groups(&[group]));
        cluster.running(&arn);
        Self { arn }
    }

    fn lines(&self, cluster: &Cluster) -> Vec<String> {
        cluster.output(&self.arn).lines().map(str::to_owned).collect()
    }

    /// Until it has said so many more lines.
    fn goes_on(&self, cluster: &Cluster, more: usize) {
        let before = self.lines(cluster).len();
        eventually("the load goes on", || self.lines(cluster).len() > before + more);
    }
}

#[test]
fn a_balancer_outlives_the_agent_and_comes_back_from_its_own_death() {
    let mut cluster = Cluster::start();
    let client = group(&cluster, "client", &[]);
    let front = group(&cluster, "front", &[(80, EVERYWHERE)]);
    let back = group(&cluster, "back", &[(80, &front)]);
    let one = web(&cluster, "one", &[&back]);
    let blue = target_group(&cluster, "blue", &[&one]);
    let lb = balancer(&cluster, "inner", &json!({ "SecurityGroups": [front], "Scheme": "internal" }));
    listener(&cluster, &lb, "HTTP", 80, &blue);
    active(&cluster, &lb);
    healthy(&cluster, &blue);
    cluster.define_busybox("client");
    // By address: names are the agent's to resolve.
    let address = inner(&cluster, &lb);
    let load = Load::start(&cluster, &format!("http://{address}/"), &client);
    load.goes_on(&cluster, 20);

    let edges = cluster.edges();
    cluster.kill();
    // Nobody but the balancer itself can answer now.
    let id = load.arn.rsplit('/').next().expect("a task id");
    let netns = format!("/run/ferrogate/netns/{}.t.{id}", cluster.instance());
    let script = format!("for i in $(seq 50); do curl -sf --max-time 5 http://{address}/ || exit 1; done");
    let asked = cluster.command("nsenter").args([&format!("--net={netns}"), "sh", "-c", &script]).output();
    let asked = asked.expect("nsenter of util-linux");
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "one\n".repeat(50), "{asked:?}");
    cluster.up();
    load.goes_on(&cluster, 20);
    assert_eq!(cluster.edges(), edges, "the processes are the same");
    for _ in 0..5 {
        cluster.kill();
        cluster.up();
        // Reports come: both are spoken with again.
        healthy(&cluster, &blue);
        assert_eq!(cluster.edges(), edges, "the processes are the same");
    }
    load.goes_on(&cluster, 20);
    let lines = load.lines(&cluster);
    let others: Vec<&String> = lines.iter().filter(|line| *line != "one").take(20).collect();
    assert!(others.is_empty(), "of {} answers: {others:?}", lines.len());
    healthy(&cluster, &blue);

    for pid in &edges {
        let killed = cluster.command("kill").args(["-9", &pid.to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()));
    }
    let again = until("its processes are there again", || {
        let now = cluster.edges();
        (now.len() == 2 && now.iter().all(|pid| !edges.contains(pid))).then_some(now)
    });
    eventually("it answers again", || load.lines(&cluster).last().is_some_and(|line| line == "one"));
    load.goes_on(&cluster, 20);
    healthy(&cluster, &blue);
    // A change reaches the new processes.
    let two = web(&cluster, "two", &[&back]);
    let targets = json!({ "TargetGroupArn": blue, "Targets": [{ "Id": two }] });
    cluster.boto().ok("elbv2", "register_targets", targets);
    eventually("the new target answers too", || load.lines(&cluster).iter().any(|line| line == "two"));
    assert_eq!(cluster.edges(), again);
    // What the end of the cluster checks: `ferrogate down` ends them also when nobody runs any more.
    cluster.kill();
}

/// The private address of one of a balancer's interfaces.
fn inner(cluster: &Cluster, balancer: &Value) -> String {
    let name = text(&balancer["LoadBalancerArn"]);
    let name = name.split_once(":loadbalancer/").expect("an ARN").1;
    let filters = json!({ "Filters": [{ "Name": "description", "Values": [format!("ELB {name}")] }] });
    let answer = cluster.boto().ok("ec2", "describe_network_interfaces", filters);
    text(&answer["NetworkInterfaces"][0]["PrivateIpAddress"])
}

/// nginx that reads the PROXY protocol and says whom it was told of.
const WHO: &str = r#"printf 'server { listen 9000 proxy_protocol; location / { return 200 "$proxy_protocol_addr\n"; } }' \
> /etc/nginx/conf.d/who.conf; exec nginx -g 'daemon off;'"#;

#[test]
fn a_network_load_balancer_tells_who_the_client_is() {
    let cluster = Cluster::start();
    let front = group(&cluster, "front", &[(9000, EVERYWHERE)]);
    let back = group(&cluster, "back", &[(9000, &front)]);
    let target = serve(&cluster, "who", WHO, &[&back]);
    let input = json!({
        "Name": "who", "Protocol": "TCP", "Port": 9000, "TargetType": "ip", "VpcId": cluster.network().vpc,
        "HealthCheckIntervalSeconds": 5, "HealthyThresholdCount": 2,
    });
    let answer = cluster.boto().ok("elbv2", "create_target_group", input);
    let group = text(&answer["TargetGroups"][0]["TargetGroupArn"]);
    let attributes = json!([
        { "Key": "proxy_protocol_v2.enabled", "Value": "true" },
        { "Key": "load_balancing.cross_zone.enabled", "Value": "true" },
    ]);
    let input = json!({ "TargetGroupArn": group, "Attributes": attributes });
    cluster.boto().ok("elbv2", "modify_target_group_attributes", input);
    let input = json!({ "TargetGroupArn": group, "Targets": [{ "Id": target }] });
    cluster.boto().ok("elbv2", "register_targets", input);
    let lb = balancer(&cluster, "flows", &json!({ "Type": "network", "SecurityGroups": [front] }));
    listener(&cluster, &lb, "TCP", 9000, &group);
    active(&cluster, &lb);
    healthy(&cluster, &group);
    for address in public(&cluster, &lb) {
        let (status, said) = get(&cluster, &[&format!("http://{address}:9000/")]).expect("an answer");
        // The host, as the fabric sees it.
        assert_eq!((status.as_str(), said.as_str()), ("200", "100.127.255.254"));
    }
    // By name as well: it is the only listener there is.
    let (status, said) = get(&cluster, &["-H", "Host: flows.elb.localhost:4566", "http://127.0.0.1:4566/"])
        .expect("an answer");
    assert_eq!((status.as_str(), said.as_str()), ("200", "100.127.255.254"));
}

/// Answers datagrams on port 9001 with who is asked and what; a TCP port beside it is for health checks.
const ECHO: &str = r#"
import socket, threading
tcp = socket.create_server(("", 9002))
def checks():
    while True:
        tcp.accept()[0].close()
threading.Thread(target=checks, daemon=True).start()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 9001))
while True:
    said, peer = udp.recvfrom(2048)
    udp.sendto(b"heard " + said, peer)
"#;

/// Asks each address, again while a datagram is lost.
const ASK: &str = r#"
import socket, sys
for address in sys.argv[1:]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(1)
    for attempt in range(20):
        udp.sendto(b"hello", (address, 9001))
        try:
            print(udp.recv(2048).decode())
            break
        except TimeoutError:
            pass
"#;

/// Says `one`, or who has shown a certificate.
const SHOWN: &str = "echo 'server { listen 80; location / { return 200 one; } \
    location /who { return 200 \"$http_x_amzn_mtls_clientcert\"; } }' > /etc/nginx/conf.d/default.conf; \
    exec nginx -g 'daemon off;'";

#[test]
fn tls_ends_at_both_kinds_and_datagrams_go_through() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let input = json!({ "Certificate": LEAF, "PrivateKey": KEY, "CertificateChain": CA });
    let certificate = text(&boto.ok("acm", "import_certificate", input)["CertificateArn"]);
    let front = group(&cluster, "front", &[(443, EVERYWHERE)]);
    let datagrams = json!({ "GroupId": front, "IpPermissions": [{
        "IpProtocol": "udp", "FromPort": 9001, "ToPort": 9001, "IpRanges": [{ "CidrIp": EVERYWHERE }],
    }] });
    boto.ok("ec2", "authorize_security_group_ingress", datagrams);
    let back = group(&cluster, "back", &[(80, &front), (9002, &front)]);
    let datagrams = json!({ "GroupId": back, "IpPermissions": [{
        "IpProtocol": "udp", "FromPort": 9001, "ToPort": 9001, "UserIdGroupPairs": [{ "GroupId": front }],
    }] });
    boto.ok("ec2", "authorize_security_group_ingress", datagrams);
    let one = serve(&cluster, "one", SHOWN, &[&back]);
    let blue = target_group(&cluster, "blue", &[&one]);
    let secure = |balancer: &Value, protocol: &str, group: &str| {
        let input = json!({
            "LoadBalancerArn": balancer["LoadBalancerArn"], "Protocol": protocol, "Port": 443,
            "Certificates": [{ "CertificateArn": certificate }],
            "DefaultActions": [{ "Type": "forward", "TargetGroupArn": group }],
        });
        text(&boto.ok("elbv2", "create_listener", input)["Listeners"][0]["ListenerArn"])
    };
    let alb = balancer(&cluster, "shop", &json!({ "SecurityGroups": [front] }));
    let door = secure(&alb, "HTTPS", &blue);

    let nlb = balancer(&cluster, "flows", &json!({ "Type": "network", "SecurityGroups": [front] }));
    let attributes = json!([{ "Key": "load_balancing.cross_zone.enabled", "Value": "true" }]);
    let input = json!({ "LoadBalancerArn": nlb["LoadBalancerArn"], "Attributes": attributes });
    boto.ok("elbv2", "modify_load_balancer_attributes", input);
    let group_of = |name: &str, protocol: &str, port: u16, check: u16, target: &str| {
        let input = json!({
            "Name": name, "Protocol": protocol, "Port": port, "TargetType": "ip", "VpcId": cluster.network().vpc,
            "HealthCheckProtocol": "TCP", "HealthCheckPort": check.to_string(), "HealthCheckIntervalSeconds": 5,
            "HealthyThresholdCount": 2,
        });
        let arn = text(&boto.ok("elbv2", "create_target_group", input)["TargetGroups"][0]["TargetGroupArn"]);
        let input = json!({ "TargetGroupArn": arn, "Targets": [{ "Id": target }] });
        boto.ok("elbv2", "register_targets", input);
        arn
    };
    let plain = group_of("plain", "TCP", 80, 80, &one);
    secure(&nlb, "TLS", &plain);
    let container = json!([{
        "name": "app", "image": "python3-boto3:latest", "command": ["python3", "-u", "-c", ECHO], "stopTimeout": 2,
    }]);
    cluster.define("echo", container, Value::Null);
    let task = cluster.run_task(&cluster.network(), &TaskRun::of("echo").groups(&[&back]));
    let echo = cluster.addresses(&cluster.running(&task)).0;
    let spoken = group_of("spoken", "UDP", 9001, 9002, &echo);
    listener(&cluster, &nlb, "UDP", 9001, &spoken);
    let refused = boto.refused(
        "elbv2",
        "modify_target_group_attributes",
        json!({ "TargetGroupArn": spoken,
                "Attributes": [{ "Key": "proxy_protocol_v2.enabled", "Value": "true" }] }),
    );
    assert_eq!(refused.code, "InvalidConfigurationRequest");

    for lb in [&alb, &nlb] {
        active(&cluster, lb);
    }
    for group in [&blue, &plain, &spoken] {
        healthy(&cluster, group);
    }
    std::fs::write(cluster.folder().join("ca.pem"), CA).expect("a file");
    let ca = cluster.folder().join("ca.pem").to_string_lossy().into_owned();
    for lb in [&alb, &nlb] {
        for address in public(&cluster, lb) {
            let to = format!("{NAME}:443:{address}:443");
            let url = format!("https://{NAME}/");
            let said = get(&cluster, &["--cacert", &ca, "--connect-to", &to, &url]).expect("an answer");
            assert_eq!(said, ("200".to_owned(), "one".to_owned()));
        }
    }
    let addresses = public(&cluster, &nlb);
    let output = cluster.command("python3").args(["-c", ASK]).args(&addresses).output().expect("python3");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "heard hello\n".repeat(2), "{output:?}");

    // The client's certificate goes to the target, once it is asked for.
    let file = |name: &str, text: &str| {
        std::fs::write(cluster.folder().join(name), text).expect("a file");
        cluster.folder().join(name).to_string_lossy().into_owned()
    };
    let (own, key) = (file("own.pem", LEAF), file("own.key", KEY));
    let to = format!("{NAME}:443:{}:443", public(&cluster, &alb)[0]);
    let url = format!("https://{NAME}/who");
    let mine = "X-Amzn-Mtls-Clientcert: mine";
    let ask = || {
        let with = ["--cacert", &ca, "--connect-to", &to, "--cert", &own, "--key", &key, "-H", mine, &url];
        get(&cluster, &with).expect("an answer").1
    };
    assert_eq!(ask(), "");
    let mutual = json!({ "ListenerArn": door, "MutualAuthentication": { "Mode": "passthrough" } });
    boto.ok("elbv2", "modify_listener", mutual);
    eventually("the target sees the certificate", || !ask().is_empty());
    // With what curl makes of it: its authority follows.
    let shown = ask().replace("%20", " ").replace("%0A", "\n");
    assert_eq!(shown.trim(), format!("{LEAF}{CA}").trim());
}
