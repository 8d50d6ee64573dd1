use super::*;

use ferrogate_api::elbv2;

use crate::plan::{actions, health_check};

const BALANCER: &str = "/elb/1/us-east-1/balancer/b";

fn scope() -> Scope {
    Scope { account: "1".into(), region: "us-east-1".into() }
}

fn put<T: serde::Serialize>(index: &mut Index, key: &str, record: &T) {
    index.put(key, &serde_json::to_vec(record).unwrap()).unwrap();
}

fn balancer(internal: bool) -> BalancerRecord {
    let zone = ZoneRecord {
        zone: "us-east-1a".into(),
        subnet_id: "subnet-1".into(),
        subnet_cidr: "10.0.1.0/24".parse().unwrap(),
        vpc_cidr: "10.0.0.0/16".parse().unwrap(),
        private_ip: None,
        allocation_id: None,
    };
    BalancerRecord {
        id: "b".into(),
        scope: scope(),
        name: "web".into(),
        kind: BalancerType::Application,
        internal,
        vpc_id: "vpc-1".into(),
        dns_name: "Web-1.us-east-1.elb.amazonaws.com".into(),
        created: Default::default(),
        zones: vec![zone],
        security_groups: vec![],
        attributes: Default::default(),
        tags: Default::default(),
    }
}

pub(crate) fn group() -> GroupRecord {
    GroupRecord {
        id: "g".into(),
        scope: scope(),
        name: "group".into(),
        protocol: "HTTP".into(),
        protocol_version: Some("HTTP1".into()),
        target_type: TargetType::Ip,
        port: 80,
        vpc_id: "vpc-1".into(),
        health_check: health_check::decide("HTTP", Some("HTTP1"), TargetType::Ip, None, Default::default())
            .unwrap(),
        attributes: Default::default(),
        tags: Default::default(),
    }
}

fn index(internal: bool) -> Index {
    let mut index = Index::default();
    put(&mut index, BALANCER, &balancer(internal));
    put(&mut index, "/elb/1/us-east-1/group/g", &group());
    let forward = elbv2::Action {
        r#type: Some("forward".into()),
        target_group_arn: Some(group().arn()),
        ..Default::default()
    };
    let place = actions::Place { kind: BalancerType::Application, protocol: "HTTP", vpc_id: "vpc-1" };
    let listener = ListenerRecord {
        id: "l".into(),
        balancer_id: "b".into(),
        balancer_path: "app/web/b".into(),
        scope: scope(),
        port: 80,
        protocol: "HTTP".into(),
        ssl_policy: None,
        certificates: vec![],
        alpn_policy: None,
        actions: actions::check(vec![forward], &place, |_| Ok(group())).unwrap(),
        default_rule_id: "d".into(),
        mtls_passthrough: false,
        attributes: Default::default(),
        tags: Default::default(),
    };
    put(&mut index, "/elb/1/us-east-1/listener/b/l", &listener);
    let interface = InterfaceRecord {
        balancer_id: "b".into(),
        zone: "us-east-1a".into(),
        vpc_id: "vpc-1".into(),
        subnet_id: "subnet-1".into(),
        subnet_cidr: "10.0.1.0/24".parse().unwrap(),
        vpc_cidr: "10.0.0.0/16".parse().unwrap(),
        eni_id: "eni-1".into(),
        mac: "0a:00:00:00:00:01".into(),
        private_ip: "10.0.1.9".parse().unwrap(),
        public_ip: Some("127.64.0.9".parse().unwrap()),
        allocation_id: None,
        security_groups: vec![],
    };
    put(&mut index, "/elb/1/us-east-1/interface/b/subnet-1", &interface);
    index
}

fn targets(count: u8) -> TargetsRecord {
    let target = |n: u8| TargetRecord {
        id: TargetId::Ip([10, 0, 2, n].into()),
        port: 8080,
        zone: Some("us-east-1a".into()),
        outside_vpc: false,
        registered: Default::default(),
        draining_since: None,
    };
    TargetsRecord { targets: (1..=count).map(target).collect() }
}

