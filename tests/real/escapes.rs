//! Escapes, tried from inside a task: as root, as root with the one capability that Fargate lets a task add, and as
//! nobody in particular. All of them are in `escapes/table.txt`, and so in `docs/security.md`.

mod prison;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ferrogate_tests::{Cluster, TaskRun, until, with_machines};
use serde_json::{Value, json};

use prison::{PROGRAM, Prison, listed, text};
use table::{Attempt, Free};

/// What a kernel without the attempted says to everybody.
const ABSENT: [&str; 5] = ["ENOENT", "ENOSYS", "ENODEV", "ENXIO", "EAFNOSUPPORT"];
/// Of the attempts that are tried where nothing stops them as well: as many may come to nothing on a kernel that has not what
/// they want.
const ABSENT_MAX: usize = 15;
/// Docker's default set (Moby, `oci/caps/defaults.go`), without CAP_.
const CAPABILITIES: u64 = 0xa804_25fb;
const SYS_PTRACE: u64 = 1 << 19;
/// The bomb's share: its own processes and threads, and some to see it go off.
const BOMB_PIDS: u64 = 40;
/// Processes and threads of a machine's program and what is beside it: more than it has, and few.
const MACHINE_PIDS_MAX: u64 = 512;
/// Of the attempts in a micro-VM, those that may come to nothing as the guest's kernel has not what they want.
const ABSENT_IN_GUEST_MAX: usize = 30;

/// A container that attempts are made from.
struct Attacker {
    name: &'static str,
    /// Of its containerDefinition.
    more: Value,
    permitted: u64,
    bounding: u64,
    /// Whether it may look at what runs beside it, rights or no rights.
    sees_launcher: bool,
}

fn attackers() -> [Attacker; 3] {
    let tracing = CAPABILITIES | SYS_PTRACE;
    let traces = json!({ "capabilities": { "add": ["SYS_PTRACE"] }, "initProcessEnabled": true });
    [
        Attacker {
            name: "root",
            more: json!({}),
            permitted: CAPABILITIES,
            bounding: CAPABILITIES,
            sees_launcher: false,
        },
        Attacker {
            name: "tracer",
            more: json!({ "linuxParameters": traces }),
            permitted: tracing,
            bounding: tracing,
            // The first process is a copy of it, which the container's root may trace.
            sees_launcher: true,
        },
        Attacker {
            name: "user",
            more: json!({ "user": "1000:1000" }),
            permitted: 0,
            bounding: CAPABILITIES,
            sees_launcher: false,
        },
    ]
}

impl Attacker {
    /// The table's word for what a container is told, if it is one that differs.
    fn told(&self, word: &str) -> String {
        match word {
            "$rights" => self.rights(),
            "$launcher" if self.sees_launcher => "read-only".to_owned(),
            "$launcher" => "never seen".to_owned(),
            word => word.to_owned(),
        }
    }

    /// As the program's `rights()` has them.
    fn rights(&self) -> String {
        let (permitted, bounding) = (self.permitted, self.bounding);
        format!(
            "CapInh=0 CapPrm={permitted:x} CapEff={permitted:x} CapBnd={bounding:x} CapAmb=0 NoNewPrivs=1 Seccomp=2"
        )
    }

    fn container(&self) -> Value {
        let mut container = json!({
            "name": self.name, "image": "python3-boto3", "essential": false,
            "command": ["python3", "/shared/escapes.py", "/shared/attempts.json", "/shared/where.json"],
            "mountPoints": [{ "sourceVolume": "shared", "containerPath": "/shared", "readOnly": true }],
            "dependsOn": [{ "containerName": "prepare", "condition": "SUCCESS" }],
            // Programs executed into the container while attempts are made.
            "healthCheck": { "interval": 5, "command": ["CMD-SHELL",
                "cat /proc/self/status > /tmp/status && printf x >> /tmp/checks"] },
        });
        let (Value::Object(all), Value::Object(more)) = (&mut container, self.more.clone()) else {
            unreachable!()
        };
        all.extend(more);
        container
    }
}

