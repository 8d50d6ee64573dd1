//! Memory that is given back is empty.
//!
//! Some processes in a container are copies of the shim that never execute anything (a reaper, the holder of a PID
//! namespace), and others are for a moment before they do. A container with SYS_PTRACE may read them. So a child lets
//! go of everything that is not its container's before it does anything else, and letting go is wiping.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, wiping what is freed. Growing in place is not asked for: what was moved is freed, and wiped.
pub struct Wiping;

// SAFETY: every call is passed on as it is; what is wiped is the caller's no more and not yet the system's.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back a whole allocation of this layout.
        unsafe {
            libc::explicit_bzero(memory.cast(), layout.size());
            System.dealloc(memory, layout);
        }
    }
}
