//! Service Connect: namespaces, endpoints, what tasks are told of them, instances.

mod support;

use ferrogate_api::ecs::{self, Ecs};
use ferrogate_api::{ApiError, Value};
use ferrogate_nodeapi::{AppProtocol, Connect, ContainerStatus, DesiredStatus, Health, ObservedStatus};
use serde_json::{Value as Json, json};
use support::cloud_map::arn;
use support::services::{Cluster, Nature, is_stable, service};
use support::{NODE, container_report, input, report, sample, with, with_container};

const NAMESPACE: &str = "shop";

/// The sample with a port that has a name.
fn named_port(changes: Json) -> Json {
    let port = with(json!({ "containerPort": 80, "name": "http", "appProtocol": "http" }), changes);
    with_container(json!({ "portMappings": [port] }))
}

fn endpoint(changes: Json) -> Json {
    with(json!({ "portName": "http", "clientAliases": [{ "port": 80, "dnsName": "web" }] }), changes)
}

fn connect(endpoints: &[Json]) -> Json {
    json!({ "serviceConnectConfiguration": {
        "enabled": true, "namespace": NAMESPACE, "services": endpoints } })
}

/// A cluster, a definition with a named port, and the namespace.
async fn world() -> (Cluster, String) {
    let cluster = Cluster::new().await;
    cluster.0.register(named_port(json!({}))).await.unwrap();
    let namespace = cluster.0.cloud.cloud_map.namespace(NAMESPACE);
    (cluster, namespace)
}

async fn create(cluster: &Cluster, name: &str, changes: Json) -> Result<ecs::Service, ApiError> {
    let request = with(with(service(json!({ "serviceName": name })), json!({ "desiredCount": 1 })), changes);
    let answer = cluster.0.service.create_service(&cluster.0.cx(), input(request)).await?;
    Ok(answer.service.unwrap())
}

/// What the tasks of a service that are to run have been told.
fn told(cluster: &Cluster, name: &str) -> Vec<Connect> {
    let list = cluster.0.service.assignments(NODE).borrow().clone();
    let own = list
        .iter()
        .filter(|task| task.service_name.as_deref() == Some(name) && task.desired == DesiredStatus::Running);
    own.map(|task| task.connect.clone().expect("a part in Service Connect")).collect()
}

fn aliases(connect: &Connect) -> Vec<(String, u16)> {
    connect.clients.iter().map(|one| (one.dns_name.clone(), one.port)).collect()
}

fn nature(image: &str) -> Nature {
    if image == "ghost" { Nature::Fails } else { Nature::Runs }
}

async fn until(cluster: &Cluster, what: &str, is_so: impl Fn() -> bool) {
    cluster
        .0
        .until(what, async |world| {
            cluster.step(world, nature).await;
            world.wake("ecs-endpoints");
            is_so()
        })
        .await;
}

async fn cluster_call(cluster: &Cluster, namespace: &str) -> Result<ecs::Cluster, ApiError> {
    let request = json!({ "cluster": "default", "serviceConnectDefaults": { "namespace": namespace } });
    Ok(cluster.0.service.update_cluster(&cluster.0.cx(), input(request)).await?.cluster.unwrap())
}

fn default_of(cluster: &ecs::Cluster) -> Option<String> {
    cluster.service_connect_defaults.as_ref()?.namespace.clone()
}

