//! Not a test: numbers, side by side with crun. `cargo test --release -p ferrogate-shim --test speed -- --ignored --nocapture`

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::Task;
use ferrogate_sandbox::{ContainerSpec, EphemeralStorage, LogRecord};

const ROUNDS: usize = 40;

struct Numbers {
    name: &'static str,
    milliseconds: Vec<f64>,
}

impl Numbers {
    fn print(&mut self) {
        self.milliseconds.sort_by(f64::total_cmp);
        let at = |share: f64| self.milliseconds[((self.milliseconds.len() - 1) as f64 * share) as usize];
        println!("{:<44} median {:>7.2} ms   p95 {:>7.2} ms", self.name, at(0.5), at(0.95));
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn create_to_first_output_to_removed() {
    let [mut shim, mut output, mut removed, mut again] = [
        "ours: task and shim ready",
        "ours: task to first output",
        "ours: task to removed",
        "ours: container in a task to first output",
    ]
    .map(|name| Numbers { name, milliseconds: Vec::new() });
    let proto = Task::new().await;
    let templates = proto.dir.with_file_name("templates");
    for _ in 0..ROUNDS {
        let mut spec = proto.task.spec().clone();
        spec.id = "timed".into();
        if std::env::var_os("WITHOUT_STORAGE").is_none() {
            spec.ephemeral_storage =
                Some(EphemeralStorage { size_bytes: 20 << 30, templates: templates.clone() });
        }
        spec.dir = proto.dir.with_file_name("timed");
        let start = Instant::now();
        let task = common::sandbox_create(spec).await;
        shim.milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        for (id, numbers) in [("a", &mut output), ("b", &mut again)] {
            let start = if id == "a" { start } else { Instant::now() };
            task.create_container(&ContainerSpec { ..proto.program(id, &["echo", "hello"]) }).await.unwrap();
            task.start(id).await.unwrap();
            let mut logs = task.logs(id, 0).await.unwrap();
            assert!(matches!(logs.next().await.unwrap(), Some(LogRecord::Line { .. })));
            numbers.milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
            if id == "a" {
                assert_eq!(logs.next().await.unwrap(), None);
            }
        }
        let between = Instant::now();
        task.destroy().await.unwrap();
        let task_and_output = output.milliseconds.last().unwrap();
        removed.milliseconds.push(task_and_output + between.elapsed().as_secs_f64() * 1e3);
    }

    let bundle = tempfile::tempdir().unwrap();
    common::make_rootfs(&bundle.path().join("rootfs"));
    let mut bare = Numbers { name: "crun run to removed (no seccomp)", milliseconds: Vec::new() };
    let mut filtered =
        Numbers { name: "crun run to removed (same seccomp profile)", milliseconds: Vec::new() };
    for (numbers, seccomp) in [(&mut bare, false), (&mut filtered, true)] {
        let mut spec = ferrogate_sandbox::spec::oci_spec(
            proto.task.spec(),
            &proto.program("x", &["echo", "hello"]),
            &proto.dir.join("etc"),
        )
        .unwrap();
        let mounts = spec.mounts().clone().unwrap();
        spec.set_mounts(Some(mounts.into_iter().filter(|m| m.typ().as_deref() != Some("cgroup")).collect()));
        let mut linux = spec.linux().clone().unwrap();
        linux.set_cgroups_path(Some(format!("/ferrogate/{}/crun", proto.instance).into()));
        if seccomp {
            linux.set_seccomp(Some(ferrogate_shim::seccomp::default_profile()));
        }
        spec.set_linux(Some(linux));
        // crun fails where it may not raise a limit; ours takes what it gets.
        let mut process = spec.process().clone().unwrap();
        process.set_rlimits(None);
        spec.set_process(Some(process));
        fs::write(bundle.path().join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        // One mount namespace for all rounds: what is measured is crun.
        let script = format!(
            "umount /sys/fs/cgroup/unified 2>/dev/null; for i in $(seq {ROUNDS}); do \
             a=$(date +%s%N); crun --cgroup-manager=cgroupfs --root {0}/state run --bundle {0} t$i | grep -q hello || exit 1; b=$(date +%s%N); echo $((b-a)); done",
            bundle.path().display()
        );
        let done = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(done.status.success(), "crun failed");
        let text = String::from_utf8(done.stdout).unwrap();
        numbers.milliseconds = text.lines().map(|line| line.parse::<f64>().unwrap() / 1e6).collect();
    }
    for numbers in [&mut shim, &mut output, &mut removed, &mut again, &mut bare, &mut filtered] {
        numbers.print();
    }

    proto.task.create_container(&proto.program("idle", &["sleep", "1000"])).await.unwrap();
    proto.task.start("idle").await.unwrap();
    let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", proto.shim_pid())).unwrap();
    for line in memory
        .lines()
        .filter(|line| line.starts_with("Rss") || line.starts_with("Pss:") || line.starts_with("Anonymous"))
    {
        println!("shim of an idle task: {line}");
    }
}
