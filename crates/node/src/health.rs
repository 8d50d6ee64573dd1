//! Container health checks: a probe run in the container, its outcomes folded into a state.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{Health, HealthCheck};
use ferrogate_sandbox::{ExecSpec, TaskSandbox};
use tokio::sync::mpsc;
use tokio::time::Instant;

const SIGKILL: i32 = 9;

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

/// Probes until dropped; says each change.
pub(crate) async fn watch(
    sandbox: Arc<dyn TaskSandbox>,
    container: String,
    check: HealthCheck,
    changes: mpsc::Sender<(String, Health)>,
) {
    let started = Instant::now();
    let start_period = Duration::from_secs(u64::from(check.start_period_seconds));
    let mut state = State::new(check.retries);
    loop {
        tokio::time::sleep(Duration::from_secs(u64::from(check.interval_seconds))).await;
        let passes = probe(&*sandbox, &container, &check).await;
        let before = state.health;
        state.observe(passes, started.elapsed() < start_period);
        if state.health != before && changes.send((container.clone(), state.health)).await.is_err() {
            return;
        }
    }
}

async fn probe(sandbox: &dyn TaskSandbox, container: &str, check: &HealthCheck) -> bool {
    let spec = ExecSpec { argv: check.argv.clone(), ..ExecSpec::default() };
    let Ok(mut exec) = sandbox.exec(container, spec).await else { return false };
    let timeout = Duration::from_secs(u64::from(check.timeout_seconds));
    match tokio::time::timeout(timeout, exec.wait_discarding()).await {
        Ok(Ok(code)) => code == 0,
        Ok(Err(_)) => false,
        Err(_) => {
            let _ = exec.signal(SIGKILL).await;
            let _ = exec.wait_discarding().await;
            false
        }
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
