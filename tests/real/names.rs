//! Names: Route 53's zones and Cloud Map's instances, asked for by tasks.

use ferrogate_tests::{Cluster, Network, TaskRun, eventually, until};
use serde_json::{Value, json};

use crate::balancers::subnets;

/// Says what the names given to it stand for, again whenever that changes (with a third argument: at each look): by the system's resolver, and SRV by a packet.
const WATCH: &str = r#"
import random, socket, struct, sys, time
server = next(l.split()[1] for l in open("/etc/resolv.conf") if l.startswith("nameserver"))
def addresses(name):
    try:
        return ",".join(sorted({a[4][0] for a in socket.getaddrinfo(name, 80, socket.AF_INET, socket.SOCK_STREAM)}))
    except socket.gaierror as error:
        return {socket.EAI_NONAME: "nobody", socket.EAI_NODATA: "nobody"}.get(error.errno, str(error))
def srv(name):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.sendto(struct.pack(">HHHHHH", random.randrange(65536), 256, 1, 0, 0, 0) + labels + struct.pack(">HH", 33, 1), (server, 53))
        try:
            answer = s.recv(4096)
        except TimeoutError:
            return "silent"
    return f"code={answer[3] & 15} answers={struct.unpack('>H', answer[6:8])[0]} more={struct.unpack('>H', answer[10:12])[0]}"
last = None
while True:
    now = f"{addresses(sys.argv[1])} {srv(sys.argv[1])} {addresses(sys.argv[2])}"
    if now != last or len(sys.argv) > 3:
        print(now, flush=True)
        last = now
    time.sleep(0.1)
"#;

fn done(cluster: &Cluster, answer: &Value) -> Value {
    let id = answer["OperationId"].as_str().expect("an OperationId");
    until(&format!("the operation {id} is over"), || {
        let answer = cluster.boto().ok("servicediscovery", "get_operation", json!({ "OperationId": id }));
        let operation = answer["Operation"].clone();
        matches!(operation["Status"].as_str(), Some("SUCCESS" | "FAIL")).then_some(operation)
    })
}

fn succeeded(cluster: &Cluster, operation: &str, arguments: Value) -> Value {
    let answer = cluster.boto().ok("servicediscovery", operation, arguments);
    let operation = done(cluster, &answer);
    assert_eq!(operation["Status"], "SUCCESS", "{operation:#}");
    operation
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is a text")).to_owned()
}

fn watcher(cluster: &Cluster, network: &Network, at_each_look: bool) -> String {
    let mut names = vec!["profiles.example.local", "nobody.example.local"];
    names.extend(at_each_look.then_some("each"));
    watch(cluster, network, &names)
}

fn watch(cluster: &Cluster, network: &Network, names: &[&str]) -> String {
    let command = [&["python3", "-c", WATCH], names].concat();
    let container =
        json!([{ "name": "app", "image": "python3-boto3", "command": command, "stopTimeout": 2 }]);
    cluster.define("watch", container, Value::Null);
    cluster.run_task(network, &TaskRun::of("watch"))
}

/// Until the task's last line is that one.
#[track_caller]
fn says(cluster: &Cluster, task: &str, wanted: &str) {
    cluster.running(task);
    let mut last = String::new();
    eventually(&format!("{task} says {wanted:?}"), || {
        let output = cluster.output(task);
        output.lines().last().unwrap_or_default().clone_into(&mut last);
        last == wanted
    });
}

