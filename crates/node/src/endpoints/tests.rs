//! The endpoints as a container meets them: HTTP, over a socket.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use async_trait::async_trait;
use ferrogate_nodeapi::{
    Architecture, ContainerAssignment, ContainerStatus, ControlPlaneError, Fabric, Health, HealthCheck,
    LogDriver, LogLine, MountPoint, ObservedStatus, PortMapping, Protection, ProtectionChange,
    RegistryCredentials, RestartPolicy, RoleCredentials, TaskAssignment, TaskNetwork, TaskReport,
};
use ferrogate_sandbox::{ContainerUsage, StorageUsage, TaskStats, Usage};
use ferrogate_vpc::Counters;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::*;

const TASK_ARN: &str = "arn:aws:ecs:us-east-1:123456789012:task/shop/cd189a933e5849daa93386466019ab50";
const CLUSTER_ARN: &str = "arn:aws:ecs:us-east-1:123456789012:cluster/shop";
const APP: &str = "cd189a933e5849daa93386466019ab50-2495160603";
const SIDE: &str = "cd189a933e5849daa93386466019ab50-1111111111";
const CREDENTIALS_ID: &str = "11111111-2222-3333-4444-555555555555";

type Got<T> = Result<T, ControlPlaneError>;

fn unasked<T>() -> Got<T> {
    Err(ControlPlaneError::Unavailable("no endpoint asks this".into()))
}

/// Says what it was told to say, and remembers what it was asked.
#[derive(Default)]
struct Plane {
    credentials: Mutex<VecDeque<Got<Option<RoleCredentials>>>>,
    protection: Mutex<VecDeque<Got<Protection>>>,
    changes: Mutex<Vec<Option<ProtectionChange>>>,
}

#[async_trait]
impl ControlPlane for Plane {
    fn assignments(&self) -> watch::Receiver<Arc<Vec<TaskAssignment>>> {
        watch::channel(Arc::default()).1
    }

    fn fabric(&self) -> watch::Receiver<Arc<Fabric>> {
        watch::channel(Arc::default()).1
    }

    async fn report(&self, _: Vec<TaskReport>) -> Got<()> {
        unasked()
    }

    async fn create_log_stream(&self, _: &str, _: &str) -> Got<()> {
        unasked()
    }

    async fn put_log_events(&self, _: &str, _: &str, _: Vec<LogLine>) -> Got<()> {
        unasked()
    }

    async fn registry_credentials(&self, _: &str, _: &str) -> Got<Option<RegistryCredentials>> {
        unasked()
    }

    async fn secrets(&self, _: &str, _: &str) -> Got<BTreeMap<String, String>> {
        unasked()
    }

    async fn task_role_credentials(&self, task_arn: &str) -> Got<Option<RoleCredentials>> {
        assert_eq!(task_arn, TASK_ARN);
        self.credentials.lock().unwrap().pop_front().expect("one call more than there should be")
    }

    async fn task_protection(&self, task_arn: &str, change: Option<ProtectionChange>) -> Got<Protection> {
        assert_eq!(task_arn, TASK_ARN);
        self.changes.lock().unwrap().push(change);
        self.protection.lock().unwrap().pop_front().expect("one call more than there should be")
    }
}

/// Every sample is larger than the last.
#[derive(Default)]
struct Counting(Mutex<u64>);

