//! Hosted zones and record sets as their callers see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrogate_api::route53::*;
use ferrogate_api::{ApiError, BoxFuture, Call, Caller, Context, Invoke, Principal, PrincipalKind, Value};
use ferrogate_nodeapi::{Names, Routing};
use ferrogate_route53::Route53Service;
use ferrogate_store::MemoryStore;
use jiff::Timestamp;

/// An EC2 that knows VPCs whose id begins with `vpc-`, and an ELB with one balancer in each region, on its second page.
struct Others {
    /// Whether they are there.
    balancers: Arc<AtomicBool>,
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

impl Invoke for Others {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            if (call.service, call.operation) == ("elbv2", "DescribeLoadBalancers") {
                assert!(matches!(call.caller, Caller::Service { name: "route53.amazonaws.com", .. }));
                if call.input.get_str("Marker").is_none() {
                    return Ok(Value::Struct(vec![("NextMarker", text("1"))]));
                }
                if !self.balancers.load(Ordering::Relaxed) {
                    return Ok(Value::Struct(Vec::new()));
                }
                let name = format!("Web-1.{}.elb.amazonaws.com", call.region);
                let zone = ("CanonicalHostedZoneId", text(&format!("ZELB{}", call.region)));
                let balancer = Value::Struct(vec![("DNSName", Value::String(name)), zone]);
                return Ok(Value::Struct(vec![("LoadBalancers", Value::List(vec![balancer]))]));
            }
            assert_eq!((call.service, call.operation), ("ec2", "DescribeVpcs"));
            let ids = call.input.get_strs("VpcIds");
            if !ids[0].starts_with("vpc-") {
                return Err(ApiError::new("InvalidVpcID.NotFound", "no"));
            }
            let vpc = Value::Struct(vec![("VpcId", Value::String(ids[0].to_owned()))]);
            Ok(Value::Struct(vec![("Vpcs", Value::List(vec![vpc]))]))
        })
    }
}

fn context(kind: PrincipalKind) -> Context {
    let arn = "arn:aws:iam::123456789012:root";
    Context {
        account: "123456789012".into(),
        region: "us-east-1".into(),
        request_id: "r".into(),
        principal: Arc::new(Principal {
            arn: arn.into(),
            account: "123456789012".into(),
            user_id: "123456789012".into(),
            kind,
            tags: Vec::new(),
        }),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now: Timestamp::from_second(1_795_000_000).unwrap(),
    }
}

struct World {
    service: Route53Service,
    balancers: Arc<AtomicBool>,
    cx: Context,
}

fn zone(name: &str, reference: &str, vpc: Option<&str>) -> CreateHostedZoneRequest {
    CreateHostedZoneRequest {
        name: Some(name.into()),
        caller_reference: Some(reference.into()),
        vpc: vpc.map(|id| VPC { vpc_region: Some("us-east-1".into()), vpc_id: Some(id.into()) }),
        ..Default::default()
    }
}

fn set(name: &str, kind: &str, values: &[&str]) -> ResourceRecordSet {
    let record = |value: &&str| ResourceRecord { value: Some((*value).to_owned()) };
    ResourceRecordSet {
        name: Some(name.into()),
        r#type: Some(kind.into()),
        ttl: Some(60),
        resource_records: Some(values.iter().map(record).collect()),
        ..Default::default()
    }
}

impl World {
    fn new() -> Self {
        let balancers = Arc::new(AtomicBool::new(true));
        let others = Others { balancers: Arc::clone(&balancers) };
        let service = Route53Service::new(Arc::new(MemoryStore::new()), Arc::new(others));
        Self { service, balancers, cx: context(PrincipalKind::Root) }
    }

    async fn made(&self, request: CreateHostedZoneRequest) -> String {
        let made = self.service.create_hosted_zone(&self.cx, request).await.unwrap();
        made.hosted_zone.unwrap().id.unwrap()
    }

    async fn change(
        &self,
        cx: &Context,
        id: &str,
        changes: &[(&str, ResourceRecordSet)],
    ) -> Result<String, ApiError> {
        let change = |(action, set): &(&str, ResourceRecordSet)| Change {
            action: Some((*action).to_owned()),
            resource_record_set: Some(set.clone()),
        };
        let batch = ChangeBatch { comment: None, changes: Some(changes.iter().map(change).collect()) };
        let input =
            ChangeResourceRecordSetsRequest { hosted_zone_id: Some(id.into()), change_batch: Some(batch) };
        let answer = self.service.change_resource_record_sets(cx, input).await?;
        Ok(answer.change_info.unwrap().id.unwrap())
    }

