//! Systems Manager's Parameter Store: parameters, their versions, labels and tags; and of Session Manager what the
//! ordinary client plugin asks about sessions that ECS Exec began (`sessions.rs`).
//!
//! What a parameter is and which versions it has is one record; the value of each version is another, sealed at rest
//! and bound to its place whatever the parameter's type (`state.rs`). What names, values and labels may be is in
//! `plan/`, which is pure.
//!
//! Not served yet: parameter policies, KMS keys other than `alias/aws/ssm`, data types other than `text`, parameters
//! that other accounts share, the public ones below `/aws/`, and the rest of Systems Manager. They are refused by name.

mod demands;
mod errors;
mod operations;
mod plan;
mod sessions;
mod state;

use std::sync::{Arc, OnceLock};

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context, Demand, Value};
use ferrogate_store::{Sealer, Store};

pub use sessions::{SessionManager, SessionSeen, SessionStatus, SessionTicket};

/// The service of all accounts and regions of one store.
pub struct SsmService {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    sessions: OnceLock<Arc<dyn SessionManager>>,
}

impl SsmService {
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>) -> Self {
        Self { store, sealer, sessions: OnceLock::new() }
    }

    /// Who has the sessions. Until it is said there are none; the first call counts.
    pub fn serve_sessions_of(&self, manager: Arc<dyn SessionManager>) {
        let _ = self.sessions.set(manager);
    }
}

macro_rules! operations {
    ($($method:ident($input:ty) -> $output:ty = $module:ident :: $function:ident;)*) => {$(
        async fn $method(&self, cx: &Context, input: $input) -> Result<$output, ApiError> {
            operations::$module::$function(self, cx, input).await
        }
    )*};
}

impl Ssm for SsmService {
    fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
        demands::of(self, cx, operation, input)
    }

    operations! {
        put_parameter(PutParameterRequest) -> PutParameterResult = put::put;
        delete_parameter(DeleteParameterRequest) -> DeleteParameterResult = delete::one;
        delete_parameters(DeleteParametersRequest) -> DeleteParametersResult = delete::many;

        get_parameter(GetParameterRequest) -> GetParameterResult = get::one;
        get_parameters(GetParametersRequest) -> GetParametersResult = get::many;
        get_parameters_by_path(GetParametersByPathRequest) -> GetParametersByPathResult = get::by_path;
        get_parameter_history(GetParameterHistoryRequest) -> GetParameterHistoryResult = get::history;
        describe_parameters(DescribeParametersRequest) -> DescribeParametersResult = describe::describe;

        label_parameter_version(LabelParameterVersionRequest) -> LabelParameterVersionResult = labels::label;
        unlabel_parameter_version(UnlabelParameterVersionRequest) -> UnlabelParameterVersionResult = labels::unlabel;

        resume_session(ResumeSessionRequest) -> ResumeSessionResponse = sessions::resume;
        terminate_session(TerminateSessionRequest) -> TerminateSessionResponse = sessions::terminate;
        describe_sessions(DescribeSessionsRequest) -> DescribeSessionsResponse = sessions::describe;

        add_tags_to_resource(AddTagsToResourceRequest) -> AddTagsToResourceResult = tags::add;
        remove_tags_from_resource(RemoveTagsFromResourceRequest) -> RemoveTagsFromResourceResult = tags::remove;
        list_tags_for_resource(ListTagsForResourceRequest) -> ListTagsForResourceResult = tags::list;
    }
}
