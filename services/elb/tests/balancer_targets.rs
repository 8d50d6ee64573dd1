//! Application load balancers as targets of network load balancers.

mod common;

use std::collections::BTreeSet;

use common::*;
use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_nodeapi::{BalancerKind, TargetState};

fn wanted_front(name: &str, port: i32) -> CreateTargetGroupInput {
    CreateTargetGroupInput {
        protocol: Some("TCP".into()),
        port: Some(port),
        target_type: Some("alb".into()),
        ..wanted_group(name)
    }
}

async fn front(world: &World, name: &str) -> String {
    let made = world.elb.create_target_group(&world.cx(), wanted_front(name, 80)).await.unwrap();
    let group = made.target_groups.unwrap().remove(0);
    assert_eq!(group.target_type.as_deref(), Some("alb"));
    assert_eq!(group.health_check_protocol.as_deref(), Some("HTTP"));
    group.target_group_arn.unwrap()
}

async fn network(world: &World, name: &str) -> String {
    let input = CreateLoadBalancerInput { r#type: Some("network".into()), ..wanted(name) };
    let made = world.elb.create_load_balancer(&world.cx(), input).await.unwrap();
    made.load_balancers.unwrap().remove(0).load_balancer_arn.unwrap()
}

/// The balancer and its listener on port 80.
async fn application(world: &World, name: &str) -> (String, String) {
    let balancer = world.balancer(name).await.load_balancer_arn.unwrap();
    let group = world.group(name).await;
    let listener = world.listener(&balancer, 80, &group).await.unwrap();
    (balancer, listener)
}

async fn forwards(world: &World, balancer: &str, protocol: &str, group: &str) -> Result<String, ApiError> {
    let input = CreateListenerInput {
        load_balancer_arn: Some(balancer.into()),
        protocol: Some(protocol.into()),
        port: Some(80),
        certificates: (protocol == "TLS")
            .then(|| vec![Certificate { certificate_arn: Some(CERTIFICATE.into()), is_default: None }]),
        default_actions: Some(vec![forward(group)]),
        ..Default::default()
    };
    let made = world.elb.create_listener(&world.cx(), input).await?;
    Ok(made.listeners.unwrap().remove(0).listener_arn.unwrap())
}

#[tokio::test]
async fn its_nodes_are_the_targets_and_it_is_as_well_as_they_are() {
    let world = World::new();
    let (web, listener) = application(&world, "web").await;
    let (net, group) = (network(&world, "net").await, front(&world, "front").await);
    world.register(&group, &[&web]).await.unwrap();
    world.register(&group, &[&web]).await.unwrap();
    assert_eq!(world.health(&group).await[0].1, "unused");
    forwards(&world, &net, "TCP", &group).await.unwrap();
    world.activate("elb-interfaces").await.unwrap();

    let nodes = |all: &[ferrogate_nodeapi::BalancerAssignment], kind| -> BTreeSet<_> {
        let of_kind = all.iter().filter(|one| one.kind == kind);
        of_kind.map(|one| (one.availability_zone.clone(), one.network.private_ip)).collect()
    };
    let all = world.published(|all| {
        nodes(all, BalancerKind::Network).len() == 2
            && nodes(all, BalancerKind::Application).len() == 2
            && all.iter().all(|one| {
                one.target_groups.iter().all(|group| group.name == "web" || group.targets.len() == 2)
            })
    });
    let all = all.await;
    let network = all.iter().find(|one| one.kind == BalancerKind::Network).unwrap();
    let targets = network.target_groups[0].targets.iter();
    let targets: BTreeSet<_> = targets
        .map(|target| {
            assert_eq!(target.port, 80);
            let std::net::IpAddr::V4(ip) = target.ip else { panic!("{target:?}") };
            (target.availability_zone.clone().unwrap(), ip)
        })
        .collect();
    assert_eq!(targets, nodes(&all, BalancerKind::Application));
    assert!(network.target_groups[0].preserve_client_ip);

    let health = |state: &'static str| vec![(web.clone(), state.to_owned(), None)];
    world.report(TargetState::Healthy).await;
    assert_eq!(world.health(&group).await, health("healthy"));
    world.report(TargetState::Unhealthy).await;
    assert_eq!(world.health(&group).await[0].2.as_deref(), Some("Target.Timeout"));

    // It and its listener stay while they are in use.
    let delete = |arn: &str| DeleteLoadBalancerInput { load_balancer_arn: Some(arn.to_owned()) };
    let (code, message) = refused(world.elb.delete_load_balancer(&world.cx(), delete(&web)).await);
    assert_eq!(code, "ResourceInUse");
    assert!(message.ends_with("cannot be deleted because it is currently associated with another service"));
    let input = DeleteListenerInput { listener_arn: Some(listener.clone()) };
    let (code, message) = refused(world.elb.delete_listener(&world.cx(), input.clone()).await);
    assert_eq!(code, "ResourceInUse");
    assert_eq!(
        message,
        format!("Listener port '80' is in use by registered target '{web}' and cannot be removed.")
    );
    let other = ModifyListenerInput { listener_arn: Some(listener), port: Some(81), ..Default::default() };
    assert_eq!(refused(world.elb.modify_listener(&world.cx(), other).await).0, "ResourceInUse");

    let target = TargetDescription { id: Some(web.clone()), ..Default::default() };
    let gone = DeregisterTargetsInput { target_group_arn: Some(group.clone()), targets: Some(vec![target]) };
    world.elb.deregister_targets(&world.cx(), gone).await.unwrap();
    assert_eq!(world.health(&group).await[0].1, "draining");
    world.elb.delete_listener(&world.cx(), input).await.unwrap();
    world.elb.delete_load_balancer(&world.cx(), delete(&web)).await.unwrap();
}

#[tokio::test]
async fn who_may_not_be_one_is_refused_in_elbs_words() {
    let world = World::new();
    let (web, _) = application(&world, "web").await;
    let (other, _) = application(&world, "other").await;
    let net = network(&world, "net").await;
    let group = front(&world, "front").await;
    let udp = CreateTargetGroupInput { protocol: Some("UDP".into()), ..wanted_front("udp", 80) };
    let refusal = refused(world.elb.create_target_group(&world.cx(), udp).await);
    assert_eq!(refusal.0, "InvalidConfigurationRequest");
    let closed = wanted_front("closed", 81);
    let closed = world.elb.create_target_group(&world.cx(), closed).await.unwrap();
    let closed = closed.target_groups.unwrap().remove(0).target_group_arn.unwrap();
    let ghost = web.replace("/web/", "/ghost/");
    for (group, ids, code, says) in [
        (
            &closed,
            vec![&*web],
            "ValidationError",
            "If the target type is ALB, the target must have at least one listener",
        ),
        (&group, vec!["10.0.1.7"], "InvalidTarget", "'10.0.1.7' does not exist"),
        (&group, vec![&*ghost], "InvalidTarget", "does not exist"),
        (&group, vec![&*net], "InvalidTarget", "not an application load balancer"),
        (&group, vec![&*web, &*other], "TooManyTargets", "only one target"),
    ] {
        let (found, message) = refused(world.register(group, &ids).await);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message}");
    }
    world.register(&group, &[&web]).await.unwrap();
    assert_eq!(refused(world.register(&group, &[&other]).await).0, "TooManyTargets");

    // TCP listeners of network load balancers only.
    assert_eq!(refused(forwards(&world, &net, "TLS", &group).await).0, "IncompatibleProtocols");
    assert_eq!(refused(forwards(&world, &web, "HTTP", &group).await).0, "IncompatibleProtocols");
    forwards(&world, &net, "TCP", &group).await.unwrap();

    // Of two network load balancers, no more.
    for name in ["second", "third"] {
        let (net, group) = (network(&world, name).await, front(&world, name).await);
        world.register(&group, &[&web]).await.unwrap();
        let done = forwards(&world, &net, "TCP", &group).await;
        match name {
            "second" => drop(done.unwrap()),
            _ => assert_eq!(refused(done).0, "TooManyRegistrationsForTargetId"),
        }
    }
}

