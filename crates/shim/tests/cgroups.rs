//! What cannot be seen through a container on this machine: the v2 device filter, and cgroups by themselves.

mod common;

use std::path::PathBuf;
use std::process::Command;

use ferrogate_shim::cgroup::{Cgroups, DeviceRule, devices};
use ferrogate_shim::protocol::Resources;

struct Cgroup {
    cgroups: Cgroups,
    instance: String,
    path: PathBuf,
}

impl Cgroup {
    fn new(resources: &Resources) -> Cgroup {
        let instance = common::instance();
        let path = PathBuf::from("ferrogate").join(&instance).join("task");
        let cgroup = Cgroup { cgroups: Cgroups::detect().unwrap(), instance, path };
        cgroup.cgroups.create(&cgroup.path, resources).unwrap();
        cgroup
    }

    /// A shell in it.
    fn shell(&self, script: &str) -> Command {
        let join: String = self
            .cgroups
            .join_files(&self.path)
            .iter()
            .map(|file| format!("echo $$ > {}; ", file.display()))
            .collect();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{join} {script}")]);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        common::clean("/nonexistent".as_ref(), &self.instance);
    }
}

#[test]
fn the_v2_device_filter_keeps_to_its_rules() {
    let cgroup = Cgroup::new(&Resources::default());
    let Some(directory) = cgroup.cgroups.v2_dir(&cgroup.path) else {
        eprintln!("there is no v2 hierarchy here: nothing to test");
        return;
    };
    let rule = |minor, write| DeviceRule {
        block: false,
        major: Some(1),
        minor: Some(minor),
        read: true,
        write,
        mknod: false,
    };
    devices::attach(&directory, &[rule(3, true), rule(5, false)]).unwrap();
    for (script, allowed) in [
        ("cat /dev/null", true),
        ("echo > /dev/null", true),
        ("head -c 1 /dev/zero | od", true),
        ("echo x > /dev/zero", false),
        ("exec < /dev/full", false),
        ("mknod /tmp/ferrogate-test-$$ c 1 3 && rm /tmp/ferrogate-test-$$", false),
    ] {
        let status = cgroup.shell(script).output().unwrap().status;
        assert_eq!(status.success(), allowed, "{script}");
    }
}

#[test]
fn killed_means_all_of_them() {
    let cgroup = Cgroup::new(&Resources { pids_max: Some(50), ..Resources::default() });
    let mut child = cgroup.shell("sleep 1000 & (sleep 1000 & setsid sleep 1000) & wait").spawn().unwrap();
    while cgroup.cgroups.usage(&cgroup.path).pids < 4 {
        std::thread::yield_now();
    }
    cgroup.cgroups.freeze(&cgroup.path, true, common::DEADLINE).unwrap();
    cgroup.cgroups.freeze(&cgroup.path, false, common::DEADLINE).unwrap();
    cgroup.cgroups.kill_once(&cgroup.path).unwrap();
    child.wait().unwrap();
    cgroup.cgroups.kill_tree(&cgroup.path, common::DEADLINE).unwrap();
    cgroup.cgroups.remove(&cgroup.path, common::DEADLINE).unwrap();
    for file in cgroup.cgroups.join_files(&cgroup.path) {
        assert!(!file.exists());
    }
}
