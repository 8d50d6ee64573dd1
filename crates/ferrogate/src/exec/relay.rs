//! The agent's end of a session: bytes between a client's socket and a process. What one of them does not take, the
//! other has to keep: nothing is buffered beyond the limits here.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use ferrogate_node::ExecStream;
use ferrogate_session::{Agent, AgentEvent, PAYLOAD_BYTES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::line::{Heard, Line, SEND_PATIENCE, TERMINATED};
use super::log::Log;

/// Neither a key nor output; Session Manager's default.
const IDLE_MAX: Duration = Duration::from_secs(20 * 60);
/// From the connection to the end of the handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);
/// Typed and not yet read by the process.
const INPUT_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 16 * PAYLOAD_BYTES_MAX;
/// How long output may still come from a process that has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

struct Session<'a> {
    line: Line<'a>,
    agent: Agent,
    began: Instant,
    heard: Instant,
    /// What the user sees is written there too.
    log: Option<Log>,
}

/// Until the process ends, the client goes, or nothing moves; says which.
pub(super) async fn run(
    line: Line<'_>,
    ours: bool,
    started: Result<ExecStream, String>,
    log: Option<Log>,
) -> &'static str {
    let began = Instant::now();
    let mut seed = [0; 16];
    for (byte, digit) in seed.iter_mut().zip(ferrogate_model::hex_id().as_bytes().chunks(2)) {
        *byte = std::str::from_utf8(digit).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0);
    }
    let mut session = Session { line, agent: Agent::new(seed, ours, 0), began, heard: began, log };
    let end = match session.handshake().await {
        Ok(first) => match started {
            Ok(process) => session.relay(process, first).await,
            Err(why) => {
                session.exited_with(126, &why).await;
                "its command could not be started"
            }
        },
        Err(end) => end,
    };
    if end == TERMINATED {
        session.exited_with(137, "The session was terminated.").await;
    }
    if let Some(log) = session.log.take() {
        log.finish().await;
    }
    end
}

