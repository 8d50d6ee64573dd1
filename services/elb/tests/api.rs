//! What the API answers: whole objects, and refusals in ELB's words.

mod common;

use common::*;
use ferrogate_api::elbv2::*;
use ferrogate_nodeapi::{Anomaly, BalancerReport, TargetObservation, TargetState};

#[tokio::test]
async fn creates_are_idempotent_and_names_are_unique() {
    let world = World::new();
    let first = world.balancer("web").await;
    let second = world.balancer("web").await;
    assert_eq!(first, second);
    assert!(first.dns_name.as_ref().unwrap().ends_with(".us-east-1.elb.amazonaws.com"));
    assert_eq!(first.canonical_hosted_zone_id.as_deref(), Some("Z35SXDOTRQ7X7K"));
    let other = CreateLoadBalancerInput { scheme: Some("internal".into()), ..wanted("web") };
    let (code, message) = refused(world.elb.create_load_balancer(&world.cx(), other).await);
    assert_eq!(code, "DuplicateLoadBalancerName");
    assert_eq!(message, "A load balancer with the same name 'web' exists, but with different settings");

    assert_eq!(world.group("app").await, world.group("app").await);
    let other = CreateTargetGroupInput { port: Some(81), ..wanted_group("app") };
    assert_eq!(
        refused(world.elb.create_target_group(&world.cx(), other).await).0,
        "DuplicateTargetGroupName"
    );
}

#[tokio::test]
async fn balancers_are_refused_in_elbs_words() {
    let world = World::new();
    let with = |change: fn(&mut CreateLoadBalancerInput)| {
        let mut input = wanted("web");
        change(&mut input);
        input
    };
    let subnets = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
    let one = CreateLoadBalancerInput { subnets: subnets(&["subnet-1"]), ..wanted("web") };
    let same_zone = CreateLoadBalancerInput { subnets: subnets(&["subnet-1", "subnet-4"]), ..wanted("web") };
    let unknown = CreateLoadBalancerInput { subnets: subnets(&["subnet-1", "subnet-9"]), ..wanted("web") };
    for (input, code, says) in [
        (
            with(|input| input.name = Some("a_b".into())),
            "ValidationError",
            "alphanumeric characters or hyphens(-)",
        ),
        (
            with(|input| input.name = Some("internal-x".into())),
            "ValidationError",
            "cannot begin with 'internal-'",
        ),
        (
            with(|input| input.name = Some("-x".into())),
            "ValidationError",
            "cannot begin or end with a hyphen",
        ),
        (with(|input| input.r#type = Some("gateway".into())), "InvalidConfigurationRequest", "type gateway"),
        (
            with(|input| input.ip_address_type = Some("dualstack".into())),
            "InvalidConfigurationRequest",
            "dualstack",
        ),
        (with(|input| input.subnets = None), "ValidationError", "must be specified"),
        (with(|input| input.security_groups = Some(vec!["sg-9".into()])), "InvalidSecurityGroup", "sg-9"),
        (
            one,
            "ValidationError",
            "At least two subnets in two different Availability Zones must be specified",
        ),
        (same_zone, "InvalidConfigurationRequest", "multiple subnets in the same Availability Zone"),
        (unknown, "SubnetNotFound", "subnet-9"),
    ] {
        let (found, message) = refused(world.elb.create_load_balancer(&world.cx(), input).await);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message}");
    }
    let default = CreateLoadBalancerInput { security_groups: None, ..wanted("plain") };
    let made = world.elb.create_load_balancer(&world.cx(), default).await.unwrap().load_balancers.unwrap();
    assert_eq!(made[0].security_groups, Some(vec!["sg-default".to_owned()]));
}

#[tokio::test]
async fn what_is_in_use_or_protected_stays() {
    let world = World::new();
    let arn = world.balancer("web").await.load_balancer_arn.unwrap();
    let group = world.group("app").await;
    let listener = world.listener(&arn, 80, &group).await.unwrap();
    let delete_group = DeleteTargetGroupInput { target_group_arn: Some(group.clone()) };
    let (code, message) = refused(world.elb.delete_target_group(&world.cx(), delete_group.clone()).await);
    assert_eq!(code, "ResourceInUse");
    assert_eq!(message, format!("Target group '{group}' is currently in use by a listener or a rule"));
    let protect = |value: &str| ModifyLoadBalancerAttributesInput {
        load_balancer_arn: Some(arn.clone()),
        attributes: Some(vec![LoadBalancerAttribute {
            key: Some("deletion_protection.enabled".into()),
            value: Some(value.into()),
        }]),
    };
    world.elb.modify_load_balancer_attributes(&world.cx(), protect("true")).await.unwrap();
    let delete = DeleteLoadBalancerInput { load_balancer_arn: Some(arn.clone()) };
    let (code, message) = refused(world.elb.delete_load_balancer(&world.cx(), delete.clone()).await);
    assert_eq!(code, "OperationNotPermitted");
    assert_eq!(
        message,
        format!("Load balancer '{arn}' cannot be deleted because deletion protection is enabled")
    );
    world.elb.modify_load_balancer_attributes(&world.cx(), protect("false")).await.unwrap();
    // A group belongs to one balancer; a port to one listener.
    let other = world.balancer("other").await.load_balancer_arn.unwrap();
    assert_eq!(refused(world.listener(&other, 80, &group).await).0, "TargetGroupAssociationLimit");
    let second = world.group("second").await;
    let (code, message) = refused(world.listener(&arn, 80, &second).await);
    assert_eq!(code, "DuplicateListener");
    assert_eq!(message, format!("A listener already exists on this port for this load balancer '{arn}'"));
    assert_eq!(world.listener(&arn, 80, &group).await.unwrap(), listener);
    world.elb.delete_load_balancer(&world.cx(), delete).await.unwrap();
    world.elb.delete_target_group(&world.cx(), delete_group).await.unwrap();
    let described = DescribeTargetGroupsInput { target_group_arns: Some(vec![group]), ..Default::default() };
    let (code, message) = refused(world.elb.describe_target_groups(&world.cx(), described).await);
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("TargetGroupNotFound", "One or more target groups not found")
    );
}

