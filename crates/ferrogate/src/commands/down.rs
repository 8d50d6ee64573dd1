//! `ferrogate down`: every task stopped, everything of theirs gone, the program ended. Only the data stays.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferrogate_nodeapi::ObservedStatus;
use tokio::time::Instant;

use crate::Place;
use crate::client::{Ask, ask};
use crate::compose::Ferrogate;
use crate::data::{DataDir, Endpoint, Lock};

/// Fargate's longest stopTimeout, and time to clean up.
const STOP_TIMEOUT: Duration = Duration::from_secs(150);
const LOOK_PERIOD: Duration = Duration::from_millis(50);
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) fn run(place: &Place) -> Result<()> {
    let data = DataDir::new(&place.data_dir)?;
    let Some(endpoint) = data.read_json::<Endpoint>(Endpoint::FILE)? else {
        println!("there is nothing to stop in {}", data.path().display());
        return Ok(());
    };
    match Lock::holder(&data) {
        Some(pid) => {
            let answer = ask(&data, &Ask::Down)?;
            if let Some(error) = answer["error"].as_str() {
                bail!("{error}");
            }
            wait_for_exit(&data, pid)?;
            let tasks = match answer["stopped_tasks"].as_u64() {
                Some(1) => "1 task".to_owned(),
                many => format!("{} tasks", many.unwrap_or_default()),
            };
            println!("stopped {tasks} and ferrogate itself (process {pid})");
            Ok(())
        }
        // It died or was stopped, and its tasks may go on: a short life to end them as they should be ended.
        None => {
            let program = std::env::current_exe().context("where this program is")?;
            let status = Command::new(program)
                .args(["up", "--then-down", "--listen", "127.0.0.1:0", "--account", &endpoint.account])
                .args(["--region", &endpoint.region, "--data-dir"])
                .arg(data.path())
                .env("FERROGATE_LOG", "warn")
                .status()?;
            if !status.success() {
                bail!("what was left could not be ended: {status}");
            }
            println!("ferrogate was not running; what it had left is gone");
            Ok(())
        }
    }
}

fn wait_for_exit(data: &DataDir, pid: u32) -> Result<()> {
    let deadline = std::time::Instant::now() + EXIT_TIMEOUT;
    while Lock::holder(data) == Some(pid) {
        if std::time::Instant::now() > deadline {
            bail!("its tasks are stopped, but process {pid} does not end");
        }
        std::thread::sleep(LOOK_PERIOD);
    }
    Ok(())
}

/// Stops every task, as StopTask does, and waits until none is left here.
pub(crate) async fn stop_all(ferrogate: &Ferrogate) -> Result<usize> {
    ferrogate.close_services();
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut stopped = std::collections::BTreeSet::new();
    loop {
        let (open, assigned) = ferrogate.open_tasks();
        let on_node =
            ferrogate.agent.tasks().into_iter().filter(|task| task.status != ObservedStatus::Stopped).count();
        if assigned == 0 && on_node == 0 {
            return Ok(stopped.len());
        }
        for task in open {
            if stopped.insert(task.clone()) {
                ferrogate.stop_task(&task, "Task stopped by ferrogate down").await?;
            }
        }
        if Instant::now() > deadline {
            bail!("{on_node} tasks did not stop within {} s", STOP_TIMEOUT.as_secs());
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}
