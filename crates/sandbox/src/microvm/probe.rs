//! Whether this host can run a machine fast. `/dev/kvm` being there says little: some hosts have one that never gets a
//! guest to its first instruction. So one of ours is booted, once, with a deadline.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_shim::machine::config::Accelerator;

use super::{KERNEL_FILE, MachineOptions, Machines, beside, program};
use crate::{ContainerSandbox, Error, Isolation, Sandbox, TaskSandboxSpec};

/// A guest under KVM is up in a tenth of this.
const DEADLINE: Duration = Duration::from_secs(5);
const MEMORY_BYTES: u64 = 128 << 20;
const KVM: &str = "/dev/kvm";
/// Of the task whose machine it is, and below [`MachineOptions::dir`] where it lies.
const ID: &str = "probe";

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum NoMachine {
    /// Something is missing or in the way, so that none came to its first instruction.
    #[error("{0}")]
    NotBegun(String),
    #[error("a guest was not up within {} ms", .0.as_millis())]
    Late(Duration),
    /// It ended before it was up: its kernel, its program or QEMU says why.
    #[error("{0}")]
    Ended(String),
}

impl NoMachine {
    /// Whether trying again would find the same. What is missing may come to be there, and a busy host may have time.
    #[must_use]
    pub fn lasts(&self) -> bool {
        matches!(self, NoMachine::Ended(_))
    }
}

/// What a machine is made of: path, size and time of kernel, QEMU and guest. While they are the same, so is what a probe
/// found.
#[must_use]
pub fn parts(options: &MachineOptions) -> Vec<String> {
    let guest = options.guest.clone().or_else(|| beside().ok());
    let files = [Some(options.kernel.join(KERNEL_FILE)), program::find(), guest];
    let part = |file: Option<PathBuf>| {
        let Some((meta, path)) = file.and_then(|path| Some((std::fs::metadata(&path).ok()?, path))) else {
            return "none".to_owned();
        };
        format!("{} {} {}.{:09}", path.display(), meta.size(), meta.mtime(), meta.mtime_nsec())
    };
    files.into_iter().map(part).collect()
}

/// Ends and removes the machine of a probe whose program was killed. `dir` is [`MachineOptions::dir`].
pub async fn discard_probe(shim: &Path, dir: &Path, instance: &str) -> Result<(), Error> {
    let sandbox = ContainerSandbox::with_shim(shim.to_owned())?;
    sandbox.discard(&dir.join(ID), instance, ID).await?;
    ContainerSandbox::remove_instance(instance).await
}

/// Boots a guest with the options' accelerator. Leaves nothing behind, unless it is killed: [`discard_probe`].
pub async fn probe(
    shim: &Path,
    options: &MachineOptions,
    instance: &str,
    deadline: Option<Duration>,
) -> Result<Duration, NoMachine> {
    if options.accelerator == Accelerator::Kvm && !Path::new(KVM).exists() {
        return Err(NoMachine::NotBegun(format!("there is no {KVM}")));
    }
    let not_begun = |error: Error| NoMachine::NotBegun(error.to_string());
    discard_probe(shim, &options.dir, instance).await.map_err(not_begun)?;
    let wanted = options.clone();
    let machines = tokio::task::spawn_blocking(move || Machines::new(&wanted)).await;
    let machines = machines.map_err(|panic| NoMachine::NotBegun(panic.to_string()))?;
    let machines = machines.map(Arc::new).map_err(not_begun)?;
    let sandbox = ContainerSandbox::with_shim(shim.to_owned()).map_err(not_begun)?.with_machines(machines);
    let spec = TaskSandboxSpec {
        id: ID.to_owned(),
        instance: instance.to_owned(),
        dir: options.dir.join(ID),
        isolation: Isolation::MicroVm,
        cpu_units: 0,
        memory_bytes: MEMORY_BYTES,
        pids_max: None,
        shared_pid_namespace: false,
        network_namespace: None,
        hostname: ID.to_owned(),
        hosts: String::new(),
        resolv_conf: String::new(),
        ephemeral_storage: None,
    };
    let began = std::time::Instant::now();
    let booted = async {
        let task = sandbox.create(spec).await.map_err(not_begun)?;
        // Answered by the guest, so that it has to be there.
        task.stats().await.map_err(|error| match error {
            Error::Refused(why) => NoMachine::Ended(why),
            lost => not_begun(lost),
        })
    };
    let deadline = deadline.unwrap_or(DEADLINE);
    let result = match tokio::time::timeout(deadline, booted).await {
        Ok(Ok(_)) => Ok(began.elapsed()),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(NoMachine::Late(deadline)),
    };
    discard_probe(shim, &options.dir, instance).await.map_err(not_begun)?;
    result
}