#[test]
fn a_generation_grows_with_a_change_and_with_nothing_else() {
    let mut index = index(true);
    let first = index.assignments(&[], 10);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].generation, 10);
    assert_eq!(first[0].network.gateway.to_string(), "10.0.1.1");
    assert_eq!(first[0].network.dns_servers[0].to_string(), "10.0.0.2");
    assert_eq!(index.assignments(&first, 20), first);
    put(&mut index, "/elb/1/us-east-1/targets/g", &targets(2));
    let second = index.assignments(&first, 30);
    assert_eq!((second[0].generation, second[0].target_groups[0].targets.len()), (30, 2));
    // What is taken away is a change as well.
    put(&mut index, "/elb/1/us-east-1/targets/g", &targets(1));
    assert_eq!(index.assignments(&second, 40)[0].generation, 40);
    index.delete(BALANCER);
    assert!(index.assignments(&second, 50).is_empty());
}

#[test]
fn a_name_has_the_addresses_of_zones_that_take_traffic() {
    let wire =
        |public: Ipv4Addr| if public.octets()[0] == 127 { Ipv4Addr::new(100, 64, 0, 9) } else { public };
    for (internal, address) in [(true, "10.0.1.9"), (false, "100.64.0.9")] {
        let mut index = index(internal);
        let names = index.names(1, wire);
        assert_eq!(names.zones[0].name, "web-1.us-east-1.elb.amazonaws.com");
        assert!(names.zones[0].records.is_empty(), "nobody takes traffic yet");
        let active = NodeRecord { active: true, problem: None };
        put(&mut index, "/elb/1/us-east-1/node/b/us-east-1a", &active);
        assert_eq!(index.names(2, wire).zones[0].records[0].values, [address]);
    }
}

#[test]
fn zones_without_a_healthy_target_are_left_out_unless_all_are() {
    let mut index = index(true);
    let mut two_zones = balancer(true);
    let second =
        ZoneRecord { zone: "us-east-1b".into(), subnet_id: "subnet-2".into(), ..two_zones.zones[0].clone() };
    two_zones.zones.push(second);
    put(&mut index, BALANCER, &two_zones);
    let mut interface = index.interfaces.values().next().unwrap().clone();
    (interface.zone, interface.subnet_id) = ("us-east-1b".into(), "subnet-2".into());
    interface.private_ip = "10.0.2.9".parse().unwrap();
    put(&mut index, "/elb/1/us-east-1/interface/b/subnet-2", &interface);
    for zone in ["a", "b"] {
        let active = NodeRecord { active: true, problem: None };
        put(&mut index, &format!("/elb/1/us-east-1/node/b/us-east-1{zone}"), &active);
    }
    let seen = |state| {
        let seen = SeenRecord { state, reason: None, description: None, anomaly: Default::default() };
        HealthRecord { targets: BTreeMap::from([("10.0.2.1 8080".to_owned(), seen)]) }
    };
    let values = |index: &Index| index.names(1, |ip| ip).zones[0].records[0].values.clone();
    let all = ["10.0.1.9", "10.0.2.9"];
    assert_eq!(values(&index), all, "there are no targets");
    put(&mut index, "/elb/1/us-east-1/targets/g", &targets(1));
    assert_eq!(values(&index), all, "none is healthy yet");
    let health = |zone: &str| format!("/elb/1/us-east-1/health/b/us-east-1{zone}/g");
    assert!(concerns(&health("a")));
    put(&mut index, &health("a"), &seen(TargetState::Healthy));
    assert_eq!(values(&index), ["10.0.1.9"]);
    put(&mut index, &health("b"), &seen(TargetState::Unavailable));
    assert_eq!(values(&index), all);
    put(&mut index, &health("a"), &seen(TargetState::Unhealthy));
    assert_eq!(values(&index), ["10.0.2.9"]);
    index.delete(&health("b"));
    assert_eq!(values(&index), all, "none is left");
}

#[test]
fn a_record_that_cannot_be_read_changes_nothing() {
    let mut index = index(true);
    let before = index.assignments(&[], 1);
    assert!(index.put(BALANCER, b"{").is_err());
    assert_eq!(index.assignments(&before, 2), before);
}
