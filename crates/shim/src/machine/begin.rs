//! How a machine begins: from its snapshot if it is to and can, else from its kernel's first instruction; and from there again
//! where nothing came of it.
//!
//! An emulated processor that stood still in the wrong moment leaves its kernel with a timer that is wrong: the rate of the
//! only one there is was measured then. Such a guest stands still for ever, or has a clock nobody can use. It is nobody's
//! yet, so another one takes its place.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::boot::Boot;
use super::config::{MachineConfig, Snapshot};
use super::qemu::{self, Memory, Place};
use super::streams::Streams;
use super::tap::Tap;
use super::vmm::Started;
use super::{LAST_READS_MAX, MACHINE_CGROUP, Machine, Phase, restore, snapshot};
use crate::protocol::TaskConfig;

/// A guest that does not come up so often is not to come up.
pub(super) const BOOTS_MAX: usize = 3;

/// A machine that is under way.
pub(super) struct Begun {
    pub(super) started: Started,
    pub(super) tap: Option<Tap>,
    /// Of a restored guest, which has said hello and been told its set-up, what it said since.
    pub(super) heard: Option<Vec<u8>>,
}

/// Boots a machine: [`boot`], but for tests.
pub(super) type Begin = Box<dyn FnMut(&MachineConfig, &Place<'_>, &mut Boot) -> Result<Begun, String>>;

pub(super) fn begin(
    machine: &MachineConfig,
    config: &TaskConfig,
    place: &Place<'_>,
    begun: &mut Boot,
) -> Result<Begun, String> {
    if let Some(Snapshot::Restore(files)) = &machine.snapshot {
        let tap = tap(machine)?;
        let end = tap.as_ref().map(|tap| tap.fd.as_fd());
        match restore::restore(machine, config, files, place, end, begun) {
            Ok((started, heard)) => return Ok(Begun { started, tap, heard: Some(heard) }),
            Err(error) => {
                let deadline = restore::deadline(machine.vmm.accelerator);
                begun.not_restored(restore::not_restored(&error, begun.began.elapsed(), deadline));
            }
        }
    }
    boot(machine, place, begun)
}

pub(super) fn boot(machine: &MachineConfig, place: &Place<'_>, begun: &mut Boot) -> Result<Begun, String> {
    let tap = tap(machine)?;
    let end = tap.as_ref().map(|tap| tap.fd.as_fd());
    let started = match &machine.snapshot {
        Some(Snapshot::Make(files)) => snapshot::memory(&files.memory, machine.memory_mib)
            .and_then(|file| qemu::start(machine, place, end, &Memory::Written(&file), begun)),
        _ => qemu::start(machine, place, end, &Memory::Fresh, begun),
    };
    Ok(Begun { started: started.map_err(|error| error.to_string())?, tap, heard: None })
}

fn tap(machine: &MachineConfig) -> Result<Option<Tap>, String> {
    let tap = machine.network_namespace.as_ref().map(|_| Tap::make()).transpose();
    tap.map_err(|error| format!("cannot make a tap: {error}"))
}

impl Machine {
    /// Until a guest that says nothing is booted again; `None`: it has the whole of the boot's deadline.
    pub(super) fn hello_left(&self) -> Option<Duration> {
        let deadline = Duration::from_millis(self.machine.hello_deadline_ms?);
        let waits = matches!(self.phase, Phase::Booting) && self.boot.may_begin_again();
        waits.then(|| deadline.saturating_sub(self.boot.since.elapsed()))
    }

    pub(super) fn look_at_boot(&mut self) {
        if let Phase::Unfit(why) = &self.phase {
            let why = why.clone();
            self.begin_again(&why);
            return;
        }
        if self.hello_left().is_some_and(|left| left.is_zero()) {
            // While disks were attached it may have spoken.
            self.hear_guest(PollFlags::IN, LAST_READS_MAX);
        }
        if self.hello_left().is_some_and(|left| left.is_zero()) {
            let deadline_ms = self.machine.hello_deadline_ms.unwrap_or_default();
            self.begin_again(&format!("the guest said nothing within {deadline_ms} ms"));
        }
    }

    fn begin_again(&mut self, why: &str) {
        if !self.boot.may_begin_again() {
            return self.lose(why);
        }
        complain!("the machine is booted again: {why}");
        self.vmm.kill();
        self.boot.again(why);
        let cgroup = self.config.cgroup.join(MACHINE_CGROUP);
        let place = Place { directory: &self.directory, cgroups: &self.cgroups, cgroup: &cgroup };
        let begun = (self.begin)(&self.machine, &place, &mut self.boot);
        if let Err(failed) =
            begun.and_then(|begun| self.around_again(begun).map_err(|error| error.to_string()))
        {
            self.lose(&format!("{why}, and it cannot be booted again: {failed}"));
        }
    }

    /// Of the guest before this one nothing is left.
    fn around_again(&mut self, begun: Begun) -> std::io::Result<()> {
        let Begun { started: Started { vmm, link, console }, tap, heard: _ } = begun;
        // First: with it the one that is under way ends if the rest fails.
        self.vmm = vmm;
        self.tap = tap;
        link.set_nonblocking(true)?;
        self.console.follow(console)?;
        self.link = Some(link);
        self.input.clear();
        self.output.clear();
        self.streams = Streams::default();
        self.disks.clear();
        self.next_disk = 0;
        self.phase = Phase::Booting;
        self.boot.since = Instant::now();
        Ok(())
    }
}
