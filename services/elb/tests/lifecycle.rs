//! From CreateLoadBalancer to the node and back.

mod common;

use common::*;
use ferrogate_api::elbv2::*;
use ferrogate_nodeapi::{Action as NodeAction, TargetState};
use jiff::SignedDuration;

async fn state(world: &World, arn: &str) -> LoadBalancerState {
    let input =
        DescribeLoadBalancersInput { load_balancer_arns: Some(vec![arn.to_owned()]), ..Default::default() };
    let found = world.elb.describe_load_balancers(&world.cx(), input).await.unwrap();
    found.load_balancers.unwrap().remove(0).state.unwrap()
}

#[tokio::test]
async fn a_balancer_becomes_active_and_its_targets_healthy() {
    let world = World::new();
    let made = world.balancer("web").await;
    let arn = made.load_balancer_arn.unwrap();
    assert_eq!(made.state.unwrap().code.as_deref(), Some("provisioning"));
    let group = world.group("app").await;
    world.register(&group, &["10.0.1.50", "10.0.2.51"]).await.unwrap();
    assert_eq!(world.health(&group).await[0].2.as_deref(), Some("Target.NotInUse"));
    world.listener(&arn, 80, &group).await.unwrap();
    world.activate("elb-interfaces").await.unwrap();
    assert_eq!(world.neighbours.interfaces.lock().unwrap().len(), 2);
    let published = world.published(|all| all.len() == 2).await;
    let one = &published[0];
    assert_eq!(one.target_groups[0].targets.len(), 2);
    assert!(one.public_ip.is_some());
    assert!(
        matches!(&one.listeners[0].default_action, NodeAction::Forward { target_groups, .. } if target_groups.len() == 1)
    );
    assert_eq!(world.health(&group).await[0].2.as_deref(), Some("Elb.RegistrationInProgress"));

    world.report(TargetState::Initial).await;
    assert_eq!(world.health(&group).await[0].1, "initial");
    world.activate("elb-interfaces").await.unwrap();
    assert_eq!(state(&world, &arn).await.code.as_deref(), Some("active"));
    let mut names = world.elb.names();
    let names =
        names.wait_for(|names| names.zones.iter().any(|zone| !zone.records.is_empty())).await.unwrap();
    let values = &names.zones[0].records[0].values;
    assert_eq!(values.len(), 2);
    assert!(values[0].starts_with("100.64."), "{values:?}");
    drop(names);

    world.report(TargetState::Healthy).await;
    assert!(world.health(&group).await.iter().all(|(_, state, _)| state == "healthy"));
    // Said again, it is no news.
    let revision = world.store.revision();
    world.report(TargetState::Healthy).await;
    assert_eq!(world.store.revision(), revision);
    world.report(TargetState::Unhealthy).await;
    assert_eq!(world.health(&group).await[0].2.as_deref(), Some("Target.Timeout"));

    let delete = DeleteLoadBalancerInput { load_balancer_arn: Some(arn) };
    world.elb.delete_load_balancer(&world.cx(), delete.clone()).await.unwrap();
    world.elb.delete_load_balancer(&world.cx(), delete).await.unwrap();
    world.published(|all| all.is_empty()).await;
    world.activate("elb-interfaces").await.unwrap();
    assert!(world.neighbours.interfaces.lock().unwrap().is_empty());
    // A report that comes late brings nothing back.
    let left: Vec<_> = world.store.range("/elb/").iter().map(|kv| kv.key.to_string()).collect();
    let kinds = ["/node/", "/health/", "/status/", "/interface/", "/listener/", "/balancer/"];
    assert!(!left.iter().any(|key| kinds.iter().any(|kind| key.contains(kind))), "{left:?}");
}

#[tokio::test]
async fn what_stops_an_interface_is_the_balancers_reason() {
    let world = World::new();
    let arn = world.balancer("web").await.load_balancer_arn.unwrap();
    *world.neighbours.no_interfaces.lock().unwrap() = Some("no addresses left".into());
    assert!(world.activate("elb-interfaces").await.is_err());
    let failed = state(&world, &arn).await;
    assert_eq!(
        (failed.code.as_deref(), failed.reason.as_deref()),
        (Some("failed"), Some("no addresses left"))
    );
    *world.neighbours.no_interfaces.lock().unwrap() = None;
    world.activate("elb-interfaces").await.unwrap();
    world.published(|all| all.len() == 2).await;
    world.report(TargetState::Initial).await;
    world.activate("elb-interfaces").await.unwrap();
    assert_eq!(state(&world, &arn).await.code.as_deref(), Some("active"));
}

