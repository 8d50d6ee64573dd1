//! What the start of a machine took, step by step: [`BOOT_FILE`] in the task's directory.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::begin::BOOTS_MAX;
use super::wire::BootStep;
use crate::server::container::now_ns;

/// A [`BootReport`], for whoever wants to know.
pub const BOOT_FILE: &str = "boot.json";
/// Step of a machine that began from a snapshot, instead of those of a kernel's boot.
pub const RESTORED_STEP: &str = "snapshot restored";
pub(super) const VMM_STEP: &str = "VMM started";
/// Of a boot that nothing came of, with why.
const AGAIN_STEP: &str = "booted again, ";
const KERNEL_STEP: &str = "kernel started";
pub(super) const DISKS_STEP: &str = "disks attached";
pub(super) const FIRST_STEP: &str = "first container created";
/// Of what a guest says.
const STEPS_MAX: usize = 32;
const NAME_LETTERS_MAX: usize = 40;

/// How long the machine took, from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// Nanoseconds since 1970.
    pub began_ns: i64,
    /// It began from a snapshot.
    pub restored: bool,
    /// It was to begin from a snapshot, and was booted instead, or lost before it took calls.
    #[serde(flatten)]
    pub not_restored: Option<NotRestored>,
    /// Until the guest spoke, and until it took calls.
    pub hello_ms: u64,
    pub ready_ms: u64,
    /// When each was done, here counted from the machine's start.
    pub steps: Vec<BootStep>,
}

/// Why a snapshot was of no use to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRestored {
    #[serde(rename = "not_restored")]
    pub why: String,
    /// Nothing was seen to be wrong with it, but it took too long. Shims of a program before do not say.
    #[serde(default)]
    pub late: bool,
}

/// The start of a machine that is under way.
pub(super) struct Boot {
    pub(super) began: Instant,
    /// … of the time it may take to be up: a restore that failed takes nothing of it.
    pub(super) up_since: Instant,
    /// … of the machine that is there now.
    pub(super) since: Instant,
    /// The time its set-up tells was old when the guest heard it.
    pub(super) time_was_old: bool,
    /// It began from a snapshot, and whether that one is of use is not known yet.
    on_trial: bool,
    /// How many came to nothing: as many steps come first.
    gone: usize,
    report: BootReport,
    /// The first moment of the guest's clock, on ours.
    guest_zero_us: i64,
    /// No step it tells of was before that.
    guest_least_us: u64,
}

impl Boot {
    pub(super) fn begin() -> Boot {
        let report = BootReport { began_ns: now_ns(), ..BootReport::default() };
        let began = Instant::now();
        Boot {
            began,
            up_since: began,
            since: began,
            time_was_old: false,
            on_trial: false,
            gone: 0,
            report,
            guest_zero_us: 0,
            guest_least_us: 0,
        }
    }

    /// A snapshot could not be used: the machine begins again.
    pub(super) fn not_restored(&mut self, why: NotRestored) {
        self.report.steps.clear();
        self.report.restored = false;
        self.report.not_restored = Some(why);
        self.on_trial = false;
        self.since = Instant::now();
        self.up_since = self.since;
    }

    /// Whatever becomes of the machine from now on, the snapshot it began from is not why.
    pub(super) fn acquit_snapshot(&mut self) {
        self.on_trial = false;
    }

    /// There is no machine any more. Whether a snapshot failed it, now or before it was booted instead.
    pub(super) fn lost(&mut self, why: &str) -> bool {
        if std::mem::take(&mut self.on_trial) {
            // However long it took: one that stays would cost the next task its machine, too.
            self.report.not_restored = Some(NotRestored { why: why.to_owned(), late: false });
        }
        self.report.not_restored.is_some()
    }

    pub(super) fn may_begin_again(&self) -> bool {
        self.gone + 1 < BOOTS_MAX
    }

    /// Nothing came of the machine so far: its time is a step, and it begins again.
    pub(super) fn again(&mut self, why: &str) {
        self.report.steps.truncate(self.gone);
        self.report.steps.push(BootStep { step: format!("{AGAIN_STEP}{why}"), at_us: self.elapsed_us() });
        self.gone += 1;
    }

