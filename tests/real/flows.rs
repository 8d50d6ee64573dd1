//! Network load balancers with addresses of the customer's own, whose flows are shared out by weight.

use ferrogate_tests::{Cluster, eventually};
use serde_json::{Value, json};

use crate::balancers::{EVERYWHERE, active, balancer_at, group, healthy, serve, subnets, text};

/// Of one address; the shares may be off by more than four standard deviations.
const FLOWS: usize = 300;
const TOLERANCE: f64 = 0.12;

/// What answers, each on a connection of its own: the part that is `who`.
fn share(cluster: &Cluster, address: &str, who: &str) -> f64 {
    let url = format!("http://{address}/?[1-{FLOWS}]");
    let said = cluster.curl(&["--fail", "--max-time", "30", "-H", "Connection: close", &url]);
    let said = said.unwrap_or_else(|code| panic!("curl: {code}"));
    assert_eq!(said.lines().count(), FLOWS, "{said}");
    said.lines().filter(|line| *line == who).count() as f64 / FLOWS as f64
}

fn target_group(cluster: &Cluster, name: &str, target: &str) -> String {
    let boto = cluster.boto();
    let input = json!({
        "Name": name, "Protocol": "TCP", "Port": 80, "TargetType": "ip", "VpcId": cluster.network().vpc,
        "HealthCheckIntervalSeconds": 5, "HealthyThresholdCount": 2,
    });
    let arn = text(&boto.ok("elbv2", "create_target_group", input)["TargetGroups"][0]["TargetGroupArn"]);
    // One target for both zones.
    let attributes = json!([{ "Key": "load_balancing.cross_zone.enabled", "Value": "true" }]);
    boto.ok(
        "elbv2",
        "modify_target_group_attributes",
        json!({ "TargetGroupArn": arn, "Attributes": attributes }),
    );
    boto.ok("elbv2", "register_targets", json!({ "TargetGroupArn": arn, "Targets": [{ "Id": target }] }));
    arn
}

#[test]
fn elastic_addresses_and_weights() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let front = group(&cluster, "front", &[(80, EVERYWHERE)]);
    let back = group(&cluster, "back", &[(80, &front)]);
    let [one, two] = ["one", "two"].map(|name| {
        let script = format!("echo {name} > /usr/share/nginx/html/index.html; exec nginx -g 'daemon off;'");
        let target = serve(&cluster, name, &script, &[&back]);
        target_group(&cluster, name, &target)
    });
    let allocated = [(); 2].map(|()| boto.ok("ec2", "allocate_address", json!({ "Domain": "vpc" })));
    let zones = subnets(&cluster).into_iter().zip(&allocated);
    let mappings: Vec<Value> = zones
        .map(|(subnet, address)| json!({ "SubnetId": subnet, "AllocationId": address["AllocationId"] }))
        .collect();
    let lb = balancer_at(
        &cluster,
        "flows",
        &json!({ "Type": "network", "SecurityGroups": [front], "SubnetMappings": mappings }),
    );
    let forward = |weights: [u32; 2]| {
        json!([{ "Type": "forward", "ForwardConfig": { "TargetGroups": [
            { "TargetGroupArn": one, "Weight": weights[0] }, { "TargetGroupArn": two, "Weight": weights[1] }] } }])
    };
    let input = json!({ "LoadBalancerArn": lb["LoadBalancerArn"], "Protocol": "TCP", "Port": 80,
        "DefaultActions": forward([3, 1]) });
    let listener = text(&boto.ok("elbv2", "create_listener", input)["Listeners"][0]["ListenerArn"]);
    active(&cluster, &lb);
    healthy(&cluster, &one);
    healthy(&cluster, &two);

    let described =
        boto.ok("elbv2", "describe_load_balancers", json!({ "Names": ["flows"] }))["LoadBalancers"][0].take();
    let mut shown: Vec<(String, String)> = described["AvailabilityZones"]
        .as_array()
        .expect("zones")
        .iter()
        .map(|zone| &zone["LoadBalancerAddresses"][0])
        .map(|address| (text(&address["AllocationId"]), text(&address["IpAddress"])))
        .collect();
    let mut mine: Vec<(String, String)> =
        allocated.iter().map(|one| (text(&one["AllocationId"]), text(&one["PublicIp"]))).collect();
    shown.sort();
    mine.sort();
    assert_eq!(shown, mine, "{described:#}");
    for (_, address) in &mine {
        let seen = share(&cluster, address, "one");
        assert!((seen - 0.75).abs() <= TOLERANCE, "{address}: {seen}");
    }
    boto.ok(
        "elbv2",
        "modify_listener",
        json!({ "ListenerArn": listener, "DefaultActions": forward([0, 1]) }),
    );
    for (_, address) in &mine {
        eventually("all new flows go to the other", || share(&cluster, address, "two") == 1.0);
    }

    // They are the customer's, and stay so.
    let associated = || -> Vec<bool> {
        let answer = boto.ok("ec2", "describe_addresses", json!({}));
        let all = answer["Addresses"].as_array().expect("addresses").clone();
        all.iter()
            .filter(|one| mine.iter().any(|(id, _)| one["AllocationId"] == json!(id)))
            .map(|one| !one["AssociationId"].is_null())
            .collect()
    };
    assert_eq!(associated(), [true, true]);
    for (id, _) in &mine {
        boto.refused("ec2", "release_address", json!({ "AllocationId": id }));
    }
    boto.ok("elbv2", "delete_load_balancer", json!({ "LoadBalancerArn": lb["LoadBalancerArn"] }));
    eventually("they are free", || associated() == [false, false]);
    for (id, _) in &mine {
        boto.ok("ec2", "release_address", json!({ "AllocationId": id }));
    }
    assert!(associated().is_empty());
}
