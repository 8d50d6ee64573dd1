//! Deployments that shift traffic: LINEAR, CANARY and BLUE_GREEN, as a client of the load balancer sees them.

use ferrogate_tests::{WallClock, eventually, until};
use serde_json::{Value, json};

use super::load::Load;
use super::parts::{EVERYWHERE, House, PORT, Part, authorize, group, text, with};

/// Answers that a share is measured by, and how far from the truth they may be: more than four standard deviations.
const ANSWERS: u64 = 400;
const TOLERANCE: f64 = 0.11;
/// To look at a share until it comes.
const FEW_ANSWERS: u64 = 150;
const STEP_BAKE_MINUTES: u32 = 10;
const BAKE_MINUTES: u32 = 5;
/// On a busy machine a task may take its time.
const GRACE_SECONDS: u32 = 60;

/// The service `auth` between two target groups.
pub(super) struct Shifting<'a> {
    pub(super) part: Part<'a>,
    /// The group it does not begin with.
    alternate: String,
}

/// The role under which ECS changes rules and listeners, as AWS's guides make it.
fn role(house: &House) -> String {
    let boto = house.cluster.boto();
    let trust = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": { "Service": "ecs.amazonaws.com" } }] });
    let input = json!({ "RoleName": "shift", "AssumeRolePolicyDocument": trust.to_string() });
    let role = text(&boto.ok("iam", "create_role", input)["Role"]["Arn"]);
    let policy = "arn:aws:iam::aws:policy/AmazonECSInfrastructureRolePolicyForLoadBalancers";
    boto.ok("iam", "attach_role_policy", json!({ "RoleName": "shift", "PolicyArn": policy }));
    role
}

impl<'a> Shifting<'a> {
    /// A service `auth` of two tasks. `doors`: the rules or listeners that forward to `blue`, as ECS names them.
    fn create(
        house: &'a House,
        [blue, green]: [String; 2],
        doors: Value,
        back: &str,
        configuration: Value,
    ) -> Self {
        let advanced = with(json!({ "alternateTargetGroupArn": green, "roleArn": role(house) }), doors);
        let balanced = json!({
            "deploymentConfiguration": configuration, "healthCheckGracePeriodSeconds": GRACE_SECONDS,
            "loadBalancers": [{ "targetGroupArn": blue, "containerName": "app", "containerPort": PORT,
                "advancedConfiguration": advanced }],
        });
        house.create("auth", 2, back, balanced);
        Self::again(house, [blue, green])
    }

    /// One that is there.
    pub(super) fn again(house: &'a House, [blue, green]: [String; 2]) -> Self {
        Self { part: Part { house, name: "auth", target_group: blue }, alternate: green }
    }

    pub(super) fn groups(&self) -> [String; 2] {
        [self.part.target_group.clone(), self.alternate.clone()]
    }

    /// Behind rules of the house's balancer: `/auth/*` for everybody, `/probe/*` for tests. Done.
    pub(super) fn open(house: &'a House, configuration: Value) -> Self {
        house.define("auth", "1", Value::Null);
        let groups = ["blue", "green"].map(|name| house.target_group(name, "HTTP"));
        let doors = json!({ "productionListenerRule": house.rule("auth", 1, &groups[0]),
            "testListenerRule": house.rule("probe", 2, &groups[0]) });
        let pauses = configuration["lifecycleHooks"].is_array();
        let all = Self::create(house, groups, doors, &house.back, configuration);
        if pauses {
            // The first one as well.
            let first = text(&all.part.describe()["currentServiceDeployment"]);
            let hook = all.waits(&first);
            all.goes_on(&first, &hook);
        }
        all.part.settles();
        all
    }

    /// A new revision is brought out: the ARN of its service deployment.
    pub(super) fn update(&self, revision: &str) -> String {
        self.part.house.define("auth", revision, Value::Null);
        self.part.update(json!({ "taskDefinition": "auth" }));
        text(&self.part.describe()["currentServiceDeployment"])
    }

