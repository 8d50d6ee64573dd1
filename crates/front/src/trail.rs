//! The record of every call, in CloudTrail's form.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use ferrogate_api::{ApiError, Context, PrincipalKind, Value};
use serde::Serialize;
use serde_json::json;

use crate::dispatch::request_id;

/// Records waiting for the disk; a call waits when it is full, for no record may be lost.
const QUEUED_RECORDS_MAX: usize = 4096;
/// A segment is closed when it is larger.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Older segments are deleted.
const SEGMENTS_KEPT_MAX: usize = 16;
/// Longer request parameters are left out of a record, as CloudTrail does above 100 KB.
const PARAMETERS_BYTES_MAX: usize = 100 << 10;
/// A longer user agent or message is cut, as CloudTrail does above 1 KB.
const TEXT_CHARS_MAX: usize = 1024;

/// One call, as CloudTrail's record contents 1.11.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrailRecord {
    pub event_version: &'static str,
    pub user_identity: serde_json::Value,
    /// `2026-11-21T05:00:00Z`
    pub event_time: String,
    /// `ecs.amazonaws.com`
    pub event_source: String,
    /// The operation.
    pub event_name: String,
    pub aws_region: String,
    #[serde(rename = "sourceIPAddress")]
    pub source_ip_address: String,
    pub user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    pub request_parameters: Option<serde_json::Value>,
    #[serde(rename = "requestID")]
    pub request_id: String,
    #[serde(rename = "eventID")]
    pub event_id: String,
    pub read_only: bool,
    pub event_type: &'static str,
    pub management_event: bool,
    pub recipient_account_id: String,
}

