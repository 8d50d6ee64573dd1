//! The API of load balancers and their certificates, by boto3. (Requests through them: `balancers`.)

use ferrogate_tests::{Cluster, Keys, until};
use serde_json::{Value, json};

const LEAF: &str = include_str!("../../crates/certificate/testdata/leaf.pem");
const CA: &str = include_str!("../../crates/certificate/testdata/ca.pem");
const KEY: &str = include_str!("../../crates/certificate/testdata/leaf.key");
const OTHER_KEY: &str = include_str!("../../crates/certificate/testdata/rsa.key");

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

/// Two subnets of the default VPC, in two zones.
fn subnets(cluster: &Cluster) -> Vec<String> {
    let filter = json!({ "Filters": [{ "Name": "default-for-az", "Values": ["true"] }] });
    let answer = cluster.boto().ok("ec2", "describe_subnets", filter);
    let subnets = answer["Subnets"].as_array().expect("subnets");
    assert!(subnets.len() > 1, "{answer}");
    subnets.iter().take(2).map(|subnet| text(&subnet["SubnetId"])).collect()
}

fn refused(cluster: &Cluster, operation: &str, input: Value) -> (String, String) {
    let error = cluster.boto().call("elbv2", operation, input).expect_err(operation);
    (error.code, error.message)
}

fn group(cluster: &Cluster, name: &str) -> String {
    let vpc = cluster.network().vpc;
    let input = json!({ "Name": name, "Protocol": "HTTP", "Port": 80, "VpcId": vpc, "TargetType": "ip" });
    let made = cluster.boto().ok("elbv2", "create_target_group", input);
    text(&made["TargetGroups"][0]["TargetGroupArn"])
}

#[test]
fn a_balancer_from_its_making_to_its_end() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let input =
        json!({ "Name": "web", "Subnets": subnets(&cluster), "Tags": [{ "Key": "team", "Value": "a" }] });
    let made = boto.ok("elbv2", "create_load_balancer", input)["LoadBalancers"][0].clone();
    let arn = text(&made["LoadBalancerArn"]);
    assert!(text(&made["DNSName"]).ends_with(".us-east-1.elb.amazonaws.com"), "{made}");
    assert_eq!((&made["Type"], &made["Scheme"]), (&json!("application"), &json!("internet-facing")));
    let app = group(&cluster, "app");
    let listener = json!({ "LoadBalancerArn": arn, "Protocol": "HTTP", "Port": 80,
        "DefaultActions": [{ "Type": "forward", "TargetGroupArn": app }] });
    let listener = boto.ok("elbv2", "create_listener", listener)["Listeners"][0].clone();
    assert_eq!(listener["DefaultActions"][0]["ForwardConfig"]["TargetGroups"][0]["Weight"], 1);
    let rule = json!({ "ListenerArn": listener["ListenerArn"], "Priority": 5,
        "Conditions": [{ "Field": "host-header", "HostHeaderConfig": { "Values": ["*.example.com"] } }],
        "Actions": [{ "Type": "redirect", "RedirectConfig": { "Protocol": "HTTPS", "StatusCode": "HTTP_301" } }] });
    boto.ok("elbv2", "create_rule", rule);
    let rules = boto.ok("elbv2", "describe_rules", json!({ "ListenerArn": listener["ListenerArn"] }));
    assert_eq!(rules["Rules"][0]["Actions"][0]["RedirectConfig"]["Path"], "/#{path}");
    assert_eq!(rules["Rules"][1]["IsDefault"], true);

    // Its interfaces are ELB's.
    let filter = json!({ "Filters": [{ "Name": "description", "Values": ["ELB app/web/*"] }] });
    let interfaces = until("two interfaces", || {
        let found = boto.ok("ec2", "describe_network_interfaces", filter.clone());
        let found = found["NetworkInterfaces"].as_array().cloned().unwrap_or_default();
        (found.len() == 2 && found.iter().all(|eni| eni["Association"]["PublicIp"].is_string()))
            .then_some(found)
    });
    assert!(interfaces.iter().all(|eni| eni["RequesterManaged"] == true), "{interfaces:?}");
    let id = &interfaces[0]["NetworkInterfaceId"];
    let denied = boto.call("ec2", "delete_network_interface", json!({ "NetworkInterfaceId": id }));
    denied.expect_err("a requester-managed interface is its service's");

    let tags = boto.ok("elbv2", "describe_tags", json!({ "ResourceArns": [arn] }));
    assert_eq!(tags["TagDescriptions"][0]["Tags"], json!([{ "Key": "team", "Value": "a" }]));
    boto.ok(
        "elbv2",
        "register_targets",
        json!({ "TargetGroupArn": app, "Targets": [{ "Id": "172.31.0.200" }] }),
    );
    let health = boto.ok("elbv2", "describe_target_health", json!({ "TargetGroupArn": app }));
    assert!(health["TargetHealthDescriptions"][0]["TargetHealth"]["State"].is_string(), "{health}");

    boto.ok("elbv2", "delete_load_balancer", json!({ "LoadBalancerArn": arn }));
    until("no interfaces", || {
        let found = boto.ok("ec2", "describe_network_interfaces", filter.clone());
        found["NetworkInterfaces"].as_array().is_none_or(Vec::is_empty).then_some(())
    });
    boto.ok("elbv2", "delete_target_group", json!({ "TargetGroupArn": app }));
    let (code, message) = refused(&cluster, "describe_target_groups", json!({ "Names": ["app"] }));
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("TargetGroupNotFound", "One or more target groups not found")
    );
}

