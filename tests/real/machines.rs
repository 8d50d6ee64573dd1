//! Tasks in micro-VMs, emulated as no machine of a test need have KVM: the same clients, the same answers. Without QEMU
//! (scripts/deps vm) there is nothing to test; with it `cargo xtask kernel` and `cargo xtask guest` have to have been run.

use std::path::{Path, PathBuf};

use ferrogate_tests::{Cluster, Setup, TaskRun, until};
use serde_json::{Value, json};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

fn kernel() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(".cache/kernel/minimal")
}

#[test]
fn a_task_in_a_machine_is_a_task() {
    if !Path::new(QEMU).exists() {
        eprintln!("SKIPPED: no {QEMU}: scripts/deps vm installs it");
        return;
    }
    let kernel = kernel().to_string_lossy().into_owned();
    let arguments = ["--isolation", "microvm", "--emulate", "--guest-kernel", &kernel].map(str::to_owned);
    let mut cluster = Cluster::start_with(Setup { arguments: arguments.to_vec(), ..Setup::default() });
    let status = cluster.ferrogate(&["status", "--output", "json"]).json();
    assert_eq!(status["isolation"], "micro-VMs (emulated: slow)");

    cluster.define_busybox("machine");
    let network = cluster.network();
    let script = "trap 'echo stopping; exit 5' TERM; uname -r; nproc; \
                  wget -qO- $ECS_CONTAINER_METADATA_URI_V4/task; echo; echo ready; while true; do sleep 0.2; done";
    let run = TaskRun::of("machine").command("app", &["sh", "-c", script]);
    let arn = cluster.run_task(&network, &run);
    let task = cluster.running(&arn);
    let attributes = task["attributes"].as_array().expect("attributes");
    let isolation = attributes.iter().find(|attribute| attribute["name"] == "ferrogate.isolation");
    assert_eq!(isolation.expect("it is told")["value"], "microvm", "{task:#}");

    let output = until("it is ready", || {
        let output = cluster.output(&arn);
        output.lines().any(|line| line.ends_with("ready")).then_some(output)
    });
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the host's kernel");
    assert!(!output.contains(host.trim()), "{output}");
    assert!(output.contains(&arn), "the metadata endpoint answers in the guest: {output}");

    // The one in the task, seen from another.
    let (address, _) = cluster.addresses(&task);
    let other = TaskRun::of("machine").command("app", &["sh", "-c", "ping -c 1 -W 5 $ADDRESS"]);
    let mut other = other;
    other.overrides["containerOverrides"][0]["environment"] =
        json!([{ "name": "ADDRESS", "value": address }]);
    let pinger = cluster.run_task(&network, &other);
    let ended = cluster.stopped(&pinger);
    assert_eq!(ended["containers"][0]["exitCode"], 0, "{}", cluster.output(&pinger));

    // The agent dies; the machine, its network and its output go on.
    cluster.kill();
    cluster.up();
    assert_eq!(cluster.running(&arn)["lastStatus"], "RUNNING");
    let pinger = cluster.run_task(&network, &other);
    let ended = cluster.stopped(&pinger);
    assert_eq!(ended["containers"][0]["exitCode"], 0, "{}", cluster.output(&pinger));

    cluster.boto().ok("ecs", "stop_task", json!({ "task": arn }));
    let stopped = cluster.stopped(&arn);
    assert_eq!(stopped["containers"][0]["exitCode"], Value::from(5), "{stopped:#}");
    assert!(cluster.output(&arn).contains("stopping"));
}
