//! What is asked of services, their deployments, revisions and task sets.

use ferrogate_api::{Demand, Value};

use super::Rights;
use crate::controllers::interfaces::SERVICE_PRINCIPAL;
use crate::names;
use crate::state::ClusterRecord;
use crate::state::service::{ServiceKey, ServiceRecord};

impl Rights<'_> {
    fn service_key(&self, identifier: &str) -> ServiceKey {
        let cluster = self.cluster_name(self.input.get_str("cluster"));
        let scope = &self.call.scope;
        // One that cannot be is refused by the operation; until then it stands for itself.
        let name = names::service(scope, &cluster, identifier).unwrap_or_else(|_| identifier.to_owned());
        ServiceKey::new(scope, &cluster, &name)
    }

    pub(super) fn on_service(&self, identifier: &str) -> Demand {
        let key = self.service_key(identifier);
        let found = self.call.get::<ServiceRecord>(&key.record());
        let tags = found.map(|found| found.record.tags).unwrap_or_default();
        self.with_resource_tags(self.with_cluster(self.own(key.arn())), &tags)
    }

    pub(super) fn on_named_service(&self) -> Demand {
        self.on_service(self.input.get_str("service").unwrap_or_default())
    }

    pub(super) fn create_service(&self) -> Vec<Demand> {
        let key = self.service_key(self.input.get_str("serviceName").unwrap_or_default());
        let own = self.with_cluster(self.own(key.arn()));
        let mut all = vec![self.with_request_tags(self.with_deployed(own))];
        all.extend(self.pass_to_ecs());
        all.extend(self.tagging(key.arn()));
        all
    }

    pub(super) fn update_service(&self) -> Vec<Demand> {
        let mut all = vec![self.with_deployed(self.on_named_service())];
        all.extend(self.pass_to_ecs());
        all
    }

    pub(super) fn create_task_set(&self) -> Vec<Demand> {
        let arn = self.service_key(self.input.get_str("service").unwrap_or_default()).task_set_arn("*");
        let own = self.with_service(self.with_cluster(self.own(arn.clone())));
        let mut all = vec![self.with_request_tags(self.with_deployed(own))];
        all.extend(self.tagging(arn));
        all
    }

    pub(super) fn on_task_set(&self) -> Demand {
        self.on_one_task_set(self.input.get_str("taskSet").unwrap_or_default())
    }

    pub(super) fn on_task_sets(&self) -> Vec<Demand> {
        let named = self.input.get_strs("taskSets");
        if named.is_empty() {
            return vec![self.on_one_task_set("*")];
        }
        named.into_iter().map(|identifier| self.on_one_task_set(identifier)).collect()
    }

    fn on_one_task_set(&self, identifier: &str) -> Demand {
        let key = self.service_key(self.input.get_str("service").unwrap_or_default());
        let arn = if identifier.starts_with("arn:") {
            identifier.to_owned()
        } else {
            key.task_set_arn(identifier.strip_prefix("ecs-svc/").unwrap_or(identifier))
        };
        let id = arn.rsplit('/').next().unwrap_or_default();
        let mut found = self.call.get::<ServiceRecord>(&key.record());
        let one = found.as_mut().and_then(|found| found.record.deployment_mut(&format!("ecs-svc/{id}")));
        let tags = one.and_then(|one| one.task_set.as_ref()).map(|set| set.tags.clone()).unwrap_or_default();
        self.with_resource_tags(self.with_service(self.with_cluster(self.own(arn))), &tags)
    }

    /// On service deployments or revisions, which have ARNs only.
    pub(super) fn on_arns(&self, member: &str) -> Vec<Demand> {
        let one = self.input.get_str(member).into_iter();
        let arns: Vec<&str> = one.chain(self.input.get_strs(member)).collect();
        arns.into_iter().map(|arn| self.on_part(arn)).collect()
    }

    /// `…:<kind>/<cluster>/<service>/<id>`
    fn on_part(&self, arn: &str) -> Demand {
        let scope = &self.call.scope;
        let mut parts = arn.split('/').skip(1);
        let demand = self.own(arn.to_owned());
        let (Some(cluster), Some(service)) = (parts.next(), parts.next()) else { return demand };
        demand
            .with("ecs:cluster", [scope.cluster_arn(cluster)])
            .with("ecs:service", [ServiceKey::new(scope, cluster, service).arn()])
    }

    fn with_service(&self, demand: Demand) -> Demand {
        let key = self.service_key(self.input.get_str("service").unwrap_or_default());
        demand.with("ecs:service", [key.arn()])
    }

    /// What of a service or a task set a policy can look at. The revision is resolved first, so that the latest one is
    /// judged by its number.
    fn with_deployed(&self, demand: Demand) -> Demand {
        let connect = self.input.get("serviceConnectConfiguration");
        let is_on =
            connect.is_some_and(|connect| connect.get("enabled").and_then(Value::as_bool) == Some(true));
        let mut demand = self.with_launch(demand).with("ecs:enable-service-connect", [is_on.to_string()]);
        let named = connect.and_then(|connect| connect.get_str("namespace")).filter(|name| !name.is_empty());
        let default = || is_on.then(|| self.cluster_namespace()).flatten();
        if let Some(namespace) = named.map(str::to_owned).or_else(default) {
            demand = demand.with("ecs:namespace", [namespace]);
        }
        match self.input.get_str("taskDefinition") {
            Some(name) => demand.with("ecs:task-definition", [self.definition(name).0]),
            None => demand,
        }
    }

    /// The namespace of `serviceConnectDefaults`.
    fn cluster_namespace(&self) -> Option<String> {
        let name = self.cluster_name(self.input.get_str("cluster"));
        let found = self.call.get::<ClusterRecord>(&self.call.scope.cluster(&name))?;
        found.record.connect_namespace
    }

    /// Roles under which ECS will shift traffic.
    fn pass_to_ecs(&self) -> Vec<Demand> {
        let balancers = self.input.get("loadBalancers").and_then(Value::as_list).unwrap_or_default();
        let role = |balancer: &Value| {
            let role = balancer.get("advancedConfiguration")?.get_str("roleArn")?.to_owned();
            Some(Demand::new("iam:PassRole", role).with("iam:PassedToService", [SERVICE_PRINCIPAL]))
        };
        balancers.iter().filter_map(role).collect()
    }
}