#[tokio::test]
async fn a_cluster_has_a_default_namespace() {
    let cluster = Cluster::new().await;
    let map = &cluster.0.cloud.cloud_map;
    let request = json!({ "clusterName": "shop", "serviceConnectDefaults": { "namespace": "made" } });
    let create = async || {
        let answer = cluster.0.service.create_cluster(&cluster.0.cx(), input(request.clone())).await;
        answer.unwrap().cluster.unwrap()
    };
    let made = default_of(&create().await).unwrap();
    assert!(made.starts_with("arn:aws:servicediscovery:us-east-1:123456789012:namespace/ns-"), "{made}");
    assert_eq!(default_of(&create().await).as_ref(), Some(&made));
    assert_eq!(map.namespaces(), [("made".to_owned(), true)]);

    assert_eq!(default_of(&cluster_call(&cluster, "made").await.unwrap()).as_ref(), Some(&made));
    assert_eq!(default_of(&cluster_call(&cluster, &made).await.unwrap()).as_ref(), Some(&made));
    for (named, code, words) in [
        (arn("namespace/ns-x"), "NamespaceNotFoundException", "Failed to retrieve namespace for arn:"),
        (arn("service/srv-x"), "NamespaceNotFoundException", "Failed to retrieve namespace for arn:"),
        ("a/b".to_owned(), "InvalidParameterException", "Invalid namespace name 'a/b'"),
        ("a b".to_owned(), "InvalidParameterException", "Invalid namespace name 'a b'"),
        ("x".repeat(1025), "InvalidParameterException", "up to 1024"),
    ] {
        let error = cluster_call(&cluster, &named).await.unwrap_err();
        assert_eq!(error.code, code, "{}", error.message);
        assert!(error.message.contains(words), "{}", error.message);
    }
    assert_eq!(map.namespaces().len(), 1);

    // It is what services of the cluster are in that name none.
    let shown = self::create(&cluster, "api", json!({ "serviceConnectConfiguration": { "enabled": true } }));
    let shown = shown.await.unwrap().deployments.unwrap().remove(0).service_connect_configuration.unwrap();
    assert_eq!(shown.namespace, Some(made));
    assert_eq!(default_of(&cluster_call(&cluster, "").await.unwrap()), None);
    let none = self::create(&cluster, "other", json!({ "serviceConnectConfiguration": { "enabled": true } }));
    let error = none.await.unwrap_err();
    assert_eq!(error.code, "InvalidParameterException");
    assert!(error.message.starts_with("A namespace is required to use Service Connect"), "{}", error.message);
}

