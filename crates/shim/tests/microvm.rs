//! Tasks in machines of their own, emulated: slow, and everywhere the same. What a machine's task has in common with any
//! other is tested by the other files here, with FERROGATE_TEST_ISOLATION=microvm.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::machines::{home, machine_pid, sandbox, small};
use common::{DEADLINE, Task};
use ferrogate_sandbox::microvm::{
    BOOT_FILE, BootReport, MachineAccelerator, MachineOptions, NoMachine, discard_probe, parts, probe,
};
use ferrogate_sandbox::{
    BindMount, ContainerSpec, EphemeralStorage, Error, ExecSpec, VolumeMount, WindowSize,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn boot(task: &Task) -> BootReport {
    serde_json::from_slice(&std::fs::read(task.dir.join(BOOT_FILE)).unwrap()).unwrap()
}

async fn exec(task: &Task, id: &str, words: &[&str]) -> (i32, String) {
    let argv = words.iter().map(|word| (*word).to_owned()).collect();
    let mut exec = task.task.exec(id, ExecSpec { argv, ..ExecSpec::default() }).await.unwrap();
    let mut output = Vec::new();
    let code = exec.wait_output(&mut output, 1 << 20).await.unwrap();
    (code, String::from_utf8(output).unwrap())
}

#[tokio::test]
async fn a_task_has_a_kernel_of_its_own() {
    let (_home, options) = home();
    let sandbox = sandbox(options).await;
    let (one, two) = (Task::of(&sandbox, small), Task::of(&sandbox, small));
    let (one, two) = tokio::join!(one, two);
    let text =
        "uname -r; cat /proc/sys/kernel/random/boot_id; hostname; cat /etc/resolv.conf; echo err >&2; exit 7";
    let mut seen = Vec::new();
    for task in [&one, &two] {
        let (code, output) = task.run(&task.script("app", text)).await;
        assert_eq!(code, 7, "{output}");
        assert!(output.contains("err\n") && output.contains("nameserver 10.0.0.2\n"), "{output}");
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        assert_eq!(lines[2], "ip-10-0-0-4");
        seen.push((lines[0].clone(), lines[1].clone()));
        let report = boot(task);
        assert!(report.hello_ms > 0 && report.ready_ms >= report.hello_ms, "{report:?}");
    }
    let host = |file| std::fs::read_to_string(Path::new("/proc/sys/kernel").join(file)).unwrap();
    assert_ne!(seen[0].0, host("osrelease").trim(), "another kernel");
    assert_ne!(seen[0].1, seen[1].1, "two boots");
    assert!(seen.iter().all(|(_, id)| id != host("random/boot_id").trim()));
    println!("{:#?}", boot(&one));

    is_jailed(&one, &two);
    let pid = machine_pid(&one);
    one.task.destroy().await.unwrap();
    assert!(!common::is_alive(pid) && !one.dir.exists());
}

/// What a guest that took over its program would find.
fn is_jailed(one: &Task, two: &Task) {
    let (pid, other) = (machine_pid(one), machine_pid(two));
    let of = |pid: i32, file: &str| PathBuf::from(format!("/proc/{pid}/{file}"));
    let status = std::fs::read_to_string(of(pid, "status")).unwrap();
    let field = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        line.trim().to_owned()
    };
    for capabilities in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".into(), "1".into()));
    let users = [pid, other].map(|pid| std::fs::metadata(of(pid, "")).unwrap().uid());
    assert!(users.iter().all(|user| *user > 0x7000_0000) && users[0] != users[1], "{users:?}");
    assert_eq!(field("Groups:"), "");
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(link(&pid.to_string()), link("self"), "{namespace}");
    }
    let links = std::fs::read_to_string(of(pid, "net/dev")).unwrap();
    assert_eq!(links.lines().skip(2).count(), 1, "loopback alone: {links}");
    let mut root: Vec<String> = std::fs::read_dir(of(pid, "root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    root.sort();
    assert_eq!(root, ["dev", "initramfs", "kernel", "lib", "lib64", "usr"]);
    let dev: Vec<_> =
        std::fs::read_dir(of(pid, "root/dev")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(dev, ["null"]);
    // Every mount it sees is read-only.
    let mounts = std::fs::read_to_string(of(pid, "mountinfo")).unwrap();
    for mount in mounts.lines() {
        let options = mount.split(' ').nth(5).unwrap();
        assert!(options.split(',').any(|option| option == "ro"), "{mount}");
    }
}

#[tokio::test]
async fn execs_have_stdio_terminals_and_ends() {
    let (_home, options) = home();
    let task = Task::of(&sandbox(options).await, small).await;
    let app = task.script("app", "trap 'echo got; exit 3' TERM; echo up; while true; do sleep 0.1; done");
    task.task.create_container(&app).await.unwrap();
    task.task.start("app").await.unwrap();
    task.wait_for_line("app", "up").await;

    assert_eq!(exec(&task, "app", &["/bin/sh", "-c", "echo out; echo err >&2; exit 5"]).await.0, 5);
    // More than any buffer on the way holds, whole and in order.
    let (code, output) = exec(&task, "app", &["/bin/seq", "1", "60000"]).await;
    let expected: String = (1..=60000).map(|number| format!("{number}\n")).collect();
    assert!(code == 0 && output == expected, "{code}, {} bytes of {}", output.len(), expected.len());

    let cat = ExecSpec { argv: vec!["/bin/cat".into()], stdin: true, ..ExecSpec::default() };
    let mut cat = task.task.exec("app", cat).await.unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    drop(stdin);
    let mut output = String::new();
    cat.stdout.read_to_string(&mut output).await.unwrap();
    assert_eq!((cat.wait().await.unwrap(), output.as_str()), (0, "typed\n"));

    let shell = ExecSpec {
        argv: vec!["/bin/sh".into()],
        terminal: Some(WindowSize { rows: 24, columns: 80 }),
        ..ExecSpec::default()
    };
    let mut shell = task.task.exec("app", shell).await.unwrap();
    let mut typed = shell.stdin.take().unwrap();
    typed.write_all(b"stty size; echo d''one\n").await.unwrap();
    let shown = read_until(&mut shell.stdout, "done").await;
    assert!(shown.contains("24 80"), "{shown}");
    shell.resize(WindowSize { rows: 50, columns: 132 }).unwrap();
    let resized = async {
        loop {
            typed.write_all(b"stty size; echo d''one\n").await.unwrap();
            if read_until(&mut shell.stdout, "done").await.contains("50 132") {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, resized).await.unwrap();
    typed.write_all(b"exit 9\n").await.unwrap();
    assert_eq!(shell.wait().await.unwrap(), 9);

    let missing = ExecSpec { argv: vec!["/bin/nothing".into()], ..ExecSpec::default() };
    let refused = task.task.exec("app", missing).await.err().unwrap();
    assert!(matches!(refused, Error::CannotExecute { exit_code: 127, .. }), "{refused}");

    let stats = task.task.stats().await.unwrap();
    assert!(stats.task.memory_bytes > 0 && stats.task.memory_max_bytes == Some(128 << 20), "{stats:?}");
    let ended = task.task.stop("app", libc::SIGTERM, DEADLINE).await.unwrap();
    assert_eq!((ended.exit_code, ended.oom_killed), (3, false));
    assert_eq!(task.output("app").await, "up\ngot\n");
    // Started again it goes on where it was.
    task.task.start("app").await.unwrap();
    let killed = task.task.stop("app", libc::SIGUSR2, Duration::ZERO).await.unwrap();
    assert!(killed.exit_code > 128, "{killed:?}");

    let hog = task.script("hog", "x=x; while true; do x=$x$x$x$x; done");
    let (code, output) = task.run(&ContainerSpec { memory_bytes: Some(16 << 20), ..hog }).await;
    let state = task.task.state().await.unwrap();
    let hog = state.containers.iter().find(|container| container.id == "hog").unwrap();
    assert!(code == 137 && hog.oom_killed, "{code} {output}");
    task.task.delete_container("hog").await.unwrap();
}

async fn read_until(from: &mut (impl tokio::io::AsyncRead + Unpin), text: &str) -> String {
    let read = async {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(text) {
            let mut buffer = [0; 1024];
            let count = from.read(&mut buffer).await.unwrap();
            assert!(count > 0, "ended with {:?}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&all).into_owned()
    };
    tokio::time::timeout(DEADLINE, read).await.expect("the text comes")
}

#[tokio::test]
async fn what_containers_write_is_on_an_encrypted_disk() {
    let (home, options) = home();
    let storage = EphemeralStorage { size_bytes: 20 << 30, templates: home.path().join("templates") };
    let sandbox = sandbox(options).await;
    let task = Task::of(&sandbox, |spec| {
        small(spec);
        spec.ephemeral_storage = Some(storage);
    });
    let task = task.await;
    let shared = VolumeMount { volume: "data".into(), container_path: "/data".into(), read_only: false };
    let write = "for i in $(seq 20000); do echo PLAINLY-READABLE; done > /data/file; cp /data/file /own; sync; df -k /data | tail -1";
    let writer = ContainerSpec { volumes: vec![shared.clone()], ..task.script("writer", write) };
    let (code, output) = task.run(&writer).await;
    let kib: u64 =
        output.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    assert!(code == 0 && kib >= 20 << 20, "{code} {output}");
    let reader = ContainerSpec { volumes: vec![shared], ..task.script("reader", "wc -l < /data/file") };
    assert_eq!(task.run(&reader).await, (0, "20000\n".to_owned()));

    let disk = std::fs::File::open(task.dir.join("storage.img")).unwrap();
    let meta = disk.metadata().unwrap();
    assert!(meta.len() >= 20 << 30 && meta.blocks() * 512 < 64 << 20, "sparse: {} blocks", meta.blocks());
    assert!(meta.blocks() * 512 > 600 << 10, "it was written to: {} blocks", meta.blocks());
    assert!(!has_data(&disk, b"PLAINLY-READABLE"), "the host can read it");
    let usage = task.task.stats().await.unwrap().storage.unwrap();
    assert!(usage.size_bytes >= 20 << 30 && usage.used_bytes > 0, "{usage:?}");
    task.task.reserve_storage(1 << 30).await.unwrap();
    assert!(task.task.stats().await.unwrap().storage.unwrap().used_bytes > 1 << 30);
    let refused = task.task.reserve_storage(40 << 30).await.unwrap_err();
    assert!(matches!(refused, Error::NoSpace(_)), "{refused}");
}

fn has_data(file: &std::fs::File, text: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let mut offset = 0;
    while let Ok(begin) = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(begin)).unwrap();
        let mut data = vec![0; (end - begin) as usize];
        file.read_exact_at(&mut data, begin).unwrap();
        if data.windows(text.len()).any(|window| window == text) {
            return true;
        }
        offset = end;
    }
    false
}

#[tokio::test]
async fn the_distributions_kernel_boots_as_well() {
    let (home, options) = home();
    let options = MachineOptions { kernel: common::kernel(Some("cloud")), ..options };
    let storage = EphemeralStorage { size_bytes: 20 << 30, templates: home.path().join("templates") };
    let sandbox = sandbox(options).await;
    let task = Task::of(&sandbox, |spec| {
        small(spec);
        spec.ephemeral_storage = Some(storage);
    });
    let task = task.await;
    let (code, output) = task.run(&task.script("app", "uname -r; echo x > /file; sync")).await;
    println!("{:#?}", boot(&task));
    assert!(code == 0 && output.contains("cloud"), "{code} {output}");
}

#[tokio::test]
async fn a_directory_of_the_host_is_refused() {
    let (_home, options) = home();
    let task = Task::of(&sandbox(options).await, small).await;
    let mount = BindMount { source: "/etc".into(), container_path: "/host".into(), read_only: true };
    let spec = ContainerSpec { mounts: vec![mount], ..task.script("app", "true") };
    let refused = task.task.create_container(&spec).await.unwrap_err();
    assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
}

/// Either way it ends in time, says why not, and leaves nothing.
#[tokio::test]
async fn a_probe_answers_in_time() {
    let (_home, options) = home();
    let instance = common::instance();
    let kvm = MachineOptions { accelerator: MachineAccelerator::Kvm, ..options };
    let answer = probe(&common::shim(), &kvm, &instance, None).await;
    println!("{answer:?}");
    if let Err(why) = answer {
        assert!(!why.to_string().is_empty());
    }
    nothing_is_left(&kvm, &instance);
}

fn nothing_is_left(options: &MachineOptions, instance: &str) {
    assert!(!options.dir.join("probe").exists());
    let cgroups = ferrogate_shim::cgroup::Cgroups::detect().unwrap();
    let members: Vec<PathBuf> = cgroups.join_files(&Path::new("ferrogate").join(instance));
    assert!(members.iter().all(|file| !file.exists()), "{members:?}");
}

/// What is not there may come to be there, and a guest that was too slow may have time.
#[tokio::test]
async fn a_probe_tells_what_lasts_from_what_may_change() {
    // More than a machine's own deadline.
    const PLENTY: Duration = Duration::from_secs(180);
    let (home, options) = home();
    let instance = common::instance();
    let kernel = home.path().join("kernel");
    std::fs::create_dir(&kernel).unwrap();
    let vmlinux = options.kernel.join("vmlinux");
    let options = MachineOptions { kernel: kernel.clone(), ..options };
    let probed = async |options: &MachineOptions, deadline| {
        let found = probe(&common::shim(), options, &instance, Some(deadline)).await;
        nothing_is_left(options, &instance);
        found
    };
    let missing = parts(&options);
    let found = probed(&options, PLENTY).await;
    assert!(
        matches!(&found, Err(why @ NoMachine::NotBegun(words)) if words.contains("vmlinux") && !why.lasts())
    );

    for entry in std::fs::read_dir(vmlinux.parent().unwrap()).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), kernel.join(entry.file_name())).unwrap();
    }
    let there = parts(&options);
    assert!(there != missing && there == parts(&options));
    let found = probed(&options, Duration::from_millis(100)).await;
    assert!(matches!(&found, Err(why @ NoMachine::Late(_)) if !why.lasts()), "{found:?}");
    let found = probed(&options, PLENTY).await;
    assert!(found.is_ok(), "{found:?}");

    let none = home.path().join("no-program");
    std::fs::write(&none, "text").unwrap();
    let panics = MachineOptions { guest: Some(none), ..options };
    assert_ne!(parts(&panics), there);
    let found = probed(&panics, PLENTY).await;
    let Err(why) = found else { panic!("it is up") };
    assert!(why.lasts() && why.to_string().contains("Kernel panic - not syncing"), "{why}");
}

/// As by a `ferrogate` that is killed while it finds out.
#[tokio::test]
async fn what_a_killed_probe_leaves_is_ended() {
    let (_home, options) = home();
    let instance = common::instance();
    let (wanted, of) = (options.clone(), instance.clone());
    let probing = tokio::spawn(async move { probe(&common::shim(), &wanted, &of, Some(DEADLINE)).await });
    let pid = async {
        loop {
            if let Some(pid) = common::machines::pid_of(&instance, "probe") {
                return pid;
            }
            assert!(!probing.is_finished(), "it is over before it could be killed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let pid = tokio::time::timeout(DEADLINE, pid).await.unwrap();
    probing.abort();
    assert!(probing.await.unwrap_err().is_cancelled());
    assert!(common::is_alive(pid) && options.dir.join("probe").exists());
    discard_probe(&common::shim(), &options.dir, &instance).await.unwrap();
    assert!(!common::is_alive(pid));
    nothing_is_left(&options, &instance);
    // With nothing there it does nothing.
    discard_probe(&common::shim(), &options.dir, &instance).await.unwrap();
}

/// Two namespaces as the fabric makes them: a router, and a task's with its interface. Gone when dropped.
struct Network {
    task: String,
    router: String,
}

impl Network {
    fn new() -> Network {
        let name = common::instance();
        let network = Network { task: format!("{name}-task"), router: format!("{name}-router") };
        let Network { task, router } = &network;
        for step in [
            format!("netns add {task}"),
            format!("netns add {router}"),
            format!("-n {task} link add eth0 address 02:00:00:00:00:44 type veth peer r0 netns {router}"),
            format!("-n {task} link set lo up"),
            format!("-n {task} link set eth0 up mtu 1400"),
            format!("-n {task} addr add 10.9.0.4/24 dev eth0"),
            format!("-n {task} route add default via 10.9.0.1"),
            format!("-n {task} addr add 169.254.170.2/32 dev lo"),
            format!("-n {router} link set lo up"),
            format!("-n {router} link set r0 up"),
            format!("-n {router} addr add 10.9.0.1/32 dev r0"),
            format!("-n {router} addr add 10.9.0.77/32 dev lo"),
            format!("-n {router} route add 10.9.0.4 dev r0"),
        ] {
            ip(&step).unwrap();
        }
        network
    }

    fn path(name: &str) -> PathBuf {
        Path::new("/run/netns").join(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.task, &self.router] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(words: &str) -> Result<(), String> {
    let output = std::process::Command::new("ip").args(words.split(' ')).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(format!("ip {words}: {output:?}")) }
}

/// On a thread of its own, in that namespace.
fn within<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let path = Network::path(name);
    std::thread::spawn(move || {
        let namespace = std::fs::File::open(path).unwrap();
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .unwrap();
        work()
    })
}

/// Says to whoever connects who it is; until nobody has the listener any more.
fn greet(name: &str, address: &'static str) {
    let listener = within(name, move || std::net::TcpListener::bind(address).unwrap()).join().unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = writeln!(stream, "{address} sees {}", peer.ip());
        }
    });
}

#[tokio::test]
async fn the_guest_has_the_tasks_interface() {
    let (_home, options) = home();
    let network = Network::new();
    greet(&network.task, "169.254.170.2:80");
    greet(&network.router, "10.9.0.1:7000");
    greet(&network.router, "10.9.0.77:7000");
    let sandbox = sandbox(options).await;
    let namespace = Network::path(&network.task);
    let task = Task::of(&sandbox, |spec| {
        small(spec);
        spec.network_namespace = Some(namespace);
    });
    let task = task.await;
    let text = "ip addr show eth0; for to in '169.254.170.2 80' '10.9.0.1 7000' '10.9.0.77 7000'; do \
                busybox nc $to < /dev/null; done; echo listening; echo hello | busybox nc -l -p 8000";
    task.task.create_container(&task.script("app", text)).await.unwrap();
    task.task.start("app").await.unwrap();
    task.wait_for_line("app", "listening").await;
    let answer = within(&network.router, || {
        use std::io::Read;
        // The line comes before the listener.
        let until = std::time::Instant::now() + DEADLINE;
        loop {
            match std::net::TcpStream::connect("10.9.0.4:8000") {
                Ok(mut stream) => {
                    let mut text = String::new();
                    stream.read_to_string(&mut text).unwrap();
                    return text;
                }
                Err(error) if std::time::Instant::now() > until => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    });
    assert_eq!(tokio::task::spawn_blocking(|| answer.join().unwrap()).await.unwrap(), "hello\n");
    let output = task.output("app").await;
    for expected in [
        "02:00:00:00:00:44",
        "mtu 1400",
        "inet 10.9.0.4/24",
        "169.254.170.2:80 sees 10.9.0.4",
        "10.9.0.1:7000 sees 10.9.0.4",
        "10.9.0.77:7000 sees 10.9.0.4",
    ] {
        assert!(output.contains(expected), "{expected}: {output}");
    }
}

/// An image's layers are disks in a guest, made of directories in which overlayfs' own marks say what is not there.
#[tokio::test]
async fn what_a_layer_hides_is_hidden_in_a_guest() {
    let (home, options) = home();
    let sandbox = sandbox(options).await;
    let task = Task::of(&sandbox, small).await;
    let layer = |name: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.join("kept")).unwrap();
        std::fs::create_dir_all(path.join("emptied")).unwrap();
        path
    };
    let (below, above) = (layer("below"), layer("above"));
    for file in ["kept/stays", "kept/goes", "kept/changes", "emptied/goes"] {
        std::fs::write(below.join(file), "below").unwrap();
    }
    for file in ["kept/changes", "emptied/new"] {
        std::fs::write(above.join(file), "above").unwrap();
    }
    std::os::unix::fs::chown(above.join("emptied/new"), Some(1234), Some(70_000)).unwrap();
    let (character, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
    rustix::fs::mknodat(rustix::fs::CWD, above.join("kept/goes"), character, mode, 0).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(above.join("emptied"), "trusted.overlay.opaque", b"y", flags).unwrap();

    let mut spec = task.script("app", "cd /; grep -r . kept emptied | sort; stat -c %u:%g emptied/new");
    spec.layers = vec![above, below, spec.layers[0].clone()];
    let (code, output) = task.run(&spec).await;
    assert_eq!(
        (code, output.as_str()),
        (0, "emptied/new:above\nkept/changes:above\nkept/stays:below\n1234:70000\n")
    );
}