impl Session<'_> {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Everything that waits for the client, if it is there.
    async fn flush(&mut self) {
        if self.line.is_there() {
            let channel = self.agent.channel();
            self.line.send(std::iter::from_fn(|| channel.next_frame())).await;
        }
    }

    /// When something is to be sent again. Not while nobody is there to take it: it would only pile up.
    fn due(&mut self) -> Option<Instant> {
        let at_ms = self.agent.channel().resend_at_ms().filter(|_| self.line.is_there())?;
        Some(self.began + Duration::from_millis(at_ms))
    }

    /// What the client says next; sends again meanwhile what it has not acknowledged.
    async fn hear(&mut self) -> Result<Vec<AgentEvent>, &'static str> {
        loop {
            self.flush().await;
            let due = self.due();
            tokio::select! {
                heard = self.line.hear() => return self.heard(heard),
                () = sleep_until(due.unwrap_or(self.began)), if due.is_some() => self.resend()?,
            }
        }
    }

    fn resend(&mut self) -> Result<(), &'static str> {
        let now_ms = self.now_ms();
        self.agent.channel().resend(now_ms).map_err(|_| "the client acknowledges nothing")
    }

    fn heard(&mut self, heard: Heard) -> Result<Vec<AgentEvent>, &'static str> {
        let now_ms = self.now_ms();
        match heard {
            Heard::Frame(frame) => self.agent.receive(&frame, now_ms).map_err(|error| {
                tracing::info!(%error, session = self.line.id(), "a client broke the session protocol");
                "the client broke the protocol"
            }),
            Heard::Back => {
                self.agent.channel().reconnected(now_ms);
                Ok(Vec::new())
            }
            Heard::Nothing => Ok(Vec::new()),
            Heard::Over(end) => Err(end),
        }
    }

    /// Returns what came with its end.
    async fn handshake(&mut self) -> Result<Vec<AgentEvent>, &'static str> {
        let deadline = self.began + HANDSHAKE_MAX;
        loop {
            let events = tokio::time::timeout_at(deadline, self.hear())
                .await
                .map_err(|_| "the client did not finish the handshake")??;
            if events.contains(&AgentEvent::Ready) {
                return Ok(events);
            }
        }
    }

    async fn relay(&mut self, mut process: ExecStream, first: Vec<AgentEvent>) -> &'static str {
        let mut input = Input::default();
        if let Err(end) = input.take(first, &process) {
            return end;
        }
        let (mut out, mut err) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
        let (mut out_open, mut err_open) = (true, true);
        let mut exited: Option<(i32, Instant)> = None;
        loop {
            self.flush().await;
            if let Some((code, _)) = exited
                && !out_open
                && !err_open
            {
                return self.finish(code).await;
            }
            let now_ms = self.now_ms();
            let channel = self.agent.channel();
            channel.set_accepting(input.bytes.len() < INPUT_BYTES_MAX);
            // Also what is kept for a client that is not there is no more than that.
            let room = channel.has_room();
            let due = self.due();
            let last = exited.map(|(_, at)| at + LAST_OUTPUT);
            let mut stdin = process.stdin.take();
            let has_input = stdin.is_some() && !input.bytes.is_empty();
            let mut more: Vec<AgentEvent> = Vec::new();
            let mut moved = true;
            tokio::select! {
                heard = self.line.hear() => match self.heard(heard) {
                    Ok(events) => {
                        moved = !events.is_empty();
                        more = events;
                    }
                    Err(end) => return end,
                },
                read = process.stdout.read(&mut out), if out_open && room => match read {
                    Ok(count) if count > 0 => {
                        if let Err(why) = self.note(&out[..count]).await {
                            self.exited_with(137, &why).await;
                            return "it can no longer be logged";
                        }
                        self.agent.output(&out[..count], now_ms);
                    }
                    _ => out_open = false,
                },
                read = process.stderr.read(&mut err), if err_open && room => match read {
                    Ok(count) if count > 0 => {
                        if let Err(why) = self.note(&err[..count]).await {
                            self.exited_with(137, &why).await;
                            return "it can no longer be logged";
                        }
                        self.agent.error_output(&err[..count], now_ms);
                    }
                    _ => err_open = false,
                },
                written = write(&mut stdin, &input.bytes), if has_input => match written {
                    Ok(count) => input.bytes.advance(count),
                    // It has closed its input; what is typed from here on is for nobody.
                    Err(_) => {
                        input.bytes.clear();
                        input.ended = true;
                    }
                },
                code = process.process.wait(), if exited.is_none() => match code {
                    Ok(code) => exited = Some((code, Instant::now())),
                    Err(_) => {
                        self.exited_with(137, "The container has stopped.").await;
                        return "the container has stopped";
                    }
                },
                () = sleep_until(due.unwrap_or(self.began)), if due.is_some() => {
                    moved = false;
                    if let Err(end) = self.resend() { return end }
                },
                // Somebody else still has its output open.
                () = sleep_until(last.unwrap_or(self.began)), if last.is_some() && room => {
                    (out_open, err_open) = (false, false);
                },
                () = sleep_until(self.heard + IDLE_MAX) => {
                    self.exited_with(137, "The session was idle for 20 minutes.").await;
                    return "nothing moved for 20 minutes";
                },
            }
            if moved {
                self.heard = Instant::now();
            }
            process.stdin = stdin;
            if let Err(end) = input.take(more, &process) {
                return end;
            }
            if input.ended && input.bytes.is_empty() {
                process.stdin = None;
            }
        }
    }

    /// Before the user sees it. An error: the session has to end.
    async fn note(&mut self, output: &[u8]) -> Result<(), String> {
        match &mut self.log {
            Some(log) => log.write(output).await,
            None => Ok(()),
        }
    }

    /// Tells how it ended, once the client has all of its output.
    async fn finish(&mut self, code: i32) -> &'static str {
        let now_ms = self.now_ms();
        self.agent.exited(code, now_ms);
        self.close("").await;
        "its command has ended"
    }

    async fn exited_with(&mut self, code: i32, why: &str) {
        let now_ms = self.now_ms();
        self.agent.exited(code, now_ms);
        self.close(why).await;
    }

    async fn close(&mut self, output: &str) {
        let acknowledged = async {
            while !self.agent.channel().all_acknowledged() {
                if self.hear().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(SEND_PATIENCE, acknowledged).await;
        // It is not acknowledged, and so not sent again: somebody has to be there.
        while !self.line.is_there() {
            if self.hear().await.is_err() {
                return;
            }
        }
        let now_ms = self.now_ms();
        let id = self.line.id().to_owned();
        self.agent.channel().close(&id, output, now_ms);
        self.flush().await;
        self.line.close().await;
    }
}

async fn write(stdin: &mut Option<ferrogate_sandbox::ExecInput>, bytes: &[u8]) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(bytes).await,
        None => std::future::pending().await,
    }
}

/// What is typed and not yet read.
#[derive(Default)]
struct Input {
    bytes: BytesMut,
    ended: bool,
}

impl Input {
    fn take(&mut self, events: Vec<AgentEvent>, process: &ExecStream) -> Result<(), &'static str> {
        for event in events {
            match event {
                AgentEvent::Ready => {}
                AgentEvent::Input(bytes) if !self.ended => self.bytes.extend_from_slice(&bytes),
                AgentEvent::Input(_) => {}
                AgentEvent::EndOfInput => self.ended = true,
                AgentEvent::Resize { rows, columns } => process.process.resize(rows, columns),
                AgentEvent::Terminate => return Err("the client has ended it"),
            }
        }
        Ok(())
    }
}
