//! `/init`: see the library.

use std::time::Duration;

#[global_allocator]
static MEMORY: ferrogate_shim::memory::Wiping = ferrogate_shim::memory::Wiping;

/// For the console to be read before the machine is gone.
const LAST_WORDS: Duration = Duration::from_millis(50);

pub(crate) fn main() {
    if std::process::id() != 1 {
        eprintln!("ferrogate-guest: this is PID 1 of a micro-VM; it is started by its kernel");
        std::process::exit(2);
    }
    let why = match std::panic::catch_unwind(ferrogate_guest::run) {
        Ok(Ok(never)) => match never {},
        Ok(Err(why)) => why,
        Err(_) => "it panicked".to_owned(),
    };
    eprintln!("ferrogate-guest: {why}");
    std::thread::sleep(LAST_WORDS);
    ferrogate_guest::boot::reset();
}