#[tokio::test]
async fn rules_by_priority() {
    let world = World::new();
    let arn = world.balancer("web").await.load_balancer_arn.unwrap();
    let group = world.group("app").await;
    let listener = world.listener(&arn, 80, &group).await.unwrap();
    let rule = |priority: i32, path: &str| CreateRuleInput {
        listener_arn: Some(listener.clone()),
        priority: Some(priority),
        conditions: Some(vec![RuleCondition {
            field: Some("path-pattern".into()),
            values: Some(vec![path.to_owned()]),
            ..Default::default()
        }]),
        actions: Some(vec![forward(&group)]),
        ..Default::default()
    };
    let create = async |priority: i32, path: &str| {
        let made = world.elb.create_rule(&world.cx(), rule(priority, path)).await?;
        Ok::<_, ferrogate_api::ApiError>(made.rules.unwrap().remove(0).rule_arn.unwrap())
    };
    let ten = create(10, "/ten").await.unwrap();
    let nine = create(9, "/nine").await.unwrap();
    let (code, message) = refused(create(9, "/other").await);
    assert_eq!((code.as_str(), message.as_str()), ("PriorityInUse", "Priority '9' is currently in use"));
    let pair =
        |arn: &str, priority: i32| RulePriorityPair { rule_arn: Some(arn.into()), priority: Some(priority) };
    let swap = SetRulePrioritiesInput { rule_priorities: Some(vec![pair(&ten, 9), pair(&nine, 10)]) };
    world.elb.set_rule_priorities(&world.cx(), swap).await.unwrap();
    let input = DescribeRulesInput { listener_arn: Some(listener.clone()), ..Default::default() };
    let rules = world.elb.describe_rules(&world.cx(), input).await.unwrap().rules.unwrap();
    let order: Vec<_> = rules.iter().map(|rule| rule.priority.as_deref().unwrap()).collect();
    assert_eq!(order, ["9", "10", "default"]);
    assert_eq!(rules[0].rule_arn.as_deref(), Some(ten.as_str()));
    let default = DeleteRuleInput { rule_arn: rules[2].rule_arn.clone() };
    assert_eq!(refused(world.elb.delete_rule(&world.cx(), default).await).0, "OperationNotPermitted");
    world.elb.delete_rule(&world.cx(), DeleteRuleInput { rule_arn: Some(nine) }).await.unwrap();
    let oidc = Action { r#type: Some("authenticate-oidc".into()), ..Default::default() };
    let input = CreateRuleInput { actions: Some(vec![oidc, forward(&group)]), ..rule(20, "/x") };
    assert!(refused(world.elb.create_rule(&world.cx(), input).await).1.contains("authenticate-oidc"));
}

#[tokio::test]
async fn certificates_of_a_listener() {
    let world = World::new();
    let arn = world.balancer("web").await.load_balancer_arn.unwrap();
    let group = world.group("app").await;
    let certificate = |arn: &str| Certificate { certificate_arn: Some(arn.into()), is_default: None };
    let https = |certificates: Option<Vec<Certificate>>, policy: Option<&str>| CreateListenerInput {
        load_balancer_arn: Some(arn.clone()),
        protocol: Some("HTTPS".into()),
        port: Some(443),
        certificates,
        ssl_policy: policy.map(str::to_owned),
        default_actions: Some(vec![forward(&group)]),
        ..Default::default()
    };
    let unknown = "arn:aws:acm:us-east-1:123456789012:certificate/none";
    for (input, code) in [
        (https(None, None), "ValidationError"),
        (https(Some(vec![certificate(unknown)]), None), "CertificateNotFound"),
        (https(Some(vec![certificate(CERTIFICATE)]), Some("ELBSecurityPolicy-No")), "SSLPolicyNotFound"),
    ] {
        assert_eq!(refused(world.elb.create_listener(&world.cx(), input).await).0, code);
    }
    let input = https(Some(vec![certificate(CERTIFICATE)]), None);
    let listener = world.elb.create_listener(&world.cx(), input).await.unwrap().listeners.unwrap().remove(0);
    assert_eq!(listener.ssl_policy.as_deref(), Some("ELBSecurityPolicy-2016-08"));
    let uses = |of: &str| world.store.range(&format!("/certificate-use/{of}/")).len();
    assert_eq!((uses(CERTIFICATE), uses(CERTIFICATE_2)), (1, 0));
    let input = AddListenerCertificatesInput {
        listener_arn: listener.listener_arn.clone(),
        certificates: Some(vec![certificate(CERTIFICATE_2)]),
    };
    world.elb.add_listener_certificates(&world.cx(), input).await.unwrap();
    assert_eq!(uses(CERTIFICATE_2), 1);
    world.activate("elb-interfaces").await.unwrap();
    let published =
        world.published(|all| all.len() == 2 && all[0].listeners[0].certificate_arns.len() == 2).await;
    assert_eq!(published[0].listeners[0].certificate_arns, [CERTIFICATE, CERTIFICATE_2]);
    world
        .elb
        .delete_listener(&world.cx(), DeleteListenerInput { listener_arn: listener.listener_arn })
        .await
        .unwrap();
    assert_eq!((uses(CERTIFICATE), uses(CERTIFICATE_2)), (0, 0));
}

#[tokio::test]
async fn every_call_demands_its_right_on_what_it_names() {
    use ferrogate_api::Shape;
    let world = World::new();
    let arn = world.balancer("web").await.load_balancer_arn.unwrap();
    let tag = |value: &str| Tag { key: Some("team".into()), value: Some(value.into()) };
    let tagging = AddTagsInput { resource_arns: Some(vec![arn.clone()]), tags: Some(vec![tag("a")]) };
    world.elb.add_tags(&world.cx(), tagging).await.unwrap();
    let delete = DeleteLoadBalancerInput { load_balancer_arn: Some(arn.clone()) }.to_value();
    let demands = world.elb.demands(&world.cx(), "DeleteLoadBalancer", &delete);
    assert_eq!(
        (demands[0].action.as_str(), demands[0].resource.as_str()),
        ("elasticloadbalancing:DeleteLoadBalancer", arn.as_str())
    );
    assert!(demands[0].context.contains(&("aws:ResourceTag/team".into(), vec!["a".into()])));
    let create = CreateLoadBalancerInput { tags: Some(vec![tag("b")]), ..wanted("new") }.to_value();
    let demands = world.elb.demands(&world.cx(), "CreateLoadBalancer", &create);
    let actions: Vec<_> = demands.iter().map(|demand| demand.action.as_str()).collect();
    assert_eq!(actions, ["elasticloadbalancing:CreateLoadBalancer", "elasticloadbalancing:AddTags"]);
    assert!(demands[0].resource.ends_with(":loadbalancer/app/new/*"));
    assert!(
        demands[0].context.contains(&("elasticloadbalancing:Scheme".into(), vec!["internet-facing".into()]))
    );
}

#[tokio::test]
async fn client_certificates_are_asked_for_on_https_and_not_verified_here() {
    let world = World::new();
    let balancer = world.balancer("web").await.load_balancer_arn.unwrap();
    let group = world.group("app").await;
    let mutual = |mode: &str, trust_store: Option<&str>| MutualAuthenticationAttributes {
        mode: Some(mode.into()),
        trust_store_arn: trust_store.map(str::to_owned),
        ..Default::default()
    };
    let wanted = |protocol: &str, mutual: MutualAuthenticationAttributes| CreateListenerInput {
        load_balancer_arn: Some(balancer.clone()),
        protocol: Some(protocol.into()),
        port: Some(443),
        certificates: (protocol == "HTTPS")
            .then(|| vec![Certificate { certificate_arn: Some(CERTIFICATE.into()), is_default: None }]),
        default_actions: Some(vec![forward(&group)]),
        mutual_authentication: Some(mutual),
        ..Default::default()
    };
    let store = "arn:aws:elasticloadbalancing:us-east-1:123456789012:truststore/own/0123456789abcdef";
    for (input, code, says) in [
        (wanted("HTTP", mutual("passthrough", None)), "InvalidConfigurationRequest", "protocol 'HTTP'"),
        (wanted("HTTPS", mutual("passthrough", Some(store))), "ValidationError", "mode 'verify' only"),
        (wanted("HTTPS", mutual("verify", None)), "InvalidConfigurationRequest", "mode verify"),
        (wanted("HTTPS", mutual("verify", Some(store))), "TrustStoreNotFound", store),
        (wanted("HTTPS", mutual("on", None)), "ValidationError", "'off, passthrough, verify'"),
    ] {
        let (found, message) = refused(world.elb.create_listener(&world.cx(), input).await);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message}");
    }
    let input = wanted("HTTPS", mutual("passthrough", None));
    let made = world.elb.create_listener(&world.cx(), input).await.unwrap().listeners.unwrap().remove(0);
    let mode = |listener: &Listener| listener.mutual_authentication.clone().unwrap().mode.unwrap();
    assert_eq!(mode(&made), "passthrough");
    world.activate("elb-interfaces").await.unwrap();
    let passes = |passes: bool| {
        world.published(move |all| all.iter().any(|one| one.listeners[0].mtls_passthrough == passes))
    };
    passes(true).await;
    let modify = |mutual| ModifyListenerInput {
        listener_arn: made.listener_arn.clone(),
        mutual_authentication: mutual,
        ..Default::default()
    };
    // What nothing is said of stays.
    for (input, expected) in [(modify(None), "passthrough"), (modify(Some(mutual("off", None))), "off")] {
        let done = world.elb.modify_listener(&world.cx(), input).await.unwrap().listeners.unwrap();
        assert_eq!(mode(&done[0]), expected);
    }
    passes(false).await;
}

