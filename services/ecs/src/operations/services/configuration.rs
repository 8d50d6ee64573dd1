//! How a service is brought out: `deploymentConfiguration`, checked and with its defaults. No I/O.
//!
//! What is kept is AWS's own shape with every member that counts filled in, so that a description is a copy of it.

use ferrogate_api::{ApiError, ecs};

use crate::errors::{invalid, unsupported};
use crate::operations::one_of;
use crate::state::service::DeploymentController;

const MAXIMUM_PERCENT_DEFAULT: i32 = 200;
const MINIMUM_HEALTHY_PERCENT_DEFAULT: i32 = 100;
/// ECS API reference, DeploymentConfiguration, LinearConfiguration, CanaryConfiguration.
const BAKE_MINUTES: std::ops::RangeInclusive<i32> = 0..=1440;
const LINEAR_STEP_PERCENT: std::ops::RangeInclusive<f64> = 3.0..=100.0;
const CANARY_PERCENT: std::ops::RangeInclusive<f64> = 0.1..=100.0;
/// ECS API reference, DeploymentLifecycleHookTimeoutConfiguration: up to 14 days.
const HOOK_MINUTES: std::ops::RangeInclusive<i32> = 1..=20_160;
const HOOKS_MAX: usize = 20;

pub(crate) const ROLLING: &str = "ROLLING";
const BLUE_GREEN: &str = "BLUE_GREEN";
const LINEAR: &str = "LINEAR";
const CANARY: &str = "CANARY";
const STRATEGIES: [&str; 4] = [ROLLING, BLUE_GREEN, LINEAR, CANARY];
/// PAUSE waits between stages, not in the middle of a shift.
const PAUSE_STAGES: [&str; 6] = [
    "RECONCILE_SERVICE",
    "PRE_SCALE_UP",
    "POST_SCALE_UP",
    "POST_TEST_TRAFFIC_SHIFT",
    "PRE_PRODUCTION_TRAFFIC_SHIFT",
    "POST_PRODUCTION_TRAFFIC_SHIFT",
];

pub(crate) fn strategy(configuration: &ecs::DeploymentConfiguration) -> &str {
    configuration.strategy.as_deref().unwrap_or(ROLLING)
}

/// `before`: of the service as it is; a member that is not named stays.
pub(crate) fn checked(
    wanted: Option<ecs::DeploymentConfiguration>,
    before: Option<&ecs::DeploymentConfiguration>,
    controller: DeploymentController,
) -> Result<ecs::DeploymentConfiguration, ApiError> {
    let wanted = wanted.unwrap_or_default();
    let before = before.cloned().unwrap_or_default();
    one_of("deployment strategy", wanted.strategy.as_deref(), &STRATEGIES)?;
    let strategy = wanted.strategy.or(before.strategy).unwrap_or_else(|| ROLLING.into());
    let merged = ecs::DeploymentConfiguration {
        deployment_circuit_breaker: wanted.deployment_circuit_breaker.or(before.deployment_circuit_breaker),
        maximum_percent: wanted.maximum_percent.or(before.maximum_percent).or(Some(MAXIMUM_PERCENT_DEFAULT)),
        minimum_healthy_percent: wanted
            .minimum_healthy_percent
            .or(before.minimum_healthy_percent)
            .or(Some(MINIMUM_HEALTHY_PERCENT_DEFAULT)),
        alarms: wanted.alarms.or(before.alarms),
        bake_time_in_minutes: wanted.bake_time_in_minutes.or(before.bake_time_in_minutes),
        lifecycle_hooks: wanted.lifecycle_hooks.or(before.lifecycle_hooks),
        linear_configuration: wanted
            .linear_configuration
            .or(before.linear_configuration)
            .filter(|_| strategy == LINEAR),
        canary_configuration: wanted
            .canary_configuration
            .or(before.canary_configuration)
            .filter(|_| strategy == CANARY),
        early_success_criteria: wanted.early_success_criteria.or(before.early_success_criteria),
        strategy: Some(strategy),
    };
    check(merged, controller)
}

