//! A cluster's `executeCommandConfiguration`: where the sessions of ECS Exec are logged. ECS developer guide, Logging
//! and auditing using ECS Exec.

use ferrogate_api::{ApiError, ecs};

use crate::errors::{invalid, refuse};
use crate::sessions::SessionLog;
use crate::state::ClusterRecord;

const LOGGING: [&str; 3] = ["NONE", "DEFAULT", "OVERRIDE"];

/// What of a cluster's configuration is kept. `None`: it says nothing of ECS Exec.
pub(crate) fn checked(
    configuration: Option<ecs::ClusterConfiguration>,
) -> Result<Option<ecs::ExecuteCommandConfiguration>, ApiError> {
    let configuration = configuration.unwrap_or_default();
    refuse(&[(
        "configuration.managedStorageConfiguration",
        configuration.managed_storage_configuration.is_some(),
    )])?;
    let Some(exec) = configuration.execute_command_configuration else { return Ok(None) };
    let to = exec.log_configuration.clone().unwrap_or_default();
    let is_set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let of = "configuration.executeCommandConfiguration";
    refuse(&[
        (&*format!("{of}.kmsKeyId"), is_set(&exec.kms_key_id)),
        (&*format!("{of}.logConfiguration.s3BucketName"), is_set(&to.s3_bucket_name)),
        (&*format!("{of}.logConfiguration.s3KeyPrefix"), is_set(&to.s3_key_prefix)),
        (&*format!("{of}.logConfiguration.s3EncryptionEnabled"), to.s3_encryption_enabled == Some(true)),
        (
            &*format!("{of}.logConfiguration.cloudWatchEncryptionEnabled"),
            to.cloud_watch_encryption_enabled == Some(true),
        ),
    ])?;
    let logging = exec.logging.as_deref().unwrap_or("DEFAULT");
    if !LOGGING.contains(&logging) {
        return Err(invalid(format!(
            "Invalid value '{logging}' for logging of executeCommandConfiguration: NONE, DEFAULT and OVERRIDE are allowed."
        )));
    }
    match (logging, exec.log_configuration.is_some()) {
        ("OVERRIDE", false) => {
            Err(invalid("A logConfiguration must be specified when logging is set to OVERRIDE."))
        }
        ("OVERRIDE", true) if !is_set(&to.cloud_watch_log_group_name) => Err(invalid(
            "The logConfiguration of executeCommandConfiguration names no log group: specify a cloudWatchLogGroupName.",
        )),
        ("OVERRIDE", true) => Ok(Some(exec)),
        (_, true) => {
            Err(invalid("A logConfiguration can only be specified when logging is set to OVERRIDE."))
        }
        (_, false) => Ok(Some(exec)),
    }
}

pub(crate) fn shape(cluster: &ClusterRecord) -> Option<ecs::ClusterConfiguration> {
    cluster.execute_command.as_ref().map(|exec| ecs::ClusterConfiguration {
        execute_command_configuration: Some(exec.clone()),
        ..Default::default()
    })
}

/// Where a session in a container is logged; `own`: the group and region of the container's awslogs. `None`: nowhere.
pub(crate) fn log_of(
    configuration: Option<&ecs::ExecuteCommandConfiguration>,
    own: impl FnOnce() -> Option<(String, String)>,
    region: &str,
) -> Option<SessionLog> {
    match configuration.and_then(|exec| exec.logging.as_deref()) {
        Some("NONE") => None,
        Some("OVERRIDE") => {
            let group = configuration?.log_configuration.as_ref()?.cloud_watch_log_group_name.clone()?;
            Some(SessionLog { group, region: region.to_owned(), required: true })
        }
        _ => own().map(|(group, region)| SessionLog { group, region, required: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(logging: Option<&str>, group: Option<&str>) -> ecs::ClusterConfiguration {
        let exec = ecs::ExecuteCommandConfiguration {
            logging: logging.map(str::to_owned),
            log_configuration: group.map(|group| ecs::ExecuteCommandLogConfiguration {
                cloud_watch_log_group_name: Some(group.to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        ecs::ClusterConfiguration { execute_command_configuration: Some(exec), ..Default::default() }
    }

    #[test]
    fn what_is_wrong_or_not_there_yet_is_refused_by_name() {
        let refused = |configuration| checked(Some(configuration)).expect_err("refused");
        assert_eq!(refused(configuration(Some("OVERRIDE"), None)).code, "InvalidParameterException");
        assert_eq!(refused(configuration(Some("OVERRIDE"), Some(""))).code, "InvalidParameterException");
        assert_eq!(refused(configuration(Some("NONE"), Some("g"))).code, "InvalidParameterException");
        assert_eq!(refused(configuration(None, Some("g"))).code, "InvalidParameterException");
        assert_eq!(refused(configuration(Some("none"), None)).code, "InvalidParameterException");
        let mut storage = configuration(None, None);
        storage.managed_storage_configuration = Some(Default::default());
        assert!(refused(storage).message.contains("managedStorageConfiguration"));
        type Change = fn(&mut ecs::ExecuteCommandConfiguration);
        let changes: [(&str, Change); 5] = [
            ("kmsKeyId", |exec| exec.kms_key_id = Some("k".into())),
            ("s3BucketName", |exec| to(exec).s3_bucket_name = Some("b".into())),
            ("s3KeyPrefix", |exec| to(exec).s3_key_prefix = Some("p".into())),
            ("s3EncryptionEnabled", |exec| to(exec).s3_encryption_enabled = Some(true)),
            ("cloudWatchEncryptionEnabled", |exec| to(exec).cloud_watch_encryption_enabled = Some(true)),
        ];
        for (name, change) in changes {
            let mut all = configuration(Some("OVERRIDE"), Some("g"));
            change(all.execute_command_configuration.as_mut().expect("there"));
            let error = refused(all);
            assert!(error.message.contains(name), "{error}");
        }
    }

    fn to(exec: &mut ecs::ExecuteCommandConfiguration) -> &mut ecs::ExecuteCommandLogConfiguration {
        exec.log_configuration.get_or_insert_default()
    }

    #[test]
    fn a_session_is_logged_where_it_is_said() {
        let own = || Some(("own".to_owned(), "eu-west-1".to_owned()));
        let log = |logging, group, own: fn() -> Option<(String, String)>| {
            let kept = checked(Some(configuration(logging, group))).expect("right");
            log_of(kept.as_ref(), own, "us-east-1")
        };
        let in_own = SessionLog { group: "own".into(), region: "eu-west-1".into(), required: false };
        assert_eq!(log(Some("NONE"), None, own), None);
        assert_eq!(log(Some("DEFAULT"), None, own), Some(in_own.clone()));
        assert_eq!(log(None, None, own), Some(in_own.clone()));
        assert_eq!(log(Some("DEFAULT"), None, || None), None);
        assert_eq!(log_of(None, own, "us-east-1"), Some(in_own));
        let named = SessionLog { group: "g".into(), region: "us-east-1".into(), required: true };
        assert_eq!(log(Some("OVERRIDE"), Some("g"), own), Some(named));
        assert_eq!(checked(None), Ok(None));
    }
}
