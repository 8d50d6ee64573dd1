//! `ferrogate-edge --socket <path>`: see the library.

use std::process::ExitCode;

use ferrogate_edge::control::{Arguments, ConfineError, Log, Process, confine, serve};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(Log::default).with_ansi(false).init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "no load balancer runs here");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ConfineError> {
    let listener = confine(&Arguments::parse(std::env::args_os().skip(1))?)?;
    let failed = |error| ConfineError::Kernel("start the runtime", error);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("edge")
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
        serve(listener, Process::new()).await;
        Ok(())
    })
}