    pub(super) fn deployment(&self, arn: &str) -> Value {
        let input = json!({ "serviceDeploymentArns": [arn] });
        let answer = self.part.house.cluster.boto().ok("ecs", "describe_service_deployments", input);
        assert_eq!(answer["failures"], json!([]), "{answer:#}");
        answer["serviceDeployments"][0].clone()
    }

    /// Until it is in this stage and the new revision is asked for this many percent.
    pub(super) fn comes_to(&self, arn: &str, stage: &str, percent: f64) -> Value {
        until(&format!("{stage} with {percent} %"), || {
            let deployment = self.deployment(arn);
            assert!(
                ["PENDING", "IN_PROGRESS"].contains(&deployment["status"].as_str().unwrap_or_default()),
                "{deployment:#}"
            );
            let weight = deployment["targetServiceRevision"]["requestedProductionTrafficWeight"].as_f64();
            (deployment["lifecycleStage"] == stage && weight == Some(percent)).then_some(deployment)
        })
    }

    pub(super) fn ends_as(&self, arn: &str, status: &str) -> Value {
        until(&format!("it is {status}"), || {
            let deployment = self.deployment(arn);
            let finished = !deployment["finishedAt"].is_null();
            assert!(!finished || deployment["status"] == status, "{deployment:#}");
            finished.then_some(deployment)
        })
    }

    /// The id of the hook that it waits at.
    pub(super) fn waits(&self, arn: &str) -> String {
        until("it waits at a hook", || {
            let deployment = self.deployment(arn);
            let hook = &deployment["lifecycleHookDetails"][0];
            (hook["status"] == "AWAITING_ACTION").then(|| text(&hook["hookId"]))
        })
    }

    pub(super) fn waits_at(&self, arn: &str, stage: &str) -> String {
        let hook = self.waits(arn);
        assert_eq!(self.deployment(arn)["lifecycleStage"], stage);
        hook
    }

    pub(super) fn goes_on(&self, arn: &str, hook: &str) {
        let input = json!({ "serviceDeploymentArn": arn, "hookId": hook, "action": "CONTINUE" });
        self.part.house.cluster.boto().ok("ecs", "continue_service_deployment", input);
    }

    /// All test traffic goes to this revision.
    #[track_caller]
    fn is_tested(&self, revision: &str) {
        for url in self.part.house.public_urls("/probe/[1-5]") {
            eventually(&format!("{url} is revision {revision}"), || {
                let said = self.part.house.cluster.curl(&["--fail", "--max-time", "10", &url]);
                let said = said.unwrap_or_else(|code| panic!("curl: {code}: {url}"));
                said.lines().all(|line| {
                    serde_json::from_str::<Value>(line).expect("who it is")["revision"] == *revision
                })
            });
        }
    }

    pub(super) fn tasks_of(&self, revision: &str) -> usize {
        let of = format!("auth:{revision}");
        let is_of = |task: &&Value| task["taskDefinitionArn"].as_str().is_some_and(|arn| arn.ends_with(&of));
        self.part.tasks("RUNNING").iter().filter(is_of).count()
    }
}

/// As a client counts it, both zones together: it comes, and stays.
#[track_caller]
fn shares(load: &Load, revision: &str, share: f64) {
    let is_near =
        |seen: f64| (seen - share).abs() <= TOLERANCE && (seen - share).abs() <= share.min(1.0 - share);
    eventually(&format!("{share} of the answers are of revision {revision}"), || {
        is_near(load.share(revision, FEW_ANSWERS))
    });
    let seen = load.share(revision, ANSWERS);
    assert!(is_near(seen), "{seen} is not {share}");
}

