//! The proxies of Service Connect, whatever dies: they go on, come again, and leave nothing.

use ferrogate_tests::{Cluster, eventually, until};
use serde_json::{Value, json};

/// Serves its host's name at the port that the service is called at as well, and calls it again and again.
const SHOP: &str = "mkdir /www; hostname > /www/index.html; httpd -p 80 -h /www; cat /etc/hosts; \
    trap 'exit 0' TERM; while true; do timeout 5 wget -q -O - http://web/ 2>&1; sleep 0.1; done";

/// Of what the proxies say.
const GROUP: &str = "/proxies";

struct World {
    cluster: Cluster,
    network: Value,
}

fn id(arn: &str) -> &str {
    arn.rsplit('/').next().expect("a task id")
}

impl World {
    fn start() -> Self {
        let cluster = Cluster::start();
        let network = cluster.network();
        let boto = cluster.boto();
        let group = json!({ "GroupName": "shop", "Description": "shop", "VpcId": network.vpc });
        let group = boto.ok("ec2", "create_security_group", group)["GroupId"].take();
        let rule = json!({ "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "UserIdGroupPairs": [{ "GroupId": group }] });
        let rule = json!({ "GroupId": group, "IpPermissions": [rule] });
        boto.ok("ec2", "authorize_security_group_ingress", rule);
        let defaults = json!({ "clusterName": "default", "serviceConnectDefaults": { "namespace": "shop" } });
        boto.ok("ecs", "create_cluster", defaults);
        let container = json!({
            "name": "app", "image": "busybox", "command": ["sh", "-c", SHOP], "stopTimeout": 2,
            "portMappings": [{ "containerPort": 80, "name": "http", "appProtocol": "http" }],
        });
        boto.ok("logs", "create_log_group", json!({ "logGroupName": GROUP }));
        let trust = json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Principal": { "Service": "ecs-tasks.amazonaws.com" }, "Action": "sts:AssumeRole" },
        ]});
        let role = json!({ "RoleName": "exec", "AssumeRolePolicyDocument": trust.to_string() });
        let role = boto.ok("iam", "create_role", role)["Role"]["Arn"].take();
        let policy = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy";
        boto.ok("iam", "attach_role_policy", json!({ "RoleName": "exec", "PolicyArn": policy }));
        cluster.define("shop", json!([container]), json!({ "executionRoleArn": role }));
        let mut network = network.configuration(&[]);
        network["awsvpcConfiguration"]["securityGroups"] = json!([group]);
        Self { cluster, network }
    }

    fn create(&self, name: &str, endpoints: &Value) -> String {
        let input = json!({
            "serviceName": name, "taskDefinition": "shop", "desiredCount": 1, "launchType": "FARGATE",
            "networkConfiguration": self.network,
            "serviceConnectConfiguration": {
                "enabled": true, "services": endpoints, "accessLogConfiguration": { "format": "TEXT" },
                "logConfiguration": {
                    "logDriver": "awslogs",
                    "options": {
                        "awslogs-group": GROUP, "awslogs-region": "us-east-1", "awslogs-stream-prefix": "sc",
                    },
                },
            },
        });
        self.cluster.boto().ok("ecs", "create_service", input);
        self.running(name, &[])
    }

    /// A task of the service that runs and is none of these.
    fn running(&self, service: &str, but: &[&str]) -> String {
        let boto = self.cluster.boto();
        until(&format!("a task of {service} runs"), || {
            let arns = boto.ok("ecs", "list_tasks", json!({ "serviceName": service }))["taskArns"].take();
            let arns: Vec<String> = serde_json::from_value(arns).expect("ARNs");
            arns.into_iter()
                .filter(|arn| !but.contains(&arn.as_str()))
                .find(|arn| self.cluster.task(arn)["lastStatus"] == "RUNNING")
        })
    }

    fn proxies(&self, task: &str) -> Vec<u32> {
        let is_proxy = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "ferrogate-edge\n")
        };
        self.cluster.task_processes(id(task)).into_iter().filter(is_proxy).collect()
    }

    /// It hears from a server that it has not heard from since it had said so many lines.
    fn hears(&self, task: &str, server: &str, since: usize) {
        let name = self.cluster.addresses(&self.cluster.task(server)).0.replace('.', "-");
        eventually(&format!("{task} hears from {name}"), || {
            self.output(task).lines().skip(since).any(|line| line.starts_with(&format!("ip-{name}.")))
        });
    }

    /// What the task's proxy has said, in CloudWatch Logs.
    fn said(&self, task: &str) -> Vec<String> {
        let boto = self.cluster.boto();
        let input = json!({ "logGroupName": GROUP, "logStreamNamePrefix": "sc/ecs-service-connect-" });
        let streams = boto.ok("logs", "describe_log_streams", input)["logStreams"].take();
        let names = streams.as_array().expect("streams").iter().map(|one| one["logStreamName"].clone());
        let own = format!("/{}", id(task));
        let Some(name) =
            names.into_iter().find(|name| name.as_str().is_some_and(|name| name.ends_with(&own)))
        else {
            return Vec::new();
        };
        let input = json!({ "logGroupName": GROUP, "logStreamName": name, "startFromHead": true });
        let events = boto.ok("logs", "get_log_events", input)["events"].take();
        events.as_array().expect("events").iter().map(|event| event["message"].to_string()).collect()
    }

    fn says(&self, task: &str, words: &str, times: usize) {
        let is_said = || self.said(task).iter().filter(|line| line.contains(words)).count() >= times;
        eventually(&format!("the proxy of {task} says {words:?} {times} times"), is_said);
    }

    /// Without what its proxy says.
    fn output(&self, task: &str) -> String {
        self.cluster.ferrogate(&["logs", task, "--container", "app"]).ok()
    }

    fn lines(&self, task: &str) -> usize {
        self.output(task).lines().count()
    }

    fn kill(&self, pid: u32) {
        let killed = self.cluster.command("kill").args(["-9", &pid.to_string()]).status().expect("kill");
        assert!(killed.success());
    }
}