impl TrailRecord {
    pub(crate) fn new(
        cx: &Context,
        signing_name: &str,
        operation: &str,
        parameters: &Value,
        error: Option<&ApiError>,
    ) -> Self {
        let parameters = serde_json::to_value(parameters)
            .ok()
            .filter(|value| !value.is_null() && value.to_string().len() <= PARAMETERS_BYTES_MAX);
        Self {
            event_version: "1.11",
            user_identity: user_identity(cx),
            event_time: cx.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            event_source: format!("{signing_name}.amazonaws.com"),
            event_name: operation.to_owned(),
            aws_region: cx.region.clone(),
            source_ip_address: cx.source_ip.map_or_else(|| service_name(cx), |ip| ip.to_string()),
            user_agent: cx.user_agent.as_deref().map_or_else(|| service_name(cx), short),
            error_code: error.map(|error| error.code.clone()),
            error_message: error.map(|error| short(&error.message)),
            request_parameters: parameters,
            request_id: cx.request_id.clone(),
            event_id: request_id(),
            read_only: is_read_only(operation),
            event_type: "AwsApiCall",
            management_event: true,
            recipient_account_id: cx.account.clone(),
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

fn service_name(cx: &Context) -> String {
    if let PrincipalKind::Service { name } = &cx.principal.kind {
        name.clone()
    } else {
        "AWS Internal".into()
    }
}

fn user_identity(cx: &Context) -> serde_json::Value {
    let principal = &cx.principal;
    let mut identity = match &principal.kind {
        PrincipalKind::Root => json!({"type": "Root"}),
        // An unsigned call.
        PrincipalKind::User { .. } if principal.account.is_empty() => return json!({"type": "Unknown"}),
        PrincipalKind::User { name } => json!({"type": "IAMUser", "userName": name}),
        PrincipalKind::AssumedRole { role_arn, .. } => json!({
            "type": "AssumedRole",
            "sessionContext": {"sessionIssuer": {"type": "Role", "arn": role_arn, "accountId": principal.account}},
        }),
        PrincipalKind::Service { name } => return json!({"type": "AWSService", "invokedBy": name}),
    };
    identity["principalId"] = principal.user_id.clone().into();
    identity["arn"] = principal.arn.clone().into();
    identity["accountId"] = principal.account.clone().into();
    if let Some(key) = &cx.access_key_id {
        identity["accessKeyId"] = key.clone().into();
    }
    identity
}

/// CloudTrail's rule of thumb, which is exact for the services here.
pub(crate) fn is_read_only(operation: &str) -> bool {
    if operation.starts_with("AssumeRole") {
        return true;
    }
    ["Describe", "List", "Get", "BatchGet", "BatchCheck", "Discover", "Filter", "Simulate", "Test"]
        .iter()
        .any(|prefix| operation.starts_with(prefix))
}

/// Calls that carry data, not management: CloudTrail does not record them unless asked.
pub(crate) fn is_data_event(service: &str, operation: &str) -> bool {
    matches!((service, operation), ("logs", "PutLogEvents" | "GetLogEvents" | "FilterLogEvents"))
}

/// Where records go.
pub trait Trail: Send + Sync + 'static {
    fn record(&self, record: TrailRecord);
}

#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    #[error("the trail {path} cannot be written")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Records as JSON lines in segments of bounded size, `trail-<n>.jsonl`, mode 0600. Dropping it writes what is queued.
pub struct FileTrail {
    queue: Mutex<Option<SyncSender<TrailRecord>>>,
    writer: Option<JoinHandle<()>>,
}

impl FileTrail {
    /// Goes on in the newest segment of `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`TrailError`]: the folder cannot be made or written.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, TrailError> {
        let mut segments = Segments::open(folder.into(), SEGMENT_BYTES_MAX, SEGMENTS_KEPT_MAX)?;
        let (send, receive) = sync_channel(QUEUED_RECORDS_MAX);
        let writer = std::thread::Builder::new()
            .name("trail".into())
            .spawn(move || segments.write_all(&receive))
            .map_err(|source| TrailError::Io { path: "trail".into(), source })?;
        Ok(Self { queue: Mutex::new(Some(send)), writer: Some(writer) })
    }
}

impl Trail for FileTrail {
    fn record(&self, record: TrailRecord) {
        let queue = self.queue.lock().expect("trail lock").clone();
        if let Some(queue) = queue
            && queue.send(record).is_err()
        {
            tracing::error!("the trail's writer is gone: a call was not recorded");
        }
    }
}

impl Drop for FileTrail {
    fn drop(&mut self) {
        self.queue.lock().expect("trail lock").take();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

struct Segments {
    folder: PathBuf,
    bytes_max: u64,
    kept_max: usize,
    number: u64,
    file: BufWriter<File>,
    bytes: u64,
}

impl Segments {
    fn open(folder: PathBuf, bytes_max: u64, kept_max: usize) -> Result<Self, TrailError> {
        let fail = |source| TrailError::Io { path: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(fail)?;
        let number = Self::numbers(&folder).map_err(fail)?.last().copied().unwrap_or(1);
        let (file, bytes) = Self::segment(&folder, number).map_err(fail)?;
        Ok(Self { folder, bytes_max, kept_max, number, file, bytes })
    }

    fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
        let mut numbers: Vec<u64> = std::fs::read_dir(folder)?
            .filter_map(|entry| {
                entry.ok()?.file_name().to_str()?.strip_prefix("trail-")?.strip_suffix(".jsonl")?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn segment(folder: &Path, number: u64) -> io::Result<(BufWriter<File>, u64)> {
        use std::os::unix::fs::{FileExt, OpenOptionsExt};
        let path = folder.join(format!("trail-{number}.jsonl"));
        let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
        let mut bytes = file.metadata()?.len();
        // A line cut short by a crash must not take the next one with it.
        if bytes > 0 {
            let mut last = [0];
            file.read_exact_at(&mut last, bytes - 1)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok((BufWriter::new(file), bytes))
    }

    fn write_all(&mut self, records: &Receiver<TrailRecord>) {
        while let Ok(first) = records.recv() {
            let batch = std::iter::once(first).chain(std::iter::from_fn(|| records.try_recv().ok()));
            for record in batch.take(QUEUED_RECORDS_MAX) {
                if let Err(error) = self.write(&record) {
                    tracing::error!(%error, folder = %self.folder.display(), "a call was not recorded");
                }
            }
            if let Err(error) = self.file.flush() {
                tracing::error!(%error, folder = %self.folder.display(), "the trail cannot be written");
            }
        }
    }

    fn write(&mut self, record: &TrailRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        if self.bytes >= self.bytes_max {
            self.file.flush()?;
            self.number += 1;
            (self.file, self.bytes) = Self::segment(&self.folder, self.number)?;
            let numbers = Self::numbers(&self.folder)?;
            for old in numbers.iter().rev().skip(self.kept_max) {
                std::fs::remove_file(self.folder.join(format!("trail-{old}.jsonl")))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> TrailRecord {
        TrailRecord {
            event_version: "1.11",
            user_identity: json!({"type": "Root"}),
            event_time: "2026-11-21T05:00:00Z".into(),
            event_source: "ecs.amazonaws.com".into(),
            event_name: name.into(),
            aws_region: "us-east-1".into(),
            source_ip_address: "127.0.0.1".into(),
            user_agent: "test".into(),
            error_code: None,
            error_message: None,
            request_parameters: None,
            request_id: request_id(),
            event_id: request_id(),
            read_only: false,
            event_type: "AwsApiCall",
            management_event: true,
            recipient_account_id: "123456789012".into(),
        }
    }

    fn names(folder: &Path, number: u64) -> Vec<String> {
        let text = std::fs::read_to_string(folder.join(format!("trail-{number}.jsonl"))).unwrap();
        let name = |line| {
            serde_json::from_str::<serde_json::Value>(line).ok()?["eventName"].as_str().map(str::to_owned)
        };
        text.lines().filter_map(name).collect()
    }

    #[test]
    fn segments_are_bounded_in_size_and_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut segments = Segments::open(folder.path().into(), 1000, 3).unwrap();
        for n in 0..40 {
            segments.write(&record(&format!("Call{n}"))).unwrap();
        }
        segments.file.flush().unwrap();
        let numbers = Segments::numbers(folder.path()).unwrap();
        assert_eq!(numbers.len(), 3);
        let kept: Vec<String> = numbers.iter().flat_map(|number| names(folder.path(), *number)).collect();
        let newest: Vec<String> = (40 - kept.len()..40).map(|n| format!("Call{n}")).collect();
        assert_eq!(kept, newest);
        for number in numbers {
            let meta = std::fs::metadata(folder.path().join(format!("trail-{number}.jsonl"))).unwrap();
            assert!(meta.len() < 2000);
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600);
        }
    }

    #[test]
    fn a_line_cut_short_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("trail-7.jsonl"), b"{\"eventName\":\"Whole\"}\n{\"eventNa")
            .unwrap();
        let trail = FileTrail::open(folder.path()).unwrap();
        trail.record(record("Next"));
        drop(trail);
        assert_eq!(names(folder.path(), 7), ["Whole", "Next"]);
    }
}
