//! Container health checks: a probe run in the container, its outcomes folded into a state.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{Health, HealthCheck};
use ferrogate_sandbox::{ExecSpec, TaskSandbox};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Of a probe's output, as Docker keeps it.
const OUTPUT_BYTES_MAX: usize = 4096;
/// As Docker shows a probe that did not come to its end.
const NO_EXIT_CODE: i32 = -1;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    pub(crate) container: String,
    /// Which run of the container it looked at.
    pub(crate) restart_count: u32,
    /// After it.
    pub(crate) health: Health,
    pub(crate) exit_code: i32,
    pub(crate) output: String,
    pub(crate) at: Timestamp,
}

/// HEALTHY, UNHEALTHY or UNKNOWN from probe outcomes (ECS API reference, HealthCheck).
///
/// A pass makes it healthy at once, also inside the start period; failures count once the start period is
/// over or a probe has passed, and `retries` of them in a row make it unhealthy.
#[derive(Debug)]
pub(crate) struct State {
    retries: u32,
    failures: u32,
    passed: bool,
    pub(crate) health: Health,
}

impl State {
    pub(crate) fn new(retries: u32) -> Self {
        Self { retries, failures: 0, passed: false, health: Health::Unknown }
    }

    pub(crate) fn observe(&mut self, passes: bool, in_start_period: bool) {
        if passes {
            self.passed = true;
            self.failures = 0;
            self.health = Health::Healthy;
        } else if self.passed || !in_start_period {
            self.failures += 1;
            if self.failures >= self.retries {
                self.health = Health::Unhealthy;
            }
        }
    }
}

/// Probes until dropped; says what each found.
pub(crate) async fn watch(
    sandbox: Arc<dyn TaskSandbox>,
    container: String,
    restart_count: u32,
    check: HealthCheck,
    found: mpsc::Sender<Probed>,
) {
    let started = Instant::now();
    let start_period = Duration::from_secs(u64::from(check.start_period_seconds));
    let mut state = State::new(check.retries);
    loop {
        tokio::time::sleep(Duration::from_secs(u64::from(check.interval_seconds))).await;
        let (exit_code, output) = probe(&*sandbox, &container, &check).await;
        state.observe(exit_code == 0, started.elapsed() < start_period);
        let probed = Probed {
            container: container.clone(),
            restart_count,
            health: state.health,
            exit_code,
            output,
            at: Timestamp::now(),
        };
        if found.send(probed).await.is_err() {
            return;
        }
    }
}

/// Exit code and output.
async fn probe(sandbox: &dyn TaskSandbox, container: &str, check: &HealthCheck) -> (i32, String) {
    let spec = ExecSpec { argv: check.argv.clone(), ..ExecSpec::default() };
    let mut exec = match sandbox.exec(container, spec).await {
        Ok(exec) => exec,
        Err(error) => return (NO_EXIT_CODE, error.to_string()),
    };
    let mut output = Vec::new();
    let timeout = Duration::from_secs(u64::from(check.timeout_seconds));
    // One that takes too long is killed when `exec` is dropped.
    match tokio::time::timeout(timeout, exec.wait_output(&mut output, OUTPUT_BYTES_MAX)).await {
        Ok(Ok(code)) => (code, String::from_utf8_lossy(&output).into_owned()),
        Ok(Err(error)) => (NO_EXIT_CODE, error.to_string()),
        Err(_) => (NO_EXIT_CODE, format!("Health check exceeded timeout ({}s)", check.timeout_seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_in_a_row_make_it_unhealthy() {
        let mut state = State::new(3);
        for _ in 0..2 {
            state.observe(false, false);
            assert_eq!(state.health, Health::Unknown);
        }
        state.observe(true, false);
        assert_eq!(state.health, Health::Healthy);
        state.observe(false, false);
        state.observe(false, false);
        assert_eq!(state.health, Health::Healthy);
        state.observe(false, false);
        assert_eq!(state.health, Health::Unhealthy);
        state.observe(true, false);
        assert_eq!(state.health, Health::Healthy);
    }

    #[test]
    fn the_start_period_forgives_until_the_first_pass() {
        let mut state = State::new(1);
        state.observe(false, true);
        assert_eq!(state.health, Health::Unknown);
        state.observe(true, true);
        state.observe(false, true);
        assert_eq!(state.health, Health::Unhealthy);
    }
}
