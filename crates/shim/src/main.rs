//! `ferrogate-shim --dir <task directory>`: see the library.

use std::process::ExitCode;

#[global_allocator]
static MEMORY: ferrogate_shim::memory::Wiping = ferrogate_shim::memory::Wiping;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    match ferrogate_shim::server::start::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferrogate-shim: {error}");
            ExitCode::FAILURE
        }
    }
}
