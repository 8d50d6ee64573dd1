//! What the controller makes of operations, and what it leaves behind when Route 53 refuses.

use crate::world::{REFUSED, World};
use ferrogate_api::ApiError;
use ferrogate_api::servicediscovery::*;

const CNAME: &str = "AWS_INSTANCE_CNAME";

fn namespace(name: &str) -> CreatePrivateDnsNamespaceRequest {
    CreatePrivateDnsNamespaceRequest {
        name: Some(name.into()),
        vpc: Some("vpc-1".into()),
        ..Default::default()
    }
}

/// Its id, and that of the operation that makes it.
async fn create(world: &World, name: &str) -> (String, String) {
    let made = world.cloud_map.create_private_dns_namespace(&world.cx, namespace(name)).await.unwrap();
    let operation = world.operation(&made.operation_id.unwrap()).await;
    (operation.targets.unwrap()["NAMESPACE"].clone(), operation.id.unwrap())
}

async fn created(world: &World, name: &str) -> String {
    let (id, operation) = create(world, name).await;
    world.settle().await;
    assert_eq!(world.end(&operation).await, "SUCCESS");
    id
}

async fn get(world: &World, id: &str) -> Result<Namespace, ApiError> {
    let input = GetNamespaceRequest { id: Some(id.into()) };
    world.cloud_map.get_namespace(&world.cx, input).await.map(|answer| answer.namespace.unwrap())
}

async fn delete(world: &World, id: &str) -> Result<String, ApiError> {
    let input = DeleteNamespaceRequest { id: Some(id.into()) };
    world.cloud_map.delete_namespace(&world.cx, input).await.map(|answer| answer.operation_id.unwrap())
}

async fn instances(world: &World, service_id: &str) -> Vec<String> {
    let input = ListInstancesRequest { service_id: Some(service_id.into()), ..Default::default() };
    let found = world.cloud_map.list_instances(&world.cx, input).await.unwrap().instances.unwrap();
    found.into_iter().map(|instance| instance.id.unwrap()).collect()
}

#[tokio::test]
async fn of_a_namespace_that_fails_half_way_nothing_is_left() {
    let world = World::new();
    // The zone is made; its SOA is not the namespace's.
    world.route53.refuse("ChangeResourceRecordSets", "AccessDenied");
    let (id, operation) = create(&world, "example.local").await;
    assert_eq!(world.end(&operation).await, "PENDING");
    assert_eq!(get(&world, &id).await.unwrap_err().code, "NamespaceNotFound", "not before it is made");
    world.settle().await;
    assert_eq!(world.end(&operation).await, "FAIL ACCESS_DENIED");
    let said = world.operation(&operation).await.error_message;
    assert_eq!(said.as_deref(), Some("no ChangeResourceRecordSets"));
    assert_eq!(get(&world, &id).await.unwrap_err().code, "NamespaceNotFound");
    assert!(world.route53.zones.lock().unwrap().is_empty(), "nobody else could ever delete the zone");

    world.route53.allow_all();
    created(&world, "example.local").await;
}

#[tokio::test]
async fn a_zone_that_cannot_be_made_is_said() {
    let world = World::new();
    world.route53.refuse("CreateHostedZone", "InvalidVPCId");
    let (_, operation) = create(&world, "example.local").await;
    world.settle().await;
    assert_eq!(world.end(&operation).await, "FAIL CANNOT_CREATE_HOSTED_ZONE");
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let world = World::new();
    for code in ["PriorRequestNotComplete", "InternalFailure"] {
        world.route53.refuse("ChangeResourceRecordSets", code);
        let name = format!("{}.local", code.to_lowercase());
        let (id, operation) = create(&world, &name).await;
        let activation = world.activate().await;
        assert!(activation.outcome.unwrap_err().contains(code));
        assert!(activation.again_in.is_some(), "the work did not change, and wakes nobody");
        assert_eq!(world.end(&operation).await, "PENDING");
        let again = world.cloud_map.create_private_dns_namespace(&world.cx, namespace(&name)).await;
        assert_eq!(again.unwrap_err().code, "NamespaceAlreadyExists");

        world.route53.allow_all();
        world.settle().await;
        assert_eq!(world.end(&operation).await, "SUCCESS");
        let zones = world.route53.zones.lock().unwrap();
        assert_eq!(zones.values().filter(|zone| zone.reference == id).count(), 1, "the one of the first try");
    }
}

