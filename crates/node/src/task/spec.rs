//! From an assigned container and its image to what the sandbox is told.

use ferrogate_nodeapi::ContainerAssignment;
use ferrogate_sandbox::{ContainerSpec, ImageDefaults, LogLimits, Tmpfs, Ulimit, WhenFull};

use super::{Actor, volumes};
use crate::endpoints;

/// Output of a container that keeps no log driver, for `ferrogate logs`.
const KEPT_OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// Output that waits for a blocking log driver.
const BLOCKING_OUTPUT_BYTES_MAX: u64 = 64 << 20;

impl Actor {
    pub(super) fn container_spec(&self, container: &ContainerAssignment) -> Result<ContainerSpec, String> {
        let image = self.images.get(&container.name).ok_or("its image is not here")?;
        let config = &image.config;
        let declared =
            |name: &str| self.images.get(name).map(|image| image.config.volumes.clone()).unwrap_or_default();
        let volumes = volumes::of(container, &self.record.assignment.containers, &declared);
        let mut environment = self.environment(container);
        environment.extend(self.secrets.get(&container.name).cloned().unwrap_or_default());
        // Whatever a secret is called, the way to the task's endpoints stays.
        environment.extend(endpoints::environment(&self.record, &container.runtime_id));
        let logs = match &container.logs {
            None => LogLimits { bytes_max: KEPT_OUTPUT_BYTES_MAX, when_full: WhenFull::DropOldest },
            Some(logs) if logs.non_blocking => {
                LogLimits { bytes_max: logs.max_buffer_bytes, when_full: WhenFull::DropNewest }
            }
            Some(_) => LogLimits { bytes_max: BLOCKING_OUTPUT_BYTES_MAX, when_full: WhenFull::Block },
        };
        Ok(ContainerSpec {
            id: container.name.clone(),
            layers: image.layers.iter().rev().cloned().collect(),
            image: ImageDefaults {
                entry_point: config.entrypoint.clone(),
                command: config.cmd.clone(),
                environment: config.env.clone(),
                user: config.user.clone(),
                working_directory: config.working_dir.clone(),
                volumes: config.volumes.clone(),
            },
            entry_point: container.entry_point.clone(),
            command: container.command.clone(),
            environment,
            user: container.user.clone(),
            working_directory: container.working_directory.clone(),
            cpu_units: container.cpu_units,
            memory_bytes: container.memory_mib.map(|mib| u64::from(mib) << 20),
            memory_reservation_bytes: container.memory_reservation_mib.map(|mib| u64::from(mib) << 20),
            readonly_root_filesystem: container.readonly_root_filesystem,
            ulimits: container
                .ulimits
                .iter()
                .map(|limit| Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
                .collect(),
            capabilities_add: container.capabilities_add.clone(),
            capabilities_drop: container.capabilities_drop.clone(),
            tmpfs: container
                .tmpfs
                .iter()
                .map(|tmpfs| Tmpfs {
                    container_path: tmpfs.container_path.clone(),
                    size_bytes: u64::from(tmpfs.size_mib) << 20,
                    mount_options: tmpfs.mount_options.clone(),
                })
                .collect(),
            system_controls: container.system_controls.clone(),
            mounts: Vec::new(),
            volumes,
            init: container.init_process_enabled,
            allow_new_privileges: false,
            pseudo_terminal: container.pseudo_terminal,
            interactive: container.interactive,
            logs,
        })
    }
}
