//! The same OCI specification through crun, runc and our launcher: what the container finds itself in must be the
//! same, except where a difference is wanted and listed.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ferrogate_sandbox::{ContainerSpec, ImageDefaults, Isolation, TaskSandboxSpec, Tmpfs, Ulimit};
use ferrogate_shim::log::{self, Record};
use ferrogate_shim::protocol::{self, *};
use ferrogate_shim::seccomp::default_profile;
use oci_spec::runtime::{LinuxCpuBuilder, LinuxPidsBuilder, Spec};

/// `key=value` lines.
const PROBE: &str = r#"
for ns in pid mnt uts ipc net cgroup user; do echo "ns $ns=$(readlink /proc/self/ns/$ns)"; done
grep -E '^(Cap|Seccomp:|Seccomp_filters|NoNewPrivs|Groups|Uid|Gid|Umask|SigBlk|SigIgn|SigCgt)' /proc/1/status | sed 's/:\s*/=/; s/^/status /; s/\s*$//'
sed -n 's/  */ /g; 2,$p' /proc/1/limits | sed -E 's/^(Max [a-z -]+) (([0-9]+|unlimited) ([0-9]+|unlimited)).*/limit \1=\2/'
while read id parent dev root point options rest; do
  before=${rest%%- *}; after=${rest#*- }; set -- $after
  echo "mount $point=$options|$before|$1|$3"
done < /proc/self/mountinfo
for path in MASKED; do
  if [ -d $path ]; then echo "masked $path=dir $(ls -A $path | wc -l)"
  elif [ -e $path ]; then echo "masked $path=file $(head -c 64 $path 2>/dev/null | wc -c)"; else echo "masked $path=absent"; fi
done
for path in READONLY; do touch $path/x 2>/dev/null && echo "readonly $path=NO" || echo "readonly $path=yes"; done
for node in $(find /dev | sort); do
  echo "dev $node=$(stat -c '%F %a %u:%g %t:%T' $node) $(readlink $node)"
done
for link in 0 1 2; do echo "fd $link=$(readlink /proc/self/fd/$link | sed 's/:.*//')"; done
echo "fds of 1=$(ls /proc/1/fd | tr '\n' ' ')"
echo "id=$(id)"
echo "hostname=$(hostname)"
echo "cwd=$(pwd)"
env | sort | sed 's/^/env /'
echo "oom_score_adj=$(cat /proc/1/oom_score_adj)"
echo "session=$(sed 's/.*) //' /proc/1/stat | cut -d' ' -f 3-5)"
echo "cgroup v1=$(sed 's/^[0-9]*://' /proc/self/cgroup | grep -E '^(memory|cpu|cpuacct|pids|devices|blkio):' | sort | tr '\n' ' ')"
echo "somaxconn=$(cat /proc/sys/net/core/somaxconn)"
echo "loopback=$(ip -o link show lo | grep -c LOOPBACK,UP)"
echo "root write=$(touch /x 2>/dev/null && echo yes || echo no)"
echo "pids=$(ls -d /proc/[0-9]* | grep -c '/proc/1$')"
echo probe-end
while [ ! -e /vol/go ]; do sleep 0.02; done
"#;

const CGROUP_FILES: &[(&str, &str)] = &[
    ("memory", "memory.limit_in_bytes"),
    ("memory", "memory.memsw.limit_in_bytes"),
    ("memory", "memory.soft_limit_in_bytes"),
    ("cpu", "cpu.shares"),
    ("cpu", "cpu.cfs_quota_us"),
    ("cpu", "cpu.cfs_period_us"),
    ("pids", "pids.max"),
    ("devices", "devices.list"),
];

/// Key (with a space at its end: every key that begins so), the runtime that differs from ours, why ours is as it is.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("cgroup devices.list", "both", "both let a container make any node; ours only those it may use"),
    ("fds of 1", "both", "a shell's own descriptors; that none of ours leaks is a test of its own"),
    ("status SigIgn", "both", "what the caller of the runtime ignored is inherited there; ours resets it"),
    ("status SigCgt", "both", "a matter of the shell's moment"),
    ("ns ", "both", "inode numbers; compared with the host's apart"),
    ("session", "both", "ours begins a session; theirs leaves that to the caller when there is no terminal"),
    (
        "dev /dev/null",
        "crun",
        "crun gives the null device to the container's user; runc and ours keep it root's",
    ),
    (
        "dev /dev/core",
        "runc",
        "runc makes the link only if /proc/kcore is there when it looks, before it is masked",
    ),
    ("fd 0", "runc", "runc puts a pipe of its own between; ours and crun hand the null device through"),
    (
        "mount /proc/acpi",
        "both",
        "the empty directory over a masked one: ours is read-only in both senses, size 0",
    ),
    ("mount /proc/dynamic_debug", "both", "as above"),
    ("mount /sys/firmware", "both", "as above"),
    ("mount /sys", "crun", "ours and runc mount sysfs read-only as a whole, crun only this mount of it"),
    (
        "mount /proc/bus",
        "crun",
        "crun's read-only view forgets nosuid, nodev and noexec; ours and runc's keep them",
    ),
    ("mount /proc/fs", "crun", "as above"),
    ("mount /proc/irq", "crun", "as above"),
    ("mount /proc/mtrr", "crun", "as above"),
    ("mount /proc/pressure", "crun", "as above"),
    ("mount /proc/sys", "crun", "as above"),
    ("mount /proc/sysrq-trigger", "crun", "as above"),
    (
        "mount /proc/interrupts",
        "crun",
        "crun masks with the host's null device, runc and ours with the container's",
    ),
    ("mount /proc/kcore", "crun", "as above"),
    ("mount /proc/keys", "crun", "as above"),
    ("mount /proc/kpagecgroup", "crun", "as above"),
    ("mount /proc/kpagecount", "crun", "as above"),
    ("mount /proc/kpageflags", "crun", "as above"),
    ("mount /proc/slabinfo", "crun", "as above"),
    ("mount /proc/timer_list", "crun", "as above"),
    ("mount /proc/vmallocinfo", "crun", "as above"),
];