    async fn refused(&self, id: &str, changes: &[(&str, ResourceRecordSet)]) -> String {
        let error = self.change(&self.cx, id, changes).await.unwrap_err();
        assert!(error.code == "InvalidChangeBatch" || error.code == "InvalidInput", "{error}");
        error.message
    }

    async fn listed(&self, id: &str) -> Vec<String> {
        let input = ListResourceRecordSetsRequest { hosted_zone_id: Some(id.into()), ..Default::default() };
        let sets = self.service.list_resource_record_sets(&self.cx, input).await.unwrap();
        let words = |set: ResourceRecordSet| format!("{} {}", set.name.unwrap(), set.r#type.unwrap());
        sets.resource_record_sets.unwrap().into_iter().map(words).collect()
    }
}

#[tokio::test]
async fn a_batch_is_done_whole_or_not_at_all() {
    let world = World::new();
    let id = world.made(zone("Example.local", "1", Some("vpc-1"))).await;
    let a = || set("a.example.local", "A", &["10.0.0.1"]);
    world.change(&world.cx, &id, &[("CREATE", a())]).await.unwrap();
    let wrong = [
        ("CREATE", set("b.example.local", "A", &["10.0.0.2"])),
        ("CREATE", a()),
        ("DELETE", set("c.example.local", "A", &["10.0.0.3"])),
        ("UPSERT", set("d.example.local", "A", &["no"])),
        ("UPSERT", set("d.example.org", "A", &["10.0.0.1"])),
    ];
    assert_eq!(
        world.refused(&id, &wrong).await,
        "[Tried to create resource record set [name='a.example.local.', type='A'] but it already exists, \
         Tried to delete resource record set [name='c.example.local.', type='A'] but it was not found, \
         Invalid Resource Record: 'FATAL problem: ARRDATAIllegalIPv4Address (Value is not a valid IPv4 address) encountered with 'no'', \
         RRSet with DNS name d.example.org. is not permitted in zone example.local.]"
    );
    assert_eq!(world.listed(&id).await, ["example.local. NS", "example.local. SOA", "a.example.local. A"]);
    let other = set("a.example.local", "A", &["10.0.0.9"]);
    assert_eq!(
        world.refused(&id, &[("DELETE", other.clone())]).await,
        "[Tried to delete resource record set [name='a.example.local.', type='A'] but the values provided do not match the current values]"
    );
    // A replacement is a DELETE and a CREATE of the same set.
    world.change(&world.cx, &id, &[("DELETE", a()), ("CREATE", other)]).await.unwrap();
    let cname = set("a.example.local", "CNAME", &["b.example.local"]);
    assert!(world.refused(&id, &[("CREATE", cname)]).await.contains("conflicts with other records"));
    let cname = set("example.local", "CNAME", &["b.example.local"]);
    assert!(world.refused(&id, &[("CREATE", cname)]).await.contains("is not permitted at apex"));
    let latency = ResourceRecordSet { region: Some("us-east-1".into()), ..a() };
    assert!(world.refused(&id, &[("CREATE", latency)]).await.contains("latency routing"));
}

#[tokio::test]
async fn an_alias_names_the_zone_of_its_load_balancer() {
    let world = World::new();
    let id = world.made(zone("example.local", "1", Some("vpc-1"))).await;
    let own = id.rsplit('/').next().unwrap();
    let alias = |kind: &str, zone_id: &str, target: &str| {
        let target = AliasTarget {
            hosted_zone_id: Some(zone_id.into()),
            dns_name: Some(target.into()),
            evaluate_target_health: Some(true),
        };
        ResourceRecordSet {
            name: Some("www.example.local".into()),
            r#type: Some(kind.into()),
            alias_target: Some(target),
            ..Default::default()
        }
    };
    let outside = "the alias target name does not lie within the target zone";
    let missing = "that target was not found";
    let balancer = "web-1.us-east-1.elb.amazonaws.com";
    for (kind, zone_id, target, problems) in [
        ("A", "ZELBeu-west-1", balancer, vec![outside]),
        ("A", own, balancer, vec![outside, missing]),
        ("A", "ZELBus-east-1", "gone-1.us-east-1.elb.amazonaws.com", vec![missing]),
        ("TXT", "ZELBus-east-1", balancer, vec![missing]),
        ("A", own, "none.example.local", vec![missing]),
        ("A", "Z2FDTNDATAQYW2", "d1.cloudfront.net", vec![outside]),
    ] {
        let words = |what| {
            format!(
                "Tried to create an alias that targets {target}., type {kind} in zone {zone_id}, but {what}"
            )
        };
        let words: Vec<String> = problems.into_iter().map(words).collect();
        let refused = world.refused(&id, &[("CREATE", alias(kind, zone_id, target))]).await;
        assert_eq!(refused, format!("[{}]", words.join(", ")));
    }
    let right = alias("A", "ZELBus-east-1", &format!("dualstack.{}.", balancer.to_uppercase()));
    let mut names = world.service.names();
    world.change(&world.cx, &id, &[("CREATE", right.clone())]).await.unwrap();
    let leads_there = |names: &Arc<Names>| {
        let mut records = names.zones.iter().flat_map(|zone| &zone.records);
        records.any(|set| set.alias.as_deref() == Some(balancer))
    };
    names.wait_for(leads_there).await.unwrap();
    // A balancer that is gone leaves its alias behind, which keeps nothing else from being changed.
    world.balancers.store(false, Ordering::Relaxed);
    world.change(&world.cx, &id, &[("CREATE", set("a.example.local", "A", &["10.0.0.1"]))]).await.unwrap();
    let again = alias("A", "ZELBus-east-1", balancer);
    assert!(world.refused(&id, &[("UPSERT", again)]).await.ends_with("but that target was not found]"));
    world.change(&world.cx, &id, &[("DELETE", right)]).await.unwrap();
}

#[tokio::test]
async fn what_is_published_is_in_sync() {
    let world = World::new();
    let mut names = world.service.names();
    let id = world.made(zone("example.local", "1", Some("vpc-1"))).await;
    let weighted = ResourceRecordSet {
        set_identifier: Some("x".into()),
        weight: Some(7),
        ..set("w.example.local", "A", &["10.0.0.1"])
    };
    let change = world.change(&world.cx, &id, &[("CREATE", weighted)]).await.unwrap();
    names.wait_for(|names| names.zones.iter().any(|zone| zone.records.len() == 3)).await.unwrap();
    let zone = names.borrow().zones[0].clone();
    assert_eq!((zone.name.as_str(), zone.vpc_ids), ("example.local", Some(vec!["vpc-1".into()])));
    assert!(zone.records.iter().any(|set| set.routing == Routing::Weighted(7)));
    let input = GetChangeRequest { id: Some(change) };
    let status = world.service.get_change(&world.cx, input).await.unwrap().change_info.unwrap().status;
    assert_eq!(status.as_deref(), Some("INSYNC"));
}

#[tokio::test]
async fn zones_and_their_vpcs() {
    let world = World::new();
    let private = world.made(zone("example.local", "1", Some("vpc-1"))).await;
    let code = |error: ApiError| error.code;
    let create = |request| world.service.create_hosted_zone(&world.cx, request);
    assert_eq!(code(create(zone("other", "1", None)).await.unwrap_err()), "HostedZoneAlreadyExists");
    assert_eq!(
        code(create(zone("example.local", "2", Some("vpc-1"))).await.unwrap_err()),
        "ConflictingDomainExists"
    );
    assert_eq!(code(create(zone("example.local", "2", Some("bad"))).await.unwrap_err()), "InvalidVPCId");
    assert_eq!(code(create(zone("a..b", "2", None)).await.unwrap_err()), "InvalidDomainName");
    let public = create(zone("example.com", "3", None)).await.unwrap();
    assert_eq!(public.delegation_set.unwrap().name_servers.unwrap().len(), 4);
    let dnssec =
        |id: Option<String>| world.service.get_dnssec(&world.cx, GetDNSSECRequest { hosted_zone_id: id });
    let signed = dnssec(public.hosted_zone.unwrap().id).await.unwrap().status.unwrap();
    assert_eq!(signed.serve_signature.as_deref(), Some("NOT_SIGNING"));
    assert_eq!(code(dnssec(Some(private.clone())).await.unwrap_err()), "InvalidArgument");
    let vpc = |id: &str| Some(VPC { vpc_region: Some("us-east-1".into()), vpc_id: Some(id.into()) });
    let leave = |id: &str| DisassociateVPCFromHostedZoneRequest {
        hosted_zone_id: Some(private.clone()),
        vpc: vpc(id),
        comment: None,
    };
    let error = world.service.disassociate_vpc_from_hosted_zone(&world.cx, leave("vpc-1")).await.unwrap_err();
    assert_eq!(error.code, "LastVPCAssociation");
    let join = AssociateVPCWithHostedZoneRequest {
        hosted_zone_id: Some(private.clone()),
        vpc: vpc("vpc-2"),
        comment: None,
    };
    world.service.associate_vpc_with_hosted_zone(&world.cx, join).await.unwrap();
    world.service.disassociate_vpc_from_hosted_zone(&world.cx, leave("vpc-1")).await.unwrap();
    // The name is free in that VPC again.
    world.made(zone("example.local", "4", Some("vpc-1"))).await;
    let input = DeleteHostedZoneRequest { id: Some(private.clone()) };
    world.service.delete_hosted_zone(&world.cx, input.clone()).await.unwrap();
    let error = world.service.delete_hosted_zone(&world.cx, input).await.unwrap_err();
    assert_eq!(error.code, "NoSuchHostedZone");
}

#[tokio::test]
async fn a_services_zone_is_changed_by_that_service_alone() {
    let world = World::new();
    let cloud_map = context(PrincipalKind::Service { name: "servicediscovery.amazonaws.com".into() });
    let request = CreateHostedZoneRequest {
        hosted_zone_config: Some(HostedZoneConfig {
            comment: Some("Created by AWS Cloud Map namespace with ARN arn:aws:x".into()),
            private_zone: Some(true),
        }),
        ..zone("example.local", "1", Some("vpc-1"))
    };
    let made = world.service.create_hosted_zone(&cloud_map, request).await.unwrap();
    let id = made.hosted_zone.unwrap().id.unwrap();
    let change = [("CREATE", set("a.example.local", "A", &["10.0.0.1"]))];
    let error = world.change(&world.cx, &id, &change).await.unwrap_err();
    assert_eq!(error.code, "AccessDenied");
    assert!(error.message.ends_with("can only be managed through AWS Cloud Map (arn:aws:x)"), "{error}");
    world.change(&cloud_map, &id, &change).await.unwrap();
}

#[tokio::test]
async fn a_full_zone_is_changed_as_an_empty_one_is() {
    let world = World::new();
    let id = world.made(zone("full.example", "full", None)).await;
    let names: Vec<String> = (0..9_997).map(|n| format!("host-{n}.full.example")).collect();
    for some in names.chunks(400) {
        let all: Vec<_> = some.iter().map(|name| ("CREATE", set(name, "A", &["10.0.0.1"]))).collect();
        world.change(&world.cx, &id, &all).await.unwrap();
    }
    // An alias within the zone keeps what it leads to, wherever that is.
    let mut alias = set("alias.full.example", "A", &[]);
    alias.ttl = None;
    alias.resource_records = None;
    alias.alias_target = Some(AliasTarget {
        hosted_zone_id: Some(id.clone()),
        dns_name: Some("host-5.full.example".into()),
        evaluate_target_health: Some(false),
    });
    world.change(&world.cx, &id, &[("CREATE", alias.clone())]).await.unwrap();
    let one_more =
        world.change(&world.cx, &id, &[("CREATE", set("more.full.example", "A", &["10.0.0.1"]))]).await;
    assert!(one_more.unwrap_err().message.contains("10000 record sets at most"));
    let gone = ("DELETE", set("host-5.full.example", "A", &["10.0.0.1"]));
    assert!(world.refused(&id, std::slice::from_ref(&gone)).await.contains("that target was not found"));
    world.change(&world.cx, &id, &[("DELETE", alias)]).await.unwrap();
    world.change(&world.cx, &id, &[gone]).await.unwrap();
    world.change(&world.cx, &id, &[("UPSERT", set("more.full.example", "A", &["10.0.0.1"]))]).await.unwrap();
}
