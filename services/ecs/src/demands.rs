//! The rights each call needs, after the Service Authorization Reference of ECS.

mod services;

use ferrogate_api::{Demand, Value};
use serde::Deserialize;

use crate::call::Call;
use crate::definition::size;
use crate::names;
use crate::operations::network::TASKS_PRINCIPAL;
use crate::operations::settings::{self, TAG_RESOURCE_AUTHORIZATION};
use crate::state::service::ServiceKey;
use crate::state::{ClusterRecord, FamilyRecord, RevisionRecord, Tags, TaskKey, get_definition};

/// As much of a task as a condition on tags needs.
#[derive(Deserialize)]
struct Tagged {
    #[serde(default)]
    tags: Tags,
}

pub(crate) fn demands(call: &Call<'_>, operation: &'static str, input: &Value) -> Vec<Demand> {
    let rights = Rights { call, operation, input };
    match operation {
        "CreateCluster" => rights.create_cluster(),
        "DeleteCluster"
        | "UpdateCluster"
        | "UpdateClusterSettings"
        | "PutClusterCapacityProviders"
        | "ListContainerInstances"
        | "ListAttributes" => vec![rights.on_cluster(input.get_str("cluster"))],
        "DescribeClusters" => rights.on_clusters(),
        "RegisterTaskDefinition" => rights.register(),
        "DeleteTaskDefinitions" => rights.on_definitions(),
        "RunTask" => rights.run_task(),
        "ExecuteCommand" => rights.execute_command(),
        "StopTask" => vec![rights.on_task(input.get_str("task").unwrap_or_default())],
        "DescribeTasks" | "GetTaskProtection" | "UpdateTaskProtection" => rights.on_tasks(),
        "ListTasks" => vec![rights.on_any("container-instance")],
        "DescribeContainerInstances" => vec![rights.on_any("container-instance")],
        "DescribeServices" => rights.on_services(),
        "ListServices" => vec![rights.with_cluster(rights.own("*".into()))],
        "ListServicesByNamespace" => {
            vec![rights.own("*".into()).with("ecs:namespace", input.get_str("namespace"))]
        }
        "CreateService" => rights.create_service(),
        "UpdateService" => rights.update_service(),
        "DeleteService" | "UpdateServicePrimaryTaskSet" | "ListServiceDeployments" => {
            vec![rights.on_named_service()]
        }
        "DescribeServiceDeployments" => rights.on_arns("serviceDeploymentArns"),
        "StopServiceDeployment" | "ContinueServiceDeployment" => rights.on_arns("serviceDeploymentArn"),
        "DescribeServiceRevisions" => rights.on_arns("serviceRevisionArns"),
        "CreateTaskSet" => rights.create_task_set(),
        "UpdateTaskSet" | "DeleteTaskSet" => vec![rights.on_task_set()],
        "DescribeTaskSets" => rights.on_task_sets(),
        "DescribeCapacityProviders" => vec![rights.own(call.scope.arn("capacity-provider/*"))],
        "TagResource" | "UntagResource" | "ListTagsForResource" => vec![rights.on_tagged()],
        _ => vec![rights.own("*".into())],
    }
}

struct Rights<'a> {
    call: &'a Call<'a>,
    operation: &'static str,
    input: &'a Value,
}