#[tokio::test]
async fn subnets_and_groups_change_live() {
    let world = World::new();
    let arn = world.balancer("web").await.load_balancer_arn.unwrap();
    world.activate("elb-interfaces").await.unwrap();
    let input = SetSecurityGroupsInput {
        load_balancer_arn: Some(arn.clone()),
        security_groups: Some(vec!["sg-2".into()]),
        ..Default::default()
    };
    world.elb.set_security_groups(&world.cx(), input).await.unwrap();
    let input = SetSubnetsInput {
        load_balancer_arn: Some(arn.clone()),
        subnets: Some(vec!["subnet-2".into(), "subnet-3".into()]),
        ..Default::default()
    };
    world.elb.set_subnets(&world.cx(), input).await.unwrap();
    world.activate("elb-interfaces").await.unwrap();
    let interfaces = world.neighbours.interfaces.lock().unwrap().clone();
    let mut subnets: Vec<_> = interfaces.values().filter_map(|eni| eni.subnet_id.as_deref()).collect();
    subnets.sort_unstable();
    assert_eq!(subnets, ["subnet-2", "subnet-3"]);
    for eni in interfaces.values() {
        assert_eq!(eni.groups.as_ref().unwrap()[0].group_id.as_deref(), Some("sg-2"));
    }
}

#[tokio::test]
async fn a_network_balancer_without_groups_gets_an_open_one_of_its_own() {
    let world = World::new();
    let input = CreateLoadBalancerInput {
        r#type: Some("network".into()),
        security_groups: None,
        subnets: Some(vec!["subnet-1".into()]),
        scheme: Some("internal".into()),
        ..wanted("tcp")
    };
    let made =
        world.elb.create_load_balancer(&world.cx(), input).await.unwrap().load_balancers.unwrap().remove(0);
    assert_eq!(made.security_groups, None);
    assert!(made.dns_name.unwrap().starts_with("internal-tcp-"));
    world.activate("elb-interfaces").await.unwrap();
    assert_eq!(world.neighbours.groups.lock().unwrap().len(), 1);
    let published = world.published(|all| all.len() == 1).await;
    assert_eq!(published[0].public_ip, None);
    let delete = DeleteLoadBalancerInput { load_balancer_arn: made.load_balancer_arn };
    world.elb.delete_load_balancer(&world.cx(), delete).await.unwrap();
    world.activate("elb-interfaces").await.unwrap();
    assert!(world.neighbours.groups.lock().unwrap().is_empty());
    assert!(world.neighbours.interfaces.lock().unwrap().is_empty());
}

fn mapping(subnet: &str, allocation: Option<&str>, private: Option<&str>) -> SubnetMapping {
    SubnetMapping {
        subnet_id: Some(subnet.into()),
        allocation_id: allocation.map(str::to_owned),
        private_i_pv4_address: private.map(str::to_owned),
        ..Default::default()
    }
}

fn network(name: &str, scheme: &str, mappings: &[SubnetMapping]) -> CreateLoadBalancerInput {
    CreateLoadBalancerInput {
        r#type: Some("network".into()),
        scheme: Some(scheme.into()),
        subnets: None,
        subnet_mappings: Some(mappings.to_vec()),
        ..wanted(name)
    }
}

async fn set_mappings(
    world: &World,
    arn: &str,
    mappings: &[SubnetMapping],
) -> Result<Vec<AvailabilityZone>, ferrogate_api::ApiError> {
    let input = SetSubnetsInput {
        load_balancer_arn: Some(arn.to_owned()),
        subnet_mappings: Some(mappings.to_vec()),
        ..Default::default()
    };
    world.elb.set_subnets(&world.cx(), input).await.map(|answer| answer.availability_zones.unwrap())
}

/// (allocation, private address) by zone.
fn chosen(zones: &[AvailabilityZone]) -> Vec<(Option<&str>, Option<&str>)> {
    fn one(zone: &AvailabilityZone) -> (Option<&str>, Option<&str>) {
        match zone.load_balancer_addresses.as_deref() {
            Some([one]) => (one.allocation_id.as_deref(), one.private_i_pv4_address.as_deref()),
            _ => (None, None),
        }
    }
    zones.iter().map(one).collect()
}

