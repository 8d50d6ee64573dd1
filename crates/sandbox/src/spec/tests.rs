use super::*;
use crate::{BindMount, ImageDefaults, Isolation, Tmpfs};

fn task() -> TaskSandboxSpec {
    TaskSandboxSpec {
        id: "t".into(),
        instance: "i".into(),
        dir: "/run/t".into(),
        isolation: Isolation::Container,
        cpu_units: 256,
        memory_bytes: 512 << 20,
        pids_max: None,
        shared_pid_namespace: false,
        network_namespace: Some("/run/netns/eni".into()),
        hostname: "ip-10-0-0-4.ec2.internal".into(),
        hosts: String::new(),
        resolv_conf: String::new(),
        ephemeral_storage: None,
    }
}

fn container() -> ContainerSpec {
    ContainerSpec {
        id: "web".into(),
        image: ImageDefaults {
            entry_point: vec!["/entry".into()],
            command: vec!["serve".into()],
            environment: vec!["PATH=/opt/bin".into(), "MODE=image".into()],
            user: "www".into(),
            working_directory: "/srv".into(),
            ..ImageDefaults::default()
        },
        ..ContainerSpec::default()
    }
}

fn build(container: &ContainerSpec) -> Result<Spec, Error> {
    oci_spec(&task(), container, Path::new("/run/t/etc"))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn entry_point_and_command_follow_docker() {
    let cases = [
        (None, None, "/entry serve"),
        (None, Some("other"), "/entry other"),
        (Some("/mine"), None, "/mine"),
        (Some("/mine"), Some("a b"), "/mine a b"),
        (Some(""), Some(""), "/entry serve"),
    ];
    for (entry_point, command, expected) in cases {
        let spec = build(&ContainerSpec {
            entry_point: entry_point.map(words),
            command: command.map(words),
            ..container()
        })
        .unwrap();
        assert_eq!(
            spec.process().as_ref().unwrap().args(),
            &Some(words(expected)),
            "{entry_point:?} {command:?}"
        );
    }
}

#[test]
fn nothing_to_run_is_refused() {
    let error = build(&ContainerSpec { image: ImageDefaults::default(), ..container() }).unwrap_err();
    assert!(error.to_string().contains("no command specified"), "{error}");
}

#[test]
fn the_task_definition_wins_over_the_image() {
    let spec = build(&ContainerSpec {
        environment: BTreeMap::from([("MODE".into(), "task".into()), ("A".into(), "b=c".into())]),
        working_directory: Some("/work".into()),
        ..container()
    })
    .unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(
        process.env().as_ref().unwrap(),
        &["PATH=/opt/bin", "HOSTNAME=ip-10-0-0-4.ec2.internal", "MODE=task", "A=b=c"]
    );
    assert_eq!(process.cwd(), Path::new("/work"));
    assert_eq!(user(&container()).as_deref(), Some("www"));
    assert_eq!(user(&ContainerSpec { user: Some("0".into()), ..container() }).as_deref(), Some("0"));
}

#[test]
fn capabilities_are_the_default_set_with_changes() {
    let set = |add: &str, drop: &str| {
        let container =
            ContainerSpec { capabilities_add: words(add), capabilities_drop: words(drop), ..container() };
        container_capabilities(&container)
    };
    assert_eq!(set("", "").unwrap().len(), 14);
    assert_eq!(set("", "NET_RAW cap_mknod").unwrap().len(), 12);
    assert_eq!(set("SYS_PTRACE", "ALL").unwrap(), [oci_spec::runtime::Capability::SysPtrace]);
    assert!(set("SYS_ADMIN", "").unwrap_err().to_string().contains("SYS_PTRACE"));
    assert!(set("", "NO_SUCH").is_err());
}

#[test]
fn limits_default_to_fargates() {
    let limits = rlimits(&ContainerSpec {
        ulimits: vec![Ulimit { name: "core".into(), soft: 0, hard: 0 }],
        ..container()
    })
    .unwrap();
    let nofile = limits.iter().find(|l| l.typ() == PosixRlimitType::RlimitNofile).unwrap();
    assert_eq!((nofile.soft(), nofile.hard()), (65_535, 65_535));
    assert_eq!(limits.len(), 2);
    for (name, soft, hard) in [("nofile", 2, 1), ("bogus", 1, 1)] {
        let ulimits = vec![Ulimit { name: name.into(), soft, hard }];
        assert!(rlimits(&ContainerSpec { ulimits, ..container() }).is_err());
    }
}

#[test]
fn mounts_are_ordered_and_careful() {
    let spec = build(&ContainerSpec {
        tmpfs: vec![Tmpfs {
            container_path: "/data/a/tmp".into(),
            size_bytes: 1 << 20,
            mount_options: vec!["exec".into()],
        }],
        mounts: vec![
            BindMount { source: "/vol/b".into(), container_path: "/data/a".into(), read_only: true },
            BindMount { source: "/vol/a".into(), container_path: "/data".into(), read_only: false },
        ],
        ..container()
    })
    .unwrap();
    let mounts = spec.mounts().as_ref().unwrap();
    let own: Vec<_> = mounts.iter().rev().take(3).rev().collect();
    let destinations: Vec<_> = own.iter().map(|m| m.destination().to_str().unwrap()).collect();
    assert_eq!(destinations, ["/data", "/data/a", "/data/a/tmp"]);
    assert_eq!(own[1].options().as_ref().unwrap(), &["rbind", "rprivate", "nodev", "ro"]);
    assert_eq!(own[2].options().as_ref().unwrap(), &["exec", "nosuid", "nodev", "size=1048576"]);
    assert!(mounts.iter().any(|m| m.destination() == Path::new("/etc/resolv.conf")));
}

#[test]
fn container_paths_stay_inside() {
    for path in ["relative", "/", "/a/../../etc"] {
        let mounts = vec![BindMount { source: "/v".into(), container_path: path.into(), read_only: false }];
        assert!(build(&ContainerSpec { mounts, ..container() }).is_err(), "{path}");
    }
}

#[test]
fn memory_and_cpu_are_the_containers_own() {
    let spec = build(&ContainerSpec {
        cpu_units: 0,
        memory_bytes: Some(64 << 20),
        memory_reservation_bytes: Some(32 << 20),
        ..container()
    })
    .unwrap();
    let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
    assert_eq!(resources.cpu().as_ref().unwrap().shares(), Some(2));
    let memory = resources.memory().unwrap();
    assert_eq!(
        (memory.limit(), memory.swap(), memory.reservation()),
        (Some(64 << 20), Some(64 << 20), Some(32 << 20))
    );
}

#[test]
fn the_network_namespace_is_joined() {
    let spec = build(&container()).unwrap();
    let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let network = namespaces.iter().find(|n| n.typ() == LinuxNamespaceType::Network).unwrap();
    assert_eq!(network.path().as_deref(), Some(Path::new("/run/netns/eni")));
    assert_eq!(namespaces.len(), 6);
}
