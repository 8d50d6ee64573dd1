//! How far pulls are, for people who watch; and whose images they were.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;

use ferrogate_image::{Digest, Progress};
use ferrogate_nodeapi::ObservedStatus;

use crate::record::Record;

/// What the tasks recorded in this folder have for images, unless they have ended. One that was taken over from a former
/// agent has not asked for its images yet.
pub(crate) fn images_in_use(tasks_dir: &Path) -> HashSet<Digest> {
    let folders = std::fs::read_dir(tasks_dir).into_iter().flatten().map_while(Result::ok);
    let records = folders.filter_map(|folder| Record::load(&folder.path()).ok());
    let open = records.filter(|record| record.status < ObservedStatus::Stopped);
    let containers = open.flat_map(|record| record.containers.into_values());
    containers.filter_map(|container| Digest::parse(&container.image_digest?).ok()).collect()
}

/// The pulls under way, by task and image.
#[derive(Default)]
pub(crate) struct Pulls(Mutex<HashMap<String, BTreeMap<String, Pull>>>);

#[derive(Default)]
struct Pull {
    layers: usize,
    ready: usize,
    bytes_total: u64,
    downloaded: HashMap<Digest, u64>,
}

impl Pulls {
    pub(crate) fn note(&self, task_id: &str, image: &str, progress: &Progress) {
        let mut pulls = self.0.lock().expect("pulls lock");
        let pull = pulls.entry(task_id.to_owned()).or_default().entry(image.to_owned()).or_default();
        match progress {
            Progress::Resolved { .. } | Progress::Unpacking { .. } => {}
            Progress::Planned { layers, bytes } => (pull.layers, pull.bytes_total) = (*layers, *bytes),
            Progress::Downloaded { layer, bytes, .. } => drop(pull.downloaded.insert(layer.clone(), *bytes)),
            Progress::Ready { .. } => pull.ready += 1,
        }
    }

    /// The task has its images, or will never have them.
    pub(crate) fn done(&self, task_id: &str) {
        self.0.lock().expect("pulls lock").remove(task_id);
    }

    /// `pulling nginx:latest: 2 of 4 layers, 3.1 of 6.5 MB`
    pub(crate) fn words(&self, task_id: &str) -> Option<String> {
        let pulls = self.0.lock().expect("pulls lock");
        let words: Vec<String> = pulls.get(task_id)?.iter().map(|(image, pull)| pull.words(image)).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

impl Pull {
    fn words(&self, image: &str) -> String {
        if self.layers == 0 {
            return format!("pulling {image}");
        }
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let downloaded: u64 = self.downloaded.values().sum();
        format!(
            "pulling {image}: {} of {} layers, {:.1} of {:.1} MB",
            self.ready,
            self.layers,
            megabytes(downloaded.min(self.bytes_total)),
            megabytes(self.bytes_total)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_people() {
        let pulls = Pulls::default();
        assert_eq!(pulls.words("t"), None);
        pulls.note("t", "nginx:latest", &Progress::Planned { layers: 4, bytes: 6_500_000 });
        assert_eq!(pulls.words("t").unwrap(), "pulling nginx:latest: 0 of 4 layers, 0.0 of 6.5 MB");
        pulls.done("t");
        assert_eq!(pulls.words("t"), None);
    }
}
