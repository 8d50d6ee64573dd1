//! The awslogs driver: a container's output to its CloudWatch Logs stream, and a Service Connect proxy's.

pub(crate) mod proxy;

use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{ControlPlane, ControlPlaneError, LogConfiguration, LogLine};
use ferrogate_sandbox::{LogFollower, LogRecord, TaskSandbox};
use regex::Regex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// PutLogEvents' limits (CloudWatch Logs API reference).
const BATCH_BYTES_MAX: usize = 1_048_576;
const BATCH_EVENTS_MAX: usize = 10_000;
const EVENT_OVERHEAD_BYTES: usize = 26;
const EVENT_BYTES_MAX: usize = 262_144 - EVENT_OVERHEAD_BYTES;
/// A batch waits this long for more lines.
const BATCH_DELAY: Duration = Duration::from_millis(200);
/// Lines of a multi-line event that has begun are waited for this long.
const MULTILINE_DELAY: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Where the delivered offset is told, for the record on disk.
pub(crate) type Delivered = mpsc::Sender<(String, u64)>;

pub(crate) struct Pump {
    pub(crate) control: Arc<dyn ControlPlane>,
    pub(crate) sandbox: Arc<dyn TaskSandbox>,
    pub(crate) task_arn: String,
    pub(crate) container: String,
    pub(crate) configuration: LogConfiguration,
    pub(crate) delivered: Delivered,
    pub(crate) runs: watch::Receiver<Run>,
}

/// Which run of its container a log driver is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) number: u32,
    /// There will not be another.
    pub(crate) last: bool,
}

impl Pump {
    /// Runs until the container has exited, will not be restarted, and everything is delivered.
    pub(crate) async fn run(mut self, from_offset: u64) {
        let mut from = from_offset;
        loop {
            let run = *self.runs.borrow_and_update();
            let Some(reached) = self.follow(from).await else { return };
            from = reached;
            if run.last || self.runs.changed().await.is_err() {
                return;
            }
        }
    }

    /// Delivers one run's output, and says how far it went.
    async fn follow(&self, from_offset: u64) -> Option<u64> {
        let mut reached = from_offset;
        let mut follower = match self.sandbox.logs(&self.container, from_offset).await {
            Ok(follower) => follower,
            Err(error) => {
                tracing::error!(%error, task = self.task_arn, container = self.container, "output cannot be read");
                return None;
            }
        };
        let mut assembler = Assembler::new(self.configuration.multiline_pattern.as_deref());
        loop {
            let (batch, end) = collect(&mut follower, &mut assembler).await;
            if !batch.events.is_empty() {
                deliver(&*self.control, &self.task_arn, &self.container, batch.events).await;
            }
            if let Some(offset) = batch.offset {
                reached = offset;
                if let Err(error) = self.sandbox.ack_logs(&self.container, offset).await {
                    tracing::debug!(%error, container = self.container, "delivered output could not be dropped");
                }
                let _ = self.delivered.send((self.container.clone(), offset)).await;
            }
            if end {
                return Some(reached);
            }
        }
    }
}