#[tokio::test]
async fn from_the_service_to_its_tasks_and_away_again() {
    let (cluster, namespace) = world().await;
    let map = &cluster.0.cloud.cloud_map;
    let asked = connect(&[endpoint(json!({ "timeout": { "idleTimeoutSeconds": 7 } }))]);
    let made = cluster.create(asked.clone()).await.unwrap();
    let (id, service) = map.by_name("http").unwrap();
    assert_eq!((&service.namespace, service.managed), (&namespace, true));
    let deployment = made.deployments.unwrap().remove(0);
    let shown = serde_json::to_value(deployment.service_connect_configuration).unwrap();
    assert_eq!(shown, asked["serviceConnectConfiguration"]);
    let resource = deployment.service_connect_resources.unwrap().remove(0);
    assert_eq!(resource.discovery_name.as_deref(), Some("http"));
    assert_eq!(resource.discovery_arn, Some(arn(&format!("service/{id}"))));
    let revision = made.current_service_revisions.unwrap().remove(0).arn.unwrap();
    let request = json!({ "serviceRevisionArns": [revision] });
    let revisions =
        cluster.0.service.describe_service_revisions(&cluster.0.cx(), input(request)).await.unwrap();
    let revision = revisions.service_revisions.unwrap().remove(0);
    let shown = serde_json::to_value(revision.service_connect_configuration).unwrap();
    assert_eq!(shown, asked["serviceConnectConfiguration"]);

    cluster.until_stable().await;
    let mine = told(&cluster, "web");
    assert_eq!(mine.len(), 2);
    assert!(mine[0].servers.is_empty());
    let client = mine[0].clients[0].clone();
    assert_eq!((client.service_id, client.discovery_name), (id.clone(), "http".to_owned()));
    assert_eq!((client.dns_name.as_str(), client.port, client.protocol), ("web", 80, AppProtocol::Http));
    assert_eq!((client.timeouts.idle_seconds, client.timeouts.per_request_seconds), (Some(7), None));
    let tasks = cluster.tasks("RUNNING").await;
    let instances = map.instances("http");
    assert_eq!(instances.len(), 2);
    for task in &tasks {
        let task_id = task.task_arn.as_ref().unwrap().rsplit('/').next().unwrap();
        let zone = task.availability_zone.as_deref().unwrap();
        let ip = task.containers.as_ref().unwrap()[0].network_interfaces.as_ref().unwrap()[0]
            .private_ipv4_address
            .clone()
            .unwrap();
        for (name, value) in [
            ("AWS_INSTANCE_IPV4", ip.as_str()),
            ("AWS_INSTANCE_PORT", "80"),
            ("AVAILABILITY_ZONE", zone),
            ("ECS_CLUSTER_NAME", "default"),
            ("ECS_SERVICE_NAME", "web"),
            ("ECS_TASK_DEFINITION_FAMILY", "sample-fargate-app"),
        ] {
            assert_eq!(instances[task_id][name], value);
        }
        let attachment = &task.attachments.as_ref().unwrap()[1];
        assert_eq!(attachment.r#type.as_deref(), Some("ServiceConnect"));
        assert_eq!(attachment.status.as_deref(), Some("ATTACHED"));
        let details = attachment.details.as_ref().unwrap();
        let detail = |name: &str| {
            details.iter().find(|one| one.name.as_deref() == Some(name)).and_then(|one| one.value.clone())
        };
        let name = detail("ContainerName").unwrap();
        assert!(name.starts_with("ecs-service-connect-") && name.len() == 25 && details.len() == 1, "{name}");
    }

    // Its node hears of a task's end when nobody is sent to it any more.
    cluster.update(json!({ "desiredCount": 1 })).await.unwrap();
    until(&cluster, "one less", || map.instances("http").len() == 1).await;
    cluster.until_stable().await;

    cluster.delete(json!({ "force": true })).await.unwrap();
    until(&cluster, "the Cloud Map service is gone", || map.services().is_empty()).await;
    assert_eq!(cluster.describe().await.status.as_deref(), Some("INACTIVE"));
    let connect = cluster.0.store.range("/ecs/123456789012/us-east-1/connect/");
    assert!(connect.kvs.is_empty());
    until(&cluster, "no work is left", || cluster.0.store.range("/ecs-work/connect/").kvs.is_empty()).await;
}

#[tokio::test]
async fn a_deployment_sees_what_is_there_when_it_begins() {
    let (cluster, _) = world().await;
    let map = &cluster.0.cloud.cloud_map;
    create(&cluster, "client", connect(&[])).await.unwrap();
    until(&cluster, "the client runs", || told(&cluster, "client").len() == 1).await;
    cluster.create(connect(&[endpoint(json!({}))])).await.unwrap();
    cluster.until_stable().await;
    assert_eq!(aliases(&told(&cluster, "client")[0]), []);
    assert_eq!(map.instances("http").len(), 2);

    // One that takes a dead one's place belongs to the same deployment.
    let before = cluster.0.service.assignments(NODE).borrow().clone();
    let before = before.iter().find(|task| task.service_name.as_deref() == Some("client")).unwrap();
    cluster.0.stop(&before.task_arn).await;
    let replaced = || {
        let list = cluster.0.service.assignments(NODE).borrow().clone();
        let mut own = list.iter().filter(|task| task.service_name.as_deref() == Some("client"));
        own.any(|task| task.task_arn != before.task_arn && task.desired == DesiredStatus::Running)
    };
    until(&cluster, "replaced", replaced).await;
    assert!(told(&cluster, "client").iter().all(|one| one.clients.is_empty()));

    let request = json!({ "service": "client", "forceNewDeployment": true });
    cluster.0.service.update_service(&cluster.0.cx(), input(request)).await.unwrap();
    let sees = || told(&cluster, "client").iter().any(|one| aliases(one) == [("web".to_owned(), 80)]);
    until(&cluster, "the new deployment sees it", sees).await;

    let request = json!({ "namespace": NAMESPACE });
    let answer = cluster.0.service.list_services_by_namespace(&cluster.0.cx(), input(request)).await.unwrap();
    let service = |name: &str| format!("arn:aws:ecs:us-east-1:123456789012:service/default/{name}");
    assert_eq!(answer.service_arns, Some(vec![service("client"), service("web")]));
    let request = json!({ "namespace": "ghost" });
    let error =
        cluster.0.service.list_services_by_namespace(&cluster.0.cx(), input(request)).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("NamespaceNotFoundException", "Failed to retrieve namespace for ghost")
    );
}

