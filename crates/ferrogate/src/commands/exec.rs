//! `ferrogate exec TASK COMMAND…`: ECS Exec for people without the client plugin.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferrogate_session::handshake::{Flag, OpenDataChannel, Size};
use ferrogate_session::{Client as SessionClient, ClientEvent, PAYLOAD_BYTES_MAX};
use futures_util::{SinkExt, StreamExt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::logs;
use crate::Exec;
use crate::client::Client;
use crate::data::DataDir;

/// What keeps a connection that nobody uses open.
const PING_PERIOD: Duration = Duration::from_secs(60);
/// For the last frame.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(options: &Exec) -> Result<ExitCode> {
    let data = DataDir::new(&options.place.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(session(&data, options));
    // A read of stdin may be under way for ever.
    runtime.shutdown_background();
    Ok(ExitCode::from(u8::try_from(code?).unwrap_or(u8::MAX)))
}

async fn session(data: &DataDir, options: &Exec) -> Result<i32> {
    let task = logs::find(data, &options.task).await?;
    let client = Client::of(data)?;
    let mut input = json!({
        "cluster": task["clusterArn"], "task": task["taskArn"], "interactive": true,
        "command": command_line(&options.command),
    });
    if let Some(container) = &options.container {
        input["container"] = container.clone().into();
    }
    let answer = client.ecs("ExecuteCommand", input).await?;
    let terminal = options.terminal || (std::io::stdin().is_terminal() && std::io::stdout().is_terminal());
    let socket = connect(&answer["session"], terminal).await?;
    let _raw = if terminal && std::io::stdin().is_terminal() { Some(RawTerminal::enter()?) } else { None };
    Box::pin(Talk::new(socket, terminal).run()).await
}

/// One line that is split into these words again.
fn command_line(words: &[String]) -> String {
    let quoted = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

async fn connect(session: &Value, terminal: bool) -> Result<WebSocketStream<TcpStream>> {
    let url = session["streamUrl"].as_str().context("the answer has no streamUrl")?;
    let place =
        url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).context("not a ws:// URL")?;
    let stream = TcpStream::connect(place).await.with_context(|| format!("{place} cannot be reached"))?;
    stream.set_nodelay(true)?;
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream)
        .await
        .with_context(|| format!("{url} does not take the session"))?;
    let open = OpenDataChannel {
        message_schema_version: "1.0".into(),
        request_id: ferrogate_model::hex_id(),
        token_value: session["tokenValue"].as_str().unwrap_or_default().to_owned(),
        client_id: ferrogate_model::hex_id(),
        client_version: env!("CARGO_PKG_VERSION").into(),
        terminal: Some(terminal),
    };
    socket.send(Message::Text(serde_json::to_string(&open)?.into())).await?;
    Ok(socket)
}

/// The terminal as it was comes back when this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// One session, from the client's end.
struct Talk {
    socket: WebSocketStream<TcpStream>,
    session: SessionClient,
    terminal: bool,
    began: Instant,
    ready: bool,
    code: Option<i32>,
}

impl Talk {
    fn new(socket: WebSocketStream<TcpStream>, terminal: bool) -> Self {
        let mut seed = [0; 16];
        seed.copy_from_slice(&ferrogate_model::hex_id().as_bytes()[..16]);
        let session = SessionClient::new(seed);
        Self { socket, session, terminal, began: Instant::now(), ready: false, code: None }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn tell_size(&mut self) {
        if !self.terminal || !self.ready {
            return;
        }
        if let Ok(size) = tcgetwinsize(std::io::stdout()) {
            let size = Size { cols: size.ws_col.into(), rows: size.ws_row.into() };
            let now_ms = self.now_ms();
            self.session.resize(size, now_ms);
        }
    }

    /// Until the session is closed; the command's exit code.
    async fn run(mut self) -> Result<i32> {
        let mut stdin = tokio::io::stdin();
        let mut typed = [0; PAYLOAD_BYTES_MAX];
        let mut input_open = true;
        let mut resized = signal(SignalKind::window_change())?;
        // Ended by one of these, the terminal would stay as it is.
        let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut ping = tokio::time::interval(PING_PERIOD);
        loop {
            while let Some(frame) = self.session.channel().next_frame() {
                self.socket.feed(Message::Binary(frame.into())).await?;
            }
            self.socket.flush().await?;
            let room = self.ready && self.session.channel().has_room();
            let due = self.session.channel().resend_at_ms().map(|ms| self.began + Duration::from_millis(ms));
            let now_ms = self.now_ms();
            tokio::select! {
                frame = self.socket.next() => match frame {
                    Some(Ok(Message::Binary(frame))) => {
                        if let Some(code) = self.heard(&frame)? { return Ok(code) }
                    }
                    Some(Ok(Message::Close(Some(frame)))) => bail!("the session was refused: {}", frame.reason),
                    Some(Ok(Message::Close(None))) | None => bail!("the session ended before its command did"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error).context("the session was cut off"),
                },
                read = stdin.read(&mut typed), if room && input_open => match read? {
                    0 => {
                        input_open = false;
                        // A terminal has no end of input, only a key for it.
                        if self.terminal {
                            self.session.input(&[4], now_ms);
                        } else {
                            self.session.flag(Flag::DisconnectToPort, now_ms);
                        }
                    }
                    count => self.session.input(&typed[..count], now_ms),
                },
                () = sleep_until(due.unwrap_or(self.began)), if due.is_some() => {
                    self.session.channel().resend(now_ms)?;
                }
                _ = resized.recv() => self.tell_size(),
                _ = terminated.recv() => return self.leave("SIGTERM").await,
                _ = hung_up.recv() => return self.leave("SIGHUP").await,
                _ = interrupted.recv() => return self.leave("SIGINT").await,
                _ = ping.tick() => self.socket.feed(Message::Ping(bytes::Bytes::new())).await?,
            }
        }
    }

    /// Says goodbye, so that nobody waits for this end to come back.
    async fn leave(&mut self, why: &str) -> Result<i32> {
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = tokio::time::timeout(GOODBYE_PATIENCE, self.socket.close(Some(goodbye))).await;
        bail!("ended by {why}, and the command in the container with it");
    }

    fn heard(&mut self, frame: &[u8]) -> Result<Option<i32>> {
        let now_ms = self.now_ms();
        for event in self.session.receive(frame, now_ms)? {
            match event {
                ClientEvent::Ready => {
                    self.ready = true;
                    self.tell_size();
                }
                ClientEvent::Output(bytes) => print(&mut std::io::stdout().lock(), &bytes)?,
                ClientEvent::ErrorOutput(bytes) => print(&mut std::io::stderr().lock(), &bytes)?,
                ClientEvent::Exited(code) => self.code = Some(code),
                ClientEvent::Closed { output } => {
                    if !output.is_empty() {
                        eprintln!("ferrogate: {output}\r");
                    }
                    let code = self.code.context("the session was closed without an exit code")?;
                    return Ok(Some(code));
                }
            }
        }
        Ok(None)
    }
}

fn print(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_stay_apart_on_the_line() {
        let words = ["sh", "-c", "echo 'a  b'", ""].map(str::to_owned);
        assert_eq!(super::command_line(&words), r"'sh' '-c' 'echo '\''a  b'\''' ''");
    }
}
