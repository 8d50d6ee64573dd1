//! What a session shows, as events of a CloudWatch Logs stream with the session's name, made and written as the task's
//! role.
//!
//! ```text
//! output ─ QUEUE_MAX reads ─▶ lines ─▶ a batch ─ full, FLUSH_AFTER or the end ─▶ PutLogEvents
//! ```
//! A full queue makes the process wait, as a terminal does that nobody reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_api::{ApiError, logs};
use ferrogate_ecs::SessionLog;
use ferrogate_model::Clock;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// Reads that wait to be written, 16 KiB each at most.
const QUEUE_MAX: usize = 64;
/// A longer line becomes several events. Three times as much, if none of it is UTF-8.
const LINE_BYTES_MAX: usize = 64 << 10;
/// PutLogEvents' own limits.
const BATCH_EVENTS_MAX: usize = 10_000;
const BATCH_BYTES_MAX: usize = 1 << 20;
const EVENT_OVERHEAD_BYTES: usize = 26;
const FLUSH_AFTER: Duration = Duration::from_secs(5);
const TRIES_MAX: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// What is left at the end of a session has this long.
const LAST_FLUSH: Duration = Duration::from_secs(30);

pub(super) struct Log {
    queue: mpsc::Sender<Bytes>,
    writer: JoinHandle<Result<(), ApiError>>,
    group: String,
    session: String,
    required: bool,
    /// Said already.
    failed: bool,
}

impl Log {
    pub(super) async fn open(
        client: logs::Client,
        clock: Arc<dyn Clock>,
        to: &SessionLog,
        session: &str,
    ) -> Result<Self, ApiError> {
        let create = || logs::CreateLogStreamRequest {
            log_group_name: Some(to.group.clone()),
            log_stream_name: Some(session.to_owned()),
        };
        tried(|| client.create_log_stream(create())).await?;
        let (queue, reads) = mpsc::channel(QUEUE_MAX);
        let (group, session) = (to.group.clone(), session.to_owned());
        let target = Target { client, group: group.clone(), stream: session.clone() };
        let writer = tokio::spawn(write(target, clock, reads));
        Ok(Self { queue, writer, group, session, required: to.required, failed: false })
    }

    /// An error, in words for the user: the session must not go on without its log.
    pub(super) async fn write(&mut self, output: &[u8]) -> Result<(), String> {
        if self.failed || self.queue.send(Bytes::copy_from_slice(output)).await.is_ok() {
            return Ok(());
        }
        // The writer takes no more: it has failed.
        self.failed = true;
        let why = outcome((&mut self.writer).await);
        let why = why.err().unwrap_or_else(|| "its writer has ended".into());
        self.tell(&why);
        if self.required {
            return Err(format!(
                "The session has ended because it can no longer be logged to the CloudWatch Logs log group '{}': {why}",
                self.group
            ));
        }
        Ok(())
    }

    /// Everything so far is written, or it is said why not.
    pub(super) async fn finish(self) {
        let Self { queue, mut writer, group, session, required, failed } = self;
        drop(queue);
        if failed {
            return;
        }
        let ended = match timeout(LAST_FLUSH, &mut writer).await {
            Ok(ended) => outcome(ended),
            Err(_) => {
                writer.abort();
                Err(format!("the last output was not taken within {} s", LAST_FLUSH.as_secs()))
            }
        };
        if let Err(why) = ended {
            told(&session, &group, required, &why);
        }
    }

    fn tell(&self, why: &str) {
        told(&self.session, &self.group, self.required, why);
    }
}

fn told(session: &str, group: &str, required: bool, why: &str) {
    if required {
        tracing::error!(session, group, why, "the log of an ECS Exec session is not whole");
    } else {
        tracing::warn!(session, group, why, "the log of an ECS Exec session is not whole");
    }
}

