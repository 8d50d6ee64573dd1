//! A machine that begins as the copy of another one: booted, and nobody's yet.
//!
//! The guest of a snapshot has said hello and waits for its set-up. It says hello again, to its new shim; what makes it
//! another machine than all the other copies (clock, entropy, name, keys) comes with the set-up, before anything of the
//! task's runs. It is told both at once, so that nothing waits for its answer; one that answers otherwise is ended.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::boot::{Boot, NotRestored, RESTORED_STEP};
use super::config::{Accelerator, MachineConfig, SnapshotFiles};
use super::guest::setup;
use super::qemu::{self, Memory, Place};
use super::vmm::{Started, VmmError};
use super::wire::{self, BootStep, Down, Kind, LINK_VERSION, Up, encode_json};
use crate::protocol::TaskConfig;

/// From the machine's start to the guest's hello. With the begin of a boot instead, less than the agent waits for a shim.
const DEADLINE_KVM: Duration = Duration::from_secs(9);
/// On a busy host that is still several times quicker than its boot.
const DEADLINE_TCG: Duration = Duration::from_secs(20);
/// Less is no matter for a clock.
const TIME_OLD: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 4 << 10;
/// A hello is a few hundred bytes.
const HELLO_BYTES_MAX: usize = 16 << 10;

/// Returns when the guest has said hello, with what it said since.
pub(super) fn restore(
    config: &MachineConfig,
    task: &TaskConfig,
    files: &SnapshotFiles,
    place: &Place<'_>,
    tap: Option<BorrowedFd<'_>>,
    boot: &mut Boot,
) -> Result<(Started, Vec<u8>), VmmError> {
    let open = |path: &Path| File::open(path).map_err(VmmError::io("open the snapshot"));
    let (memory, state) = (open(&files.memory)?, open(&files.state)?);
    let until = boot.began + deadline(config.vmm.accelerator);
    let memory = Memory::Restored { memory: &memory, state: &state, until };
    let mut started = qemu::start(config, place, tap, &memory, boot)?;
    boot.done(RESTORED_STEP);
    let told = Instant::now();
    let heard = setup(config, task)
        .map_err(|failure| io::Error::other(failure.message))
        .and_then(|setup| hello(&mut started.link, &setup, until));
    let (steps, heard) = heard.map_err(VmmError::io("hear from the restored guest"))?;
    boot.hello(&steps);
    boot.time_was_old = told.elapsed() > TIME_OLD;
    Ok((started, heard))
}

pub(super) fn deadline(accelerator: Accelerator) -> Duration {
    match accelerator {
        Accelerator::Kvm => DEADLINE_KVM,
        Accelerator::Tcg => DEADLINE_TCG,
    }
}

/// Every step is given up when the time is over, each in its own words.
pub(super) fn not_restored(error: &VmmError, took: Duration, deadline: Duration) -> NotRestored {
    let late = took >= deadline;
    let why = if late { format!("not within {} s: {error}", deadline.as_secs()) } else { error.to_string() };
    NotRestored { why, late }
}

fn hello(link: &mut UnixStream, setup: &Down, until: Instant) -> io::Result<(Vec<BootStep>, Vec<u8>)> {
    let mut told = Vec::new();
    for down in [&Down::Hello, setup] {
        encode_json(Kind::Control, down, &mut told).map_err(io::Error::other)?;
    }
    let left = until.saturating_duration_since(Instant::now());
    link.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
    link.write_all(&told)?;
    let mut input = Vec::new();
    let mut buffer = [0; READ_BYTES];
    while input.len() <= HELLO_BYTES_MAX {
        if let Some((frame, used)) = wire::decode(&input).map_err(io::Error::other)? {
            let up = serde_json::from_slice(frame.payload)?;
            return match up {
                Up::Hello { version: LINK_VERSION, steps } if frame.kind == Kind::Control => {
                    Ok((steps, input.split_off(used)))
                }
                _ => Err(io::Error::other("it said something else than hello")),
            };
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        link.set_read_timeout(Some(left))?;
        match link.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("it said more than a hello"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the shim makes of a guest that answers with `said`.
    fn heard(said: &[u8]) -> io::Result<(Vec<BootStep>, Vec<u8>)> {
        let (mut ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(said)?;
        theirs.shutdown(std::net::Shutdown::Write)?;
        hello(&mut ours, &Down::Clock { now_ns: 0 }, Instant::now() + DEADLINE_KVM)
    }

    fn said(up: &Up) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_json(Kind::Control, up, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_guest_that_says_nothing_is_late_and_one_that_says_something_else_is_not() {
        let heard_of = |said: &[u8], deadline: Duration| {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(said).unwrap();
            let began = Instant::now();
            let heard = hello(&mut ours, &Down::Clock { now_ns: 0 }, began + deadline);
            let error = heard.map_err(VmmError::io("hear from the restored guest")).unwrap_err();
            not_restored(&error, began.elapsed(), deadline)
        };
        let right = said(&Up::Hello { version: LINK_VERSION, steps: Vec::new() });
        for silent in [&[], &right[..right.len() - 1]] {
            let blamed = heard_of(silent, Duration::from_millis(50));
            assert!(blamed.late && blamed.why.starts_with("not within 0 s: cannot hear"), "{blamed:?}");
        }
        let another = said(&Up::Ready { steps: Vec::new() });
        for wrong in [another.as_slice(), &[0xff; 64]] {
            let blamed = heard_of(wrong, DEADLINE_TCG);
            assert!(!blamed.late && blamed.why.starts_with("cannot hear"), "{blamed:?}");
        }
    }

    #[test]
    fn an_emulated_machine_has_longer() {
        assert!(deadline(Accelerator::Tcg) >= 2 * deadline(Accelerator::Kvm));
    }

    #[test]
    fn only_a_hello_is_an_answer() {
        let steps = vec![BootStep { step: "hello".into(), at_us: 7 }];
        let right = said(&Up::Hello { version: LINK_VERSION, steps: steps.clone() });
        assert_eq!(heard(&right).unwrap(), (steps.clone(), Vec::new()));
        let since = said(&Up::Ready { steps: Vec::new() });
        assert_eq!(heard(&[right.clone(), since.clone()].concat()).unwrap(), (steps.clone(), since));
        for wrong in [
            said(&Up::Hello { version: LINK_VERSION + 1, steps }),
            said(&Up::Ready { steps: Vec::new() }),
            right[..right.len() - 1].to_vec(),
            vec![0xff; 64],
            Vec::new(),
        ] {
            assert!(heard(&wrong).is_err(), "{}", String::from_utf8_lossy(&wrong));
        }
    }
}
