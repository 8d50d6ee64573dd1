//! System call filters: the default profile, and the compiler from rules to BPF.
//!
//! A filter is compiled in some ten microseconds and is small: numbers are searched as ranges in a binary tree, so
//! the kernel, which runs every filter for every number when it is installed, has little to do either.

use std::io;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator};

mod compile;
mod default;
mod numbers;

pub use default::profile as default_profile;

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(pub(crate) Vec<Instruction>);

/// `struct sock_filter`
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) k: u32,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("seccomp action {0} is not supported: allow, errno, kill, trap, log and trace are")]
    Action(LinuxSeccompAction),
    #[error("seccomp filter flags are not supported")]
    Flags,
    #[error("seccomp notification (listenerPath) is not supported")]
    Listener,
    #[error("seccomp argument index {0} is not one of 0 to 5")]
    ArgumentIndex(usize),
    #[error("the seccomp profile is too long: {0} instructions, the kernel takes 4096")]
    TooLong(usize),
}

/// One call by number, with the arguments under which the action is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) number: u32,
    pub(crate) action: u32,
    /// All must hold; none always holds.
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// 0..=5
    pub(crate) argument: u8,
    pub(crate) comparison: Comparison,
    pub(crate) value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Argument AND this mask equals the value.
    Masked(u64),
}

impl Filter {
    /// Our own profile.
    pub fn default_filter() -> Result<Filter, Error> {
        Filter::from_profile(&default::profile())
    }

    /// An OCI profile. Names this architecture does not have are skipped, as libseccomp does.
    pub fn from_profile(profile: &LinuxSeccomp) -> Result<Filter, Error> {
        if profile.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
            return Err(Error::Flags);
        }
        if profile.listener_path().is_some() {
            return Err(Error::Listener);
        }
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let mut rules = Vec::new();
        for syscall in profile.syscalls().iter().flatten() {
            let action = action(syscall.action(), syscall.errno_ret())?;
            let conditions =
                syscall.args().iter().flatten().map(condition).collect::<Result<Vec<Condition>, Error>>()?;
            for name in syscall.names() {
                if let Some(number) = number(name) {
                    rules.push(Rule { number, action, conditions: conditions.clone() });
                }
            }
        }
        compile::compile(default, rules).map(Filter)
    }

    /// Installs it for the calling thread and whatever it executes. Needs `no_new_privs` or CAP_SYS_ADMIN.
    pub(crate) fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).unwrap_or(u16::MAX),
            filter: self.0.as_ptr().cast::<libc::sock_filter>().cast_mut(),
        };
        // SAFETY: `Instruction` has the layout of `sock_filter`, and the program outlives the call, which copies it.
        let done =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn number(name: &str) -> Option<u32> {
    let index = numbers::SYSCALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
    u32::try_from(numbers::SYSCALLS[index].1).ok()
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    match action {
        LinuxSeccompAction::ScmpActNotify => Err(Error::Action(action)),
        _ => Ok(action.as_u32(errno)),
    }
}

fn condition(argument: &oci_spec::runtime::LinuxSeccompArg) -> Result<Condition, Error> {
    use LinuxSeccompOperator as Op;
    let index = argument.index();
    let number = u8::try_from(index).ok().filter(|n| *n < 6).ok_or(Error::ArgumentIndex(index))?;
    let (comparison, value) = match argument.op() {
        Op::ScmpCmpEq => (Comparison::Equal, argument.value()),
        Op::ScmpCmpNe => (Comparison::NotEqual, argument.value()),
        Op::ScmpCmpLt => (Comparison::Less, argument.value()),
        Op::ScmpCmpLe => (Comparison::LessOrEqual, argument.value()),
        Op::ScmpCmpGt => (Comparison::Greater, argument.value()),
        Op::ScmpCmpGe => (Comparison::GreaterOrEqual, argument.value()),
        // The OCI's order: `value` is the mask, `valueTwo` what is compared.
        Op::ScmpCmpMaskedEq => (Comparison::Masked(argument.value()), argument.value_two().unwrap_or(0)),
    };
    Ok(Condition { argument: number, comparison, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_sorted_for_the_search() {
        assert!(numbers::SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(number("read"), Some(libc::SYS_read as u32));
        assert_eq!(number("no_such_call"), None);
    }

    #[test]
    fn the_default_profile_is_small() {
        let filter = Filter::default_filter().unwrap();
        assert!(filter.0.len() < 400, "{} instructions", filter.0.len());
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let mut profile = default_profile();
        profile.set_default_action(LinuxSeccompAction::ScmpActNotify);
        assert_eq!(Filter::from_profile(&profile), Err(Error::Action(LinuxSeccompAction::ScmpActNotify)));
    }
}