pub(crate) fn other_vpc(cluster: &Cluster) -> Network {
    let boto = cluster.boto();
    let vpc = text(&boto.ok("ec2", "create_vpc", json!({ "CidrBlock": "10.77.0.0/16" }))["Vpc"]["VpcId"]);
    let subnet = json!({ "VpcId": vpc, "CidrBlock": "10.77.1.0/24" });
    let subnet = text(&boto.ok("ec2", "create_subnet", subnet)["Subnet"]["SubnetId"]);
    let gateway =
        text(&boto.ok("ec2", "create_internet_gateway", json!({}))["InternetGateway"]["InternetGatewayId"]);
    boto.ok("ec2", "attach_internet_gateway", json!({ "InternetGatewayId": gateway, "VpcId": vpc }));
    let tables = json!({ "Filters": [{ "Name": "vpc-id", "Values": [vpc] }] });
    let table = text(&boto.ok("ec2", "describe_route_tables", tables)["RouteTables"][0]["RouteTableId"]);
    let route = json!({ "RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway });
    boto.ok("ec2", "create_route", route);
    Network { vpc, subnet, group: String::new() }
}

#[test]
fn instances_of_cloud_map_are_names_of_their_vpc() {
    let cluster = Cluster::start();
    let (network, other) = (cluster.network(), other_vpc(&cluster));
    let boto = cluster.boto();
    let inside = watcher(&cluster, &network, false);
    let outside = watcher(&cluster, &other, true);

    let namespace = json!({ "Name": "example.local", "Vpc": network.vpc });
    let operation = succeeded(&cluster, "create_private_dns_namespace", namespace.clone());
    let namespace_id = text(&operation["Targets"]["NAMESPACE"]);
    let again = boto.refused("servicediscovery", "create_private_dns_namespace", namespace);
    assert_eq!(again.code, "NamespaceAlreadyExists");
    let service = json!({
        "Name": "profiles", "NamespaceId": namespace_id, "HealthCheckCustomConfig": {},
        "DnsConfig": { "DnsRecords": [{ "Type": "A", "TTL": 1 }, { "Type": "SRV", "TTL": 1 }] },
    });
    let service = boto.ok("servicediscovery", "create_service", service)["Service"].take();
    let service_id = text(&service["Id"]);
    says(&cluster, &inside, "nobody code=3 answers=0 more=0 nobody");

    for (id, address) in [("one", "10.9.0.1"), ("two", "10.9.0.2")] {
        let attributes = json!({ "AWS_INSTANCE_IPV4": address, "AWS_INSTANCE_PORT": "8080", "version": id });
        let instance = json!({ "ServiceId": service_id, "InstanceId": id, "Attributes": attributes });
        succeeded(&cluster, "register_instance", instance);
    }
    says(&cluster, &inside, "10.9.0.1,10.9.0.2 code=0 answers=2 more=2 nobody");
    // The other VPC looks as well, and sees nothing of it: the name is asked elsewhere, where nobody has it.
    let looks = || cluster.output(&outside).lines().count();
    let before = looks();
    eventually("the other VPC has looked meanwhile", || looks() >= before + 2);
    assert!(!cluster.output(&outside).contains("10.9.0"), "{}", cluster.output(&outside));
    let zone = boto.ok("servicediscovery", "get_namespace", json!({ "Id": namespace_id }));
    let zone = text(&zone["Namespace"]["Properties"]["DnsProperties"]["HostedZoneId"]);
    let foreign = boto.refused("route53", "delete_hosted_zone", json!({ "Id": zone }));
    assert_eq!(foreign.code, "AccessDenied");
    assert!(foreign.message.contains("can only be managed through AWS Cloud Map (arn:aws:servicediscovery:"));

    let health = json!({ "ServiceId": service_id, "InstanceId": "one", "Status": "UNHEALTHY" });
    boto.ok("servicediscovery", "update_instance_custom_health_status", health);
    says(&cluster, &inside, "10.9.0.2 code=0 answers=1 more=1 nobody");
    let bad =
        json!({ "ServiceId": service_id, "InstanceId": "bad", "Attributes": { "AWS_INSTANCE_PORT": "1" } });
    assert_eq!(boto.refused("servicediscovery", "register_instance", bad).code, "InvalidInput");
    assert_eq!(
        boto.refused("servicediscovery", "delete_service", json!({ "Id": service_id })).code,
        "ResourceInUse"
    );
    assert_eq!(
        boto.refused("servicediscovery", "delete_namespace", json!({ "Id": namespace_id })).code,
        "ResourceInUse"
    );

    for id in ["one", "two"] {
        succeeded(&cluster, "deregister_instance", json!({ "ServiceId": service_id, "InstanceId": id }));
    }
    says(&cluster, &inside, "nobody code=3 answers=0 more=0 nobody");
    boto.ok("servicediscovery", "delete_service", json!({ "Id": service_id }));
    succeeded(&cluster, "delete_namespace", json!({ "Id": namespace_id }));
    assert_eq!(boto.refused("route53", "get_hosted_zone", json!({ "Id": zone })).code, "NoSuchHostedZone");
}

#[test]
fn instances_are_discovered_at_either_host() {
    let cluster = Cluster::start();
    succeeded(&cluster, "create_http_namespace", json!({ "Name": "apis" }));
    let boto = cluster.boto();
    let namespaces = boto.ok("servicediscovery", "list_namespaces", json!({}));
    let namespace_id = text(&namespaces["Namespaces"][0]["Id"]);
    let service = json!({ "Name": "web", "NamespaceId": namespace_id });
    let service_id = text(&boto.ok("servicediscovery", "create_service", service)["Service"]["Id"]);
    let instance = json!({ "ServiceId": service_id, "InstanceId": "a", "Attributes": { "k": "v" } });
    succeeded(&cluster, "register_instance", instance);
    let said = cluster.python("discover.py", &["apis", "web"]).json();
    for host in ["plain", "data", "cbor"] {
        assert_eq!(said[host]["Instances"][0]["InstanceId"], "a", "{said:#}");
        assert_eq!(said[host]["Instances"][0]["Attributes"], json!({ "k": "v" }));
    }
    assert!(text(&said["data_host"]).starts_with("data-"), "{said:#}");
    assert_eq!(said["cbor_kinds"], json!(["application/cbor"]));
    assert_eq!(said["cbor_codes"], json!(["ServiceNotFound", "NamespaceAlreadyExists", "ServiceNotFound"]));
    let created = said["cbor_date"].as_f64().expect("a time");
    assert!(created > 1.7e9, "{said:#}");
}

fn batch(zone: &str, changes: &Value) -> Value {
    json!({ "HostedZoneId": zone, "ChangeBatch": { "Changes": changes } })
}

fn change(action: &str, name: &str, kind: &str, value: &str) -> Value {
    let set = json!({ "Name": name, "Type": kind, "TTL": 60, "ResourceRecords": [{ "Value": value }] });
    json!({ "Action": action, "ResourceRecordSet": set })
}

#[test]
fn an_alias_leads_to_a_load_balancer() {
    let cluster = Cluster::start();
    let (network, boto) = (cluster.network(), cluster.boto());
    let balancer = json!({ "Name": "web", "Scheme": "internal", "Subnets": subnets(&cluster) });
    let balancer = boto.ok("elbv2", "create_load_balancer", balancer)["LoadBalancers"][0].take();
    let name = text(&balancer["DNSName"]);
    let zone = json!({
        "Name": "corp.test", "CallerReference": "1", "VPC": { "VPCRegion": "us-east-1", "VPCId": network.vpc },
    });
    let zone = text(&boto.ok("route53", "create_hosted_zone", zone)["HostedZone"]["Id"]);
    let alias = |zone_id: &Value| {
        let target = json!({ "HostedZoneId": zone_id, "DNSName": name, "EvaluateTargetHealth": true });
        let set = json!({ "Name": "web.corp.test", "Type": "A", "AliasTarget": target });
        batch(&zone, &json!([{ "Action": "CREATE", "ResourceRecordSet": set }]))
    };
    // Where load balancers of eu-west-1 are.
    let wrong = boto.refused("route53", "change_resource_record_sets", alias(&json!("Z32O12XQLNTSW2")));
    assert_eq!(
        wrong.message,
        format!(
            "[Tried to create an alias that targets {}., type A in zone Z32O12XQLNTSW2, but the alias target name \
             does not lie within the target zone]",
            name.to_lowercase()
        )
    );
    boto.ok("route53", "change_resource_record_sets", alias(&balancer["CanonicalHostedZoneId"]));
    let task = watch(&cluster, &network, &["web.corp.test", &name]);
    eventually("the alias has the balancer's addresses", || {
        let output = cluster.output(&task);
        let words: Vec<&str> = output.lines().last().unwrap_or_default().split(' ').collect();
        matches!(words.as_slice(), [alias, .., own] if alias == own && alias.split(',').count() == 2)
    });
}

#[test]
fn a_task_asks_for_records_of_a_hosted_zone() {
    let cluster = Cluster::start();
    let (network, boto) = (cluster.network(), cluster.boto());
    let zone = json!({
        "Name": "corp.test", "CallerReference": "1", "VPC": { "VPCRegion": "us-east-1", "VPCId": network.vpc },
    });
    let made = boto.ok("route53", "create_hosted_zone", zone.clone());
    assert_eq!(boto.refused("route53", "create_hosted_zone", zone).code, "HostedZoneAlreadyExists");
    let id = text(&made["HostedZone"]["Id"]);
    let records = json!([
        change("CREATE", "db.corp.test", "A", "10.1.2.3"),
        change("CREATE", "www.corp.test", "CNAME", "db.corp.test"),
    ]);
    let submitted = boto.ok("route53", "change_resource_record_sets", batch(&id, &records));
    boto.ok("route53", "wait:resource_record_sets_changed", json!({ "Id": submitted["ChangeInfo"]["Id"] }));
    let twice = boto.refused("route53", "change_resource_record_sets", batch(&id, &records));
    assert_eq!(twice.code, "InvalidChangeBatch");
    assert_eq!(
        twice.message,
        "[Tried to create resource record set [name='db.corp.test.', type='A'] but it already exists, \
         Tried to create resource record set [name='www.corp.test.', type='CNAME'] but it already exists]"
    );
    let test = json!({ "HostedZoneId": id, "RecordName": "db.corp.test", "RecordType": "A" });
    assert_eq!(boto.ok("route53", "test_dns_answer", test)["RecordData"], json!(["10.1.2.3"]));

    cluster.define_busybox("look");
    let look = "nslookup www.corp.test; nslookup missing.corp.test; echo over";
    let run = TaskRun::of("look").command("app", &["sh", "-c", look]);
    let task = cluster.run_task(&network, &run);
    cluster.stopped(&task);
    let output = cluster.output(&task);
    assert!(output.contains("10.1.2.3"), "{output}");
    assert!(output.contains("NXDOMAIN"), "{output}");

    assert_eq!(boto.refused("route53", "delete_hosted_zone", json!({ "Id": id })).code, "HostedZoneNotEmpty");
    let records = json!([
        change("DELETE", "db.corp.test", "A", "10.1.2.3"),
        change("DELETE", "www.corp.test", "CNAME", "db.corp.test"),
    ]);
    boto.ok("route53", "change_resource_record_sets", batch(&id, &records));
    boto.ok("route53", "delete_hosted_zone", json!({ "Id": id }));
}