#[tokio::test]
async fn the_same_creation_again_is_a_duplicate_while_it_is_under_way() {
    let world = World::new();
    let request = || CreatePrivateDnsNamespaceRequest {
        creator_request_id: Some("once".into()),
        ..namespace("example.local")
    };
    let first = world.cloud_map.create_private_dns_namespace(&world.cx, request()).await.unwrap();
    let again = world.cloud_map.create_private_dns_namespace(&world.cx, request()).await.unwrap_err();
    assert_eq!(again.code, "DuplicateRequest");
    assert_eq!(again.members[0].1.as_str(), first.operation_id.as_deref());
    world.settle().await;
    let after = world.cloud_map.create_private_dns_namespace(&world.cx, request()).await.unwrap_err();
    assert_eq!(after.code, "NamespaceAlreadyExists");
}

#[tokio::test]
async fn the_same_update_again_is_the_former_one() {
    let world = World::new();
    let id = created(&world, "example.local").await;
    let update = async |request: Option<&str>, ttl: i64| {
        let soa = SOAChange { ttl: Some(ttl) };
        let dns_properties = Some(PrivateDnsPropertiesMutableChange { soa: Some(soa) });
        let input = UpdatePrivateDnsNamespaceRequest {
            id: Some(id.clone()),
            updater_request_id: request.map(str::to_owned),
            namespace: Some(PrivateDnsNamespaceChange {
                description: None,
                properties: Some(PrivateDnsNamespacePropertiesChange { dns_properties }),
            }),
        };
        let answer = world.cloud_map.update_private_dns_namespace(&world.cx, input).await;
        answer.map(|answer| answer.operation_id.unwrap())
    };
    let ttl = async || {
        let dns = get(&world, &id).await.unwrap().properties.unwrap().dns_properties.unwrap();
        dns.soa.unwrap().ttl.unwrap()
    };
    let first = update(Some("once"), 20).await.unwrap();
    let again = update(Some("once"), 20).await.unwrap_err();
    assert_eq!((again.code.as_str(), again.members[0].1.as_str()), ("DuplicateRequest", Some(&*first)));
    world.settle().await;
    // What came after it stays, however late it is said again.
    let second = update(Some("twice"), 30).await.unwrap();
    world.settle().await;
    assert_eq!(update(Some("once"), 20).await.unwrap(), first);
    assert_eq!((ttl().await, world.end(&second).await.as_str()), (30, "SUCCESS"));
    let other = update(Some("once"), 40).await.unwrap_err();
    assert_eq!(other.code, "InvalidInput");
    assert!(other.message.contains("once"), "{}", other.message);
    let unnamed = update(None, 30).await.unwrap();
    assert!(unnamed != first && unnamed != second);
    world.settle().await;

    // One that failed is no success to come back to.
    world.route53.refuse("ChangeResourceRecordSets", "AccessDenied");
    let failed = update(Some("failed"), 50).await.unwrap();
    world.settle().await;
    assert_eq!(world.end(&failed).await, "FAIL ACCESS_DENIED");
    world.route53.allow_all();
    assert_ne!(update(Some("failed"), 50).await.unwrap(), failed);
    world.settle().await;
    assert_eq!(ttl().await, 50);

    // Done at once, without any work.
    let input = CreateHttpNamespaceRequest { name: Some("apis".into()), ..Default::default() };
    let made = world.cloud_map.create_http_namespace(&world.cx, input).await.unwrap().operation_id.unwrap();
    let apis = world.operation(&made).await.targets.unwrap().remove("NAMESPACE");
    let input = || UpdateHttpNamespaceRequest {
        id: apis.clone(),
        updater_request_id: Some("once".into()),
        namespace: Some(HttpNamespaceChange { description: Some("new".into()) }),
    };
    let one = world.cloud_map.update_http_namespace(&world.cx, input()).await.unwrap();
    assert_eq!(world.cloud_map.update_http_namespace(&world.cx, input()).await.unwrap(), one);
}

