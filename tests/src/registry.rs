//! Debian's docker-registry over the images of `cargo xtask images`, which it may only read.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::places;
use crate::wait::until;
use crate::world::World;

pub(crate) const ADDRESS: &str = "127.0.0.1:5000";

#[derive(Debug)]
pub(crate) struct Registry(Child);

impl Registry {
    pub(crate) fn start(world: &World, home: &Path) -> Self {
        let config = home.join("registry.yml");
        let storage = places::registry_storage();
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: '{}'}}\n  \
             maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: true}}}}\nhttp: {{addr: '{ADDRESS}'}}\n",
            storage.display()
        );
        std::fs::write(&config, text).expect("the registry's configuration");
        let log = std::fs::File::create(home.join("registry.log")).expect("the registry's log");
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
                panic!("docker-registry ended: {status}; see {}/registry.log", home.display());
            }
            let url = format!("http://{ADDRESS}/v2/");
            let status = world.command("curl").args(["-sf", "-o", "/dev/null", &url]).status();
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