/// What each attempt came to, by its name, of a program's whole output.
fn outcomes(output: &str) -> Option<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for line in output.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{output}"));
        all.insert(text(&line["name"]), text(&line["outcome"]));
    }
    all.remove("end").map(|_| all)
}

/// Each of several answers is one of these.
fn is_one_of(outcome: &str, expected: &[&str]) -> bool {
    expected.contains(&outcome) || outcome.split('|').all(|part| expected.contains(&part))
}

#[test]
fn nothing_leads_out_of_a_container() {
    tried(&["--isolation", "container"].map(str::to_owned), Inside::Container);
}

/// Defence in depth: in the guest the same holds as in a container. What is the guest's alone is not held back twice.
#[test]
fn nothing_leads_out_of_a_machine() {
    with_machines(|| tried(&[], Inside::Machine));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Container,
    Machine,
}

impl Inside {
    fn expected(self, attempt: &Attempt) -> &[&'static str] {
        match self {
            Inside::Machine if !attempt.in_machine.is_empty() => &attempt.in_machine,
            _ => &attempt.refused,
        }
    }

    /// Where attempts are shown to be sound. What only takes another kernel than the guest's is shown for containers, by the
    /// same programs.
    fn free(self) -> &'static [Free] {
        match self {
            Inside::Container => &[Free::Kernel, Free::Host, Free::Victim, Free::Elsewhere],
            Inside::Machine => &[Free::Host, Free::Victim, Free::Elsewhere],
        }
    }
}

