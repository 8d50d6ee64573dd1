//! What tasks run in: a hardened container, or a machine of their own with a kernel of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferrogate_ecs::RegisteredDefinition;
use ferrogate_sandbox::ContainerSandbox;
use ferrogate_sandbox::microvm::{
    MachineAccelerator, MachineOptions, Machines, NoMachine, Snapshots, discard_probe, parts, probe,
};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::data::DataDir;

/// Below the data folder: disks of layers, the initramfs, what the probe found.
const DIR: &str = "machines";
const PROBE_FILE: &str = "probe.json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Behind the node's own instance: cgroup of the probe's machine.
const PROBE_INSTANCE: &str = "-probe";
/// Behind the node's own instance: cgroup of the machines snapshots are taken of.
const SNAPSHOTS_INSTANCE: &str = "-snapshots";
const SHIM: &str = "ferrogate-shim";
const KERNEL: &str = "kernel";
const HOST_ARCHITECTURE: &str = std::env::consts::ARCH;

/// As `ferrogate up` was asked.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) isolation: Choice,
    /// A directory with the guest's kernel: the one named, or the one that is [installed](installed_kernel).
    pub(crate) kernel: Option<PathBuf>,
    /// Machines without KVM.
    pub(crate) emulate: bool,
    /// Machines begin from snapshots.
    pub(crate) snapshots: bool,
}