#[test]
fn a_proxy_outlives_the_program_and_comes_again_by_itself() {
    let mut world = World::start();
    let alias = json!([{ "portName": "http", "clientAliases": [{ "port": 80, "dnsName": "web" }] }]);
    let server = world.create("web", &alias);
    let client = world.create("client", &json!([]));
    world.hears(&client, &server, 0);
    let output = world.output(&client);
    assert!(output.lines().any(|line| line == "127.255.0.1 web"), "{output}");
    // A line of each request, among what the proxy says of itself; who called and who answered is in it.
    world.says(&client, "GET / HTTP/1.1", 2);
    let shown = world.cluster.ferrogate(&["logs", &client]);
    let shown = shown.stdout;
    let address = world.cluster.addresses(&world.cluster.task(&server)).0;
    let is_line = |line: &str| {
        line.starts_with("ecs-service-connect-")
            && line.contains("\"GET / HTTP/1.1\" 200 0 ")
            && line.ends_with(&format!("\"web\" \"{address}:80\""))
    };
    assert!(shown.lines().any(is_line), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("app | ")), "{shown}");
    let [proxy] = world.proxies(&client)[..] else { panic!("{:?}", world.proxies(&client)) };

    world.kill(proxy);
    let again = until("another proxy runs", || match world.proxies(&client)[..] {
        [pid] if pid != proxy => Some(pid),
        _ => None,
    });
    let since = world.lines(&client);
    world.hears(&client, &server, since);

    world.says(&client, "this proxy begins", 2);
    let since = world.lines(&client);
    world.cluster.kill();
    let namespace = format!("--net=/run/ferrogate/netns/{}.t.{}", world.cluster.instance(), id(&client));
    let mut curl = world.cluster.command("nsenter");
    let alone =
        curl.args([&namespace, "--", "curl", "-s", "--max-time", "10", "http://127.255.0.1/"]).output();
    let alone = alone.expect("nsenter and curl");
    assert!(alone.status.success() && alone.stdout.starts_with(b"ip-"), "{alone:?}");
    world.cluster.up();
    // What changes after that it is told of.
    world.cluster.boto().ok("ecs", "update_service", json!({ "service": "web", "desiredCount": 2 }));
    let other = world.running("web", &[&server]);
    world.hears(&client, &other, since);
    assert_eq!(world.proxies(&client), [again]);
    world.says(&client, "instances=2", 1);
    assert!(world.said(&client).iter().any(|line| line.contains("instances=1")));

    // A task that cannot be taken over is gone whole, its proxy too.
    world.cluster.kill();
    world.kill(world.cluster.shim_of(id(&client)).expect("a shim"));
    world.cluster.up();
    world.cluster.stopped(&client);
    assert_eq!(world.cluster.task_processes(id(&client)), Vec::<u32>::new());
    let replaced = world.running("client", &[&client]);
    world.hears(&replaced, &other, 0);

    world.cluster.boto().ok("ecs", "stop_task", json!({ "task": server }));
    world.says(&server, "the task has ended", 1);

    assert_eq!(world.cluster.down(), Vec::<String>::new());
}

ferrogate_tests::machines!(a_proxy_outlives_the_program_and_comes_again_by_itself);