#[test]
fn linear_by_its_steps() {
    let clock = WallClock::new();
    let house = House::start_with(clock.setup());
    let auth = Shifting::open(
        &house,
        json!({ "strategy": "LINEAR", "bakeTimeInMinutes": BAKE_MINUTES,
            "linearConfiguration": { "stepPercent": 40.0, "stepBakeTimeInMinutes": STEP_BAKE_MINUTES } }),
    );
    let load = Load::start(&house, &house.public_urls("/auth/login"));
    shares(&load, "1", 1.0);
    let deployment = auth.update("2");
    let mut minutes = 0;
    let mut pass = |more: u32| {
        minutes += more;
        clock.jump(&format!("+{}", minutes * 60));
    };
    for (percent, share) in [(40.0, 0.4), (80.0, 0.8)] {
        auth.comes_to(&deployment, "PRODUCTION_TRAFFIC_SHIFT", percent);
        shares(&load, "2", share);
        // Nothing but time brings it on.
        auth.comes_to(&deployment, "PRODUCTION_TRAFFIC_SHIFT", percent);
        assert_eq!((auth.tasks_of("1"), auth.tasks_of("2")), (2, 2));
        pass(STEP_BAKE_MINUTES);
    }
    // After the last step there is the bake time alone.
    auth.comes_to(&deployment, "BAKE_TIME", 100.0);
    shares(&load, "2", 1.0);
    auth.comes_to(&deployment, "BAKE_TIME", 100.0);
    assert_eq!((auth.tasks_of("1"), auth.tasks_of("2")), (2, 2));
    pass(BAKE_MINUTES);
    let done = auth.ends_as(&deployment, "SUCCESSFUL");
    assert!(done["rollback"].is_null(), "{done:#}");
    auth.part.settles();
    assert_eq!((auth.tasks_of("1"), auth.tasks_of("2")), (0, 2));
    eventually("nothing is left in the group it came from", || auth.part.targets().is_empty());
    Part { house: &house, name: "auth", target_group: auth.alternate.clone() }.has_healthy_targets(2);
    load.ends();
}

#[test]
fn a_canary_waits_is_stopped_and_comes_through() {
    let clock = WallClock::new();
    let house = House::start_with(clock.setup());
    let hook = json!({ "targetType": "PAUSE", "lifecycleStages": ["POST_TEST_TRAFFIC_SHIFT"] });
    let auth = Shifting::open(
        &house,
        json!({ "strategy": "CANARY", "bakeTimeInMinutes": 0, "lifecycleHooks": [hook],
            "canaryConfiguration": { "canaryPercent": 25.0, "canaryBakeTimeInMinutes": STEP_BAKE_MINUTES } }),
    );
    let first = text(&auth.part.describe()["deployments"][0]["id"]);
    let load = Load::start(&house, &house.public_urls("/auth/login"));

    let stopped = auth.update("2");
    let hook = auth.waits_at(&stopped, "POST_TEST_TRAFFIC_SHIFT");
    assert_eq!(auth.tasks_of("2"), 2);
    auth.is_tested("2");
    assert_eq!(load.revisions(), ["1"], "it waits for a word");
    auth.goes_on(&stopped, &hook);
    auth.comes_to(&stopped, "PRODUCTION_TRAFFIC_SHIFT", 25.0);
    shares(&load, "2", 0.25);
    let again = json!({ "serviceDeploymentArn": stopped, "hookId": hook, "action": "CONTINUE" });
    let refused = house.cluster.boto().refused("ecs", "continue_service_deployment", again);
    assert_eq!(refused.code, "InvalidParameterException", "{}", refused.message);
    let stop = json!({ "serviceDeploymentArn": stopped });
    house.cluster.boto().ok("ecs", "stop_service_deployment", stop.clone());
    let ended = auth.ends_as(&stopped, "ROLLBACK_SUCCESSFUL");
    assert!(text(&ended["rollback"]["serviceRevisionArn"]).contains(":service-revision/"), "{ended:#}");
    assert_eq!(load.revisions(), ["1"]);
    auth.part.completes(&first);
    auth.part.settles();
    assert_eq!((auth.tasks_of("1"), auth.tasks_of("2")), (2, 0));
    auth.is_tested("1");
    let refused = house.cluster.boto().refused("ecs", "stop_service_deployment", stop);
    assert_eq!(refused.code, "ConflictException", "{}", refused.message);

    let deployment = auth.update("3");
    let hook = auth.waits_at(&deployment, "POST_TEST_TRAFFIC_SHIFT");
    auth.goes_on(&deployment, &hook);
    auth.comes_to(&deployment, "PRODUCTION_TRAFFIC_SHIFT", 25.0);
    shares(&load, "3", 0.25);
    clock.jump(&format!("+{}", STEP_BAKE_MINUTES * 60));
    auth.ends_as(&deployment, "SUCCESSFUL");
    assert_eq!(load.revisions(), ["3"]);
    let listed = house.cluster.boto().ok("ecs", "list_service_deployments", json!({ "service": "auth" }));
    let statuses: Vec<&Value> = listed["serviceDeployments"]
        .as_array()
        .expect("deployments")
        .iter()
        .map(|one| &one["status"])
        .collect();
    assert_eq!(statuses, ["SUCCESSFUL", "ROLLBACK_SUCCESSFUL", "SUCCESSFUL"]);
    load.ends();
}