impl Wanted {
    /// Whether it can be had as far as the words go.
    pub(crate) fn check(&self) -> Result<()> {
        if self.isolation == Choice::Microvm && self.kernel.is_none() {
            bail!(
                "--isolation microvm needs --guest-kernel, a directory with the guest's vmlinux, where there is no `kernel` beside \
                 the program: `cargo xtask kernel` makes one"
            );
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    Auto,
    Container,
    Microvm,
}

/// What tasks run in, and in words why.
pub(crate) struct Chosen {
    pub(crate) sandbox: ContainerSandbox,
    pub(crate) words: String,
    /// Not begun with: that is when nothing can be refused any more.
    pub(crate) snapshots: Option<Arc<Snapshots>>,
}

/// A size's first task finds a snapshot, if its definition was registered long enough before it runs. Until the service is gone.
pub(crate) async fn snapshots_ahead(
    mut registered: Receiver<RegisteredDefinition>,
    snapshots: Arc<Snapshots>,
) {
    loop {
        match registered.recv().await {
            Ok(definition) if definition.architecture == HOST_ARCHITECTURE => {
                let storage_bytes = u64::from(definition.ephemeral_storage_gib) << 30;
                snapshots.expect(definition.cpu_units, definition.memory_mib.into(), storage_bytes);
            }
            // What is missed is made with a size's first task.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// What a probe found that lasts. It holds for this boot of the host, this program and what machines are made of.
#[derive(Serialize, Deserialize, PartialEq)]
struct Found {
    host_boot: String,
    version: String,
    parts: Vec<String>,
    /// Why machines do not run; `None`: they do.
    why_not: Option<String>,
}

pub(crate) async fn choose(data: &DataDir, instance: &str, wanted: &Wanted) -> Result<Chosen> {
    let (dir, snapshots_instance) = (data.join(DIR), format!("{instance}{SNAPSHOTS_INSTANCE}"));
    let probe_instance = format!("{instance}{PROBE_INSTANCE}");
    // Of a program that was killed. They may still run, whatever is asked for now.
    Snapshots::discard_interrupted(&shim()?, &dir, &snapshots_instance).await?;
    discard_probe(&shim()?, &dir, &probe_instance).await?;
    let sandbox = ContainerSandbox::new()?;
    let containers = |sandbox, why: &str| Chosen {
        sandbox,
        words: format!("hardened containers ({why})"),
        snapshots: None,
    };
    if wanted.isolation == Choice::Container {
        return Ok(containers(sandbox, "as asked"));
    }
    wanted.check()?;
    let asked = wanted.isolation == Choice::Microvm;
    let Some(kernel) = &wanted.kernel else {
        return Ok(containers(sandbox, "micro-VMs need --guest-kernel"));
    };
    let accelerator = if wanted.emulate { MachineAccelerator::Tcg } else { MachineAccelerator::Kvm };
    let options = MachineOptions {
        kernel: kernel.clone(),
        guest: None,
        accelerator,
        dir: dir.clone(),
        boot_deadline: None,
    };
    // Emulation runs everywhere, and only who asks for it gets it.
    let why_not = if wanted.emulate {
        None
    } else {
        let shim = shim()?;
        remembered(&options, probe(&shim, &options, &probe_instance, None)).await?
    };
    match (why_not, asked) {
        (Some(why), true) => bail!(
            "--isolation microvm: this host cannot run a machine: {why}. --emulate runs them without KVM, slowly"
        ),
        (Some(why), false) => Ok(containers(sandbox, &format!("no micro-VMs: {why}"))),
        (None, _) => {
            let machines = match tokio::task::spawn_blocking(move || Machines::new(&options)).await? {
                Err(why) if !asked => return Ok(containers(sandbox, &format!("no micro-VMs: {why}"))),
                machines => machines?,
            };
            let (machines, snapshots) = if wanted.snapshots {
                let (machines, snapshots) = machines.with_snapshots(&shim()?, &dir, &snapshots_instance);
                (machines, Some(snapshots))
            } else {
                (machines, None)
            };
            let words = match accelerator {
                MachineAccelerator::Kvm => "micro-VMs (KVM)",
                MachineAccelerator::Tcg => "micro-VMs (emulated: slow)",
            };
            let sandbox = sandbox.with_machines(Arc::new(machines));
            Ok(Chosen { sandbox, words: words.into(), snapshots })
        }
    }
}

/// Why no machine runs here: what is known of it, else what `probe` finds. Once found, it is known; but neither what is
/// missing nor a host that was too slow is what will be found the next time.
async fn remembered(
    options: &MachineOptions,
    probe: impl Future<Output = Result<Duration, NoMachine>>,
) -> Result<Option<String>> {
    let mut found = Found {
        host_boot: std::fs::read_to_string(BOOT_ID).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").into(),
        parts: parts(options),
        why_not: None,
    };
    let file = options.dir.join(PROBE_FILE);
    if let Some(known) = read(&file) {
        found.why_not.clone_from(&known.why_not);
        if known == found {
            return Ok(known.why_not);
        }
    }
    let failed = probe.await.err();
    found.why_not = failed.as_ref().map(NoMachine::to_string);
    if failed.is_none_or(|why| why.lasts()) {
        std::fs::create_dir_all(&options.dir)
            .and_then(|()| std::fs::write(&file, serde_json::to_vec(&found)?))
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(found.why_not)
}

/// Beside the program, as its other parts are.
pub(crate) fn installed_kernel() -> Option<PathBuf> {
    beside(KERNEL).ok().filter(|kernel| kernel.join("vmlinux").exists())
}

fn shim() -> Result<PathBuf> {
    beside(SHIM)
}

fn beside(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe().context("the running program cannot be found")?.with_file_name(name))
}

fn read(file: &Path) -> Option<Found> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the next start would know, and whether it probed.
    async fn start(options: &MachineOptions, found: Result<Duration, NoMachine>) -> (Option<String>, bool) {
        let mut probed = false;
        let why_not = remembered(options, async {
            probed = true;
            found
        });
        (why_not.await.unwrap(), probed)
    }

    #[tokio::test]
    async fn only_what_lasts_is_remembered() {
        let home = tempfile::tempdir().unwrap();
        let kernel = home.path().join("kernel");
        std::fs::create_dir(&kernel).unwrap();
        let options = MachineOptions {
            kernel: kernel.clone(),
            guest: Some(home.path().join("guest")),
            accelerator: MachineAccelerator::Kvm,
            dir: home.path().join("machines"),
            boot_deadline: None,
        };
        let late = || NoMachine::Late(Duration::from_secs(5));
        let words = |text: &str| Some(text.to_owned());
        for found in [NoMachine::NotBegun("no vmlinux".into()), late(), NoMachine::NotBegun("no QEMU".into())]
        {
            let why = found.to_string();
            assert_eq!(start(&options, Err(found)).await, (words(&why), true));
        }
        assert_eq!(start(&options, Ok(Duration::ZERO)).await, (None, true));
        assert_eq!(start(&options, Err(late())).await, (None, false), "a guest was up");

        // Whatever of it is another one is found out about anew.
        for part in [kernel.join("vmlinux"), home.path().join("guest")] {
            for (content, why) in [("one", "it panicked"), ("other", "it ended")] {
                std::fs::write(&part, content).unwrap();
                assert_eq!(start(&options, Err(late())).await, (words(&late().to_string()), true));
                let ended = NoMachine::Ended(why.into());
                assert_eq!(start(&options, Err(ended)).await, (words(why), true), "{}", part.display());
                assert_eq!(start(&options, Ok(Duration::ZERO)).await, (words(why), false));
            }
        }
        std::fs::remove_file(kernel.join("vmlinux")).unwrap();
        assert_eq!(start(&options, Ok(Duration::ZERO)).await, (None, true));
    }
}