type Facts = BTreeMap<String, String>;

struct Bundle {
    home: tempfile::TempDir,
    instance: String,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        common::clean(&self.home.path().join("task"), &self.instance);
    }
}

impl Bundle {
    fn volume(&self) -> PathBuf {
        self.home.path().join("vol")
    }
}

fn task_spec(dir: &Path, instance: &str) -> TaskSandboxSpec {
    TaskSandboxSpec {
        id: "task".into(),
        instance: instance.into(),
        dir: dir.into(),
        isolation: Isolation::Container,
        cpu_units: 0,
        memory_bytes: 0,
        pids_max: None,
        shared_pid_namespace: false,
        network_namespace: None,
        hostname: "probe-host".into(),
        hosts: String::new(),
        resolv_conf: String::new(),
        ephemeral_storage: None,
    }
}

/// The specification with one probe, in variants.
fn spec(bundle: &Bundle, user: (u32, u32, &[u32]), readonly: bool, privileges: bool) -> Spec {
    let home = bundle.home.path();
    let masked = ferrogate_sandbox::spec::MASKED_PATHS.join(" ");
    let probe = PROBE
        .replace("MASKED", &masked)
        .replace("READONLY", &ferrogate_sandbox::spec::READONLY_PATHS.join(" "));
    let container = ContainerSpec {
        id: "probe".into(),
        image: ImageDefaults::default(),
        command: Some(vec!["/bin/sh".into(), "-c".into(), probe]),
        working_directory: Some("/srv/dir".into()),
        environment: [("A".to_owned(), "b c".to_owned()), ("HOME".to_owned(), "/h".to_owned())].into(),
        memory_bytes: Some(64 << 20),
        memory_reservation_bytes: Some(32 << 20),
        cpu_units: 512,
        readonly_root_filesystem: readonly,
        allow_new_privileges: privileges,
        ulimits: vec![
            Ulimit { name: "nofile".into(), soft: 1000, hard: 2000 },
            Ulimit { name: "core".into(), soft: 0, hard: 0 },
        ],
        capabilities_drop: vec!["NET_RAW".into()],
        tmpfs: vec![Tmpfs { container_path: "/scratch".into(), size_bytes: 1 << 20, mount_options: vec![] }],
        system_controls: [("net.core.somaxconn".to_owned(), "99".to_owned())].into(),
        mounts: vec![
            ferrogate_sandbox::BindMount {
                source: bundle.volume(),
                container_path: "/vol".into(),
                read_only: false,
            },
            ferrogate_sandbox::BindMount {
                source: home.join("etc"),
                container_path: "/frozen".into(),
                read_only: true,
            },
        ],
        ..ContainerSpec::default()
    };
    let mut spec =
        ferrogate_sandbox::spec::oci_spec(&task_spec(home, &bundle.instance), &container, &home.join("etc"))
            .unwrap();
    // Which hierarchies are shown is the runtime's own; the values are compared from outside.
    let mounts = spec.mounts().clone().unwrap();
    spec.set_mounts(Some(mounts.into_iter().filter(|m| m.typ().as_deref() != Some("cgroup")).collect()));
    let mut linux = spec.linux().clone().unwrap();
    linux.set_seccomp(Some(default_profile()));
    let mut resources = linux.resources().clone().unwrap();
    let cpu =
        LinuxCpuBuilder::default().shares(512_u64).quota(50_000_i64).period(100_000_u64).build().unwrap();
    resources.set_cpu(Some(cpu));
    resources.set_pids(Some(LinuxPidsBuilder::default().limit(123_i64).build().unwrap()));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    let mut process = spec.process().clone().unwrap();
    process.set_oom_score_adj(Some(100));
    let mut who = process.user().clone();
    who.set_uid(user.0).set_gid(user.1).set_additional_gids(Some(user.2.to_vec()));
    process.set_user(who);
    spec.set_process(Some(process));
    spec
}

