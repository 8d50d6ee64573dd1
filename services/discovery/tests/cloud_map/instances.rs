//! What is discovered of instances, by API and by the nodes.

use std::sync::Arc;

use crate::world::{World, map};
use ferrogate_api::ApiError;
use ferrogate_api::servicediscovery::*;
use ferrogate_nodeapi::Endpoints;

/// In an HTTP namespace `apis`: a service's id.
async fn service(world: &World, name: &str) -> String {
    let input = CreateHttpNamespaceRequest { name: Some("apis".into()), ..Default::default() };
    // There from the second service on.
    let _ = world.cloud_map.create_http_namespace(&world.cx, input).await;
    let found = world.cloud_map.list_namespaces(&world.cx, Default::default()).await.unwrap();
    let id = found.namespaces.unwrap().remove(0).id.unwrap();
    world.service(&id, name, None).await
}

fn question(health: Option<&str>) -> DiscoverInstancesRequest {
    DiscoverInstancesRequest {
        namespace_name: Some("apis".into()),
        service_name: Some("web".into()),
        health_status: health.map(str::to_owned),
        ..Default::default()
    }
}

async fn discovered(world: &World, question: DiscoverInstancesRequest) -> (Vec<String>, i64) {
    let found = world.cloud_map.discover_instances(&world.cx, question).await.unwrap();
    let instances = found.instances.unwrap().into_iter().map(|one| one.instance_id.unwrap());
    (instances.collect(), found.instances_revision.unwrap())
}

async fn say(world: &World, service_id: &str, id: &str, status: &str) -> Result<(), ApiError> {
    let input = UpdateInstanceCustomHealthStatusRequest {
        service_id: Some(service_id.into()),
        instance_id: Some(id.into()),
        status: Some(status.into()),
    };
    world.cloud_map.update_instance_custom_health_status(&world.cx, input).await.map(drop)
}

#[tokio::test]
async fn instances_are_discovered_by_health_and_attributes() {
    let world = World::new();
    let web = service(&world, "web").await;
    for (id, zone) in [("a", "1"), ("b", "1"), ("c", "2")] {
        world.register(&web, id, &[("zone", zone), ("id", id)]).await;
    }
    say(&world, &web, "b", "UNHEALTHY").await.unwrap();
    for (health, ids) in [
        (None, &["a", "c"][..]),
        (Some("HEALTHY"), &["a", "c"]),
        (Some("UNHEALTHY"), &["b"]),
        (Some("ALL"), &["a", "b", "c"]),
        (Some("HEALTHY_OR_ELSE_ALL"), &["a", "c"]),
    ] {
        assert_eq!(discovered(&world, question(health)).await.0, ids, "{health:?}");
    }
    let with = |query: &[(&str, &str)], optional: &[(&str, &str)]| DiscoverInstancesRequest {
        query_parameters: Some(map(query)),
        optional_parameters: Some(map(optional)),
        ..question(Some("ALL"))
    };
    assert_eq!(discovered(&world, with(&[("zone", "1")], &[])).await.0, ["a", "b"]);
    assert_eq!(discovered(&world, with(&[("zone", "1")], &[("id", "b")])).await.0, ["b"]);
    assert_eq!(discovered(&world, with(&[("zone", "1")], &[("id", "c")])).await.0, ["a", "b"]);
    assert!(discovered(&world, with(&[("zone", "3")], &[])).await.0.is_empty());
    // Where the only one that fits is ill, it is that one all the same.
    let ill = DiscoverInstancesRequest { query_parameters: Some(map(&[("id", "b")])), ..question(None) };
    assert_eq!(discovered(&world, ill).await.0, ["b"]);
    let one = DiscoverInstancesRequest { max_results: Some(1), ..question(None) };
    assert_eq!(discovered(&world, one).await.0, ["a"]);
    let elsewhere = DiscoverInstancesRequest { service_name: Some("none".into()), ..question(None) };
    let error = world.cloud_map.discover_instances(&world.cx, elsewhere).await.unwrap_err();
    assert_eq!(error.code, "ServiceNotFound");
}

#[tokio::test]
async fn the_revision_goes_up_with_every_change_of_a_services_instances_alone() {
    let world = World::new();
    let (web, other) = (service(&world, "web").await, service(&world, "other").await);
    let mut known = 0;
    let mut went_up = async || {
        let input = DiscoverInstancesRevisionRequest {
            namespace_name: Some("apis".into()),
            service_name: Some("web".into()),
            ..Default::default()
        };
        let now = world.cloud_map.discover_instances_revision(&world.cx, input).await.unwrap();
        let now = now.instances_revision.unwrap();
        assert_eq!(discovered(&world, question(None)).await.1, now);
        std::mem::replace(&mut known, now) < now
    };
    assert!(went_up().await);
    world.register(&web, "a", &[]).await;
    assert!(went_up().await);
    say(&world, &web, "a", "UNHEALTHY").await.unwrap();
    assert!(went_up().await);
    say(&world, &web, "a", "UNHEALTHY").await.unwrap();
    assert!(!went_up().await, "nothing changed");
    world.register(&other, "a", &[]).await;
    assert!(!went_up().await, "another service's");
    let input = DeregisterInstanceRequest { service_id: Some(web), instance_id: Some("a".into()) };
    world.cloud_map.deregister_instance(&world.cx, input).await.unwrap();
    assert!(went_up().await);
}

