//! CloudWatch Logs: log groups, log streams and the events in them.
//!
//! What a group and a stream are is in the store (`state.rs`); the events are in files below a folder of this
//! service alone (`segments/`), for the store is no place for logs. PutLogEvents returns when its events are on
//! disk; concurrent puts to a stream share one sync. Filter patterns are read and matched by `pattern/`, which is
//! pure. One controller removes what retention or a deletion has left to remove.
//!
//! Not served yet: live tail (event streams), metric and subscription filters, Insights queries, exports, KMS keys,
//! the classes other than STANDARD. They are refused.

mod controllers;
mod demands;
mod errors;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod operations;
mod pattern;
mod segments;
mod state;

use std::path::PathBuf;
use std::sync::Arc;

use ferrogate_api::logs::*;
use ferrogate_api::{ApiError, Context, Demand, Value};
use ferrogate_control::Controller;
use ferrogate_model::{Clock, SystemClock};
use ferrogate_store::Store;
use jiff::Timestamp;

pub use controllers::Swept;

use segments::{Segments, SegmentsError};

/// The log files cannot be opened, read or removed: which one, and why.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LogsError(#[from] SegmentsError);

/// The service of one account, all its regions.
#[derive(Clone)]
pub struct LogsService {
    account: Arc<str>,
    store: Arc<dyn Store>,
    segments: Arc<Segments>,
}

impl LogsService {
    /// `dir` belongs to this service alone and is made if it is not there (0700; files 0600). It is locked for as
    /// long as the service lives: a second process is refused.
    pub fn open(
        account: impl Into<Arc<str>>,
        store: Arc<dyn Store>,
        dir: PathBuf,
    ) -> Result<Self, LogsError> {
        let segments = Arc::new(Segments::open(dir)?);
        Ok(Self { account: account.into(), store, segments })
    }

    /// To be run by a driver.
    pub fn controllers(&self) -> Vec<Arc<dyn Controller>> {
        self.controllers_with(Arc::new(SystemClock))
    }

    /// The same with another clock.
    pub fn controllers_with(&self, clock: Arc<dyn Clock>) -> Vec<Arc<dyn Controller>> {
        vec![Arc::new(controllers::Retention { service: self.clone(), clock })]
    }

    /// Removes the segments that are past their group's retention and the files of what was deleted; what the
    /// controller does.
    pub async fn sweep(&self, now: Timestamp) -> Result<Swept, LogsError> {
        controllers::sweep(self, now).await
    }
}

impl Logs for LogsService {
    fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
        demands::of(self, cx, operation, input)
    }

    async fn create_log_group(
        &self,
        cx: &Context,
        input: CreateLogGroupRequest,
    ) -> Result<CreateLogGroupNoOutput, ApiError> {
        operations::groups::create(self, cx, input).await
    }

    async fn delete_log_group(
        &self,
        cx: &Context,
        input: DeleteLogGroupRequest,
    ) -> Result<DeleteLogGroupNoOutput, ApiError> {
        operations::groups::delete(self, cx, input).await
    }

    async fn describe_log_groups(
        &self,
        cx: &Context,
        input: DescribeLogGroupsRequest,
    ) -> Result<DescribeLogGroupsResponse, ApiError> {
        operations::groups::describe(self, cx, input).await
    }

    async fn list_log_groups(
        &self,
        cx: &Context,
        input: ListLogGroupsRequest,
    ) -> Result<ListLogGroupsResponse, ApiError> {
        operations::groups::list(self, cx, input)
    }

    async fn put_retention_policy(
        &self,
        cx: &Context,
        input: PutRetentionPolicyRequest,
    ) -> Result<PutRetentionPolicyNoOutput, ApiError> {
        operations::groups::put_retention(self, cx, input).await
    }

    async fn delete_retention_policy(
        &self,
        cx: &Context,
        input: DeleteRetentionPolicyRequest,
    ) -> Result<DeleteRetentionPolicyNoOutput, ApiError> {
        operations::groups::delete_retention(self, cx, input).await
    }

    async fn tag_resource(
        &self,
        cx: &Context,
        input: TagResourceRequest,
    ) -> Result<TagResourceNoOutput, ApiError> {
        operations::tags::tag_resource(self, cx, input).await
    }

    async fn untag_resource(
        &self,
        cx: &Context,
        input: UntagResourceRequest,
    ) -> Result<UntagResourceNoOutput, ApiError> {
        operations::tags::untag_resource(self, cx, input).await
    }

    async fn list_tags_for_resource(
        &self,
        cx: &Context,
        input: ListTagsForResourceRequest,
    ) -> Result<ListTagsForResourceResponse, ApiError> {
        operations::tags::list_for_resource(self, cx, input)
    }

    async fn tag_log_group(
        &self,
        cx: &Context,
        input: TagLogGroupRequest,
    ) -> Result<TagLogGroupNoOutput, ApiError> {
        operations::tags::tag_log_group(self, cx, input).await
    }

    async fn untag_log_group(
        &self,
        cx: &Context,
        input: UntagLogGroupRequest,
    ) -> Result<UntagLogGroupNoOutput, ApiError> {
        operations::tags::untag_log_group(self, cx, input).await
    }

    async fn list_tags_log_group(
        &self,
        cx: &Context,
        input: ListTagsLogGroupRequest,
    ) -> Result<ListTagsLogGroupResponse, ApiError> {
        operations::tags::list_log_group(self, cx, input)
    }

    async fn create_log_stream(
        &self,
        cx: &Context,
        input: CreateLogStreamRequest,
    ) -> Result<CreateLogStreamNoOutput, ApiError> {
        operations::streams::create(self, cx, input).await
    }

    async fn delete_log_stream(
        &self,
        cx: &Context,
        input: DeleteLogStreamRequest,
    ) -> Result<DeleteLogStreamNoOutput, ApiError> {
        operations::streams::delete(self, cx, input).await
    }

    async fn describe_log_streams(
        &self,
        cx: &Context,
        input: DescribeLogStreamsRequest,
    ) -> Result<DescribeLogStreamsResponse, ApiError> {
        operations::streams::describe(self, cx, input).await
    }

    async fn put_log_events(
        &self,
        cx: &Context,
        input: PutLogEventsRequest,
    ) -> Result<PutLogEventsResponse, ApiError> {
        operations::put::put(self, cx, input).await
    }

    async fn get_log_events(
        &self,
        cx: &Context,
        input: GetLogEventsRequest,
    ) -> Result<GetLogEventsResponse, ApiError> {
        operations::get::get(self, cx, input).await
    }

    async fn filter_log_events(
        &self,
        cx: &Context,
        input: FilterLogEventsRequest,
    ) -> Result<FilterLogEventsResponse, ApiError> {
        operations::filter::filter(self, cx, input).await
    }

    async fn test_metric_filter(
        &self,
        _cx: &Context,
        input: TestMetricFilterRequest,
    ) -> Result<TestMetricFilterResponse, ApiError> {
        operations::filter::test_metric_filter(input)
    }
}