/// A listener that has nothing but a default action: `describe-rules` gives its default rule, as AWS's guides take it.
#[test]
fn a_default_rule_shifts_all_of_its_listener() {
    let house = House::start();
    let boto = house.cluster.boto();
    house.define("auth", "1", Value::Null);
    let groups = ["blue", "green"].map(|name| house.target_group(name, "HTTP"));
    let forward = json!([{ "Type": "forward", "TargetGroupArn": groups[0] }]);
    boto.ok("elbv2", "modify_listener", json!({ "ListenerArn": house.listener, "DefaultActions": forward }));
    let rules = boto.ok("elbv2", "describe_rules", json!({ "ListenerArn": house.listener }))["Rules"].take();
    assert_eq!((rules.as_array().map(Vec::len), &rules[0]["IsDefault"]), (Some(1), &json!(true)), "{rules}");
    let doors = json!({ "productionListenerRule": rules[0]["RuleArn"] });
    let configuration = json!({ "strategy": "BLUE_GREEN", "bakeTimeInMinutes": 0 });
    let auth = Shifting::create(&house, groups.clone(), doors, &house.back, configuration);
    auth.part.settles();
    let load = Load::start(&house, &house.public_urls("/auth/login"));
    assert_eq!(load.revisions(), ["1"]);
    let deployment = auth.update("2");
    auth.ends_as(&deployment, "SUCCESSFUL");
    assert_eq!(load.revisions(), ["2"]);
    let input = json!({ "ListenerArns": [house.listener] });
    let listener = boto.ok("elbv2", "describe_listeners", input)["Listeners"][0].take();
    let shares: Vec<(String, bool)> = listener["DefaultActions"][0]["ForwardConfig"]["TargetGroups"]
        .as_array()
        .expect("groups")
        .iter()
        .map(|one| (text(&one["TargetGroupArn"]), one["Weight"] != json!(0)))
        .collect();
    let [blue, green] = groups;
    assert!(shares.contains(&(green, true)) && !shares.contains(&(blue, true)), "{listener:#}");
    load.ends();
}

/// UpdateService puts what stands behind another group and into one subnet, by a deployment like any other.
#[test]
fn a_service_is_put_behind_another_group() {
    let house = House::start();
    house.define("auth", "1", Value::Null);
    let auth = house.open("auth", 1, 1, Value::Null);
    auth.settles();
    let other = house.target_group("other", "HTTP");
    house.rule("probe", 2, &other);
    let subnet = &house.subnets[0];
    let deployment = auth.update(json!({
        "healthCheckGracePeriodSeconds": GRACE_SECONDS,
        "loadBalancers": [{ "targetGroupArn": other, "containerName": "app", "containerPort": PORT }],
        "networkConfiguration": { "awsvpcConfiguration": {
            "subnets": [subnet], "securityGroups": [house.back], "assignPublicIp": "ENABLED" } },
    }));
    auth.completes(&deployment);
    assert_eq!(auth.describe()["healthCheckGracePeriodSeconds"], json!(GRACE_SECONDS));
    eventually("nothing is left in the group it came from", || auth.targets().is_empty());
    Part { house: &house, name: "auth", target_group: other }.has_healthy_targets(1);
    let tasks = auth.tasks("RUNNING");
    let details = tasks[0]["attachments"][0]["details"].as_array().expect("details");
    let is_there = |one: &Value| one["name"] == "subnetId" && one["value"] == json!(subnet);
    assert!(tasks.len() == 1 && details.iter().any(is_there), "{tasks:#?}");
    for url in house.public_urls("/probe/login") {
        let said = house.cluster.curl(&["--fail", "--max-time", "10", &url]);
        assert!(said.as_ref().is_ok_and(|said| said.contains("auth")), "{url}: {said:?}");
    }
}