#[tokio::test]
async fn attributes_stay_as_they_come() {
    let world = World::new();
    let group = front(&world, "front").await;
    let set = |key: &str, value: &str| ModifyTargetGroupAttributesInput {
        target_group_arn: Some(group.clone()),
        attributes: Some(vec![TargetGroupAttribute { key: Some(key.into()), value: Some(value.into()) }]),
    };
    for (key, value) in [
        ("preserve_client_ip.enabled", "false"),
        ("proxy_protocol_v2.enabled", "true"),
        ("deregistration_delay.timeout_seconds", "4"),
    ] {
        let (code, message) =
            refused(world.elb.modify_target_group_attributes(&world.cx(), set(key, value)).await);
        assert_eq!(code, "InvalidConfigurationRequest");
        assert_eq!(message, "The provided target group attribute is not supported");
    }
    let same = set("preserve_client_ip.enabled", "true");
    world.elb.modify_target_group_attributes(&world.cx(), same).await.unwrap();
}

#[tokio::test]
async fn zones_that_only_one_of_them_has_are_told() {
    let world = World::new();
    let (web, _) = application(&world, "web").await;
    let group = front(&world, "front").await;
    world.register(&group, &[&web]).await.unwrap();
    let input = CreateLoadBalancerInput {
        r#type: Some("network".into()),
        subnets: Some(vec!["subnet-3".into()]),
        ..wanted("far")
    };
    let made = world.elb.create_load_balancer(&world.cx(), input).await.unwrap();
    let far = made.load_balancers.unwrap().remove(0).load_balancer_arn.unwrap();
    forwards(&world, &far, "TCP", &group).await.unwrap();
    world.activate("elb-interfaces").await.unwrap();
    let not_in_use = vec![(web.clone(), "unused".to_owned(), Some("Target.NotInUse".to_owned()))];
    assert_eq!(world.health(&group).await, not_in_use);
    let cross_zone = ModifyLoadBalancerAttributesInput {
        load_balancer_arn: Some(far),
        attributes: Some(vec![LoadBalancerAttribute {
            key: Some("load_balancing.cross_zone.enabled".into()),
            value: Some("true".into()),
        }]),
    };
    world.elb.modify_load_balancer_attributes(&world.cx(), cross_zone).await.unwrap();
    assert_eq!(world.health(&group).await[0].1, "initial");
}
