//! What the tests share.
#![allow(dead_code, unreachable_pub)]

use std::path::PathBuf;
use std::sync::Arc;

use ferrogate_api::logs::*;
use ferrogate_api::{ApiError, Context, Principal, PrincipalKind};
use ferrogate_logs::LogsService;
use ferrogate_store::{MemoryStore, Store};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

pub const ACCOUNT: &str = "123456789012";
/// The time of all tests, in milliseconds.
pub const NOW: i64 = 1_795_000_000_000;

pub fn context() -> Context {
    let principal = Principal {
        arn: format!("arn:aws:iam::{ACCOUNT}:root"),
        account: ACCOUNT.into(),
        user_id: ACCOUNT.into(),
        kind: PrincipalKind::Root,
        tags: Vec::new(),
    };
    Context {
        account: ACCOUNT.into(),
        region: "us-east-1".into(),
        request_id: "r".into(),
        principal: Arc::new(principal),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now: Timestamp::from_millisecond(NOW).unwrap(),
    }
}

/// The service with a stream `s` in a group `g`.
pub struct World {
    pub service: LogsService,
    pub store: Arc<dyn Store>,
    pub cx: Context,
    pub dir: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let service = LogsService::open(ACCOUNT, Arc::clone(&store), dir.path().join("logs")).unwrap();
        let world = Self { service, store, cx: context(), dir };
        world.group("g").await;
        world.stream("g", "s").await;
        world
    }

    pub async fn group(&self, name: &str) {
        let input = CreateLogGroupRequest { log_group_name: Some(name.into()), ..Default::default() };
        self.service.create_log_group(&self.cx, input).await.unwrap();
    }

    pub async fn stream(&self, group: &str, name: &str) {
        self.service.create_log_stream(&self.cx, create_stream(group, name)).await.unwrap();
    }

    /// Puts into stream `s` of group `g`.
    pub async fn put(&self, events: &[(i64, &str)]) -> Result<PutLogEventsResponse, ApiError> {
        self.service.put_log_events(&self.cx, put("g", "s", events)).await
    }

    pub async fn get(&self, input: GetLogEventsRequest) -> GetLogEventsResponse {
        self.service.get_log_events(&self.cx, input).await.unwrap()
    }

    pub async fn messages(&self) -> Vec<String> {
        messages(&self.get(get("g", "s")).await)
    }

    pub async fn filter(&self, input: FilterLogEventsRequest) -> Vec<FilteredLogEvent> {
        let (mut events, mut input) = (Vec::new(), input);
        loop {
            let page = self.service.filter_log_events(&self.cx, input.clone()).await.unwrap();
            events.extend(page.events.unwrap());
            input.next_token = page.next_token;
            if input.next_token.is_none() {
                return events;
            }
        }
    }

    /// The folder of the only stream of the only group.
    pub fn stream_folder(&self) -> PathBuf {
        let id = |kind: &str| {
            let found = self.store.range(&format!("/logs/{ACCOUNT}/us-east-1/{kind}/"));
            let record: serde_json::Value = serde_json::from_slice(&found[0].value).unwrap();
            record["id"].as_str().unwrap().to_owned()
        };
        self.dir.path().join("logs").join(id("group")).join(id("stream"))
    }

    pub fn later(&mut self, days: i64) {
        self.cx.now += SignedDuration::from_hours(24 * days);
    }
}

pub fn create_stream(group: &str, name: &str) -> CreateLogStreamRequest {
    CreateLogStreamRequest { log_group_name: Some(group.into()), log_stream_name: Some(name.into()) }
}

pub fn put(group: &str, stream: &str, events: &[(i64, &str)]) -> PutLogEventsRequest {
    let event = |(at, message): &(i64, &str)| InputLogEvent {
        timestamp: Some(*at),
        message: Some((*message).into()),
    };
    PutLogEventsRequest {
        log_group_name: Some(group.into()),
        log_stream_name: Some(stream.into()),
        log_events: Some(events.iter().map(event).collect()),
        ..Default::default()
    }
}

pub fn get(group: &str, stream: &str) -> GetLogEventsRequest {
    GetLogEventsRequest {
        log_group_name: Some(group.into()),
        log_stream_name: Some(stream.into()),
        start_from_head: Some(true),
        ..Default::default()
    }
}

pub fn messages(page: &GetLogEventsResponse) -> Vec<String> {
    page.events.iter().flatten().map(|event| event.message.clone().unwrap()).collect()
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>, code: &str, message: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.code.as_str(), error.message.as_str()), (code, message));
}