impl Figures for Counting {
    fn usage(&self) -> BoxFuture<'_, Option<TaskStats>> {
        let mut n = self.0.lock().unwrap();
        *n += 1;
        let usage = Usage {
            cpu_ns: 1000 * *n,
            memory_bytes: 5 << 20,
            pids: 2,
            io_read_bytes: 4096,
            ..Usage::default()
        };
        let task = Usage { memory_max_bytes: Some(512 << 20), ..usage };
        let containers = vec![
            ContainerUsage { id: "app".into(), usage },
            ContainerUsage { id: "side".into(), usage: Usage::default() },
        ];
        let storage = Some(StorageUsage { used_bytes: 261 << 20, size_bytes: 20_480 << 20 });
        Box::pin(async move { Some(TaskStats { at_ns: 0, task, containers, storage }) })
    }

    fn counters(&self) -> BoxFuture<'_, Option<Counters>> {
        let n = *self.0.lock().unwrap();
        Box::pin(async move { Some(Counters { rx_bytes: 1_000_000 * n, ..Counters::default() }) })
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn record() -> Record {
    let app = ContainerAssignment {
        name: "app".into(),
        container_arn: "arn:aws:ecs:us-east-1:123456789012:container/shop/x/y".into(),
        runtime_id: APP.into(),
        image: "nginx:latest".into(),
        cpu_units: 128,
        memory_mib: Some(256),
        mount_points: vec![MountPoint {
            volume: "data".into(),
            container_path: "/data".into(),
            read_only: true,
        }],
        ports: vec![PortMapping { container_port: 80, protocol: "tcp".into(), name: None }],
        log_driver: Some(LogDriver {
            name: "awslogs".into(),
            options: BTreeMap::from([("awslogs-group".into(), "/ecs/shop".into())]),
        }),
        health_check: Some(HealthCheck {
            argv: vec!["true".into()],
            interval_seconds: 5,
            timeout_seconds: 2,
            retries: 3,
            start_period_seconds: 0,
        }),
        restart_policy: Some(RestartPolicy { ignored_exit_codes: vec![0], attempt_period_seconds: 60 }),
        labels: BTreeMap::from([("team".into(), "web".into())]),
        ..ContainerAssignment::default()
    };
    let side = ContainerAssignment {
        name: "side".into(),
        runtime_id: SIDE.into(),
        image: "busybox".into(),
        ..ContainerAssignment::default()
    };
    let assignment = TaskAssignment {
        task_arn: TASK_ARN.into(),
        task_id: "cd189a933e5849daa93386466019ab50".into(),
        account: "123456789012".into(),
        region: "us-east-1".into(),
        availability_zone: "us-east-1a".into(),
        availability_zone_id: "use1-az1".into(),
        cluster_arn: CLUSTER_ARN.into(),
        family: "web".into(),
        revision: 7,
        group: "family:web".into(),
        service_name: None,
        created_at: at("2026-01-01T00:00:00Z"),
        exec_enabled: false,
        desired: DesiredStatus::Running,
        reported_sequence: 0,
        cpu_units: 256,
        memory_mib: 512,
        ephemeral_storage_gib: 20,
        architecture: Architecture::X86_64,
        shared_pid_namespace: false,
        network: TaskNetwork {
            eni_id: "eni-1".into(),
            vpc_id: "vpc-1".into(),
            subnet_id: "subnet-1".into(),
            mac: "0a:de:f6:10:51:e5".into(),
            private_ip: "172.31.0.5".parse().unwrap(),
            subnet_cidr: "172.31.0.0/20".parse().unwrap(),
            gateway: "172.31.0.1".parse().unwrap(),
            dns_servers: vec!["172.31.0.2".parse().unwrap()],
            dns_search: vec!["ec2.internal".into()],
            hostname: "ip-172-31-0-5.ec2.internal".into(),
        },
        containers: vec![app, side],
        volumes: Vec::new(),
        has_task_role: true,
        connect: None,
    };
    let mut record = Record::new(assignment, CREDENTIALS_ID.into());
    record.status = ObservedStatus::Running;
    record.pull_started_at = Some(at("2026-01-01T00:00:01.5Z"));
    let app = record.containers.get_mut("app").unwrap();
    app.status = ContainerStatus::Running;
    app.image_digest = Some("sha256:abc".into());
    app.created_at = Some(at("2026-01-01T00:00:02.123456789Z"));
    app.started_at = Some(at("2026-01-01T00:00:03Z"));
    app.health = Health::Unhealthy;
    app.health_since = Some(at("2026-01-01T00:00:04Z"));
    app.health_exit_code = Some(7);
    app.health_output = Some("no".into());
    app.restart_count = 2;
    record
}

struct Server {
    address: SocketAddr,
    plane: Arc<Plane>,
    _seen: watch::Sender<Arc<Record>>,
    _desired: watch::Sender<DesiredStatus>,
    _serving: JoinSet<()>,
}

