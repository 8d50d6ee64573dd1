//! Version consistency: what the images of a revision were when its first task began is what its later tasks get, wherever
//! their tags have moved (ECS API reference, ContainerImage). Tasks that start before go by the tags.

use std::collections::BTreeMap;

use ferrogate_store::get_json;

use super::Worker;
use super::observe::Observed;
use super::writes::Writes;
use crate::definition;
use crate::state::service::{ServiceKey, ServiceRevisionRecord, Spec};
use crate::state::{TaskKey, TaskRecord, get_definition};

/// Digests by container name.
pub(super) type Images = BTreeMap<String, String>;

impl Worker {
    /// Notes what the first task of a revision has begun with.
    pub(super) fn establish_images(&self, writes: &mut Writes, observed: &mut Observed) {
        let key = writes.key().clone();
        let revisions: Vec<(String, String)> =
            writes.service.deployments.iter().map(|one| (one.id.clone(), one.revision.clone())).collect();
        for (deployment, revision) in revisions {
            if observed.images.contains_key(&deployment) {
                continue;
            }
            let Some(spec) = observed.specs.get(&deployment) else { continue };
            let mut begun = observed
                .tasks
                .values()
                .filter(|task| task.deployment == deployment && task.started_at.is_some());
            let Some(images) = begun.find_map(|task| self.began_with(&key, spec, &task.id)) else { continue };
            let place = key.revision(&revision);
            let Some(found) = get_json::<ServiceRevisionRecord>(&*self.store, &place) else { continue };
            let record = ServiceRevisionRecord { images: Some(images.clone()), ..found.record };
            writes.also(|txn| txn.put_json(place, &record));
            observed.images.insert(deployment, images);
        }
    }

    fn began_with(&self, key: &ServiceKey, spec: &Spec, task: &str) -> Option<Images> {
        let definition = get_definition(&*self.store, &key.scope, &spec.family, spec.revision)?;
        let task = TaskKey { scope: key.scope.clone(), cluster: key.cluster.clone(), id: task.to_owned() };
        let task = get_json::<TaskRecord>(&*self.store, &task.record())?.record;
        let consistent =
            definition.container_definitions.iter().flatten().filter(|one| definition::is_consistent(one));
        let digest = |name: &String| task.lifecycle.container(name)?.image_digest.clone();
        consistent
            .filter_map(|one| one.name.as_ref())
            .map(|name| Some((name.clone(), digest(name)?)))
            .collect()
    }
}
