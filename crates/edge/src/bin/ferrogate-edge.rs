//! `ferrogate-edge --socket <path>`: see the library.

use std::process::ExitCode;
use std::sync::Arc;

use ferrogate_edge::connect::Proxy;
use ferrogate_edge::control::{Arguments, ConfineError, Governed, Log, Process, confine, serve};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(Log::default).with_ansi(false).init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "nothing is served here");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ConfineError> {
    let (listener, listeners) = confine(&Arguments::parse(std::env::args_os().skip(1))?)?;
    let failed = |error| ConfineError::Kernel("start the runtime", error);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("edge")
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
        let subject: Arc<dyn Governed> =
            if listeners.is_empty() { Process::new() } else { Proxy::new(listeners).map_err(failed)? };
        serve(listener, subject).await;
        Ok(())
    })
}