#[tokio::test]
async fn elastic_addresses_of_a_network_balancer_stay_and_zones_come() {
    let world = World::new();
    let eip =
        |subnet: usize, n: usize| mapping(&format!("subnet-{subnet}"), Some(&format!("eipalloc-{n}")), None);
    let create = async |name: &str, mappings: &[SubnetMapping]| {
        let input = network(name, "internet-facing", mappings);
        world
            .elb
            .create_load_balancer(&world.cx(), input)
            .await
            .map(|made| made.load_balancers.unwrap().remove(0))
    };
    let arn = create("tcp", &[eip(1, 1)]).await.unwrap().load_balancer_arn.unwrap();
    // Promised, though no interface has it yet.
    let (code, message) = refused(create("other", &[eip(1, 1)]).await);
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("ResourceInUse", "The allocation IDs are not available for use")
    );
    world.activate("elb-interfaces").await.unwrap();
    assert_eq!(world.neighbours.associations.lock().unwrap().len(), 1);
    assert_eq!(refused(create("other", &[eip(1, 1)]).await).0, "ResourceInUse");
    assert_eq!(refused(create("other", &[eip(1, 2), eip(2, 2)]).await).0, "ResourceInUse");
    assert_eq!(refused(create("other", &[eip(1, 9)]).await).0, "AllocationIdNotFound");

    // Said again it is the same one; another address is another setting, be it free or not.
    assert_eq!(create("tcp", &[eip(1, 1)]).await.unwrap().load_balancer_arn.as_ref(), Some(&arn));
    for other in [eip(1, 2), mapping("subnet-1", None, None)] {
        assert_eq!(refused(create("tcp", &[other]).await).0, "DuplicateLoadBalancerName");
    }

    let zones = set_mappings(&world, &arn, &[eip(1, 1), eip(2, 2)]).await.unwrap();
    assert_eq!(chosen(&zones), [(Some("eipalloc-1"), None), (Some("eipalloc-2"), None)]);
    world.activate("elb-interfaces").await.unwrap();
    let zones = set_mappings(&world, &arn, &[eip(1, 1), eip(2, 2), eip(3, 3)]).await.unwrap();
    assert_eq!(chosen(&zones).len(), 3);
    world.activate("elb-interfaces").await.unwrap();
    let taken: Vec<String> = world.neighbours.associations.lock().unwrap().keys().cloned().collect();
    assert_eq!(taken, ["eipalloc-1", "eipalloc-2", "eipalloc-3"]);

    for mappings in [[eip(1, 4), eip(2, 2), eip(3, 3)], [eip(1, 2), eip(2, 1), eip(3, 3)]] {
        let (code, message) = refused(set_mappings(&world, &arn, &mappings).await);
        assert_eq!(code, "InvalidConfigurationRequest");
        assert!(message.contains("'subnet-1'"), "{message}");
    }
    // Subnets alone say nothing of addresses.
    let input = SetSubnetsInput {
        load_balancer_arn: Some(arn.clone()),
        subnets: Some(["subnet-1", "subnet-2", "subnet-3"].map(str::to_owned).to_vec()),
        ..Default::default()
    };
    let zones = world.elb.set_subnets(&world.cx(), input).await.unwrap().availability_zones.unwrap();
    assert_eq!(chosen(&zones)[2], (Some("eipalloc-3"), None));
    // A zone that goes lets its address go.
    let zones = set_mappings(&world, &arn, &[eip(1, 1), eip(2, 2)]).await.unwrap();
    assert_eq!(chosen(&zones), [(Some("eipalloc-1"), None), (Some("eipalloc-2"), None)]);
    world.activate("elb-interfaces").await.unwrap();
    assert_eq!(world.neighbours.interfaces.lock().unwrap().len(), 2);
    let (code, message) = refused(set_mappings(&world, &arn, &[eip(4, 3), eip(2, 2)]).await);
    assert!(
        code == "InvalidConfigurationRequest" && message.contains("Remove the first"),
        "{code}: {message}"
    );
    // A further zone cannot have what another balancer has.
    let second = create("second", &[eip(1, 4)]).await.unwrap().load_balancer_arn.unwrap();
    assert_eq!(refused(set_mappings(&world, &second, &[eip(1, 4), eip(2, 2)]).await).0, "ResourceInUse");
}

#[tokio::test]
async fn private_addresses_of_a_network_balancer_stay() {
    let world = World::new();
    let own = |subnet: &str, ip: Option<&str>| mapping(subnet, None, ip);
    let mappings = [own("subnet-1", Some("10.0.1.20")), own("subnet-2", None)];
    let input = network("tcp", "internal", &mappings);
    let made = world.elb.create_load_balancer(&world.cx(), input).await.unwrap().load_balancers.unwrap();
    let arn = made[0].load_balancer_arn.clone().unwrap();
    world.activate("elb-interfaces").await.unwrap();
    let all = world.neighbours.interfaces.lock().unwrap().clone();
    let second = all.values().find(|eni| eni.subnet_id.as_deref() == Some("subnet-2")).unwrap();
    let second = second.private_ip_address.clone().unwrap();

    let same = [mappings[0].clone(), own("subnet-2", Some(&second))];
    let zones = set_mappings(&world, &arn, &same).await.unwrap();
    assert_eq!(chosen(&zones), [(None, Some("10.0.1.20")), (None, None)]);
    for other in [
        [own("subnet-1", Some("10.0.1.21")), own("subnet-2", None)],
        [own("subnet-1", None), own("subnet-2", Some("10.0.2.99"))],
    ] {
        let (code, message) = refused(set_mappings(&world, &arn, &other).await);
        assert_eq!(code, "InvalidConfigurationRequest");
        assert!(message.contains("cannot be changed"), "{message}");
    }
}

