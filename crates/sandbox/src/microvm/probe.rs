//! Whether this host can run a machine fast. `/dev/kvm` being there says little: some hosts have one that never gets a
//! guest to its first instruction. So one of ours is booted, once, with a deadline.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_shim::machine::config::Accelerator;

use super::{MachineOptions, Machines};
use crate::{ContainerSandbox, Error, Isolation, Sandbox, TaskSandboxSpec};

/// A guest under KVM is up in a tenth of this.
const DEADLINE: Duration = Duration::from_secs(5);
const MEMORY_BYTES: u64 = 128 << 20;
const KVM: &str = "/dev/kvm";
/// Of the task whose machine it is.
const ID: &str = "probe";

/// Boots a guest with the options' accelerator; `Err` says in words why there is none. Leaves nothing behind.
pub async fn probe(
    shim: &Path,
    options: &MachineOptions,
    instance: &str,
    deadline: Option<Duration>,
) -> Result<Duration, String> {
    if options.accelerator == Accelerator::Kvm && !Path::new(KVM).exists() {
        return Err(format!("there is no {KVM}"));
    }
    let words = |error: Error| error.to_string();
    let wanted = options.clone();
    let machines = tokio::task::spawn_blocking(move || Machines::new(&wanted)).await;
    let machines = machines.map_err(|panic| panic.to_string())?.map(Arc::new).map_err(words)?;
    let sandbox = ContainerSandbox::with_shim(shim.to_owned()).map_err(words)?.with_machines(machines);
    let id = ID.to_owned();
    let begin = format!("{ID}-");
    let dir = options.dir.join(format!("{begin}{}", std::process::id()));
    // One that was under way when its program was killed.
    for entry in std::fs::read_dir(&options.dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() && entry.file_name().to_string_lossy().starts_with(&begin) {
            sandbox.discard(&entry.path(), instance, &id).await.map_err(words)?;
        }
    }
    let spec = TaskSandboxSpec {
        id: id.clone(),
        instance: instance.to_owned(),
        dir: dir.clone(),
        isolation: Isolation::MicroVm,
        cpu_units: 0,
        memory_bytes: MEMORY_BYTES,
        pids_max: None,
        shared_pid_namespace: false,
        network_namespace: None,
        hostname: id.clone(),
        hosts: String::new(),
        resolv_conf: String::new(),
        ephemeral_storage: None,
    };
    let began = std::time::Instant::now();
    let booted = async {
        let task = sandbox.create(spec).await.map_err(words)?;
        // Answered by the guest, so that it has to be there.
        task.stats().await.map_err(words)
    };
    let deadline = deadline.unwrap_or(DEADLINE);
    let result = match tokio::time::timeout(deadline, booted).await {
        Ok(Ok(_)) => Ok(began.elapsed()),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("a guest was not up within {} ms", deadline.as_millis())),
    };
    sandbox.discard(&dir, instance, &id).await.map_err(words)?;
    result
}