impl Server {
    fn start(record: Record) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let plane = Arc::new(Plane::default());
        let (seen, see) = watch::channel(Arc::new(record));
        let (desired, desire) = watch::channel(DesiredStatus::Running);
        let control: Arc<dyn ControlPlane> = Arc::<Plane>::clone(&plane);
        let endpoints = Endpoints::new(control, see, desire, Arc::new(Counting::default()));
        let mut serving = JoinSet::new();
        serving.spawn(endpoints.serve(listener));
        Self { address, plane, _seen: seen, _desired: desired, _serving: serving }
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let running = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "169.254.170.2")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let answer = client.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        drop(client);
        let _ = running.await;
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.ask("GET", path, "").await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// The next credentials end so long after now.
    fn credentials(&self, key: &str, ends_after: SignedDuration) {
        let credentials = RoleCredentials {
            role_arn: "arn:aws:iam::123456789012:role/app".into(),
            access_key_id: key.into(),
            secret_access_key: "secret".into(),
            token: "token".into(),
            expiration: Timestamp::now() + ends_after,
        };
        self.plane.credentials.lock().unwrap().push_back(Ok(Some(credentials)));
    }

    fn no_credentials(&self) {
        let error =
            ControlPlaneError::Refused { code: "AccessDenied".into(), message: "not authorized".into() };
        self.plane.credentials.lock().unwrap().push_back(Err(error));
    }
}

#[tokio::test]
async fn credentials_are_kept_and_renewed_before_their_end() {
    let server = Server::start(record());
    let path = format!("/v2/credentials/{CREDENTIALS_ID}");
    server.credentials("ASIA1", SignedDuration::from_hours(6));
    for _ in 0..3 {
        let (status, body) = server.get(&path).await;
        assert_eq!((status, body["AccessKeyId"].as_str()), (200, Some("ASIA1")), "{body}");
        let names: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(names, ["RoleArn", "AccessKeyId", "SecretAccessKey", "Token", "Expiration"]);
        assert!(body["Expiration"].as_str().unwrap().ends_with('Z'));
    }
    // The agent's first version of the path gives the same.
    let (status, body) = server.get(&format!("/v1/credentials?id={CREDENTIALS_ID}")).await;
    assert_eq!((status, body["AccessKeyId"].as_str()), (200, Some("ASIA1")));
}

