//! A task that runs, seen in ways that are the same in every isolation.

use serde_json::Value;

use crate::cluster::Cluster;

/// Command lines of the others of its process namespace; what ended and waits for its parent has none.
const OTHERS: &str = r#"for p in /proc/[0-9]*; do [ "${p#/proc/}" = $$ ] || { tr '\0' ' ' < $p/cmdline; echo; }; done 2>/dev/null"#;
/// Of one emulated machine the processor is as busy as with this many containers.
const CONTAINERS_PER_MACHINE: usize = 10;

impl Cluster {
    /// What runs in the container of a task with ECS Exec, as `ferrogate exec` sees it beside itself.
    #[track_caller]
    pub fn inside(&self, arn: &str) -> Vec<String> {
        let id = arn.rsplit('/').next().expect("a task id");
        let said = self.ferrogate(&["exec", id, "--", "sh", "-c", OTHERS]).ok();
        said.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Containers of a task that run, by what its shim has on disk: also while there is no program.
    #[track_caller]
    pub fn running_containers(&self, arn: &str) -> usize {
        let id = arn.rsplit('/').next().expect("a task id");
        let path = self.data_seen().join("tasks").join(id).join("sandbox/state.json");
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let state: Value = serde_json::from_slice(&text).expect("the shim's state");
        let containers = state["containers"].as_array().expect("containers").iter();
        containers.filter(|container| container["status"] == "Running").count()
    }

    /// As many tasks as a test wants to have at once, or what is as much work where each is a machine.
    pub fn so_many(&self, containers: usize) -> usize {
        if self.has_machines() { containers.div_ceil(CONTAINERS_PER_MACHINE) } else { containers }
    }
}
