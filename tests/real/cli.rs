//! The program's own commands.

use std::os::unix::fs::PermissionsExt;

use ferrogate_tests::{Cluster, TaskRun, eventually};
use serde_json::{Value, json};

#[test]
fn env_status_ps_and_logs() {
    let mut cluster = Cluster::start();
    let network = cluster.network();
    cluster.define_busybox("box");
    let speak = ["sh", "-c", "echo first; echo second >&2; exec sleep 3600"];
    let arn = cluster.run_task(&network, &TaskRun::of("box").command("app", &speak));
    let id = arn.rsplit('/').next().unwrap();
    cluster.running(&arn);

    // eval "$(ferrogate env)" points any AWS tool at it.
    let exports = cluster.ferrogate(&["env"]).ok();
    let script = format!("{exports}\nenv | grep ^AWS_ | sort");
    let output = cluster.command("sh").args(["-c", &script]).output().unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    for line in
        ["AWS_ENDPOINT_URL=http://127.0.0.1:4566", "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1"]
    {
        assert!(seen.lines().any(|seen| seen == line), "no {line} in {seen}");
    }
    assert!(seen.contains("AWS_ACCESS_KEY_ID=AKIA") && seen.contains("AWS_SECRET_ACCESS_KEY="), "{seen}");

    // Keys are nobody else's to read.
    for file in ["root.json", "aws/credentials", "aws/config", "seal.key"] {
        let mode =
            std::fs::metadata(cluster.data().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(std::fs::metadata(cluster.data()).unwrap().permissions().mode() & 0o777, 0o700);

    let status = cluster.ferrogate(&["status", "--output", "json"]).json();
    assert_eq!(
        (&status["api"], &status["account"]),
        (&json!("http://127.0.0.1:4566"), &json!("123456789012"))
    );
    assert_eq!(status["pid"], cluster.pid());
    let isolation = match cluster.has_machines() {
        true => "micro-VMs (emulated: slow)",
        false => "hardened containers (as asked)",
    };
    assert_eq!(status["isolation"], isolation);
    assert_eq!(status["tasks_on_node"].as_array().unwrap().len(), 1);
    let controllers = status["controllers"].as_object().unwrap();
    assert!(
        !controllers.is_empty() && controllers.values().all(|of| of["last_error"].is_null()),
        "{status:#}"
    );
    let text = cluster.ferrogate(&["status", "--controllers"]).ok();
    assert!(
        text.contains("1 on this node") && text.contains("all well") && text.contains("CONTROLLER"),
        "{text}"
    );

    let text = cluster.ferrogate(&["ps"]).ok();
    let line = text.lines().find(|line| line.contains(&id[..12])).unwrap_or_else(|| panic!("{text}"));
    for word in ["default", "box:1", "RUNNING"] {
        assert!(line.contains(word), "no {word} in {line}");
    }
    eventually("its lines are there", || cluster.output(&arn).lines().count() == 2);
    let mut lines: Vec<String> =
        cluster.ferrogate(&["logs", &id[..8]]).ok().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["first", "second"]);

    cluster.boto().ok("ecs", "stop_task", json!({ "task": arn, "reason": "done" }));
    cluster.stopped(&arn);
    assert!(!cluster.ferrogate(&["ps"]).ok().contains(&id[..12]));
    let stopped = cluster.ferrogate(&["ps", "--all", "--output", "json"]).json();
    assert_eq!((&stopped[0]["taskArn"], &stopped[0]["stoppedReason"]), (&json!(arn), &json!("done")));
    assert_eq!(cluster.output(&arn).lines().count(), 2, "the output is there after the end");

    mistakes(&cluster);

    // The same folder is used by one program at a time, and again after down.
    let second = cluster.ferrogate(&["up", "--listen", "127.0.0.1:4567"]);
    assert_ne!(second.code, Some(0));
    assert!(second.stderr.contains(&format!("in use by process {}", cluster.pid())), "{second:?}");
    assert_eq!(cluster.down(), Vec::<String>::new());
    assert!(
        cluster.ferrogate(&["down"]).ok().contains("was not running"),
        "down of what is down is no mistake"
    );
    cluster.up();
    let again = cluster.ferrogate(&["ps", "--all", "--output", "json"]).json();
    assert_eq!(again[0]["taskArn"], json!(arn));
}

fn mistakes(cluster: &Cluster) {
    for (arguments, says) in [
        (&["logs", "ffffffff"][..], "no task starts with 'ffffffff'"),
        (&["env", "--data-dir", "/nowhere"], "there is no Ferrogate in /nowhere"),
        (&["status", "--data-dir", "/nowhere"], "no Ferrogate runs with the data folder /nowhere"),
        (&["up", "--data-dir", "/run/x", "--account", "12"], "twelve digits"),
        (&["up", "--data-dir", "/run/x", "--listen", "0.0.0.0:4568"], "loopback only"),
        (&["up", "--data-dir", "/run/x", "--isolation", "microvm"], "needs --guest-kernel"),
    ] {
        let said = cluster.ferrogate(arguments);
        assert!(said.code != Some(0) && said.stderr.contains(says), "{arguments:?}: {said:?}");
    }
    let down = cluster.ferrogate(&["down", "--data-dir", "/nowhere"]).ok();
    assert!(down.contains("nothing to stop"), "{down}");
    let key = Value::from("AKIAIOSFODNN7EXAMPLE");
    let half = cluster
        .command(std::fs::read_link(format!("/proc/{}/exe", cluster.pid())).unwrap())
        .args(["up", "--data-dir", "/run/y", "--listen", "127.0.0.1:0"])
        .env("FERROGATE_ROOT_ACCESS_KEY_ID", key.as_str().unwrap())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&half.stderr).contains("go together"), "{half:?}");
}