#[test]
fn mistakes_are_named_as_on_aws() {
    let cluster = Cluster::start();
    let two = subnets(&cluster);
    let app = group(&cluster, "app");
    let vpc = cluster.network().vpc;
    let none = app.replace("targetgroup/app", "targetgroup/none");
    for (operation, input, code, says) in [
        ("create_load_balancer", json!({ "Name": "a_b", "Subnets": two }), "ValidationError", "alphanumeric"),
        (
            "create_load_balancer",
            json!({ "Name": "one", "Subnets": [two[0]] }),
            "ValidationError",
            "At least two subnets in two different Availability Zones must be specified",
        ),
        (
            "create_load_balancer",
            json!({ "Name": "no", "Subnets": [two[0], "subnet-0123456789abcdef0"] }),
            "SubnetNotFound",
            "subnet-0123456789abcdef0",
        ),
        (
            "create_load_balancer",
            json!({ "Name": "gw", "Type": "gateway", "Subnets": two }),
            "InvalidConfigurationRequest",
            "gateway",
        ),
        (
            "create_target_group",
            json!({ "Name": "x", "Protocol": "HTTP", "Port": 80, "VpcId": vpc }),
            "InvalidConfigurationRequest",
            "The target type instance",
        ),
        (
            "create_target_group",
            json!({ "Name": "app", "Protocol": "HTTP", "Port": 81, "VpcId": vpc, "TargetType": "ip" }),
            "DuplicateTargetGroupName",
            "exists, but with different settings",
        ),
        (
            "register_targets",
            json!({ "TargetGroupArn": app, "Targets": [{ "Id": "8.8.8.8" }] }),
            "InvalidTarget",
            "8.8.8.8",
        ),
        (
            "register_targets",
            json!({ "TargetGroupArn": none, "Targets": [{ "Id": "172.31.0.9" }] }),
            "TargetGroupNotFound",
            "One or more target groups not found",
        ),
        (
            "describe_load_balancers",
            json!({ "Names": ["none"] }),
            "LoadBalancerNotFound",
            "Load balancers '[none]' not found",
        ),
        ("describe_ssl_policies", json!({ "Names": ["none"] }), "SSLPolicyNotFound", "none"),
    ] {
        let (found, message) = refused(&cluster, operation, input);
        assert_eq!(found, code, "{operation}: {message}");
        assert!(message.contains(says), "{operation}: {message}");
    }
}

#[test]
fn a_certificate_is_checked_and_held_by_its_listener() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    let import = |key: &str| json!({ "Certificate": LEAF, "PrivateKey": key, "CertificateChain": CA });
    let error = boto.call("acm", "import_certificate", import(OTHER_KEY)).expect_err("another key");
    assert!(error.message.contains("does not match"), "{error:?}");
    let arn = text(&boto.ok("acm", "import_certificate", import(KEY))["CertificateArn"]);
    let upload = json!({ "ServerCertificateName": "web", "CertificateBody": LEAF, "PrivateKey": KEY, "CertificateChain": CA });
    let uploaded = boto.ok("iam", "upload_server_certificate", upload);
    let server = text(&uploaded["ServerCertificateMetadata"]["Arn"]);

    let made =
        boto.ok("elbv2", "create_load_balancer", json!({ "Name": "tls", "Subnets": subnets(&cluster) }));
    let balancer = text(&made["LoadBalancers"][0]["LoadBalancerArn"]);
    let answer = json!([{ "Type": "fixed-response", "FixedResponseConfig": { "StatusCode": "200" } }]);
    let listener = |certificate: &str| {
        json!({ "LoadBalancerArn": balancer, "Protocol": "HTTPS", "Port": 443,
            "Certificates": [{ "CertificateArn": certificate }], "DefaultActions": answer })
    };
    let (code, _) =
        refused(&cluster, "create_listener", listener(&arn.replace("certificate/", "certificate/0")));
    assert_eq!(code, "CertificateNotFound");
    let made = boto.ok("elbv2", "create_listener", listener(&arn));
    let listener = text(&made["Listeners"][0]["ListenerArn"]);
    boto.ok(
        "elbv2",
        "add_listener_certificates",
        json!({ "ListenerArn": listener, "Certificates": [{ "CertificateArn": server }] }),
    );
    let error = boto.call("acm", "delete_certificate", json!({ "CertificateArn": arn })).expect_err("in use");
    assert_eq!(error.code, "ResourceInUseException");
    let error = boto.call("iam", "delete_server_certificate", json!({ "ServerCertificateName": "web" }));
    assert_eq!(error.expect_err("in use").code, "DeleteConflict");
    let detail = boto.ok("acm", "describe_certificate", json!({ "CertificateArn": arn }));
    assert_eq!(detail["Certificate"]["InUseBy"], json!([balancer]));
    boto.ok("elbv2", "delete_listener", json!({ "ListenerArn": listener }));
    boto.ok("acm", "delete_certificate", json!({ "CertificateArn": arn }));
    boto.ok("iam", "delete_server_certificate", json!({ "ServerCertificateName": "web" }));
}

#[test]
fn who_may_do_nothing_may_do_nothing_here() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    boto.ok("iam", "create_user", json!({ "UserName": "nobody" }));
    let key = boto.ok("iam", "create_access_key", json!({ "UserName": "nobody" }));
    let nobody = cluster.boto_as(&Keys::of(&key["AccessKey"]));
    let error = nobody.call("elbv2", "describe_load_balancers", json!({})).expect_err("denied");
    assert_eq!(error.code, "AccessDenied");
    assert!(error.message.contains("elasticloadbalancing:DescribeLoadBalancers"), "{}", error.message);
    let error = nobody.call("acm", "list_certificates", json!({})).expect_err("denied");
    assert_eq!(error.code, "AccessDeniedException");
}