impl Rights<'_> {
    fn own(&self, resource: String) -> Demand {
        Demand::new(format!("ecs:{}", self.operation), resource)
    }

    /// A name that cannot be one is refused by the operation; until then it stands for itself.
    fn cluster_name(&self, identifier: Option<&str>) -> String {
        names::cluster(&self.call.scope, identifier)
            .unwrap_or_else(|_| identifier.unwrap_or_default().to_owned())
    }

    fn with_cluster(&self, demand: Demand) -> Demand {
        let name = self.cluster_name(self.input.get_str("cluster"));
        demand.with("ecs:cluster", [self.call.scope.cluster_arn(&name)])
    }

    fn with_resource_tags(&self, demand: Demand, tags: &Tags) -> Demand {
        tags.iter().fold(demand, |demand, (key, value)| {
            demand
                .with(format!("aws:ResourceTag/{key}"), [value.as_str()])
                .with(format!("ecs:ResourceTag/{key}"), [value.as_str()])
        })
    }

    fn with_request_tags(&self, mut demand: Demand) -> Demand {
        let tags = self.input.get("tags").and_then(Value::as_list).unwrap_or_default();
        let mut keys: Vec<&str> = Vec::new();
        for tag in tags {
            let key = tag.get_str("key").unwrap_or_default();
            demand = demand.with(format!("aws:RequestTag/{key}"), [tag.get_str("value").unwrap_or_default()]);
            keys.push(key);
        }
        if self.operation == "UntagResource" {
            keys = self.input.get_strs("tagKeys");
        }
        if keys.is_empty() { demand } else { demand.with("aws:TagKeys", keys) }
    }

    /// What a call that makes something with tags needs besides.
    fn tagging(&self, resource: String) -> Option<Demand> {
        let tags = self.input.get("tags").and_then(Value::as_list).unwrap_or_default();
        let store = &*self.call.service.store;
        if tags.is_empty() || settings::effective(store, self.call.cx, TAG_RESOURCE_AUTHORIZATION) == "off" {
            return None;
        }
        let demand = Demand::new("ecs:TagResource", resource).with("ecs:CreateAction", [self.operation]);
        Some(self.with_request_tags(demand))
    }

    fn pass(&self, role: Option<&str>) -> Option<Demand> {
        let role = crate::definition::role(&self.call.scope, role.map(str::to_owned)).ok()??;
        Some(Demand::new("iam:PassRole", role).with("iam:PassedToService", [TASKS_PRINCIPAL]))
    }

    fn cluster_tags(&self, name: &str) -> Tags {
        self.call
            .get::<ClusterRecord>(&self.call.scope.cluster(name))
            .map(|found| found.record.tags)
            .unwrap_or_default()
    }

    fn on_cluster(&self, identifier: Option<&str>) -> Demand {
        let name = self.cluster_name(identifier);
        let arn = self.call.scope.cluster_arn(&name);
        let demand = self.own(arn.clone()).with("ecs:cluster", [arn]);
        self.with_resource_tags(demand, &self.cluster_tags(&name))
    }

    fn on_clusters(&self) -> Vec<Demand> {
        let named = self.input.get_strs("clusters");
        if named.is_empty() {
            return vec![self.on_cluster(None)];
        }
        named.into_iter().map(|name| self.on_cluster(Some(name))).collect()
    }

    fn create_cluster(&self) -> Vec<Demand> {
        let name = self.cluster_name(self.input.get_str("clusterName"));
        let own = self.with_request_tags(self.own("*".into()));
        std::iter::once(own).chain(self.tagging(self.call.scope.cluster_arn(&name))).collect()
    }

    fn register(&self) -> Vec<Demand> {
        let family = self.input.get_str("family").unwrap_or_default();
        let arn = self.call.scope.arn(format!("task-definition/{family}:*"));
        let mut all = vec![self.with_request_tags(self.with_size(self.own(arn.clone())))];
        all.extend(self.pass(self.input.get_str("executionRoleArn")));
        all.extend(self.pass(self.input.get_str("taskRoleArn")));
        all.extend(self.tagging(arn));
        all
    }

    /// What of a definition a policy can look at.
    fn with_size(&self, mut demand: Demand) -> Demand {
        let text = |name: &str| self.input.get_str(name);
        if let Some(units) = text("cpu").and_then(|cpu| size::cpu_units(cpu).ok()) {
            demand = demand.with("ecs:task-cpu", [units.to_string()]);
        }
        if let Some(mib) = text("memory").and_then(|memory| size::memory_mib(memory).ok()) {
            demand = demand.with("ecs:task-memory", [mib.to_string()]);
        }
        let compatibilities = self.input.get_strs("requiresCompatibilities");
        if compatibilities.is_empty() {
            return demand;
        }
        demand.with("ecs:compute-compatibility", compatibilities)
    }

    /// What of a RunTask a policy can look at.
    fn with_launch(&self, mut demand: Demand) -> Demand {
        for (key, member) in [
            ("ecs:enable-execute-command", "enableExecuteCommand"),
            ("ecs:enable-ecs-managed-tags", "enableECSManagedTags"),
        ] {
            let is_on = self.input.get(member).and_then(Value::as_bool) == Some(true);
            demand = demand.with(key, [is_on.to_string()]);
        }
        if let Some(from) = self.input.get_str("propagateTags") {
            demand = demand.with("ecs:propagate-tags", [from]);
        }
        let strategy = self.input.get("capacityProviderStrategy").and_then(Value::as_list);
        let providers =
            strategy.unwrap_or_default().iter().filter_map(|item| item.get_str("capacityProvider"));
        let arns: Vec<String> =
            providers.map(|name| self.call.scope.arn(format!("capacity-provider/{name}"))).collect();
        if !arns.is_empty() {
            demand = demand.with("ecs:capacity-provider", arns);
        }
        let network =
            self.input.get("networkConfiguration").and_then(|network| network.get("awsvpcConfiguration"));
        let Some(network) = network else { return demand };
        let is_public = network.get_str("assignPublicIp") == Some("ENABLED");
        demand
            .with("ecs:auto-assign-public-ip", [is_public.to_string()])
            .with("ecs:subnet", network.get_strs("subnets"))
    }

    /// (ARN, tags) of the revision that is meant.
    fn definition(&self, identifier: &str) -> (String, Tags, Option<(String, u32)>) {
        let scope = &self.call.scope;
        let Ok(name) = names::definition(scope, identifier) else {
            return (identifier.to_owned(), Tags::new(), None);
        };
        let latest = || self.call.get::<FamilyRecord>(&scope.family(&name.family))?.record.latest_active;
        let Some(number) = name.revision.or_else(latest) else {
            return (scope.arn(format!("task-definition/{}:*", name.family)), Tags::new(), None);
        };
        let revision = self.call.get::<RevisionRecord>(&scope.revision(&name.family, number));
        let tags = revision.map(|found| found.record.tags).unwrap_or_default();
        (scope.definition_arn(&name.family, number), tags, Some((name.family, number)))
    }

    fn on_definitions(&self) -> Vec<Demand> {
        let named = self.input.get_strs("taskDefinitions");
        let demand = |identifier: &str| {
            let (arn, tags, _) = self.definition(identifier);
            self.with_resource_tags(self.own(arn), &tags)
        };
        named.into_iter().map(demand).collect()
    }

    fn run_task(&self) -> Vec<Demand> {
        let (arn, tags, revision) = self.definition(self.input.get_str("taskDefinition").unwrap_or_default());
        let own = self.with_resource_tags(self.own(arn), &tags);
        let mut all = vec![self.with_request_tags(self.with_launch(self.with_cluster(own)))];
        let overrides = self.input.get("overrides");
        let definition = revision
            .and_then(|(family, number)| {
                get_definition(&*self.call.service.store, &self.call.scope, &family, number)
            })
            .unwrap_or_default();
        for (name, of_definition) in
            [("executionRoleArn", definition.execution_role_arn), ("taskRoleArn", definition.task_role_arn)]
        {
            let over = overrides.and_then(|overrides| overrides.get_str(name));
            all.extend(self.pass(over.or(of_definition.as_deref())));
        }
        let cluster = self.cluster_name(self.input.get_str("cluster"));
        all.extend(self.tagging(self.call.scope.arn(format!("task/{cluster}/*"))));
        all
    }

    fn on_task(&self, identifier: &str) -> Demand {
        let cluster = self.cluster_name(self.input.get_str("cluster"));
        let scope = &self.call.scope;
        let Ok(id) = names::task(scope, &cluster, identifier) else {
            return self.with_cluster(self.own(scope.arn(format!("task/{cluster}/{identifier}"))));
        };
        let key = TaskKey { scope: scope.clone(), cluster, id };
        let tags = self.call.get::<Tagged>(&key.record()).map(|found| found.record.tags).unwrap_or_default();
        self.with_resource_tags(self.with_cluster(self.own(key.arn())), &tags)
    }

    /// On the cluster and on the task, each with all the keys.
    fn execute_command(&self) -> Vec<Demand> {
        let task = self.on_task(self.input.get_str("task").unwrap_or_default());
        let cluster = self.on_cluster(self.input.get_str("cluster"));
        let key = TaskKey::of_arn(&task.resource);
        let record = key.and_then(|key| self.call.get::<crate::state::TaskRecord>(&key.record()));
        let named = self.input.get_str("container").map(str::to_owned);
        let only = || match record.as_ref()?.record.containers.as_slice() {
            [only] => Some(only.name.clone()),
            _ => None,
        };
        let container = named.or_else(only).unwrap_or_default();
        let enabled = record.as_ref().is_some_and(|found| found.record.exec_enabled);
        let with = |demand: Demand| {
            demand
                .with("ecs:container-name", [container.as_str()])
                .with("ecs:enable-execute-command", [enabled.to_string()])
        };
        vec![with(cluster), with(task)]
    }

    fn on_tasks(&self) -> Vec<Demand> {
        let named = self.input.get_strs("tasks");
        if named.is_empty() {
            return vec![self.on_any("task")];
        }
        named.into_iter().map(|task| self.on_task(task)).collect()
    }

    /// On whatever of this kind is in the cluster.
    fn on_any(&self, kind: &str) -> Demand {
        let cluster = self.cluster_name(self.input.get_str("cluster"));
        self.with_cluster(self.own(self.call.scope.arn(format!("{kind}/{cluster}/*"))))
    }

    fn on_services(&self) -> Vec<Demand> {
        let named = self.input.get_strs("services");
        if named.is_empty() {
            return vec![self.on_any("service")];
        }
        named.into_iter().map(|id| self.on_service(id)).collect()
    }

    fn on_tagged(&self) -> Demand {
        let arn = self.input.get_str("resourceArn").unwrap_or_default();
        let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
        let tags = match resource.split('/').next().unwrap_or_default() {
            "cluster" => self.cluster_tags(&self.cluster_name(Some(arn))),
            "task-definition" => self.definition(arn).1,
            "task" => TaskKey::of_arn(arn)
                .and_then(|key| self.call.get::<Tagged>(&key.record()))
                .map(|found| found.record.tags)
                .unwrap_or_default(),
            "service" => ServiceKey::of_arn(arn)
                .and_then(|key| self.call.get::<Tagged>(&key.record()))
                .map(|found| found.record.tags)
                .unwrap_or_default(),
            _ => Tags::new(),
        };
        self.with_request_tags(self.with_resource_tags(self.own(arn.to_owned()), &tags))
    }
}