#[tokio::test]
async fn through_the_proxy_of_the_server() {
    let (cluster, _) = world().await;
    let through = endpoint(json!({ "ingressPortOverride": 9000, "discoveryName": "front" }));
    let default_alias =
        json!({ "portName": "http", "discoveryName": "plain", "clientAliases": [{ "port": 8080 }] });
    cluster.create(connect(&[through, default_alias])).await.unwrap();
    cluster.until_stable().await;
    let told = told(&cluster, "web").remove(0);
    assert_eq!(told.servers.len(), 1);
    let server = &told.servers[0];
    assert_eq!(
        (server.discovery_name.as_str(), server.ingress_port, server.container_port, server.protocol),
        ("front", 9000, 80, AppProtocol::Http)
    );
    assert_eq!(aliases(&told), [("web".to_owned(), 80), ("plain.shop".to_owned(), 8080)]);
    let ports = |name: &str| -> Vec<String> {
        let instances = cluster.0.cloud.cloud_map.instances(name);
        instances.into_values().map(|mut one| one.remove("AWS_INSTANCE_PORT").unwrap()).collect()
    };
    assert_eq!(ports("front"), ["9000", "9000"]);
    assert_eq!(ports("plain"), ["80", "80"]);
}

#[tokio::test]
async fn a_task_that_fails_its_checks_is_left_out() {
    let cluster = Cluster::new().await;
    let map = &cluster.0.cloud.cloud_map;
    map.namespace(NAMESPACE);
    let mut definition = named_port(json!({}));
    definition["containerDefinitions"][0]["healthCheck"] = json!({ "command": ["CMD-SHELL", "true"] });
    cluster.0.register(definition).await.unwrap();
    create(&cluster, "web", connect(&[endpoint(json!({}))])).await.unwrap();
    let list = cluster.0.until_assigned(|list| list.len() == 1).await;
    let says = |sequence, health| {
        let container = ferrogate_nodeapi::ContainerReport {
            health,
            ..container_report("sample-app", ContainerStatus::Running, None)
        };
        cluster.0.report(ferrogate_nodeapi::TaskReport {
            started_at: Some(cluster.0.clock_now()),
            containers: vec![container],
            ..report(&list[0].task_arn, sequence, ObservedStatus::Running)
        })
    };
    says(1, Health::Unknown).await;
    cluster.0.until("it is seen", async |world| world.detail("ecs-services")["to_do"] == 0).await;
    assert!(map.instances("http").is_empty());
    says(2, Health::Healthy).await;
    cluster.0.until("it is there", async |_| map.instances("http").len() == 1).await;
    says(3, Health::Unhealthy).await;
    cluster.0.until("it is left out", async |_| map.instances("http").is_empty()).await;
}