fn check(
    mut configuration: ecs::DeploymentConfiguration,
    controller: DeploymentController,
) -> Result<ecs::DeploymentConfiguration, ApiError> {
    let strategy = strategy(&configuration).to_owned();
    if controller != DeploymentController::Ecs && strategy != ROLLING {
        return Err(invalid(format!(
            "The deployment strategy {strategy} is supported with the deployment controller ECS only."
        )));
    }
    check_percents(&configuration)?;
    if let Some(breaker) = &mut configuration.deployment_circuit_breaker {
        check_breaker(breaker)?;
    } else {
        let off = ecs::DeploymentCircuitBreaker {
            enable: Some(false),
            rollback: Some(false),
            ..Default::default()
        };
        configuration.deployment_circuit_breaker = Some(off);
    }
    if configuration.alarms.as_ref().is_some_and(|alarms| alarms.enable == Some(true)) {
        return Err(unsupported("'deploymentConfiguration.alarms' (there are no CloudWatch alarms)"));
    }
    check_times(&mut configuration, &strategy)?;
    check_hooks(&mut configuration, &strategy)?;
    check_early_success(&configuration, &strategy)?;
    Ok(configuration)
}

fn check_percents(configuration: &ecs::DeploymentConfiguration) -> Result<(), ApiError> {
    let maximum = configuration.maximum_percent.unwrap_or(MAXIMUM_PERCENT_DEFAULT);
    let minimum = configuration.minimum_healthy_percent.unwrap_or(MINIMUM_HEALTHY_PERCENT_DEFAULT);
    if !(0..=100).contains(&minimum) {
        return Err(invalid("minimumHealthyPercent must be between 0 and 100."));
    }
    if maximum < 100 {
        return Err(invalid("maximumPercent must be at least 100."));
    }
    if maximum == 100 && minimum == 100 {
        return Err(invalid(
            "Both maximumPercent and minimumHealthyPercent cannot be 100 as this will block deployments.",
        ));
    }
    Ok(())
}

