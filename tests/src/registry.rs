//! Debian's docker-registry over the images of `cargo xtask images`, which it may only read.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::places;
use crate::wait::until;
use crate::world::World;

pub(crate) const ADDRESS: &str = "127.0.0.1:5000";

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Registry(Child);

impl Registry {
    /// For everybody.
    pub(crate) fn start(world: &World, home: &Path) -> Self {
        Self::start_at(world, home, ADDRESS, "registry", "")
    }

    /// For those that `htpasswd` has, which is a line of such a file.
    pub(crate) fn start_private(world: &World, home: &Path, address: &str, htpasswd: &str) -> Self {
        let file = home.join("htpasswd");
        std::fs::write(&file, htpasswd).expect("the registry's users");
        let auth = format!("auth: {{htpasswd: {{realm: private, path: '{}'}}}}\n", file.display());
        Self::start_at(world, home, address, "private-registry", &auth)
    }

    fn start_at(world: &World, home: &Path, address: &str, name: &str, more: &str) -> Self {
        let config = home.join(format!("{name}.yml"));
        let storage = places::registry_storage();
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: '{}'}}\n  \
             maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: true}}}}\nhttp: {{addr: '{address}'}}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text).expect("the registry's configuration");
        let log = std::fs::File::create(home.join(format!("{name}.log"))).expect("the registry's log");
        let child = world
            .command("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry: scripts/deps test");
        let mut registry = Self(child);
        until("the registry answers", || {
            if let Some(status) = registry.0.try_wait().expect("the registry's status") {
                panic!("docker-registry ended: {status}; see {}/{name}.log", home.display());
            }
            let url = format!("http://{address}/v2/");
            // Also by a refusal.
            let status = world.command("curl").args(["-s", "-o", "/dev/null", &url]).status();
            status.is_ok_and(|status| status.success()).then_some(())
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
