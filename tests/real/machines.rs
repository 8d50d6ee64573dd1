//! Tasks in micro-VMs, emulated as no machine of a test need have KVM: the same clients, the same answers.

use ferrogate_tests::{Cluster, Setup, TaskRun, in_machines, until, with_machines};
use serde_json::{Value, json};

#[test]
fn a_task_in_a_machine_is_a_task() {
    let mut cluster = Cluster::start_with(Setup { arguments: in_machines(), ..Setup::default() });
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

/// What becomes of tasks that run, and that is all of them: their containers are told of, and nothing is left.
#[test]
fn a_task_whose_machine_or_shim_is_killed_has_ended_and_says_why() {
    with_machines(killed);
}

fn killed() {
    let mut arguments = in_machines();
    arguments.push("--no-snapshots".to_owned());
    let cluster = Cluster::start_with(Setup { arguments, ..Setup::default() });
    cluster.define_busybox("machine");
    let network = cluster.network();
    let run = TaskRun::of("machine").command("app", &["sh", "-c", "echo up; sleep 3600"]);
    let arns = [cluster.run_task(&network, &run), cluster.run_task(&network, &run)];
    for arn in &arns {
        cluster.running(arn);
        until("it has said so", || cluster.output(arn).contains("up").then_some(()));
    }
    let [one, two] = arns.each_ref().map(|arn| arn.rsplit('/').next().expect("a task's ARN").to_owned());
    let kill = |pid: u32| {
        let killed = cluster.command("kill").args(["-9", &pid.to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "kill -9 {pid}");
    };
    kill(cluster.task_processes(&one)[0]);
    kill(cluster.shim_of(&two).expect("its shim"));
    for (arn, why) in
        arns.iter().zip(["the task's machine was lost: ", "the process that ran the container was lost"])
    {
        let ended = cluster.stopped(arn);
        let container = &ended["containers"][0];
        assert_eq!(ended["stopCode"], "EssentialContainerExited", "{ended:#}");
        assert_eq!(container["exitCode"], 137, "{ended:#}");
        let reason = container["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("ContainerVanishedError: ") && reason.contains(why), "{ended:#}");
        assert_eq!(cluster.output(arn), "up\n");
    }
    until("nothing is left of them", || cluster.left_of_tasks().is_empty().then_some(()));
}

/// A kernel that no machine begins with.
#[test]
fn a_task_whose_machine_never_boots_fails_to_start() {
    with_machines(never_boots);
}

fn never_boots() {
    let folder = tempfile::tempdir().expect("a folder");
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].map(std::path::Path::new).into_iter().find(|path| path.exists());
    std::fs::copy(busybox.expect("busybox: scripts/deps test"), folder.path().join("vmlinux"))
        .expect("a file");
    let mut arguments = in_machines();
    arguments.retain(|argument| !argument.contains("/kernel/"));
    arguments.push(folder.path().to_string_lossy().into_owned());
    let cluster = Cluster::start_with(Setup { arguments, ..Setup::default() });
    cluster.define_busybox("machine");
    let arn = cluster.run_task(&cluster.network(), &TaskRun::of("machine"));
    let ended = cluster.stopped(&arn);
    assert_eq!(ended["stopCode"], "TaskFailedToStart", "{ended:#}");
    let reason = ended["stoppedReason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("Error: ") && reason.contains("machine was lost: qemu-system-x86_64: "),
        "{reason}"
    );
    until("nothing is left of it", || cluster.left_of_tasks().is_empty().then_some(()));
}
