//! What containers write: bounded by the task's ephemeral storage, in volumes, and gone with the task.

mod common;

use common::Task;
use ferrogate_sandbox::{
    BindMount, ContainerSpec, EphemeralStorage, Error, ImageDefaults, Tmpfs, VolumeMount,
};

const MIB: u64 = 1 << 20;

async fn bounded(mib: u64) -> Task {
    Task::with(|spec| {
        let templates = spec.dir.with_file_name("templates");
        spec.ephemeral_storage = Some(EphemeralStorage { size_bytes: mib * MIB, templates });
    })
    .await
}

fn volume(name: &str, path: &str) -> VolumeMount {
    VolumeMount { volume: name.into(), container_path: path.into(), read_only: false }
}

/// Loop devices over files of this task.
fn loops(task: &Task) -> Vec<String> {
    let of = |entry: std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("loop/backing_file"))
            .ok()
            .map(|path| path.trim().to_owned())
    };
    let all = std::fs::read_dir("/sys/block").unwrap().flatten().filter_map(of);
    all.filter(|path| path.contains(task.dir.to_str().unwrap())).collect()
}

/// The kernel lets go of a mount a moment after its last user.
async fn no_loops(task: &Task) {
    let gone = async {
        while !loops(task).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(common::DEADLINE, gone).await.expect("the loop device stays");
}

#[tokio::test]
async fn the_size_is_a_wall_for_layers_and_volumes_together() {
    let task = bounded(64).await;
    assert_eq!(loops(&task).len(), 1);
    let half = "dd if=/dev/zero of=$F bs=1M count=40 2>&1; stat -c %s $F";
    let of = |id: &str, file: &str| ContainerSpec {
        volumes: vec![volume("data", "/data")],
        environment: [("F".to_owned(), file.to_owned())].into(),
        ..task.script(id, half)
    };
    let (_, first) = task.run(&of("first", "/data/big")).await;
    assert!(first.contains(&(40 * MIB).to_string()), "{first}");
    // The rest of it is smaller than what this one wants in its own layer.
    let (_, second) = task.run(&of("second", "/big")).await;
    assert!(second.contains("No space left on device"), "{second}");
    let usage = task.task.stats().await.unwrap().storage.unwrap();
    assert!(usage.size_bytes > 60 * MIB && usage.size_bytes < 68 * MIB, "{usage:?}");
    assert!(usage.used_bytes > 58 * MIB, "{usage:?}");
    // Nothing of it has a place on the host.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(task.dir.to_str().unwrap()), "{mounts}");
    task.task.destroy().await.unwrap();
    no_loops(&task).await;
}

#[tokio::test]
async fn what_is_deleted_is_given_back() {
    let task = bounded(64).await;
    let script = "for i in 1 2 3 4; do dd if=/dev/zero of=/big bs=1M count=40 2>/dev/null || exit 1; rm /big; done; echo fine";
    assert_eq!(task.run(&task.script("a", script)).await, (0, "fine\n".into()));
    let usage = task.task.stats().await.unwrap().storage.unwrap();
    assert!(usage.used_bytes < 8 * MIB, "{usage:?}");
}

#[tokio::test]
async fn images_take_their_part() {
    let task = bounded(64).await;
    task.task.reserve_storage(50 * MIB).await.unwrap();
    let script = "dd if=/dev/zero of=/big bs=1M count=20 2>&1 | grep -o 'No space left on device'";
    assert_eq!(task.run(&task.script("a", script)).await.1, "No space left on device\n");
    // Said again after a restart of the agent, it is the same.
    task.task.reserve_storage(10 * MIB).await.unwrap();
    assert_eq!(task.run(&task.script("b", script)).await.1, "");
    match task.task.reserve_storage(100 * MIB).await {
        Err(Error::NoSpace(words)) => assert!(words.contains("no space left on device"), "{words}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_killed_shim_leaves_no_loop_device() {
    let task = bounded(64).await;
    let spec =
        ContainerSpec { volumes: vec![volume("v", "/v")], ..task.script("a", "echo ready; sleep 1000") };
    task.task.create_container(&spec).await.unwrap();
    task.task.start("a").await.unwrap();
    task.wait_for_line("a", "ready").await;
    common::kill(task.shim_pid(), 9);
    no_loops(&task).await;
}

#[tokio::test]
async fn a_restarted_container_keeps_its_layer_and_volumes() {
    let task = bounded(64).await;
    let spec = ContainerSpec {
        image: ImageDefaults { volumes: vec!["/own".into()], ..ImageDefaults::default() },
        ..task.script("a", "echo x >> /layer; echo x >> /own/file; cat /layer /own/file | wc -l")
    };
    assert_eq!(task.run(&spec).await, (0, "2\n".into()));
    let mut events = task.task.events();
    task.task.start("a").await.unwrap();
    while !matches!(events.next().await, Some(ferrogate_sandbox::TaskEvent::Exited(_))) {}
    assert_eq!(task.output("a").await, "2\n4\n");
}

#[tokio::test]
async fn volumes_are_shared_and_have_what_the_image_declares() {
    for bound in [false, true] {
        let task = if bound { bounded(64).await } else { Task::new().await };
        let data = task.layer.join("srv/data");
        std::fs::create_dir_all(data.join("deep")).unwrap();
        std::fs::write(data.join("deep/file"), "of the image\n").unwrap();
        std::os::unix::fs::symlink("deep/file", data.join("link")).unwrap();
        std::os::unix::fs::chown(&data, Some(1000), Some(1001)).unwrap();
        std::os::unix::fs::chown(data.join("deep/file"), Some(1000), Some(2000)).unwrap();
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&data, mode(0o2750)).unwrap();
        std::fs::set_permissions(data.join("deep/file"), mode(0o4711)).unwrap();
        let declared = ImageDefaults { volumes: vec!["/srv/data/".into()], ..ImageDefaults::default() };

        let show = "cat /srv/data/link; stat -c '%a %u %g' /srv/data /srv/data/deep/file; \
            cat /proc/mounts | grep -c ' /srv/data '; echo more > /srv/data/more";
        let first = ContainerSpec {
            image: declared.clone(),
            volumes: vec![volume("shared", "/srv/data")],
            ..task.script("first", show)
        };
        let expected = "of the image\n2750 1000 1001\n4711 1000 2000\n1\n";
        assert_eq!(task.run(&first).await, (0, expected.into()));
        // Not fresh any more: what is in it stays as it is. Read-only here.
        let second = ContainerSpec {
            image: declared.clone(),
            volumes: vec![VolumeMount { read_only: true, ..volume("shared", "/srv/data") }],
            ..task.script("second", "cat /srv/data/more; rm /srv/data/link 2>/dev/null || echo read-only")
        };
        assert_eq!(task.run(&second).await, (0, "more\nread-only\n".into()));
        // Read-only and fresh: it is filled all the same.
        let third = ContainerSpec {
            id: "third".into(),
            volumes: vec![VolumeMount { read_only: true, ..volume("other", "/srv/data") }],
            ..task.script("third", "cat /srv/data/link; touch /srv/data/x 2>/dev/null || echo read-only")
        };
        let third = ContainerSpec { image: declared.clone(), ..third };
        assert_eq!(task.run(&third).await, (0, "of the image\nread-only\n".into()));
        // An image that does not declare it leaves the volume empty, root's, 0755.
        let fourth = ContainerSpec {
            volumes: vec![volume("empty", "/srv/data")],
            ..task.script("fourth", "ls /srv/data; stat -c '%a %u %g' /srv/data")
        };
        assert_eq!(task.run(&fourth).await, (0, "755 0 0\n".into()));
        // A declared path without a mount is a volume of the container's own: written even under a read-only root.
        let fifth = ContainerSpec {
            image: declared.clone(),
            readonly_root_filesystem: true,
            ..task.script(
                "fifth",
                "echo x > /srv/data/x && cat /srv/data/deep/file; touch /x 2>/dev/null || echo read-only",
            )
        };
        assert_eq!(task.run(&fifth).await, (0, "of the image\nread-only\n".into()));
    }
}

#[tokio::test]
async fn other_mounts_win_over_declared_volumes() {
    let task = Task::new().await;
    let host = task.dir.join("host");
    std::fs::create_dir(&host).unwrap();
    let spec = ContainerSpec {
        image: ImageDefaults { volumes: vec!["/one".into(), "/two".into()], ..ImageDefaults::default() },
        mounts: vec![BindMount { source: host.clone(), container_path: "/one".into(), read_only: false }],
        tmpfs: vec![Tmpfs { container_path: "/two".into(), size_bytes: MIB, mount_options: vec![] }],
        ..task.script("a", "touch /one/here; grep -c ' /two tmpfs ' /proc/mounts")
    };
    assert_eq!(task.run(&spec).await, (0, "1\n".into()));
    assert!(host.join("here").exists());
    for volume_path in ["relative", "/a/../b", "/"] {
        let spec = ContainerSpec { volumes: vec![volume("v", volume_path)], ..task.script("bad", "true") };
        assert!(matches!(task.task.create_container(&spec).await, Err(Error::Invalid { .. })));
    }
    let spec = ContainerSpec { volumes: vec![volume("../v", "/v")], ..task.script("bad", "true") };
    assert!(matches!(task.task.create_container(&spec).await, Err(Error::Invalid { .. })));
}

/// Loop devices are taken from one pool by all, and one may be gone before it is ours.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_each_have_their_own() {
    let proto = Task::new().await;
    let templates = proto.dir.with_file_name("templates");
    let made = futures_of(24, |number| {
        let mut spec = proto.task.spec().clone();
        spec.id = format!("many-{number}");
        spec.dir = proto.dir.with_file_name(&spec.id);
        spec.ephemeral_storage =
            Some(EphemeralStorage { size_bytes: 64 * MIB, templates: templates.clone() });
        let container = proto.script("a", &format!("echo {number} > /own; cat /own"));
        async move {
            let task = common::sandbox_create(spec).await;
            task.create_container(&container).await.unwrap();
            task.start("a").await.unwrap();
            let mut logs = task.logs("a", 0).await.unwrap();
            let line = logs.next().await.unwrap();
            let said = matches!(&line, Some(ferrogate_sandbox::LogRecord::Line { bytes, .. })
                if String::from_utf8_lossy(bytes) == number.to_string());
            assert!(said, "{line:?}");
            task.destroy().await.unwrap();
        }
    });
    for task in made {
        task.await.unwrap();
    }
    let home = proto.dir.parent().unwrap().to_str().unwrap().to_owned();
    let gone = async {
        while std::fs::read_dir("/sys/block").unwrap().flatten().any(|block| {
            std::fs::read_to_string(block.path().join("loop/backing_file"))
                .is_ok_and(|path| path.contains(&home))
        }) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(common::DEADLINE, gone).await.expect("a loop device stays");
}

fn futures_of<F: Future<Output = ()> + Send + 'static>(
    count: usize,
    one: impl Fn(usize) -> F,
) -> Vec<tokio::task::JoinHandle<()>> {
    (0..count).map(|number| tokio::spawn(one(number))).collect()
}
