//! A cluster with one service called `web`, and a node that does what it is told.

use ferrogate_api::ApiError;
use ferrogate_api::ecs::{self, Ecs};
use ferrogate_nodeapi::{ContainerStatus, DesiredStatus, ObservedStatus, TaskReport};
use jiff::SignedDuration;
use serde_json::{Value as Json, json};

use super::{NODE, World, cause, container_report, input, report, sample, with};

pub(crate) fn service(changes: Json) -> Json {
    let service = json!({
        "serviceName": "web", "taskDefinition": "sample-fargate-app", "desiredCount": 2, "launchType": "FARGATE",
        "networkConfiguration": { "awsvpcConfiguration": {
            "subnets": ["subnet-a", "subnet-b"], "securityGroups": ["sg-1"] } },
    });
    with(service, changes)
}

/// What a node makes of its tasks.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Nature {
    Runs,
    /// The image is not there.
    Fails,
}

pub(crate) struct Cluster(pub(crate) World);

impl Cluster {
    pub(crate) async fn new() -> Self {
        let world = World::running();
        world.service.create_cluster(&world.cx(), input(json!({}))).await.unwrap();
        world.register(sample()).await.unwrap();
        Self(world)
    }

    pub(crate) async fn create(&self, changes: Json) -> Result<ecs::Service, ApiError> {
        let request = input(service(changes));
        Ok(self.0.service.create_service(&self.0.cx(), request).await?.service.unwrap())
    }

    pub(crate) async fn update(&self, changes: Json) -> Result<ecs::Service, ApiError> {
        let request = input(with(json!({ "service": "web" }), changes));
        Ok(self.0.service.update_service(&self.0.cx(), request).await?.service.unwrap())
    }

    pub(crate) async fn delete(&self, changes: Json) -> Result<ecs::Service, ApiError> {
        let request = input(with(json!({ "service": "web" }), changes));
        Ok(self.0.service.delete_service(&self.0.cx(), request).await?.service.unwrap())
    }

    pub(crate) async fn describe(&self) -> ecs::Service {
        let request = json!({ "services": ["web"], "include": ["TAGS"] });
        let answer = self.0.service.describe_services(&self.0.cx(), input(request)).await.unwrap();
        answer.services.unwrap().remove(0)
    }

    pub(crate) async fn tasks(&self, desired: &str) -> Vec<ecs::Task> {
        let request = json!({ "serviceName": "web", "desiredStatus": desired });
        let answer = self.0.service.list_tasks(&self.0.cx(), input(request)).await.unwrap();
        let arns = answer.task_arns.unwrap();
        if arns.is_empty() {
            return Vec::new();
        }
        let request = json!({ "tasks": arns, "include": ["TAGS"] });
        self.0.service.describe_tasks(&self.0.cx(), input(request)).await.unwrap().tasks.unwrap()
    }

    /// The node does with each of its tasks what it is told, as far as their nature lets it.
    pub(crate) async fn node(&self, nature: impl Fn(&str) -> Nature) {
        let list = self.0.service.assignments(NODE).borrow().clone();
        let reports = list.iter().filter_map(|task| {
            let sequence = task.reported_sequence + 1;
            let image = &task.containers[0].image;
            match (task.desired, nature(image)) {
                (DesiredStatus::Stopped, _) => {
                    Some(report(&task.task_arn, sequence, ObservedStatus::Stopped))
                }
                (DesiredStatus::Running, Nature::Fails) => Some(TaskReport {
                    stop: cause("TaskFailedToStart", "CannotPullContainerError: no"),
                    ..report(&task.task_arn, sequence, ObservedStatus::Stopped)
                }),
                (DesiredStatus::Running, Nature::Runs) if task.reported_sequence == 0 => Some(TaskReport {
                    started_at: Some(self.0.clock_now()),
                    containers: vec![container_report("sample-app", ContainerStatus::Running, None)],
                    ..report(&task.task_arn, sequence, ObservedStatus::Running)
                }),
                _ => None,
            }
        });
        self.0.service.report(reports.collect()).await.unwrap();
    }

    /// Nodes and time go on a little.
    pub(crate) async fn step(&self, world: &World, nature: impl Fn(&str) -> Nature) {
        self.node(nature).await;
        world.clock.advance(SignedDuration::from_secs(5));
        world.wake("ecs-services");
    }

    /// Lets nodes and time go on until it is so.
    pub(crate) async fn until(
        &self,
        what: &str,
        nature: impl Fn(&str) -> Nature,
        is_so: impl Fn(&ecs::Service) -> bool,
    ) {
        self.0
            .until(what, async |world| {
                self.step(world, &nature).await;
                is_so(&self.describe().await)
            })
            .await;
    }

    pub(crate) async fn until_stable(&self) -> ecs::Service {
        self.until("stable", |_| Nature::Runs, is_stable).await;
        self.describe().await
    }
}

/// What the waiter `services_stable` looks at, and that it was said.
pub(crate) fn is_stable(service: &ecs::Service) -> bool {
    service.deployments.as_ref().unwrap().len() == 1
        && service.running_count == service.desired_count
        && service.pending_count == Some(0)
        && service.deployments.as_ref().unwrap()[0].rollout_state.as_deref() == Some("COMPLETED")
}

pub(crate) fn messages(service: &ecs::Service) -> Vec<String> {
    service.events.iter().flatten().rev().filter_map(|event| event.message.clone()).collect()
}
