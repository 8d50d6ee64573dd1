//! What the scheduler remembers of a deployment. Records hold these as they are.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Gives AWS's name of each value.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub(crate) enum $type {
            $($(#[$variant_doc])* #[serde(rename = $name)] $variant,)+
        }

        impl $type {
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

named! {
    /// `deployments[].status`, and `taskSets[].status` under the controller EXTERNAL.
    DeploymentStatus {
        /// What the service is to become. Of task sets: the one with production traffic.
        Primary = "PRIMARY",
        /// Still has tasks, is being replaced. Of task sets: any other.
        Active = "ACTIVE",
        /// Its tasks are being stopped: task sets only.
        Draining = "DRAINING",
        /// Wholly replaced. Kept as what to roll back to, not shown.
        Inactive = "INACTIVE",
    }
}

named! {
    /// `deployments[].rolloutState`
    RolloutState {
        InProgress = "IN_PROGRESS",
        Completed = "COMPLETED",
        Failed = "FAILED",
    }
}

named! {
    /// `serviceDeployments[].status`
    ServiceDeploymentStatus {
        Pending = "PENDING",
        InProgress = "IN_PROGRESS",
        Successful = "SUCCESSFUL",
        StopRequested = "STOP_REQUESTED",
        Stopped = "STOPPED",
        RollbackRequested = "ROLLBACK_REQUESTED",
        RollbackInProgress = "ROLLBACK_IN_PROGRESS",
        RollbackSuccessful = "ROLLBACK_SUCCESSFUL",
        RollbackFailed = "ROLLBACK_FAILED",
    }
}

impl ServiceDeploymentStatus {
    /// Nothing will change it any more.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Successful | Self::Stopped | Self::RollbackSuccessful | Self::RollbackFailed)
    }
}

named! {
    /// `serviceDeployments[].lifecycleStage`, in their order.
    Stage {
        ReconcileService = "RECONCILE_SERVICE",
        PreScaleUp = "PRE_SCALE_UP",
        ScaleUp = "SCALE_UP",
        PostScaleUp = "POST_SCALE_UP",
        TestTrafficShift = "TEST_TRAFFIC_SHIFT",
        PostTestTrafficShift = "POST_TEST_TRAFFIC_SHIFT",
        PreProductionTrafficShift = "PRE_PRODUCTION_TRAFFIC_SHIFT",
        ProductionTrafficShift = "PRODUCTION_TRAFFIC_SHIFT",
        PostProductionTrafficShift = "POST_PRODUCTION_TRAFFIC_SHIFT",
        BakeTime = "BAKE_TIME",
        CleanUp = "CLEAN_UP",
    }
}

named! {
    /// `lifecycleHookDetails[].status`
    HookStatus {
        /// A PAUSE hook waits for ContinueServiceDeployment.
        AwaitingAction = "AWAITING_ACTION",
        InProgress = "IN_PROGRESS",
        /// Continued.
        Succeeded = "SUCCEEDED",
        /// Someone chose ROLLBACK.
        Failed = "FAILED",
        TimedOut = "TIMED_OUT",
    }
}

named! {
    /// What to do when a hook times out, and what ContinueServiceDeployment can ask for.
    HookAction {
        Continue = "CONTINUE",
        Rollback = "ROLLBACK",
    }
}

named! {
    /// `taskSets[].stabilityStatus`
    Stability {
        SteadyState = "STEADY_STATE",
        Stabilizing = "STABILIZING",
    }
}

/// What StopServiceDeployment asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum StopRequest {
    Rollback,
    Abort,
}

/// The stage a deployment is in. Written by [`super::Action::BeginStage`]; only `hooks[].status` is changed by others
/// (ContinueServiceDeployment).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageRun {
    pub stage: Stage,
    /// Which production traffic shift this is, from 1; 0 before the first.
    #[serde(default)]
    pub step: u32,
    pub began_at: Timestamp,
    /// Of this stage, in the order of the configuration.
    #[serde(default)]
    pub hooks: Vec<HookRun>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HookRun {
    /// Of the hook in `lifecycleHooks`. Who writes the stage gives it an identifier of its own.
    pub index: usize,
    pub status: HookStatus,
    pub expires_at: Timestamp,
    pub timeout_action: HookAction,
}

/// Starts that failed in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launches {
    /// How often tasks were started and none of them came to RUNNING; tasks that were started together count once.
    pub failed_rounds: u32,
    /// When the last of them was seen to have failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
    /// That time there was no task: it could not be made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}