#[tokio::test]
async fn anomalies_are_told_where_they_are_looked_for() {
    let world = World::new();
    let balancer = world.balancer("web").await.load_balancer_arn.unwrap();
    let group = world.group("app").await;
    world.listener(&balancer, 80, &group).await.unwrap();
    world.register(&group, &["10.0.1.7"]).await.unwrap();
    world.activate("elb-interfaces").await.unwrap();
    let all =
        world.published(|all| all.len() == 2 && all.iter().all(|one| one.target_groups.len() == 1)).await;
    let told = async |include: Option<&str>| {
        let input = DescribeTargetHealthInput {
            target_group_arn: Some(group.clone()),
            include: include.map(|word| vec![word.to_owned()]),
            ..Default::default()
        };
        let answer = world.elb.describe_target_health(&world.cx(), input).await.unwrap();
        let found = answer.target_health_descriptions.unwrap().remove(0).anomaly_detection;
        found.map(|found| (found.result.unwrap(), found.mitigation_in_effect.unwrap()))
    };
    let said = |result: &str, mitigated: &str| Some((result.to_owned(), mitigated.to_owned()));
    assert_eq!(told(None).await, None);
    assert_eq!(told(Some("AnomalyDetection")).await, said("normal", "no"));
    // The worst of what the zones say.
    for (zone, anomaly, result, mitigated) in
        [(0, Anomaly::Seen, "anomalous", "no"), (1, Anomaly::Mitigated, "anomalous", "yes")]
    {
        let one = &all[zone];
        let target = &one.target_groups[0].targets[0];
        let report = BalancerReport {
            load_balancer_arn: one.load_balancer_arn.clone(),
            availability_zone: one.availability_zone.clone(),
            generation: one.generation,
            active: true,
            problem: None,
            targets: vec![TargetObservation {
                target_group_arn: group.clone(),
                ip: target.ip,
                port: target.port,
                state: TargetState::Healthy,
                reason: None,
                description: None,
                anomaly,
            }],
            metrics: Vec::new(),
        };
        world.elb.report(vec![report]).await.unwrap();
        assert_eq!(told(Some("All")).await, said(result, mitigated));
    }
}