/// Time is given, not waited for.
#[tokio::test]
async fn rotation() {
    let server = Server::start(record());
    let keeper = credentials::Keeper::default();
    let record = record();
    let begin = Timestamp::now();
    let key = async |minutes: i64| {
        let now = begin + SignedDuration::from_mins(minutes);
        let answer = keeper.answer(&*server.plane, &record, 2, CREDENTIALS_ID, now).await;
        answer.map(|body| body["AccessKeyId"].as_str().unwrap().to_owned()).map_err(|refusal| refusal.status)
    };
    server.credentials("first", SignedDuration::from_hours(6));
    assert_eq!(key(0).await.unwrap(), "first");
    assert_eq!(key(299).await.unwrap(), "first");
    // An hour before the end: refused once, and the old ones are given until it is tried again.
    server.no_credentials();
    assert_eq!(key(301).await.unwrap(), "first");
    assert_eq!(key(301).await.unwrap(), "first");
    server.credentials("second", SignedDuration::from_hours(12));
    assert_eq!(key(302).await.unwrap(), "second");
    assert_eq!(key(600).await.unwrap(), "second");
    // Ended, and there are no new ones.
    server.no_credentials();
    assert_eq!(key(721).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
    // Of a short life they are renewed at half of it.
    server.credentials("short", SignedDuration::from_mins(722 + 10));
    assert_eq!(key(722).await.unwrap(), "short");
    assert_eq!(key(726).await.unwrap(), "short");
    server.credentials("shorter", SignedDuration::from_hours(24));
    assert_eq!(key(728).await.unwrap(), "shorter");
}

#[tokio::test]
async fn credentials_of_others_are_refused() {
    let server = Server::start(record());
    for (path, code, message) in [
        ("/v2/credentials/", "NoIdInRequest", "CredentialsV2Request: No Credential ID in the request"),
        (
            "/v2/credentials/11111111-2222-3333-4444-666666666666",
            "InvalidIdInRequest",
            "CredentialsV2Request: Credentials not found",
        ),
        ("/v1/credentials", "NoIdInRequest", "CredentialsV1Request: No Credential ID in the request"),
        ("/v1/credentials?id=x", "InvalidIdInRequest", "CredentialsV1Request: Credentials not found"),
    ] {
        let expected = json!({ "code": code, "message": message, "HTTPErrorCode": 400 });
        assert_eq!(server.get(path).await, (400, expected), "{path}");
    }
    server.no_credentials();
    let (status, body) = server.get(&format!("/v2/credentials/{CREDENTIALS_ID}")).await;
    assert_eq!((status, body["code"].as_str()), (503, Some("CredentialsUninitialized")), "{body}");

    let mut without = record();
    without.assignment.has_task_role = false;
    let server = Server::start(without);
    let (status, body) = server.get(&format!("/v2/credentials/{CREDENTIALS_ID}")).await;
    assert_eq!((status, body["code"].as_str()), (400, Some("NoCredentialsAssociated")), "{body}");
}

fn app_v4() -> Value {
    json!({
        "DockerId": APP, "Name": "app", "DockerName": "app", "Image": "nginx:latest", "ImageID": "sha256:abc",
        "Ports": [{ "ContainerPort": 80, "Protocol": "tcp", "HostPort": 80 }],
        "Labels": {
            "com.amazonaws.ecs.cluster": CLUSTER_ARN,
            "com.amazonaws.ecs.container-name": "app",
            "com.amazonaws.ecs.task-arn": TASK_ARN,
            "com.amazonaws.ecs.task-definition-family": "web",
            "com.amazonaws.ecs.task-definition-version": "7",
            "team": "web",
        },
        "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING", "Limits": { "CPU": 128, "Memory": 256 },
        "CreatedAt": "2026-01-01T00:00:02.123456789Z", "StartedAt": "2026-01-01T00:00:03Z", "Type": "NORMAL",
        "Health": { "status": "UNHEALTHY", "statusSince": "2026-01-01T00:00:04Z", "exitCode": 7, "output": "no" },
        "Volumes": [{ "DockerName": "data", "Destination": "/data" }],
        "Networks": [{
            "NetworkMode": "awsvpc", "IPv4Addresses": ["172.31.0.5"], "AttachmentIndex": 0,
            "MACAddress": "0a:de:f6:10:51:e5", "IPv4SubnetCIDRBlock": "172.31.0.0/20",
            "DomainNameServers": ["172.31.0.2"], "DomainNameSearchList": ["ec2.internal"],
            "PrivateDNSName": "ip-172-31-0-5.ec2.internal", "SubnetGatewayIpv4Address": "172.31.0.1/20",
        }],
        "ContainerARN": "arn:aws:ecs:us-east-1:123456789012:container/shop/x/y",
        "LogOptions": { "awslogs-group": "/ecs/shop" }, "LogDriver": "awslogs", "Snapshotter": "overlayfs",
        "RestartCount": 2,
    })
}

#[tokio::test]
async fn metadata_of_a_container_and_of_the_task() {
    let server = Server::start(record());
    let (status, container) = server.get(&format!("/v4/{APP}")).await;
    assert_eq!((status, &container), (200, &app_v4()));

    let (status, mut task) = server.get(&format!("/v4/{SIDE}/task")).await;
    assert_eq!(status, 200);
    let containers = task["Containers"].take();
    assert_eq!(containers[0], app_v4());
    let side = &containers[1];
    assert_eq!((side["KnownStatus"].as_str(), side["Limits"].clone()), (Some("NONE"), json!({ "CPU": 2 })));
    for absent in
        ["ExitCode", "Health", "StartedAt", "Ports", "Volumes", "LogDriver", "LogOptions", "RestartCount"]
    {
        assert_eq!(side.get(absent), None, "{absent}");
    }
    let drift = task["ClockDrift"].take();
    assert!(drift["ClockErrorBound"].is_f64() && drift["ReferenceTimestamp"].is_string(), "{drift}");
    let expected = json!({
        "Cluster": CLUSTER_ARN, "TaskARN": TASK_ARN, "Family": "web", "Revision": "7", "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING", "Limits": { "CPU": 0.25, "Memory": 512 },
        "PullStartedAt": "2026-01-01T00:00:01.5Z", "AvailabilityZone": "us-east-1a", "Containers": null,
        "AvailabilityZoneID": "use1-az1", "LaunchType": "FARGATE", "Group": "family:web", "ClockDrift": null,
        "EphemeralStorageMetrics": { "Utilized": 261, "Reserved": 20480 }, "FaultInjectionEnabled": false,
    });
    assert_eq!(task, expected);
    let with_tags = server.get(&format!("/v4/{SIDE}/taskWithTags")).await;
    assert_eq!((with_tags.0, with_tags.1["TaskARN"].as_str()), (200, Some(TASK_ARN)));

    let (status, task) = server.get(&format!("/v3/{APP}/task")).await;
    assert_eq!(status, 200);
    for later in ["LaunchType", "ClockDrift", "EphemeralStorageMetrics", "Group"] {
        assert_eq!(task.get(later), None, "{later}");
    }
    let network = json!([{ "NetworkMode": "awsvpc", "IPv4Addresses": ["172.31.0.5"] }]);
    assert_eq!(task["Containers"][0]["Networks"], network);
    assert_eq!(task["Containers"][0].get("ContainerARN"), None);
}

#[tokio::test]
async fn what_is_not_there() {
    let server = Server::start(record());
    let (status, body) = server.get("/v4/cd189a933e5849daa93386466019ab50-9999999999/task").await;
    assert_eq!(status, 404);
    assert!(body.as_str().unwrap().starts_with("V4 task metadata handler: unable to get task arn"), "{body}");
    assert_eq!(server.get("/v3/x").await.0, 400);
    assert_eq!(server.ask("GET", "/v5/x", "").await, (404, "404 page not found\n".into()));
    assert_eq!(server.ask("GET", &format!("//v4//{APP}"), "").await.0, 301);
    let protection = format!("/api/{APP}/task-protection/v1/state");
    assert_eq!(server.ask("DELETE", &protection, "").await.0, 405);
}

/// Time is given, not waited for.
#[tokio::test]
async fn statistics_over_two_samples() {
    let sampler = stats::Sampler::new(Arc::new(Counting::default()));
    let record = record();
    let [app, side] = &record.assignment.containers[..] else { panic!("two containers") };
    let begin = Instant::now();
    let first = sampler.container(app, Version::V4, begin).await.unwrap();
    assert_eq!(first["preread"], "0001-01-01T00:00:00Z");
    assert_eq!(first["precpu_stats"]["cpu_usage"]["total_usage"], 0);
    assert_eq!(first.get("network_rate_stats"), None);
    assert_eq!(first["memory_stats"]["usage"], 5 << 20);
    assert_eq!(first["memory_stats"]["limit"], 512 << 20);
    assert_eq!(first["networks"]["eth1"]["rx_bytes"], 1_000_000);
    assert_eq!((first["name"].as_str(), first["id"].as_str()), (Some("app"), Some(APP)));
    // At once: the same sample again.
    let again = sampler.container(app, Version::V4, begin + Duration::from_millis(900)).await.unwrap();
    assert_eq!(again, first);
    let later = begin + Duration::from_secs(2);
    let second = sampler.container(app, Version::V4, later).await.unwrap();
    assert_eq!(second["preread"], first["read"]);
    assert_eq!(second["precpu_stats"], first["cpu_stats"]);
    assert_eq!(second["cpu_stats"]["cpu_usage"]["total_usage"], 2000);
    assert_eq!(second["network_rate_stats"]["rx_bytes_per_sec"], 500_000.0);
    assert_eq!(second["network_rate_stats"]["tx_bytes_per_sec"], 0.0);
    assert_eq!(sampler.container(app, Version::V3, later).await.unwrap().get("network_rate_stats"), None);

    // A container that does not run has none.
    assert_eq!(sampler.container(side, Version::V4, later).await, None);
    let task = sampler.task(&record.assignment.containers, Version::V4, later).await.unwrap();
    assert_eq!((&task[SIDE], task[APP]["name"].as_str()), (&Value::Null, Some("app")));

    let server = Server::start(record);
    let (status, body) = server.get(&format!("/v4/{APP}/stats")).await;
    assert_eq!((status, body["name"].as_str()), (200, Some("app")));
    let (status, body) = server.get(&format!("/v4/{SIDE}/stats")).await;
    assert_eq!((status, body), (500, json!(format!("Unable to get container stats for: {SIDE}"))));
    let (status, task) = server.get(&format!("/v4/{SIDE}/task/stats")).await;
    assert_eq!((status, &task[SIDE]), (200, &Value::Null));
}

#[tokio::test]
async fn protection_answers_as_the_agent() {
    let server = Server::start(record());
    let path = format!("/api/{APP}/task-protection/v1/state");
    let expires_at = at("2026-01-01T02:00:00Z");
    let says = |answer| server.plane.protection.lock().unwrap().push_back(answer);
    let refused = |code: &str, message: &str| {
        Err(ControlPlaneError::Refused { code: code.into(), message: message.into() })
    };

    says(Ok(Protection { enabled: false, expires_at: None }));
    let off =
        json!({ "protection": { "ExpirationDate": null, "ProtectionEnabled": false, "TaskArn": TASK_ARN } });
    assert_eq!(server.get(&path).await, (200, off));

    says(Ok(Protection { enabled: true, expires_at: Some(expires_at) }));
    let on = json!({ "protection": {
        "ExpirationDate": "2026-01-01T02:00:00.000Z", "ProtectionEnabled": true, "TaskArn": TASK_ARN,
    }});
    let put = async |body: &str| {
        let (status, body) = server.ask("PUT", &path, body).await;
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    assert_eq!(put(r#"{"ProtectionEnabled":true,"ExpiresInMinutes":120}"#).await, (200, on));
    let change = ProtectionChange { enabled: true, expires_in_minutes: Some(120) };
    assert_eq!(*server.plane.changes.lock().unwrap(), [None, Some(change)]);

    says(refused("AccessDeniedException", "no"));
    let error = |code: &str, message: &str| json!({ "Arn": TASK_ARN, "Code": code, "Message": message });
    let expected = json!({ "error": error("AccessDeniedException", "no") });
    assert_eq!(put(r#"{"ProtectionEnabled":true}"#).await, (400, expected));

    says(refused("TASK_NOT_VALID", ""));
    let expected = json!({ "failure": { "Arn": TASK_ARN, "Detail": null, "Reason": "TASK_NOT_VALID" } });
    assert_eq!(put(r#"{"ProtectionEnabled":true}"#).await, (200, expected));

    let expected = json!({ "error": error(
        "InvalidParameterException", "Invalid request: does not contain 'ProtectionEnabled' field",
    )});
    assert_eq!(put("{}").await, (400, expected));
    let expected = json!({ "error": {
        "Code": "InvalidParameterException", "Message": "UpdateTaskProtection: failed to decode request",
    }});
    assert_eq!(put(r#"{"ProtectionEnabled":true,"Unknown":2}"#).await, (400, expected.clone()));
    let long = format!(r#"{{"ProtectionEnabled":{}true}}"#, " ".repeat(BODY_BYTES_MAX));
    assert_eq!(put(&long).await, (400, expected));

    let other = server.get("/api/x/task-protection/v1/state").await;
    let expected = json!({ "error": {
        "Code": "ResourceNotFoundException", "Message": "Failed to find a task for the request",
    }});
    assert_eq!(other, (404, expected));

    let mut without = record();
    without.assignment.has_task_role = false;
    let (status, body) = Server::start(without).get(&path).await;
    assert_eq!((status, body["error"]["Code"].as_str()), (403, Some("AccessDeniedException")), "{body}");
}

#[tokio::test]
async fn too_many_requests() {
    let server = Server::start(record());
    let path = format!("/v4/{APP}");
    let mut refused = None;
    // More than the burst and what comes back in the meantime.
    for _ in 0..2000 {
        let (status, body) = server.ask("GET", &path, "").await;
        if status == 429 {
            refused = Some(body);
            break;
        }
        assert_eq!(status, 200);
    }
    assert_eq!(refused.as_deref(), Some("You have reached maximum request limit."));
}

#[test]
fn what_leads_a_container_here() {
    let mut record = record();
    let all: BTreeMap<String, String> = environment(&record, APP).into_iter().collect();
    assert_eq!(all["ECS_CONTAINER_METADATA_URI_V4"], format!("http://169.254.170.2/v4/{APP}"));
    assert_eq!(all["ECS_CONTAINER_METADATA_URI"], format!("http://169.254.170.2/v3/{APP}"));
    assert_eq!(all["ECS_AGENT_URI"], format!("http://169.254.170.2/api/{APP}"));
    assert_eq!(all["AWS_EXECUTION_ENV"], "AWS_ECS_FARGATE");
    assert_eq!(all["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"], format!("/v2/credentials/{CREDENTIALS_ID}"));
    record.assignment.has_task_role = false;
    assert!(environment(&record, APP).iter().all(|(name, _)| !name.contains("CREDENTIALS")));
}