/// Reads to the end of the probe, looks at the cgroup, lets the container go.
fn collect(bundle: &Bundle, cgroup: &str, lines: impl Iterator<Item = String>) -> Facts {
    let mut facts = Facts::new();
    let mut ended = false;
    for line in lines {
        if line == "probe-end" {
            ended = true;
            break;
        }
        let (key, value) = line.split_once('=').unwrap_or((&line, ""));
        facts.insert(key.to_owned(), value.to_owned());
    }
    assert!(ended, "the probe did not end: {facts:#?}");
    for (controller, file) in CGROUP_FILES {
        let path = format!("/sys/fs/cgroup/{controller}/{cgroup}/{file}");
        let value = fs::read_to_string(&path).unwrap_or_else(|error| format!("{error}"));
        facts.insert(format!("cgroup {file}"), value.trim().replace('\n', "; "));
    }
    fs::write(bundle.volume().join("go"), "").unwrap();
    facts
}

fn through_runtime(runtime: &str, bundle: &Bundle, spec: &Spec) -> Facts {
    let _ = fs::remove_file(bundle.volume().join("go"));
    let directory = bundle.home.path().join(runtime);
    fs::create_dir_all(&directory).unwrap();
    let root = directory.join("rootfs");
    if !root.exists() {
        common::make_rootfs(&root);
    }
    let cgroup = format!("ferrogate/{}/{runtime}", bundle.instance);
    let mut spec = spec.clone();
    let mut linux = spec.linux().clone().unwrap();
    linux.set_cgroups_path(Some(format!("/{cgroup}").into()));
    spec.set_linux(Some(linux));
    spec.save(directory.join("config.json")).unwrap();
    // crun refuses a hybrid hierarchy; in a mount namespace of its own it need not see it.
    let command = format!(
        "umount /sys/fs/cgroup/unified 2>/dev/null; exec {runtime} {} --root '{}' run --bundle '{}' '{}-{runtime}'",
        if runtime == "crun" { "--cgroup-manager=cgroupfs" } else { "" },
        directory.join("state").display(),
        directory.display(),
        bundle.instance,
    );
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut child = KillOnDrop(child);
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let facts = collect(bundle, &cgroup, lines);
    child.0.wait().unwrap();
    facts
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Through the bare protocol, as any client could.
fn through_shim(bundle: &Bundle, spec: &Spec) -> Facts {
    let _ = fs::remove_file(bundle.volume().join("go"));
    let root = bundle.home.path().join("ours");
    if !root.exists() {
        common::make_rootfs(&root);
    }
    let dir = bundle.home.path().join("task");
    fs::create_dir_all(&dir).unwrap();
    let cgroup = PathBuf::from("ferrogate").join(&bundle.instance).join("task");
    let config = TaskConfig {
        version: PROTOCOL_VERSION,
        cgroup: cgroup.clone(),
        shim_cgroup: PathBuf::from("ferrogate").join(&bundle.instance).join(".shims"),
        resources: Resources::default(),
        shared_pid_namespace: false,
        ephemeral_storage: false,
        machine: None,
    };
    fs::write(dir.join(CONFIG_FILE), serde_json::to_vec(&config).unwrap()).unwrap();
    let started = Command::new(common::shim()).arg("--dir").arg(&dir).status().unwrap();
    assert!(started.success());
    let mut stream = UnixStream::connect(dir.join(SOCKET_FILE)).unwrap();
    let mut call = |id: u64, call: Call| {
        let mut frame = Vec::new();
        protocol::encode(&Request { id, call }, &mut frame).unwrap();
        stream.write_all(&frame).unwrap();
        let mut header = [0; 4];
        stream.read_exact(&mut header).unwrap();
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        stream.read_exact(&mut body).unwrap();
        match serde_json::from_slice(&body).unwrap() {
            Reply::Response { result, .. } => result,
            Reply::Event(event) => panic!("{event:?}"),
        }
    };
    let create = CreateContainer {
        id: "probe".into(),
        spec: spec.clone(),
        rootfs: Rootfs::Directory(root),
        user: None,
        seccomp: Seccomp::FromSpec,
        interactive: false,
        volumes: Vec::new(),
        init: false,
        network_namespace: None,
        logs: LogLimits::default(),
    };
    call(1, Call::CreateContainer(Box::new(create))).unwrap();
    call(2, Call::Start { container: "probe".into() }).unwrap();
    let logs = dir.join(CONTAINERS_DIR).join("probe").join(LOG_DIR);
    let deadline = std::time::Instant::now() + common::DEADLINE;
    let lines = loop {
        let lines = read_log(&logs);
        if lines.iter().any(|line| line == "probe-end") {
            break lines;
        }
        assert!(std::time::Instant::now() < deadline, "{lines:#?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let facts = collect(bundle, &format!("{}/c-probe", cgroup.display()), lines.into_iter());
    assert_eq!(call(3, Call::Shutdown { kill: true }), Ok(Answer::Done));
    fs::remove_dir_all(&dir).unwrap();
    facts
}

fn read_log(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for segment in log::segments(directory).unwrap() {
        let bytes = fs::read(segment.path).unwrap();
        let mut rest = bytes.as_slice();
        while let Some((Record { bytes, .. }, used)) = log::decode(rest).unwrap() {
            lines.push(String::from_utf8_lossy(bytes).into_owned());
            rest = &rest[used..];
        }
    }
    lines
}

fn allowed(key: &str, runtime: &str) -> bool {
    ALLOWED.iter().any(|(prefix, which, _)| {
        (key == *prefix || prefix.ends_with(' ') && key.starts_with(prefix))
            && (*which == "both" || *which == runtime)
    })
}

fn differences(runtime: &str, theirs: &Facts, ours: &Facts) -> Vec<String> {
    let keys: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    keys.into_iter()
        .filter(|key| !allowed(key, runtime) && theirs.get(*key) != ours.get(*key))
        .map(|key| format!("{key}\n    {runtime}: {:?}\n    ours: {:?}", theirs.get(key), ours.get(key)))
        .collect()
}

fn compare(user: (u32, u32, &[u32]), readonly: bool, privileges: bool) {
    let bundle = Bundle {
        home: tempfile::TempDir::with_prefix("ferrogate-diff-").unwrap(),
        instance: common::instance(),
    };
    let home = bundle.home.path();
    for directory in ["vol", "etc"] {
        fs::create_dir(home.join(directory)).unwrap();
    }
    for file in ["hosts", "hostname", "resolv.conf"] {
        fs::write(home.join("etc").join(file), file).unwrap();
    }
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let spec = spec(&bundle, user, readonly, privileges);
    let ours = through_shim(&bundle, &spec);
    for namespace in ["pid", "mnt", "uts", "ipc", "net", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_ne!(ours.get(&format!("ns {namespace}")).map(String::as_str), host.to_str(), "{namespace}");
    }
    let mut all = Vec::new();
    for runtime in ["crun", "runc"] {
        let theirs = through_runtime(runtime, &bundle, &spec);
        all.extend(differences(runtime, &theirs, &ours));
    }
    assert!(all.is_empty(), "{} differences:\n{}", all.len(), all.join("\n"));
    assert!(ours.len() > 100, "the probe told only {} facts", ours.len());
}

#[test]
fn root_gets_the_same() {
    compare((0, 0, &[]), false, false);
}

#[test]
fn a_user_gets_the_same() {
    compare((1000, 1001, &[2000, 3000]), true, false);
}

#[test]
fn with_set_uid_programs_left_their_power_too() {
    compare((0, 0, &[5]), false, true);
}
