//! Which devices a cgroup may use. v1 has a controller for it; on v2 it is a small BPF program attached to the
//! cgroup.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Allowed; everything without a rule is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub block: bool,
    /// `None`: any.
    pub major: Option<u32>,
    /// `None`: any.
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

/// As `devices.allow` takes it: `c 1:3 rwm`.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{} {}:{} ", if self.block { 'b' } else { 'c' }, number(self.major), number(self.minor))?;
        for (allowed, letter) in [(self.read, "r"), (self.write, "w"), (self.mknod, "m")] {
            if allowed {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// `struct bpf_insn`
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the low, source in the high four bits.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

/// Registers: 1 context then scratch, 2 type, 3 access, 4 major, 5 minor.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut allowed = 0;
        for (given, bit) in [(rule.mknod, ACCESS_MKNOD), (rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE)]
        {
            if given {
                allowed |= bit;
            }
        }
        let mut tests = vec![
            instruction(JUMP_IF_NOT_EQUAL, 2, 0, 0, if rule.block { BLOCK } else { CHARACTER }),
            instruction(MOVE_REGISTER, 1, 3, 0, 0),
            instruction(AND_IMMEDIATE, 1, 0, 0, !allowed),
            instruction(JUMP_IF_NOT_EQUAL, 1, 0, 0, 0),
        ];
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push(instruction(JUMP_IF_NOT_EQUAL, register, 0, 0, number as i32));
            }
        }
        tests.extend([instruction(MOVE_IMMEDIATE, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
        let length = tests.len();
        for (index, test) in tests.iter_mut().enumerate() {
            if test.code == JUMP_IF_NOT_EQUAL {
                test.offset = (length - index - 1) as i16;
            }
        }
        code.extend(tests);
    }
    code.extend([instruction(MOVE_IMMEDIATE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

/// Attaches the rules to a v2 cgroup directory. They stay as long as it does.
pub fn attach(directory: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    #[repr(C)]
    struct Load {
        program_type: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let code = program(rules);
    let load = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` is the prefix of `union bpf_attr` for this command; its size is passed, and the pointers in it
    // live until the call returns.
    let program = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if program < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("cannot load the device filter: {error}")));
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else owns it.
    let program = unsafe { OwnedFd::from_raw_fd(program as i32) };
    let cgroup = File::open(directory)?;
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: as above.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if done < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(
            error.kind(),
            format!("cannot attach the device filter to {}: {error}", directory.display()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_as_the_kernel_takes_them() {
        let rule =
            DeviceRule { block: false, major: Some(136), minor: None, read: true, write: true, mknod: false };
        assert_eq!(rule.to_string(), "c 136:* rw");
    }
}