fn check_breaker(breaker: &mut ecs::DeploymentCircuitBreaker) -> Result<(), ApiError> {
    breaker.enable.get_or_insert(false);
    breaker.rollback.get_or_insert(false);
    let Some(threshold) = &breaker.threshold_configuration else { return Ok(()) };
    let what = "deploymentCircuitBreaker.thresholdConfiguration.type";
    one_of(what, threshold.r#type.as_deref(), &["COUNT", "BOUNDED_PERCENT", "UNBOUNDED_PERCENT"])?;
    let value = threshold.value.unwrap_or_default();
    let allowed = if threshold.r#type.as_deref() == Some("COUNT") { 1..=i32::MAX } else { 1..=100 };
    if !allowed.contains(&value) {
        return Err(invalid(format!(
            "Invalid deploymentCircuitBreaker.thresholdConfiguration.value {value}: a percentage is between 1 and 100, a \
             count at least 1."
        )));
    }
    Ok(())
}

fn check_times(configuration: &mut ecs::DeploymentConfiguration, strategy: &str) -> Result<(), ApiError> {
    let minutes = |what: &str, value: i32| {
        if BAKE_MINUTES.contains(&value) {
            return Ok(());
        }
        Err(invalid(format!(
            "{what} must be between {} and {} minutes.",
            BAKE_MINUTES.start(),
            BAKE_MINUTES.end()
        )))
    };
    match configuration.bake_time_in_minutes {
        Some(bake) => minutes("bakeTimeInMinutes", bake)?,
        None if strategy == BLUE_GREEN => {
            return Err(invalid("bakeTimeInMinutes is required with the deployment strategy BLUE_GREEN."));
        }
        None => configuration.bake_time_in_minutes = Some(0),
    }
    if strategy == LINEAR {
        let linear = configuration.linear_configuration.get_or_insert_default();
        let percent = *linear.step_percent.get_or_insert(10.0);
        if !LINEAR_STEP_PERCENT.contains(&percent) {
            return Err(invalid("linearConfiguration.stepPercent must be between 3.0 and 100.0."));
        }
        minutes(
            "linearConfiguration.stepBakeTimeInMinutes",
            *linear.step_bake_time_in_minutes.get_or_insert(6),
        )?;
    }
    if strategy == CANARY {
        let canary = configuration.canary_configuration.get_or_insert_default();
        let percent = *canary.canary_percent.get_or_insert(5.0);
        if !CANARY_PERCENT.contains(&percent) {
            return Err(invalid("canaryConfiguration.canaryPercent must be between 0.1 and 100.0."));
        }
        let bake = *canary.canary_bake_time_in_minutes.get_or_insert(10);
        minutes("canaryConfiguration.canaryBakeTimeInMinutes", bake)?;
    }
    Ok(())
}

fn check_hooks(configuration: &mut ecs::DeploymentConfiguration, strategy: &str) -> Result<(), ApiError> {
    let Some(hooks) = configuration.lifecycle_hooks.as_mut().filter(|hooks| !hooks.is_empty()) else {
        return Ok(());
    };
    if strategy == ROLLING {
        return Err(invalid("Lifecycle hooks are not supported with the deployment strategy ROLLING."));
    }
    if hooks.len() > HOOKS_MAX {
        return Err(invalid(format!("lifecycleHooks can have at most {HOOKS_MAX} items.")));
    }
    for hook in hooks {
        match hook.target_type.as_deref() {
            Some("PAUSE") => {}
            None | Some("AWS_LAMBDA") => {
                return Err(unsupported("lifecycle hooks of the target type AWS_LAMBDA"));
            }
            Some(other) => {
                return Err(invalid(format!(
                    "Invalid lifecycle hook target type '{other}'. Must be one of [AWS_LAMBDA,PAUSE]"
                )));
            }
        }
        if hook.hook_target_arn.is_some() || hook.role_arn.is_some() {
            return Err(invalid("A lifecycle hook of the type PAUSE has no hookTargetArn and no roleArn."));
        }
        let stages = hook.lifecycle_stages.as_deref().unwrap_or_default();
        if stages.is_empty() {
            return Err(invalid("A lifecycle hook names at least one lifecycle stage."));
        }
        if let Some(stage) = stages.iter().find(|stage| !PAUSE_STAGES.contains(&stage.as_str())) {
            return Err(invalid(format!(
                "The lifecycle stage '{stage}' cannot have a hook of the type PAUSE. Must be one of [{}]",
                PAUSE_STAGES.join(",")
            )));
        }
        let timeout = hook.timeout_configuration.get_or_insert_default();
        one_of("timeout action", timeout.action.as_deref(), &["ROLLBACK", "CONTINUE"])?;
        timeout.action.get_or_insert_with(|| "ROLLBACK".into());
        if !HOOK_MINUTES.contains(timeout.timeout_in_minutes.get_or_insert(1440)) {
            return Err(invalid(format!(
                "timeoutConfiguration.timeoutInMinutes must be between {} and {}.",
                HOOK_MINUTES.start(),
                HOOK_MINUTES.end()
            )));
        }
    }
    Ok(())
}

fn check_early_success(configuration: &ecs::DeploymentConfiguration, strategy: &str) -> Result<(), ApiError> {
    let Some(criteria) = &configuration.early_success_criteria else { return Ok(()) };
    let what = "earlySuccessCriteria.sourceServiceRevisionCleanup";
    one_of(what, criteria.source_service_revision_cleanup.as_deref(), &["BLOCKING", "DEFERRED"])?;
    if criteria.enable != Some(true) {
        return Ok(());
    }
    if strategy != ROLLING {
        return Err(invalid("earlySuccessCriteria is supported with the deployment strategy ROLLING only."));
    }
    let minimum = configuration.minimum_healthy_percent.unwrap_or(MINIMUM_HEALTHY_PERCENT_DEFAULT);
    match criteria.healthy_percent {
        Some(percent) if !(minimum..=100).contains(&percent) => Err(invalid(format!(
            "earlySuccessCriteria.healthyPercent must be between minimumHealthyPercent ({minimum}) and 100."
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: serde_json::Value) -> Result<ecs::DeploymentConfiguration, ApiError> {
        checked(Some(serde_json::from_value(json).unwrap()), None, DeploymentController::Ecs)
    }

    #[test]
    fn defaults() {
        let configuration = checked(None, None, DeploymentController::Ecs).unwrap();
        assert_eq!(configuration.maximum_percent, Some(200));
        assert_eq!(configuration.minimum_healthy_percent, Some(100));
        assert_eq!(configuration.strategy.as_deref(), Some("ROLLING"));
        assert_eq!(configuration.bake_time_in_minutes, Some(0));
        let linear = of(serde_json::json!({ "strategy": "LINEAR" })).unwrap().linear_configuration.unwrap();
        assert_eq!((linear.step_percent, linear.step_bake_time_in_minutes), (Some(10.0), Some(6)));
        let canary = of(serde_json::json!({ "strategy": "CANARY" })).unwrap().canary_configuration.unwrap();
        assert_eq!((canary.canary_percent, canary.canary_bake_time_in_minutes), (Some(5.0), Some(10)));
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = of(serde_json::json!({ "maximumPercent": 150, "minimumHealthyPercent": 50 })).unwrap();
        let wanted = serde_json::from_value(serde_json::json!({ "maximumPercent": 300 })).unwrap();
        let after = checked(Some(wanted), Some(&before), DeploymentController::Ecs).unwrap();
        assert_eq!((after.maximum_percent, after.minimum_healthy_percent), (Some(300), Some(50)));
    }

    #[test]
    fn refused() {
        for (json, words) in [
            (serde_json::json!({ "maximumPercent": 100 }), "cannot be 100 as this will block deployments"),
            (serde_json::json!({ "maximumPercent": 99 }), "maximumPercent must be at least 100"),
            (serde_json::json!({ "minimumHealthyPercent": -1 }), "between 0 and 100"),
            (serde_json::json!({ "strategy": "BIG_BANG" }), "Invalid deployment strategy 'BIG_BANG'"),
            (serde_json::json!({ "strategy": "BLUE_GREEN" }), "bakeTimeInMinutes is required"),
            (
                serde_json::json!({ "strategy": "BLUE_GREEN", "bakeTimeInMinutes": 1441 }),
                "between 0 and 1440",
            ),
            (
                serde_json::json!({ "strategy": "LINEAR", "linearConfiguration": { "stepPercent": 2.9 } }),
                "stepPercent must be between 3.0 and 100.0",
            ),
            (
                serde_json::json!({ "alarms": { "alarmNames": ["a"], "enable": true, "rollback": true } }),
                "'deploymentConfiguration.alarms'",
            ),
            (
                serde_json::json!({ "strategy": "CANARY", "lifecycleHooks": [
                    { "targetType": "AWS_LAMBDA", "lifecycleStages": ["PRE_SCALE_UP"] }] }),
                "AWS_LAMBDA",
            ),
            (
                serde_json::json!({ "strategy": "CANARY", "lifecycleHooks": [
                    { "targetType": "PAUSE", "lifecycleStages": ["PRODUCTION_TRAFFIC_SHIFT"] }] }),
                "cannot have a hook of the type PAUSE",
            ),
            (
                serde_json::json!({ "deploymentCircuitBreaker": { "enable": true, "rollback": true,
                    "thresholdConfiguration": { "type": "BOUNDED_PERCENT", "value": 101 } } }),
                "between 1 and 100",
            ),
            (
                serde_json::json!({ "earlySuccessCriteria": { "enable": true, "healthyPercent": 50 } }),
                "must be between minimumHealthyPercent (100) and 100",
            ),
        ] {
            let error = of(json).unwrap_err();
            assert!(error.message.contains(words), "{} has no {words}", error.message);
        }
    }
}
