//! `/init` of a guest that is as any other until a container called `panic` makes a file of that name in its root: then PID 1
//! ends, and with it the kernel. Nothing else in a guest can do that: no container can, and root on the host neither. For
//! `crates/shim/tests/panic.rs`; `cargo xtask guest` builds it beside the real one, and never `--release`.

#[path = "main.rs"]
mod guest;

use std::ffi::CStr;
use std::time::Duration;

/// As PID 1 sees the writable layer of that container, which has no ephemeral disk.
const SIGN: &CStr = c"/run/task/storage/containers/panic/upper/panic";
const INTERVAL: Duration = Duration::from_millis(20);

extern "C" fn look(_: libc::c_int) {
    // SAFETY: both calls may be made in a signal's handler; the path is a C string that lives for ever.
    unsafe {
        if libc::access(SIGN.as_ptr(), libc::F_OK) == 0 {
            libc::_exit(1);
        }
    }
}

fn main() {
    let every = libc::timeval { tv_sec: 0, tv_usec: INTERVAL.as_micros() as libc::suseconds_t };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    let handler = look as extern "C" fn(libc::c_int);
    // SAFETY: the handler does only what a handler may; timer and arguments are whole. The shim, which is forked from this
    // process, has no timer.
    unsafe {
        libc::signal(libc::SIGALRM, handler as libc::sighandler_t);
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
    guest::main();
}