    /// Now.
    pub(super) fn done(&mut self, step: &str) {
        self.first_done(step);
    }

    /// … once each: whether it was for the first time.
    pub(super) fn first_done(&mut self, step: &str) -> bool {
        let first = !self.report.steps.iter().any(|known| known.step == step);
        if first {
            if step == RESTORED_STEP {
                self.report.restored = true;
                self.on_trial = true;
            }
            self.report.steps.push(BootStep { step: step.to_owned(), at_us: self.elapsed_us() });
        }
        first
    }

    pub(super) fn hello(&mut self, steps: &[BootStep]) {
        let now_us = self.elapsed_us();
        self.report.hello_ms = now_us / 1000;
        self.heard(now_us, steps);
    }

    pub(super) fn ready(&mut self, steps: &[BootStep]) {
        self.acquit_snapshot();
        let now_us = self.elapsed_us();
        self.report.ready_ms = now_us / 1000;
        self.guest(now_us, steps);
    }

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        super::replace(&directory.join(BOOT_FILE), &serde_json::to_vec(&self.report)?)
    }

    fn elapsed_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// The last of these is the moment before it was heard: so the two clocks are set against each other.
    fn heard(&mut self, now_us: u64, steps: &[BootStep]) {
        let last_us = steps.last().map_or(0, |step| step.at_us);
        self.guest_zero_us = (now_us as i64).saturating_sub_unsigned(last_us);
        self.guest_least_us = self.report.steps.last().map_or(0, |last| last.at_us);
        if !self.report.restored {
            self.guest(now_us, &[BootStep { step: KERNEL_STEP.into(), at_us: 0 }]);
        }
        self.guest(now_us, steps);
    }

    /// Never before the step it told of before, never after now, whatever the guest's clock shows; among the steps of this side,
    /// which goes on meanwhile.
    fn guest(&mut self, now_us: u64, steps: &[BootStep]) {
        for step in steps.iter().take(STEPS_MAX) {
            let least = self.guest_least_us.min(now_us);
            let at_us = self.guest_zero_us.saturating_add_unsigned(step.at_us).max(0) as u64;
            let letters = step.step.chars().filter(|letter| !letter.is_control());
            let name = letters.take(NAME_LETTERS_MAX).collect();
            self.guest_least_us = at_us.clamp(least, now_us);
            self.report.steps.push(BootStep { step: name, at_us: self.guest_least_us });
        }
        self.report.steps[self.gone..].sort_by_key(|step| step.at_us);
    }
}