fn outcome(ended: Result<Result<(), ApiError>, tokio::task::JoinError>) -> Result<(), String> {
    match ended {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

struct Target {
    client: logs::Client,
    group: String,
    stream: String,
}

impl Target {
    async fn put(&self, batch: &mut Batch) -> Result<(), ApiError> {
        if batch.events.is_empty() {
            return Ok(());
        }
        let events = std::mem::take(batch).events;
        let put = || logs::PutLogEventsRequest {
            log_group_name: Some(self.group.clone()),
            log_stream_name: Some(self.stream.clone()),
            log_events: Some(events.clone()),
            ..Default::default()
        };
        tried(|| self.client.put_log_events(put())).await.map(drop)
    }
}

/// Again where the service says that it was its own fault.
async fn tried<T, F>(mut call: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    for _ in 1..TRIES_MAX {
        match call().await {
            Err(error)
                if error.status.is_some_and(|status| status >= 500) || error.code.contains("Throttl") =>
            {
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            answer => return answer,
        }
    }
    call().await
}

async fn write(
    target: Target,
    clock: Arc<dyn Clock>,
    mut reads: mpsc::Receiver<Bytes>,
) -> Result<(), ApiError> {
    let (mut lines, mut batch) = (Lines::default(), Batch::default());
    let mut due: Option<Instant> = None;
    // A batch is in the order of time, whatever the clock does.
    let mut last_ms = 0;
    loop {
        let read = tokio::select! {
            read = reads.recv() => read,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                target.put(&mut batch).await?;
                due = None;
                continue;
            }
        };
        last_ms = clock.now().as_millisecond().max(last_ms);
        let (found, is_last) = match &read {
            Some(bytes) => (lines.take(bytes), false),
            None => (lines.rest().into_iter().collect(), true),
        };
        for line in found {
            if !batch.has_room(&line) {
                target.put(&mut batch).await?;
            }
            batch.push(line, last_ms);
        }
        if is_last {
            return target.put(&mut batch).await;
        }
        due = match batch.events.is_empty() {
            true => None,
            false => due.or_else(|| Some(Instant::now() + FLUSH_AFTER)),
        };
    }
}

#[derive(Default)]
struct Batch {
    events: Vec<logs::InputLogEvent>,
    bytes: usize,
}

impl Batch {
    fn has_room(&self, line: &str) -> bool {
        self.events.len() < BATCH_EVENTS_MAX
            && self.bytes + line.len() + EVENT_OVERHEAD_BYTES <= BATCH_BYTES_MAX
    }

    fn push(&mut self, line: String, timestamp_ms: i64) {
        self.bytes += line.len() + EVENT_OVERHEAD_BYTES;
        self.events.push(logs::InputLogEvent { timestamp: Some(timestamp_ms), message: Some(line) });
    }
}

/// Bytes into lines, without their ends; empty ones are left out, as an event cannot be empty.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.push(&bytes[..end], &mut lines);
            lines.extend(self.rest());
            bytes = &bytes[end + 1..];
        }
        self.push(bytes, &mut lines);
        lines
    }

    fn push(&mut self, bytes: &[u8], lines: &mut Vec<String>) {
        self.begun.extend_from_slice(bytes);
        while self.begun.len() > LINE_BYTES_MAX {
            // Not in the middle of a character, if it is text: the bytes after the first of one are 10xxxxxx.
            let back = (0..4).find(|back| self.begun[LINE_BYTES_MAX - back] & 0xc0 != 0x80).unwrap_or(0);
            let rest = self.begun.split_off(LINE_BYTES_MAX - back);
            lines.extend(self.rest());
            self.begun = rest;
        }
    }

    fn rest(&mut self) -> Option<String> {
        let mut line = std::mem::take(&mut self.begun);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_lines_however_it_is_cut() {
        let text = "$ ls\r\n\r\na b\r\nü\n$ ";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut all: Vec<String> =
                text.as_bytes().chunks(size).flat_map(|part| lines.take(part)).collect();
            all.extend(lines.rest());
            assert_eq!(all, ["$ ls", "a b", "ü", "$ "], "{size}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut_between_characters() {
        let text = format!("a{}", "ü".repeat(2 * LINE_BYTES_MAX));
        let mut lines = Lines::default();
        let mut all = lines.take(text.as_bytes());
        all.extend(lines.rest());
        assert_eq!(all.concat(), text);
        assert!(all.len() == 5 && all.iter().all(|line| line.len() <= LINE_BYTES_MAX));
        // Bytes that are no text do not stop it.
        let all = lines.take(&vec![0x80; 3 * LINE_BYTES_MAX]);
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn a_batch_is_one_that_is_taken() {
        let mut batch = Batch::default();
        let line = "x".repeat(LINE_BYTES_MAX);
        while batch.has_room(&line) {
            batch.push(line.clone(), 0);
        }
        assert_eq!(batch.events.len(), 15);
        let mut batch = Batch::default();
        while batch.has_room("x") {
            batch.push("x".into(), 0);
        }
        assert_eq!(batch.events.len(), BATCH_EVENTS_MAX);
    }
}