#[tokio::test]
async fn a_target_drains_for_its_groups_delay() {
    let world = World::new();
    let arn = world.balancer("web").await.load_balancer_arn.unwrap();
    let group = world.group("app").await;
    world.listener(&arn, 80, &group).await.unwrap();
    let attribute = TargetGroupAttribute {
        key: Some("deregistration_delay.timeout_seconds".into()),
        value: Some("30".into()),
    };
    let input = ModifyTargetGroupAttributesInput {
        target_group_arn: Some(group.clone()),
        attributes: Some(vec![attribute]),
    };
    world.elb.modify_target_group_attributes(&world.cx(), input).await.unwrap();
    world.register(&group, &["10.0.1.50", "10.0.1.51"]).await.unwrap();
    let gone = TargetDescription { id: Some("10.0.1.50".into()), ..Default::default() };
    let input =
        DeregisterTargetsInput { target_group_arn: Some(group.clone()), targets: Some(vec![gone.clone()]) };
    world.elb.deregister_targets(&world.cx(), input.clone()).await.unwrap();
    let health = world.health(&group).await;
    assert_eq!(
        (health[0].1.as_str(), health[0].2.as_deref()),
        ("draining", Some("Target.DeregistrationInProgress"))
    );
    world.clock.advance(SignedDuration::from_secs(29));
    world.activate("elb-drain").await.unwrap();
    assert_eq!(world.health(&group).await.len(), 2);
    world.clock.advance(SignedDuration::from_secs(1));
    world.activate("elb-drain").await.unwrap();
    assert_eq!(world.health(&group).await.len(), 1);
    let asked = DescribeTargetHealthInput {
        target_group_arn: Some(group.clone()),
        targets: Some(vec![gone]),
        ..Default::default()
    };
    let asked = world.elb.describe_target_health(&world.cx(), asked).await.unwrap();
    let reason = asked.target_health_descriptions.unwrap()[0].target_health.clone().unwrap().reason;
    assert_eq!(reason.as_deref(), Some("Target.NotRegistered"));
    // Whoever comes back while it drains, stays.
    let gone = TargetDescription { id: Some("10.0.1.51".into()), port: Some(80), ..Default::default() };
    let input = DeregisterTargetsInput { target_group_arn: Some(group.clone()), targets: Some(vec![gone]) };
    world.elb.deregister_targets(&world.cx(), input).await.unwrap();
    world.register(&group, &["10.0.1.51"]).await.unwrap();
    world.clock.advance(SignedDuration::from_secs(60));
    world.activate("elb-drain").await.unwrap();
    assert_eq!(world.health(&group).await.len(), 1);
}

#[tokio::test]
async fn log_lines_become_objects_where_the_attributes_say() {
    let world = World::new();
    let arn = world.balancer("web").await.load_balancer_arn.unwrap();
    let set =
        |key: &str, value: &str| LoadBalancerAttribute { key: Some(key.into()), value: Some(value.into()) };
    let input = ModifyLoadBalancerAttributesInput {
        load_balancer_arn: Some(arn.clone()),
        attributes: Some(vec![
            set("access_logs.s3.enabled", "true"),
            set("access_logs.s3.bucket", "my-logs"),
            set("access_logs.s3.prefix", "web"),
        ]),
    };
    world.elb.modify_load_balancer_attributes(&world.cx(), input).await.unwrap();
    let lines = |text: &str| vec![text.to_owned()];
    world.elb.put_access_logs(&arn, "us-east-1a", false, lines("http one")).await.unwrap();
    world.elb.put_access_logs(&arn, "us-east-1a", true, lines("connection")).await.unwrap();
    world.activate("elb-logs").await.unwrap();
    let day = world
        .dir
        .path()
        .join("objects/my-logs/web/AWSLogs/123456789012/elasticloadbalancing/us-east-1/2026/11/21");
    assert!(!day.exists(), "the window is not over");
    world.clock.advance(SignedDuration::from_secs(300));
    world.activate("elb-logs").await.unwrap();
    let objects: Vec<_> = std::fs::read_dir(day).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    // Connection logs were not asked for.
    assert_eq!(objects.len(), 1, "{objects:?}");
    let name = objects[0].to_string_lossy();
    assert!(
        name.starts_with("123456789012_elasticloadbalancing_us-east-1_app.web.") && name.ends_with(".log.gz"),
        "{name}"
    );
}
