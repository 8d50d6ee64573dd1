//! The profile of every container: an allow list.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

const ALLOWED: &str = include_str!("default_allow.txt");
/// `CLONE_NEW*` without the time namespace (which `clone` cannot make).
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Linux, with and without 32-bit address limits; and "tell me".
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Unix, IPv4, IPv6, netlink, packet. The others are protocols that few programs speak, whose code the kernel would load for
/// whoever asks; and vsock, which reaches the hypervisor past every network namespace.
const FAMILIES: [u64; 5] = [1, 2, 10, 16, 17];

pub fn profile() -> LinuxSeccomp {
    let always = ALLOWED.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let mut syscalls = vec![
        allow(always.map(str::to_owned).collect(), Vec::new()),
        // Namespaces are the road to kernel code that only root ever saw.
        allow(
            vec!["clone".into()],
            vec![argument(0, LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NAMESPACES, Some(0))],
        ),
        // A filter cannot look behind a pointer; a libc told ENOSYS falls back to clone.
        refuse("clone3", libc::ENOSYS),
    ];
    for family in FAMILIES {
        let same = argument(0, LinuxSeccompOperator::ScmpCmpEq, family, None);
        syscalls.push(allow(vec!["socket".into()], vec![same]));
    }
    for personality in PERSONALITIES {
        let same = argument(0, LinuxSeccompOperator::ScmpCmpEq, personality, None);
        syscalls.push(allow(vec!["personality".into()], vec![same]));
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32))
        .set_architectures(Some(vec![NATIVE]))
        .set_syscalls(Some(syscalls));
    profile
}

#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch::ScmpArchX86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch::ScmpArchAarch64;

fn allow(names: Vec<String>, arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall.set_names(names).set_action(LinuxSeccompAction::ScmpActAllow);
    if !arguments.is_empty() {
        syscall.set_args(Some(arguments));
    }
    syscall
}

fn refuse(name: &str, errno: i32) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(vec![name.to_owned()])
        .set_action(LinuxSeccompAction::ScmpActErrno)
        .set_errno_ret(Some(errno as u32));
    syscall
}

fn argument(index: usize, op: LinuxSeccompOperator, value: u64, value_two: Option<u64>) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let argument = match value_two {
        Some(value_two) => argument.value_two(value_two),
        None => argument,
    };
    argument.build().expect("the builder fails only on missing fields, and all have defaults")
}
