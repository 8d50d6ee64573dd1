//! The connection under a session. When it breaks, the session waits for the client to come back with another one:
//! it has asked ssm:ResumeSession for a new token meanwhile.
//!
//! ```text
//! connected ── breaks ──▶ lost ── RESUME_MAX ──▶ over
//!     ▲  └── ended by the client or TerminateSession ──▶ over
//!     └────── another socket ──┘
//! ```

use std::time::Duration;

use bytes::Bytes;
use ferrogate_ecs::ExecSession;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Socket;

/// How long a session whose connection broke waits. The ordinary plugin tries five times within some seconds, each as
/// long as a connection takes.
pub(super) const RESUME_MAX: Duration = Duration::from_secs(30);
/// How long the client may take for what was sent to it.
pub(super) const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// Of one session, on their way to it.
pub(super) const COMMANDS_MAX: usize = 4;
pub(super) const TERMINATED: &str = "it was terminated";

/// What reaches a session from elsewhere.
pub(super) enum Command {
    /// Its client is back. What is there of an older connection is given up.
    Attach(Box<Socket>),
    Terminate,
}

pub(super) enum Heard {
    Frame(Bytes),
    /// The client is back, and may have missed anything since its last acknowledgement.
    Back,
    /// Nothing of the session's.
    Nothing,
    Over(&'static str),
}

pub(super) struct Line<'a> {
    /// `Err`: gone since then.
    socket: Result<Box<Socket>, Instant>,
    commands: mpsc::Receiver<Command>,
    session: &'a ExecSession,
}

impl<'a> Line<'a> {
    pub(super) fn new(socket: Socket, commands: mpsc::Receiver<Command>, session: &'a ExecSession) -> Self {
        Self { socket: Ok(Box::new(socket)), commands, session }
    }

    pub(super) fn id(&self) -> &str {
        &self.session.id
    }

    pub(super) fn is_there(&self) -> bool {
        self.socket.is_ok()
    }

    /// May be dropped at any point.
    pub(super) async fn hear(&mut self) -> Heard {
        let lost = self.socket.as_ref().err().map(|since| *since + RESUME_MAX);
        let socket = &mut self.socket;
        let frame = async move {
            match socket {
                Ok(socket) => socket.next().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => match command {
                Some(Command::Attach(socket)) => {
                    self.socket = Ok(socket);
                    self.session.set_connected(true);
                    tracing::info!(session = self.session.id, "an ECS Exec session's client is back");
                    Heard::Back
                }
                Some(Command::Terminate) | None => Heard::Over(TERMINATED),
            },
            frame = frame => self.heard(frame),
            () = sleep_until(lost.unwrap_or_else(Instant::now)), if lost.is_some() => {
                Heard::Over("the client has gone and did not come back")
            }
        }
    }

    fn heard(&mut self, frame: Option<Result<Message, Error>>) -> Heard {
        match frame {
            Some(Ok(Message::Binary(frame))) => Heard::Frame(frame),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_))) => {
                Heard::Nothing
            }
            // Who says goodbye does not come back.
            Some(Ok(Message::Close(Some(frame))))
                if matches!(frame.code, CloseCode::Normal | CloseCode::Away) =>
            {
                Heard::Over("the client has gone")
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => {
                self.lose();
                Heard::Nothing
            }
        }
    }

    fn lose(&mut self) {
        self.socket = Err(Instant::now());
        self.session.set_connected(false);
        tracing::info!(session = self.session.id, "the connection of an ECS Exec session broke");
    }

    /// What cannot be sent is for the client to have when it is back.
    pub(super) async fn send(&mut self, frames: impl Iterator<Item = Vec<u8>>) {
        let Ok(socket) = &mut self.socket else { return };
        let sent = timeout(SEND_PATIENCE, async {
            for frame in frames {
                socket.feed(Message::Binary(frame.into())).await?;
            }
            socket.flush().await
        });
        if !matches!(sent.await, Ok(Ok(()))) {
            self.lose();
        }
    }

    pub(super) async fn close(&mut self) {
        if let Ok(socket) = &mut self.socket {
            let _ = timeout(SEND_PATIENCE, Socket::close(socket, None)).await;
        }
    }
}