#[tokio::test]
async fn custom_health_is_of_services_that_have_it() {
    let world = World::new();
    let web = service(&world, "web").await;
    let found = world.cloud_map.list_namespaces(&world.cx, Default::default()).await.unwrap();
    let plain = CreateServiceRequest {
        name: Some("plain".into()),
        namespace_id: found.namespaces.unwrap().remove(0).id,
        ..Default::default()
    };
    let plain = world.cloud_map.create_service(&world.cx, plain).await.unwrap().service.unwrap().id.unwrap();
    for id in [&web, &plain] {
        world.register(id, "a", &[]).await;
    }
    let code = |said: Result<(), ApiError>| said.unwrap_err().code;
    assert_eq!(code(say(&world, &plain, "a", "UNHEALTHY").await), "CustomHealthNotFound");
    assert_eq!(code(say(&world, &web, "none", "UNHEALTHY").await), "InstanceNotFound");
    assert_eq!(code(say(&world, "srv-none", "a", "UNHEALTHY").await), "ServiceNotFound");

    world.register(&web, "born-ill", &[("AWS_INIT_HEALTH_STATUS", "UNHEALTHY")]).await;
    let of = |service_id: &str| GetInstancesHealthStatusRequest {
        service_id: Some(service_id.into()),
        ..Default::default()
    };
    let status = world.cloud_map.get_instances_health_status(&world.cx, of(&web)).await.unwrap().status;
    assert_eq!(status, Some(map(&[("a", "HEALTHY"), ("born-ill", "UNHEALTHY")])));
    let status = world.cloud_map.get_instances_health_status(&world.cx, of(&plain)).await.unwrap().status;
    assert_eq!(status, Some(map(&[("a", "UNKNOWN")])));
    let unknown = GetInstancesHealthStatusRequest { instances: Some(vec!["z".into()]), ..of(&web) };
    let error = world.cloud_map.get_instances_health_status(&world.cx, unknown).await.unwrap_err();
    assert_eq!(error.code, "InstanceNotFound");
}

#[tokio::test]
async fn nodes_are_told_of_instances_that_can_be_called_and_of_nothing_else() {
    let world = World::new();
    let web = service(&world, "web").await;
    let mut endpoints = world.cloud_map.endpoints();
    let address = |last: &str| [("AWS_INSTANCE_IPV4", format!("10.0.0.{last}"))];
    let register = async |id: &str, last: &str, extra: &[(&str, &str)]| {
        let [(key, address)] = address(last);
        let attributes = [&[(key, address.as_str()), ("AWS_INSTANCE_PORT", "80")], extra].concat();
        world.register(&web, id, &attributes).await
    };
    let ids = |told: &Arc<Endpoints>| {
        let of = told.services.get(&web).cloned().unwrap_or_default();
        of.into_iter()
            .map(|one| format!("{} {}:{}", one.instance_id, one.address, one.port))
            .collect::<Vec<_>>()
    };
    register("b", "2", &[]).await;
    register("a", "1", &[]).await;
    world.register(&web, "nowhere", &[("k", "v")]).await;
    let both = |told: &Arc<Endpoints>| ids(told) == ["a 10.0.0.1:80", "b 10.0.0.2:80"];
    endpoints.wait_for(both).await.unwrap();
    assert!(endpoints.borrow().revision > 0);

    // What comes next is told; what is between says nothing new.
    register("a", "1", &[("version", "2")]).await;
    say(&world, &web, "nowhere", "UNHEALTHY").await.unwrap();
    endpoints.borrow_and_update();
    say(&world, &web, "b", "UNHEALTHY").await.unwrap();
    endpoints.changed().await.unwrap();
    assert_eq!(ids(&endpoints.borrow_and_update()), ["a 10.0.0.1:80"]);
    say(&world, &web, "b", "HEALTHY").await.unwrap();
    endpoints.wait_for(both).await.unwrap();
    let input = DeregisterInstanceRequest { service_id: Some(web.clone()), instance_id: Some("a".into()) };
    world.cloud_map.deregister_instance(&world.cx, input).await.unwrap();
    endpoints.wait_for(|told| ids(told) == ["b 10.0.0.2:80"]).await.unwrap();
    let fresh =
        ferrogate_discovery::DiscoveryService::new(Arc::<ferrogate_store::MemoryStore>::clone(&world.store));
    assert_eq!(ids(&fresh.endpoints().borrow()), ["b 10.0.0.2:80"], "at once, when it begins");
}