/// Until it is taken. What waits behind it is bounded by who writes it.
async fn deliver(control: &dyn ControlPlane, task: &str, container: &str, events: Vec<LogLine>) {
    let mut retry = RETRY_MIN;
    loop {
        match control.put_log_events(task, container, events.clone()).await {
            Ok(()) => return,
            Err(ControlPlaneError::Refused { code, message }) if code == "InvalidParameterException" => {
                tracing::error!(message, task, "CloudWatch Logs refuses these events: dropped");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, task, container, "log events were not taken, will be sent again");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

#[derive(Default)]
struct Batch {
    events: Vec<LogLine>,
    bytes: usize,
    /// Output before this is in `events` or was delivered before.
    offset: Option<u64>,
}

impl Batch {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.message.len() + EVENT_OVERHEAD_BYTES;
        self.events.push(line);
    }

    fn full(&self) -> bool {
        self.events.len() >= BATCH_EVENTS_MAX - 1
            || self.bytes >= BATCH_BYTES_MAX - 2 * (EVENT_BYTES_MAX + EVENT_OVERHEAD_BYTES)
    }
}

/// Events until a batch is full or nothing more comes for a while; `true` at the output's end.
async fn collect(follower: &mut LogFollower, assembler: &mut Assembler) -> (Batch, bool) {
    let mut batch = Batch::default();
    let mut deadline: Option<Instant> = None;
    loop {
        let next = match deadline {
            None => follower.next().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, follower.next()).await {
                Ok(next) => next,
                Err(_) => {
                    assembler.flush(&mut batch);
                    return (batch, false);
                }
            },
        };
        let delay = if assembler.pattern.is_some() { MULTILINE_DELAY } else { BATCH_DELAY };
        deadline.get_or_insert_with(|| Instant::now() + delay);
        match next {
            Ok(Some(record)) => assembler.take(record, &mut batch),
            Ok(None) => {
                assembler.flush(&mut batch);
                return (batch, true);
            }
            Err(error) => {
                tracing::error!(%error, "output cannot be read any further");
                assembler.flush(&mut batch);
                return (batch, true);
            }
        }
        if batch.full() {
            return (batch, false);
        }
    }
}

/// Lines to events. Without a pattern each line is one; with one, an event begins at each line that matches.
struct Assembler {
    pattern: Option<Regex>,
    open: Option<LogLine>,
    /// Where the open event's last line ends.
    read_to: u64,
}

impl Assembler {
    fn new(pattern: Option<&str>) -> Self {
        // Registration has checked the pattern.
        Self { pattern: pattern.and_then(|pattern| Regex::new(pattern).ok()), open: None, read_to: 0 }
    }

    fn take(&mut self, record: LogRecord, batch: &mut Batch) {
        let next_offset = record.next_offset();
        match record {
            LogRecord::Line { timestamp_ns, bytes, .. } => {
                let message = String::from_utf8_lossy(&bytes).into_owned();
                self.line(LogLine { timestamp_ms: timestamp_ns / 1_000_000, message }, batch);
            }
            LogRecord::Dropped { timestamp_ns, bytes, .. } => {
                let message =
                    format!("[{bytes} bytes of output were dropped: the log driver's buffer was full]");
                self.line(LogLine { timestamp_ms: timestamp_ns / 1_000_000, message }, batch);
            }
        }
        self.read_to = next_offset;
        if self.open.is_none() {
            batch.offset = Some(next_offset);
        }
    }

    fn line(&mut self, line: LogLine, batch: &mut Batch) {
        let Some(pattern) = &self.pattern else {
            // CloudWatch Logs refuses empty messages; an empty line says nothing.
            if !line.message.is_empty() {
                batch.push(cut(line));
            }
            return;
        };
        let starts = pattern.is_match(&line.message);
        match &mut self.open {
            Some(open) if !starts && open.message.len() + line.message.len() < EVENT_BYTES_MAX => {
                open.message.push('\n');
                open.message += &line.message;
            }
            _ => {
                let before = self.open.replace(cut(line));
                if let Some(event) = before.filter(|event| !event.message.is_empty()) {
                    batch.push(event);
                    batch.offset = Some(self.read_to);
                }
            }
        }
    }

    fn flush(&mut self, batch: &mut Batch) {
        if let Some(event) = self.open.take() {
            if !event.message.is_empty() {
                batch.push(event);
            }
            batch.offset = Some(self.read_to);
        }
    }
}

fn cut(mut line: LogLine) -> LogLine {
    if line.message.len() > EVENT_BYTES_MAX {
        let end = (0..=EVENT_BYTES_MAX).rev().find(|at| line.message.is_char_boundary(*at)).unwrap_or(0);
        line.message.truncate(end);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrogate_sandbox::Stream;

    fn feed(assembler: &mut Assembler, lines: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for (at, line) in lines.iter().enumerate() {
            let record = LogRecord::Line {
                next_offset: at as u64 + 1,
                timestamp_ns: 0,
                stream: Stream::Stdout,
                partial: false,
                bytes: line.as_bytes().to_vec(),
            };
            assembler.take(record, &mut batch);
        }
        batch
    }

    fn messages(batch: &Batch) -> Vec<&str> {
        batch.events.iter().map(|event| event.message.as_str()).collect()
    }

    #[test]
    fn a_line_is_an_event_and_empty_lines_are_none() {
        let batch = feed(&mut Assembler::new(None), &["a", "", "b"]);
        assert_eq!(messages(&batch), ["a", "b"]);
        assert_eq!(batch.offset, Some(3));
    }

    #[test]
    fn a_pattern_gathers_lines_and_acknowledges_only_whole_events() {
        let mut assembler = Assembler::new(Some("^ERROR"));
        let mut batch = feed(&mut assembler, &["ERROR one", " at x", "ERROR two", " at y"]);
        assert_eq!(messages(&batch), ["ERROR one\n at x"]);
        assert_eq!(batch.offset, Some(2));
        assembler.flush(&mut batch);
        assert_eq!(messages(&batch), ["ERROR one\n at x", "ERROR two\n at y"]);
        assert_eq!(batch.offset, Some(4));
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        let long = "é".repeat(EVENT_BYTES_MAX);
        let batch = feed(&mut Assembler::new(None), &[&long]);
        assert!(batch.events[0].message.len() <= EVENT_BYTES_MAX);
    }
}