/// A network load balancer `flows` before `auth`: its listener and its public addresses.
fn flows(house: &House, front: &str, blue: &str) -> (String, Vec<String>) {
    let boto = house.cluster.boto();
    let input =
        json!({ "Name": "flows", "Type": "network", "Subnets": house.subnets, "SecurityGroups": [front] });
    let balancer =
        text(&boto.ok("elbv2", "create_load_balancer", input)["LoadBalancers"][0]["LoadBalancerArn"]);
    // Each zone has one of the two tasks, or none of them for a moment.
    let attributes = json!([{ "Key": "load_balancing.cross_zone.enabled", "Value": "true" }]);
    let input = json!({ "LoadBalancerArn": balancer, "Attributes": attributes });
    boto.ok("elbv2", "modify_load_balancer_attributes", input);
    let input = json!({ "LoadBalancerArn": balancer, "Protocol": "TCP", "Port": 80,
        "DefaultActions": [{ "Type": "forward", "TargetGroupArn": blue }] });
    let listener = text(&boto.ok("elbv2", "create_listener", input)["Listeners"][0]["ListenerArn"]);
    house.available(&balancer);
    let (_, name) = balancer.split_once(":loadbalancer/").expect("a load balancer's ARN");
    let filters = json!({ "Filters": [{ "Name": "description", "Values": [format!("ELB {name}")] }] });
    let answer = boto.ok("ec2", "describe_network_interfaces", filters);
    let all = answer["NetworkInterfaces"].as_array().expect("interfaces").iter();
    let urls = all.map(|eni| format!("http://{}/flows", text(&eni["Association"]["PublicIp"])));
    (listener, urls.collect())
}

/// New flows are shared out; those that stand stay where they are.
#[test]
fn a_network_load_balancer_shifts_flows() {
    let clock = WallClock::new();
    let house = House::start_with(clock.setup());
    house.define("auth", "1", Value::Null);
    let [front, back] = ["gate", "behind"].map(|name| group(&house.cluster, name));
    authorize(&house.cluster, &front, 80, &json!({ "IpRanges": [{ "CidrIp": EVERYWHERE }] }));
    authorize(&house.cluster, &back, PORT, &json!({ "UserIdGroupPairs": [{ "GroupId": front }] }));
    let groups = ["blue", "green"].map(|name| house.target_group(name, "TCP"));
    let (listener, urls) = flows(&house, &front, &groups[0]);
    let canary = json!({ "strategy": "CANARY", "bakeTimeInMinutes": 0,
        "canaryConfiguration": { "canaryPercent": 30.0, "canaryBakeTimeInMinutes": STEP_BAKE_MINUTES } });
    let auth = Shifting::create(&house, groups, json!({ "productionListenerRule": listener }), &back, canary);
    auth.part.settles();
    let load = Load::of(house.cluster.python_command("load.py", &["--close"]), &urls);
    assert_eq!(load.revisions(), ["1"]);
    let deployment = auth.update("2");
    auth.comes_to(&deployment, "PRODUCTION_TRAFFIC_SHIFT", 30.0);
    shares(&load, "2", 0.3);
    clock.jump(&format!("+{}", STEP_BAKE_MINUTES * 60));
    auth.ends_as(&deployment, "SUCCESSFUL");
    assert_eq!(load.revisions(), ["2"]);

    // All at once, and back to the first group.
    let configuration = with(json!({ "strategy": "BLUE_GREEN" }), json!({ "bakeTimeInMinutes": 0 }));
    house.define("auth", "3", Value::Null);
    auth.part.update(json!({ "taskDefinition": "auth", "deploymentConfiguration": configuration }));
    let deployment = text(&auth.part.describe()["currentServiceDeployment"]);
    auth.ends_as(&deployment, "SUCCESSFUL");
    assert_eq!(load.revisions(), ["3"]);
    auth.part.settles();
    auth.part.has_healthy_targets(2);
    load.ends();
}
