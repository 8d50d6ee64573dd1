//! What to do about a task that is PROVISIONING, and what an error of EC2 means for it. Pure.
//!
//! A subnet without a free address is such an error. RunTask has answered by then, with tasks and no `failures`, as on
//! AWS: the `failures` with RESOURCE:ENI are container instances' own. Of tasks that race for the last address one gets
//! it (EC2 gives addresses in transactions) and the others stop, TaskFailedToStart, with EC2's code in the reason.

use ferrogate_api::ApiError;
use jiff::{SignedDuration, Timestamp};

use crate::lifecycle::Desired;
use crate::state::TaskRecord;

/// A task whose interface is not there by then is given up.
pub(crate) const PROVISIONING_MAX: SignedDuration = SignedDuration::from_mins(3);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Create,
    /// It was stopped meanwhile.
    Abandon,
    GiveUp(String),
}

pub(crate) fn step(task: &TaskRecord, now: Timestamp) -> Step {
    if task.lifecycle.desired() == Desired::Stopped {
        Step::Abandon
    } else if now.duration_since(task.lifecycle.created_at()) > PROVISIONING_MAX {
        Step::GiveUp("Timeout waiting for network interface provisioning to complete.".into())
    } else {
        Step::Create
    }
}

/// The reason to give the task up for; `None`: trying again may help.
pub(crate) fn reason_to_give_up(task: &TaskRecord, error: &ApiError) -> Option<String> {
    let passing = error.status.is_some_and(|status| status >= 500)
        || matches!(
            error.code.as_str(),
            "RequestLimitExceeded" | "Throttling" | "InternalError" | "Unavailable"
        );
    if passing {
        return None;
    }
    let public = if task.network.assign_public_ip { " with public IP assignment enabled" } else { "" };
    Some(format!(
        "Unexpected EC2 error while attempting to Create Network Interface{public} in subnet '{}': {}",
        task.network.subnet_id, error.code
    ))
}