/// All attempts, from the tasks of a `ferrogate up` with these arguments.
fn tried(arguments: &[String], inside: Inside) {
    let rows = table::read();
    let attempts: Vec<&Attempt> = rows.iter().flat_map(|row| &row.attempts).collect();
    let prison = Prison::start(arguments);
    let arn = open(&prison, &attempts, inside);
    let mut wrong = Vec::new();
    // While they are made inside.
    let absent = where_nothing_stops_them(&prison, &attempts, inside, &mut wrong);
    let mut absent_in_guest = BTreeMap::new();

    for attacker in attackers() {
        let said = until(&format!("{} has tried all", attacker.name), || {
            outcomes(&prison.cluster.ferrogate(&["logs", &arn, "--container", attacker.name]).ok())
        });
        for attempt in attempts.iter().filter(|attempt| attempt.free != Free::Test) {
            let outcome = &said[attempt.name];
            let words = inside.expected(attempt);
            let mut refused: Vec<String> = words.iter().map(|word| attacker.told(word)).collect();
            if words.contains(&"$launcher") {
                // Whoever is quick sees it while an exec begins.
                refused.push("read-only".to_owned());
            }
            let expected: Vec<&str> = refused.iter().map(String::as_str).collect();
            if is_one_of(outcome, &expected) || absent.get(attempt.name) == Some(outcome) {
                continue;
            }
            let of_guest = inside == Inside::Machine && attempt.free == Free::Kernel;
            if of_guest && is_one_of(outcome, &ABSENT) {
                absent_in_guest.insert(attempt.name, outcome.clone());
            } else {
                let expected = refused.join(" or ");
                wrong.push(format!("{}, {}: {outcome}, not {expected}", attacker.name, attempt.name));
            }
        }
    }
    println!("not in the guest's kernel, {}: {absent_in_guest:?}", absent_in_guest.len());
    if absent_in_guest.len() > ABSENT_IN_GUEST_MAX {
        wrong.push(format!("not in the guest's kernel: {absent_in_guest:?}"));
    }
    let mut own = own_attempts(&prison.cluster, &arn, inside);
    for attempt in attempts.iter().filter(|attempt| attempt.free == Free::Test) {
        let outcome = own.remove(attempt.program).unwrap_or_else(|| panic!("nobody tries {}", attempt.name));
        if !is_one_of(&outcome, inside.expected(attempt)) {
            wrong.push(format!("{}: {outcome}", attempt.name));
        }
    }
    assert!(own.is_empty(), "not in the table: {own:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Makes them, and notes which come to no more than in a task. What is not to be had on this kernel, and its word for that.
fn where_nothing_stops_them<'a>(
    prison: &Prison,
    attempts: &[&'a Attempt],
    inside: Inside,
    wrong: &mut Vec<String>,
) -> BTreeMap<&'a str, String> {
    let mut absent = BTreeMap::new();
    for place in inside.free().iter().copied() {
        let here: Vec<&Attempt> = attempts.iter().copied().filter(|attempt| attempt.free == place).collect();
        let output = prison.free(place, &here).ok();
        let mut said = outcomes(&output).unwrap_or_else(|| panic!("{place:?}: it has no end: {output}"));
        for attempt in here {
            let outcome =
                said.remove(attempt.name).unwrap_or_else(|| panic!("{} was not tried", attempt.name));
            if ABSENT.contains(&outcome.as_str()) {
                absent.insert(attempt.name, outcome);
            } else if is_one_of(&outcome, &attempt.refused) {
                wrong.push(format!("{}: {outcome}, where nothing stops it: it shows nothing", attempt.name));
            }
        }
    }
    if absent.len() > ABSENT_MAX {
        wrong.push(format!("not on this kernel: {absent:?}"));
    }
    absent
}

/// The attackers' task, with what it takes for the test's own attempts.
fn open(prison: &Prison, attempts: &[&Attempt], inside: Inside) -> String {
    let tried: Vec<&Attempt> =
        attempts.iter().copied().filter(|attempt| attempt.free != Free::Test).collect();
    let after = json!([{ "containerName": "prepare", "condition": "SUCCESS" }]);
    let shared = json!([{ "sourceVolume": "shared", "containerPath": "/shared" }]);
    // Last: it is in others' way. Into a guest no file comes from outside to say that the others are through.
    let (go, bomb_after) = match inside {
        Inside::Container => ("/shared/go", after.clone()),
        Inside::Machine => (
            "/shared/escapes.py",
            attackers()
                .map(|attacker| json!({ "containerName": attacker.name, "condition": "COMPLETE" }))
                .to_vec()
                .into(),
        ),
    };
    let bomb = format!("import sys; sys.path.insert(0, '/shared'); import escapes; escapes.last('{go}')");
    let mut containers = vec![
        json!({ "name": "keeper", "image": "busybox", "command": ["sleep", "3600"], "stopTimeout": 2 }),
        json!({
            "name": "prepare", "image": "python3-boto3", "essential": false, "mountPoints": shared,
            "command": ["python3", "-c", PROGRAM, "--prepare", "/shared", listed(&tried).to_string(), prison.knowledge.to_string()],
        }),
        // In the volume is a link to /etc: the container's own, which then has the file.
        json!({
            "name": "linked", "image": "busybox", "essential": false, "dependsOn": after,
            "command": ["sh", "-c", "echo x > /shared/out/ferrogate-escape && cat /etc/ferrogate-escape"],
            "mountPoints": [shared[0], { "sourceVolume": "other", "containerPath": "/shared/out" }],
        }),
        json!({
            "name": "hungry", "image": "busybox", "essential": false, "memory": 32, "command": ["tail", "/dev/zero"],
        }),
        json!({
            "name": "bomb", "image": "python3-boto3", "essential": false, "dependsOn": bomb_after,
            "mountPoints": shared, "command": ["python3", "-c", bomb],
        }),
    ];
    containers.extend(attackers().iter().map(Attacker::container));
    // They look at some ten thousand files.
    let more = json!({
        "cpu": "2048", "memory": "4096", "volumes": [{ "name": "shared" }, { "name": "other" }],
    });
    prison.cluster.define("attackers", containers.into(), more);
    let groups = [prison.group.as_str()];
    prison.cluster.run_task(&prison.network, &TaskRun::of("attackers").groups(&groups))
}

/// The attempts that need somebody outside, by the table's names of them: what they came to.
fn own_attempts(cluster: &Cluster, arn: &str, inside: Inside) -> BTreeMap<&'static str, String> {
    let logs = |container: &str| cluster.ferrogate(&["logs", arn, "--container", container]).ok();
    let container = |name: &str| -> Value {
        let task = cluster.task(arn);
        let containers = task["containers"].as_array().expect("containers").clone();
        containers.into_iter().find(|container| container["name"] == name).expect("it is there")
    };
    let ended = |name: &str| {
        until(&format!("{name} has ended"), || {
            let container = container(name);
            (container["lastStatus"] == "STOPPED").then_some(container)
        })
    };
    let mut all = BTreeMap::new();

    let linked = ended("linked");
    assert!(!Path::new("/etc/ferrogate-escape").exists(), "in the machine's /etc");
    let outcome = if logs("linked") == "x\n" { "own root".to_owned() } else { linked.to_string() };
    all.insert("volume on a link", outcome);

    let hungry = ended("hungry");
    let reason = text(&hungry["reason"]);
    all.insert("memory", reason.split(':').next().unwrap_or_default().to_owned());
    assert_eq!(hungry["exitCode"], 137, "{hungry:#}");

    // The bound is below what the machine has; then it is lowered, so that the bomb is a small one.
    let id = arn.rsplit('/').next().expect("a task's ARN");
    let group = pids(&format!("ferrogate/{}/{id}", cluster.instance()));
    let number = |path: PathBuf| -> u64 {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim().parse().unwrap_or_else(|_| panic!("{}: {text}", path.display()))
    };
    let (most, machine) = (number(group.join("pids.max")), number("/proc/sys/kernel/pid_max".into()));
    let bounded = if most <= machine / 2 { "less".to_owned() } else { format!("{most} of {machine}") };
    all.insert("all processes", bounded);
    match inside {
        Inside::Container => {
            let now = number(group.join("pids.current"));
            fs::write(group.join("pids.max"), (now + BOMB_PIDS).to_string()).expect("a lower bound");
            let roots = cluster.task_processes(id).into_iter();
            let mut folders = roots.map(|pid| PathBuf::from(format!("/proc/{pid}/root/shared")));
            let folder = folders.find(|path| path.join("escapes.py").exists()).expect("the volume");
            fs::write(folder.join("go"), "").expect("a file in the volume");
        }
        Inside::Machine => assert!(most <= MACHINE_PIDS_MAX, "{most} processes of a machine's program"),
    }
    let said = until("the bomb has gone off", || outcomes(&logs("bomb")));
    all.insert("disk", said["disk"].clone());
    all.insert("fork bomb", said["fork bomb"].clone());
    // It hit itself.
    assert_eq!(container("keeper")["lastStatus"], "RUNNING");
    all
}

/// The cgroup of this path that counts processes.
fn pids(path: &str) -> PathBuf {
    let places = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|top| Path::new(top).join(path));
    let found = places.iter().find(|place| place.join("pids.max").exists());
    found.unwrap_or_else(|| panic!("no pids.max in any of {places:?}")).clone()
}

#[test]
fn the_document_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let document = fs::read_to_string(&path).expect("docs/security.md");
    let right = table::with_table(&document, &table::written(&table::read()));
    if std::env::var_os("FERROGATE_WRITE_DOCS").is_some() {
        fs::write(&path, right).expect("docs/security.md");
    } else {
        assert!(
            document == right,
            "the table in docs/security.md is another than tests/real/escapes/table.txt: FERROGATE_WRITE_DOCS=1 cargo \
             nextest run -p ferrogate-tests -E 'test(escapes::the_document)' writes it"
        );
    }
}