#[tokio::test]
async fn names_and_aliases_are_one_services() {
    let (cluster, namespace) = world().await;
    let map = &cluster.0.cloud.cloud_map;
    cluster.create(connect(&[endpoint(json!({}))])).await.unwrap();
    let used = format!("SC service is already used by {}", arn(&format!("namespace/{namespace}")));
    let other = |changes: Json| connect(&[endpoint(changes)]);
    let error =
        create(&cluster, "other", other(json!({ "clientAliases": [{ "port": 1 }] }))).await.unwrap_err();
    assert_eq!((error.code.as_str(), &error.message), ("InvalidParameterException", &used));
    let error = create(&cluster, "other", other(json!({ "discoveryName": "other" }))).await.unwrap_err();
    assert!(
        error.message.starts_with("The client alias web:80 is already used by the service web."),
        "{error}"
    );
    // What a customer has made of this name is his.
    map.service(&namespace, "mine");
    let named = |name: &str| {
        endpoint(json!({ "discoveryName": name, "clientAliases": [{ "port": 80, "dnsName": name }] }))
    };
    let error = create(&cluster, "other", connect(&[named("lost"), named("mine")])).await.unwrap_err();
    assert_eq!(error.message, used);
    assert!(map.by_name("lost").is_some());
    // Cloud Map's word comes through, and the name is free again for the same service.
    map.errors.lock().unwrap().push(ApiError::new("ResourceLimitExceeded", "too many"));
    let free = connect(&[named("free")]);
    let error = create(&cluster, "other", free.clone()).await.unwrap_err();
    assert_eq!(error.message, "AWS Cloud Map refused: too many (ErrorCode: ResourceLimitExceeded)");
    create(&cluster, "other", free).await.unwrap();
    // What was claimed for nothing is given up: what ECS has made is deleted, and nothing of the customer's.
    let left = || {
        let record =
            cluster.0.store.get(&format!("/ecs/123456789012/us-east-1/connect/{namespace}")).unwrap();
        let record: Json = serde_json::from_slice(&record.value).unwrap();
        record["endpoints"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    until(&cluster, "the claims are over", || left() == ["free", "http"]).await;
    assert!(map.by_name("mine").is_some() && map.by_name("lost").is_none());
}

#[tokio::test]
async fn a_service_can_be_made_again_while_it_leaves() {
    let (cluster, _) = world().await;
    let map = &cluster.0.cloud.cloud_map;
    cluster.create(connect(&[endpoint(json!({}))])).await.unwrap();
    cluster.until_stable().await;
    cluster.delete(json!({ "force": true })).await.unwrap();
    cluster
        .0
        .until("INACTIVE", async |world| {
            cluster.step(world, |_| Nature::Runs).await;
            cluster.describe().await.status.as_deref() == Some("INACTIVE")
        })
        .await;
    cluster.create(connect(&[endpoint(json!({}))])).await.unwrap();
    cluster.until_stable().await;
    until(&cluster, "registered", || map.instances("http").len() == 2).await;
    until(&cluster, "no work is left", || cluster.0.store.range("/ecs-work/connect/").kvs.is_empty()).await;
    assert_eq!(map.services().len(), 1);
    assert_eq!(told(&cluster, "web")[0].clients[0].service_id, map.by_name("http").unwrap().0);
}

#[tokio::test]
async fn updated_and_rolled_back() {
    let (cluster, _) = world().await;
    let map = &cluster.0.cloud.cloud_map;
    cluster.create(json!({})).await.unwrap();
    cluster.until_stable().await;
    assert!(cluster.tasks("RUNNING").await.iter().all(|task| task.attachments.as_ref().unwrap().len() == 1));
    // It joins.
    let joined = cluster.update(connect(&[endpoint(json!({}))])).await.unwrap();
    assert_eq!(joined.deployments.unwrap().len(), 2);
    cluster.until_stable().await;
    assert_eq!(map.instances("http").len(), 2);

    // Another alias, on an image that never comes: the alias of before is offered again.
    let mut failing = named_port(json!({}));
    failing["containerDefinitions"][0]["image"] = json!("ghost");
    cluster.0.register(failing).await.unwrap();
    let breaker = json!({
        "taskDefinition": "sample-fargate-app",
        "deploymentConfiguration": { "deploymentCircuitBreaker": { "enable": true, "rollback": true } },
    });
    let moved = endpoint(json!({ "clientAliases": [{ "port": 81, "dnsName": "moved" }] }));
    cluster.update(with(breaker, connect(&[moved]))).await.unwrap();
    let seen = async |name: &str| {
        create(
            &cluster,
            name,
            json!({
            "taskDefinition": "sample-fargate-app:2", "desiredCount": 1,
            "serviceConnectConfiguration": { "enabled": true, "namespace": NAMESPACE } }),
        )
        .await
        .unwrap();
        until(&cluster, "it runs", || told(&cluster, name).len() == 1).await;
        aliases(&told(&cluster, name)[0])
    };
    assert_eq!(seen("during").await, [("moved".to_owned(), 81)]);
    let rolled_back = |service: &ecs::Service| {
        let first = &service.deployments.as_ref().unwrap()[0];
        is_stable(service) && first.task_definition.as_ref().unwrap().ends_with(":2")
    };
    cluster.until("rolled back", nature, rolled_back).await;
    until(&cluster, "no work is left", || cluster.0.store.range("/ecs-work/connect/").kvs.is_empty()).await;
    assert_eq!(seen("after").await, [("web".to_owned(), 80)]);
    assert_eq!(map.instances("http").len(), 2);

    // It leaves: its endpoint is offered to nobody, and stays only for a rollback.
    let off = cluster.update(json!({ "serviceConnectConfiguration": { "enabled": false } })).await.unwrap();
    let shown = off.deployments.unwrap().remove(0).service_connect_configuration;
    assert_eq!(shown.unwrap().enabled, Some(false));
    cluster.until_stable().await;
    until(&cluster, "no instance is left", || map.instances("http").is_empty()).await;
    until(&cluster, "no work is left", || cluster.0.store.range("/ecs-work/connect/").kvs.is_empty()).await;
    assert_eq!(seen("later").await, []);
}

#[tokio::test]
async fn a_renamed_endpoint_stays_for_rollbacks_only() {
    let (cluster, _) = world().await;
    let map = &cluster.0.cloud.cloud_map;
    let named = |name: &str| connect(&[endpoint(json!({ "discoveryName": name }))]);
    cluster.create(named("a")).await.unwrap();
    cluster.until_stable().await;
    for name in ["b", "c", "d"] {
        assert!(map.by_name("a").is_some());
        cluster.update(named(name)).await.unwrap();
        cluster.until_stable().await;
    }
    until(&cluster, "the first is gone", || map.by_name("a").is_none()).await;
    assert!(["b", "c", "d"].iter().all(|name| map.by_name(name).is_some()));
}

#[tokio::test]
async fn what_cloud_map_lost_is_made_again() {
    let (cluster, _) = world().await;
    let map = &cluster.0.cloud.cloud_map;
    cluster.create(connect(&[endpoint(json!({}))])).await.unwrap();
    let (id, _) = map.by_name("http").unwrap();
    map.lose(&id);
    let complains = |service: &ecs::Service| {
        let words =
            format!("in {} with (error Failed to find service {id}.).", arn(&format!("service/{id}")));
        service.events.iter().flatten().any(|event| event.message.as_ref().unwrap().contains(&words))
    };
    cluster.until("it says so", |_| Nature::Runs, complains).await;
    cluster.update(json!({ "forceNewDeployment": true })).await.unwrap();
    until(&cluster, "registered", || map.instances("http").len() >= 2).await;
    cluster.until_stable().await;
}

#[tokio::test]
async fn refused() {
    let (cluster, _) = world().await;
    let mut ports = named_port(json!({}));
    ports["containerDefinitions"][0]["portMappings"] = json!([
        { "containerPort": 80, "name": "http", "appProtocol": "http" },
        { "containerPort": 81, "name": "tcp" },
        { "containerPort": 82, "name": "udp", "protocol": "udp" },
        { "containerPortRange": "90-95", "name": "range" },
    ]);
    cluster.0.register(ports).await.unwrap();
    let one = |changes: Json| connect(&[endpoint(changes)]);
    let with_connect = |changes: Json| {
        let base = connect(&[endpoint(json!({}))])["serviceConnectConfiguration"].clone();
        json!({ "serviceConnectConfiguration": with(base, changes) })
    };
    let alias = |alias: Json| one(json!({ "clientAliases": [alias] }));
    let invalid = "InvalidParameterException";
    for (changes, code, words) in [
        (
            with_connect(json!({ "namespace": "ghost" })),
            "NamespaceNotFoundException",
            "Failed to retrieve namespace for ghost",
        ),
        (
            one(json!({ "portName": "ghost" })),
            invalid,
            "The portName 'ghost' of the Service Connect configuration is not the name",
        ),
        (one(json!({ "portName": "udp" })), invalid, "has the protocol udp"),
        (one(json!({ "portName": "range" })), invalid, "is a port range"),
        (one(json!({ "clientAliases": null })), invalid, "clientAliases must have 1 element."),
        (
            one(json!({ "clientAliases": [{ "port": 1 }, { "port": 2 }] })),
            invalid,
            "clientAliases must have 1 element.",
        ),
        (one(json!({ "discoveryName": "Web" })), invalid, "Invalid discoveryName 'Web'."),
        (one(json!({ "discoveryName": "-web" })), invalid, "Invalid discoveryName '-web'."),
        (one(json!({ "discoveryName": "a.b" })), invalid, "Invalid discoveryName 'a.b'."),
        (one(json!({ "discoveryName": "x".repeat(65) })), invalid, "Up to 64"),
        (alias(json!({ "port": 0 })), invalid, "port of a client alias"),
        (alias(json!({ "port": 80, "dnsName": "Web" })), invalid, "Invalid dnsName 'Web'."),
        (alias(json!({ "port": 80, "dnsName": "x".repeat(128) })), invalid, "Up to 127"),
        (
            alias(json!({ "port": 80, "testTrafficRules": { "header": { "name": "x y" } } })),
            invalid,
            "Invalid header name 'x y' in testTrafficRules",
        ),
        (
            alias(
                json!({ "port": 80, "testTrafficRules": { "header": { "name": "x", "value": { "exact": "\n" } } } }),
            ),
            invalid,
            "Invalid exact value in testTrafficRules",
        ),
        (
            one(json!({ "portName": "tcp", "clientAliases": [
                { "port": 80, "testTrafficRules": { "header": { "name": "x" } } },
            ] })),
            invalid,
            "testTrafficRules can only be set if the appProtocol",
        ),
        (one(json!({ "ingressPortOverride": 0 })), invalid, "ingressPortOverride"),
        (one(json!({ "ingressPortOverride": 81 })), invalid, "is a container port of the task definition"),
        (
            one(json!({ "portName": "tcp", "timeout": { "perRequestTimeoutSeconds": 1 } })),
            invalid,
            "perRequestTimeoutSeconds can only be set if",
        ),
        (
            one(json!({ "tls": { "issuerCertificateAuthority": { "awsPcaAuthorityArn": "arn:pca" } } })),
            "ClientException",
            "'serviceConnectConfiguration.services.tls'",
        ),
        (
            with_connect(json!({ "accessLogConfiguration": { "format": "TEXT" } })),
            invalid,
            "you must also specify a logConfiguration",
        ),
        (
            with_connect(json!({ "containerConfigurations": [{ "logLevel": "debug" }] })),
            "ClientException",
            "'serviceConnectConfiguration.containerConfigurations'",
        ),
        (
            connect(&[endpoint(json!({})), endpoint(json!({}))]),
            invalid,
            "The discoveryName 'http' is there twice.",
        ),
        (
            connect(&[endpoint(json!({})), endpoint(json!({ "discoveryName": "other" }))]),
            invalid,
            "The client alias web:80 is already used.",
        ),
    ] {
        let error = cluster.create(changes.clone()).await.expect_err(&changes.to_string());
        assert_eq!(error.code, code, "{changes}: {}", error.message);
        assert!(error.message.contains(words), "{changes}: {}", error.message);
    }
    let external = json!({
        "serviceName": "sets", "deploymentController": { "type": "EXTERNAL" },
        "serviceConnectConfiguration": { "enabled": true, "namespace": NAMESPACE },
    });
    let error = cluster.0.service.create_service(&cluster.0.cx(), input(external)).await.unwrap_err();
    assert_eq!(error.message, "Service Connect is supported with the deployment controller ECS only.");
    assert!(cluster.0.cloud.cloud_map.services().is_empty());

    cluster.create(one(json!({}))).await.unwrap();
    cluster.0.register(named_port(json!({ "appProtocol": "grpc" }))).await.unwrap();
    let error = cluster.update(json!({ "taskDefinition": "sample-fargate-app" })).await.unwrap_err();
    assert!(
        error.message.starts_with("The appProtocol of the Service Connect service 'http' is immutable."),
        "{error}"
    );
    cluster.0.register(sample()).await.unwrap();
    let error = cluster.update(json!({ "taskDefinition": "sample-fargate-app" })).await.unwrap_err();
    assert!(error.message.starts_with("The portName 'http'"), "{error}");
}

#[tokio::test]
async fn a_policy_sees_the_namespace() {
    let (cluster, namespace) = world().await;
    let arn = arn(&format!("namespace/{namespace}"));
    cluster_call(&cluster, &arn).await.unwrap();
    let seen = |asked: Json| -> Vec<Vec<String>> {
        let request: Value =
            serde_json::from_value(service(json!({ "serviceConnectConfiguration": asked }))).unwrap();
        let demands = cluster.0.service.demands(&cluster.0.cx(), "CreateService", &request);
        let of = |key: &str| {
            let found = demands[0].context.iter().find(|(name, _)| name == key);
            found.map(|(_, values)| values.clone()).unwrap_or_default()
        };
        vec![of("ecs:enable-service-connect"), of("ecs:namespace")]
    };
    let texts = |enabled: &str, namespace: &[&str]| {
        vec![vec![enabled.to_owned()], namespace.iter().map(|&one| one.to_owned()).collect()]
    };
    assert_eq!(seen(json!({ "enabled": true })), texts("true", &[&arn]));
    assert_eq!(seen(json!({ "enabled": true, "namespace": "other" })), texts("true", &["other"]));
    assert_eq!(seen(json!({ "enabled": false })), texts("false", &[]));
}