#[tokio::test]
async fn records_that_an_update_leaves_out_are_deleted() {
    let world = World::new();
    let id = created(&world, "example.local").await;
    let service = world.service(&id, "web", Some("CNAME")).await;
    world.register(&service, "one", &[(CNAME, "one.example.com")]).await;
    world.settle().await;
    let update = async |of: &str, change: ServiceChange| {
        let input = UpdateServiceRequest { id: Some(of.to_owned()), service: Some(change) };
        world.cloud_map.update_service(&world.cx, input).await.map(|answer| answer.operation_id.unwrap())
    };
    let with = |ttl: i64| ServiceChange {
        dns_config: Some(DnsConfigChange {
            dns_records: Some(vec![DnsRecord { r#type: Some("CNAME".into()), ttl: Some(ttl) }]),
        }),
        ..Default::default()
    };
    let told = async || {
        let input = GetServiceRequest { id: Some(service.clone()) };
        let service = world.cloud_map.get_service(&world.cx, input).await.unwrap().service.unwrap();
        (service.r#type.unwrap(), service.dns_config.is_some(), service.description)
    };
    update(&service, with(20)).await.unwrap();
    world.settle().await;
    assert_eq!(world.route53.published(), ["one one.example.com"]);
    assert_eq!(told().await, ("DNS_HTTP".to_owned(), true, None));

    let described = || ServiceChange { description: Some("d".into()), ..Default::default() };
    let operation = update(&service, described()).await.unwrap();
    assert_eq!(told().await, ("HTTP".to_owned(), false, Some("d".to_owned())));
    world.settle().await;
    assert_eq!(world.end(&operation).await, "SUCCESS");
    assert!(world.route53.published().is_empty());
    assert_eq!(instances(&world, &service).await, ["one"], "found by API alone");
    assert_eq!(update(&service, with(20)).await.unwrap_err().code, "InvalidInput");
    world.register(&service, "two", &[]).await;
    world.settle().await;
    assert!(world.route53.published().is_empty());

    let input = CreateHttpNamespaceRequest { name: Some("apis".into()), ..Default::default() };
    let made = world.cloud_map.create_http_namespace(&world.cx, input).await.unwrap().operation_id.unwrap();
    let apis = world.operation(&made).await.targets.unwrap().remove("NAMESPACE").unwrap();
    let service = world.service(&apis, "web", None).await;
    let refused = update(&service, described()).await.unwrap_err();
    assert_eq!(refused.code, "InvalidInput");
    assert!(refused.message.contains("HTTP namespace"), "{}", refused.message);
}

#[tokio::test]
async fn a_namespace_that_cannot_be_deleted_is_there_as_before() {
    let world = World::new();
    let id = created(&world, "example.local").await;
    world.route53.refuse("DeleteHostedZone", "HostedZoneNotEmpty");
    let operation = delete(&world, &id).await.unwrap();
    let again = delete(&world, &id).await.unwrap_err();
    assert_eq!((again.code.as_str(), again.members[0].1.as_str()), ("DuplicateRequest", Some(&*operation)));
    let input = CreateServiceRequest {
        name: Some("late".into()),
        namespace_id: Some(id.clone()),
        ..Default::default()
    };
    let late = world.cloud_map.create_service(&world.cx, input).await.unwrap_err();
    assert_eq!(late.code, "NamespaceNotFound");
    world.settle().await;
    assert!(world.end(&operation).await.starts_with("FAIL "));
    assert_eq!(get(&world, &id).await.unwrap().name.as_deref(), Some("example.local"));

    world.route53.allow_all();
    world.service(&id, "web", None).await;
    assert_eq!(delete(&world, &id).await.unwrap_err().code, "ResourceInUse");
}

#[tokio::test]
async fn an_instance_that_cannot_be_published_fails_no_other() {
    let world = World::new();
    let id = created(&world, "example.local").await;
    let service = world.service(&id, "web", Some("CNAME")).await;
    let one = world.register(&service, "one", &[(CNAME, "one.example.com")]).await;
    world.settle().await;

    let bad = world.register(&service, "bad", &[(CNAME, REFUSED)]).await;
    let two = world.register(&service, "two", &[(CNAME, "two.example.com")]).await;
    let moved = world.register(&service, "one", &[(CNAME, "moved.example.com")]).await;
    let worse = world.register(&service, "worse", &[(CNAME, REFUSED)]).await;
    let twice = world.try_register(&service, "two", &[(CNAME, "other.example.com")]).await.unwrap_err();
    assert_eq!((twice.code.as_str(), twice.members[0].1.as_str()), ("DuplicateRequest", Some(&*two)));
    world.settle().await;
    for (operation, end) in [
        (one, "SUCCESS"),
        (bad, "FAIL INVALID_CHANGE_BATCH"),
        (two, "SUCCESS"),
        (moved, "SUCCESS"),
        (worse, "FAIL INVALID_CHANGE_BATCH"),
    ] {
        assert_eq!(world.end(&operation).await, end);
    }
    assert_eq!(instances(&world, &service).await, ["one", "two"]);
    assert_eq!(world.route53.published(), ["one moved.example.com", "two two.example.com"]);
}

#[tokio::test]
async fn of_an_instance_that_cannot_be_published_again_nothing_is_left_in_the_zone() {
    let world = World::new();
    let id = created(&world, "example.local").await;
    let service = world.service(&id, "web", Some("CNAME")).await;
    world.register(&service, "one", &[(CNAME, "one.example.com")]).await;
    world.settle().await;
    assert_eq!(world.route53.published(), ["one one.example.com"]);
    let operation = world.register(&service, "one", &[(CNAME, REFUSED)]).await;
    world.settle().await;
    assert_eq!(world.end(&operation).await, "FAIL INVALID_CHANGE_BATCH");
    assert!(instances(&world, &service).await.is_empty());
    assert!(world.route53.published().is_empty());
}

#[tokio::test]
async fn a_service_is_there_until_its_records_are_gone() {
    let world = World::new();
    let id = created(&world, "example.local").await;
    let service = world.service(&id, "web", Some("CNAME")).await;
    world.register(&service, "one", &[(CNAME, "one.example.com")]).await;
    world.settle().await;
    let delete_service = || {
        let input = DeleteServiceRequest { id: Some(service.clone()) };
        world.cloud_map.delete_service(&world.cx, input)
    };
    assert_eq!(delete_service().await.unwrap_err().code, "ResourceInUse");
    let input =
        DeregisterInstanceRequest { service_id: Some(service.clone()), instance_id: Some("one".into()) };
    let operation = world.cloud_map.deregister_instance(&world.cx, input.clone()).await.unwrap();
    let again = world.cloud_map.deregister_instance(&world.cx, input).await.unwrap_err();
    assert_eq!(again.code, "InstanceNotFound");
    // Nobody would take its records out of the zone.
    assert_eq!(delete_service().await.unwrap_err().code, "ResourceInUse");
    world.settle().await;
    assert_eq!(world.end(&operation.operation_id.unwrap()).await, "SUCCESS");
    assert!(world.route53.published().is_empty());
    delete_service().await.unwrap();
    let operation = delete(&world, &id).await.unwrap();
    world.settle().await;
    assert_eq!(world.end(&operation).await, "SUCCESS");
    assert!(world.route53.zones.lock().unwrap().is_empty());
}

#[tokio::test]
async fn operations_are_found_by_what_they_are_about() {
    let world = World::new();
    let (id, made) = create(&world, "example.local").await;
    world.settle().await;
    let service = world.service(&id, "web", None).await;
    let registered = world.register(&service, "one", &[]).await;
    let listed = |name: &str, condition: &str, values: &[&str]| {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let filter = OperationFilter {
            name: Some(name.into()),
            condition: Some(condition.into()),
            values: Some(values),
        };
        let input = ListOperationsRequest { filters: Some(vec![filter]), ..Default::default() };
        async {
            let found = world.cloud_map.list_operations(&world.cx, input).await.unwrap().operations.unwrap();
            found.into_iter().map(|operation| operation.id.unwrap()).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed("NAMESPACE_ID", "EQ", &[&id]).await, [made.as_str()]);
    assert_eq!(listed("TYPE", "IN", &["REGISTER_INSTANCE"]).await, [registered.as_str()]);
    assert_eq!(listed("STATUS", "EQ", &["SUCCESS"]).await.len(), 2);
    let now = world.cx.now.as_second();
    let (from, to) = ((now - 1).to_string(), (now + 1).to_string());
    assert_eq!(listed("UPDATE_DATE", "BETWEEN", &[&from, &to]).await.len(), 2);
    assert!(listed("UPDATE_DATE", "BETWEEN", &["0", &from]).await.is_empty());
}