/// Of a task that has one and whose machine has taken a call, or was failed by its snapshot before that.
pub fn read(directory: &Path) -> io::Result<BootReport> {
    Ok(serde_json::from_slice(&fs::read(directory.join(BOOT_FILE))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: &str, at_us: u64) -> BootStep {
        BootStep { step: step.into(), at_us }
    }

    #[test]
    fn a_boots_steps_are_on_the_hosts_clock() {
        let mut boot = Boot::begin();
        boot.heard(1000, &[step("init", 300), step("hello", 400)]);
        boot.guest(2000, &[step("ready", 900)]);
        let expected =
            [step("kernel started", 600), step("init", 900), step("hello", 1000), step("ready", 1500)];
        assert_eq!(boot.report.steps, expected);
    }

    #[test]
    fn a_restored_guests_clock_is_ahead() {
        let mut boot = Boot::begin();
        boot.report.restored = true;
        boot.heard(100, &[step("hello", 5_000_000)]);
        boot.guest(300, &[step("ready", 5_000_150)]);
        assert_eq!(boot.report.steps, [step("hello", 100), step("ready", 250)]);
    }

    #[test]
    fn steps_of_both_sides_are_in_order() {
        let mut boot = Boot::begin();
        boot.report.restored = true;
        boot.heard(100, &[step("hello", 5_000_000)]);
        boot.report.steps.push(step(DISKS_STEP, 150));
        boot.guest(300, &[step("storage", 5_000_020), step("ready", 5_000_150)]);
        let expected = [step("hello", 100), step("storage", 120), step(DISKS_STEP, 150), step("ready", 250)];
        assert_eq!(boot.report.steps, expected);
    }

    #[test]
    fn a_boot_that_came_to_nothing_is_a_step() {
        let mut boot = Boot::begin();
        for (why, more) in [("it was silent", true), ("its timer is late", false)] {
            assert!(boot.may_begin_again());
            boot.done(VMM_STEP);
            boot.again(why);
            assert_eq!(boot.may_begin_again(), more);
        }
        boot.done(VMM_STEP);
        let steps: Vec<&str> = boot.report.steps.iter().map(|step| step.step.as_str()).collect();
        assert_eq!(steps, ["booted again, it was silent", "booted again, its timer is late", VMM_STEP]);
    }

    #[test]
    fn what_began_from_a_snapshot_is_on_trial_until_it_takes_calls() {
        let blamed = |boot: &Boot| boot.report.not_restored.clone().unwrap();
        let begun = || {
            let mut boot = Boot::begin();
            assert!(!boot.lost("it was booted"));
            boot.done(RESTORED_STEP);
            boot
        };
        let mut boot = begun();
        assert!(boot.lost("it was silent") && boot.lost("it is lost already"));
        assert_eq!(blamed(&boot), NotRestored { why: "it was silent".into(), late: false });
        let ends: [fn(&mut Boot); 2] = [|boot| boot.ready(&[]), Boot::acquit_snapshot];
        for end in ends {
            let mut boot = begun();
            end(&mut boot);
            assert!(!boot.lost("later") && boot.report.restored);
        }
        let mut boot = begun();
        let late = NotRestored { why: "it said nothing".into(), late: true };
        boot.not_restored(late.clone());
        assert!(boot.lost("its kernel panicked"));
        assert_eq!(blamed(&boot), late);
    }

    #[test]
    fn a_machine_that_is_booted_instead_has_its_whole_time() {
        let mut boot = Boot::begin();
        let long = std::time::Duration::from_secs(20);
        (boot.began, boot.up_since, boot.since) = (boot.began - long, boot.began - long, boot.began - long);
        boot.not_restored(NotRestored { why: "it said nothing".into(), late: true });
        assert!(
            [boot.up_since, boot.since].iter().all(|since| since.elapsed() < long)
                && boot.began.elapsed() >= long
        );
    }

    #[test]
    fn a_report_of_another_program_says_why() {
        #[derive(Serialize, Deserialize)]
        struct Before {
            began_ns: i64,
            restored: bool,
            not_restored: Option<String>,
            hello_ms: u64,
            ready_ms: u64,
            steps: Vec<BootStep>,
        }
        for why in [None, Some("it is damaged".to_owned())] {
            let before = serde_json::json!({
                "began_ns": 7, "restored": true, "not_restored": why, "hello_ms": 1, "ready_ms": 2, "steps": [],
            });
            let report: BootReport = serde_json::from_value(before).unwrap();
            let expected = why.clone().map(|why| NotRestored { why, late: false });
            assert_eq!((report.began_ns, report.restored, &report.not_restored), (7, true, &expected));

            let late = why.clone().map(|why| NotRestored { why, late: true });
            let report = BootReport { not_restored: late, ..report };
            let text = serde_json::to_vec(&report).unwrap();
            assert_eq!(serde_json::from_slice::<BootReport>(&text).unwrap(), report);
            assert_eq!(serde_json::from_slice::<Before>(&text).unwrap().not_restored, why);
        }
    }

    #[test]
    fn a_guest_that_lies_stays_in_order_and_within_bounds() {
        let mut boot = Boot::begin();
        boot.heard(100, &[step("\u{1b}[2J", u64::MAX), step("b", 3), step(&"x".repeat(999), 7)]);
        let many: Vec<BootStep> = (0..1000).map(|index| step("many", index)).collect();
        boot.guest(200, &many);
        let steps = &boot.report.steps;
        assert!(steps.is_sorted_by_key(|step| step.at_us) && steps.len() <= 1 + 3 + STEPS_MAX, "{steps:?}");
        assert_eq!(steps[1].step, "[2J");
        assert!(steps.iter().all(|step| step.at_us <= 200 && step.step.len() <= NAME_LETTERS_MAX));
    }
}
