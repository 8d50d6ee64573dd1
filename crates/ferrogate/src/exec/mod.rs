//! ECS Exec: the door clients open their sessions at (`/v1/data-channel/<session>`), and what runs behind it.

mod line;
mod log;
mod relay;
mod rights;
mod sessions;

pub(crate) use rights::judge;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use ferrogate_api::{BoxFuture, Caller, Invoke};
use ferrogate_ecs::{EcsService, ExecSession, Opened, SessionLog};
use ferrogate_front::{Door, DoorBody};
use ferrogate_model::Clock;
use ferrogate_node::{ExecBroker, ExecRequest};
use ferrogate_session::handshake::OpenDataChannel;
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

const PATH: &str = "/v1/data-channel/";
/// Connections, with or without a session.
const CONNECTIONS_MAX: usize = 256;
/// From the connection to its token.
const TOKEN_PATIENCE: Duration = Duration::from_secs(10);

use line::{COMMANDS_MAX, Command, Line};

pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(crate) struct ExecDoor {
    ecs: Arc<EcsService>,
    invoke: Arc<dyn Invoke>,
    clock: Arc<dyn Clock>,
    /// Known when the node is.
    broker: OnceLock<Weak<dyn ExecBroker>>,
    places: Arc<Semaphore>,
    /// Of those that run.
    lines: Mutex<HashMap<String, mpsc::Sender<Command>>>,
}

impl ExecDoor {
    pub(crate) fn new(ecs: Arc<EcsService>, invoke: Arc<dyn Invoke>, clock: Arc<dyn Clock>) -> Self {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { ecs, invoke, clock, broker: OnceLock::new(), places, lines: Mutex::default() }
    }

    /// The first call counts.
    pub(crate) fn connect(&self, broker: Weak<dyn ExecBroker>) {
        let _ = self.broker.set(broker);
    }

    fn line(&self, id: &str) -> Option<mpsc::Sender<Command>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// One connection, from its token to its end, or to the session it belongs to.
    async fn connection(&self, mut socket: Socket, id: &str, peer: SocketAddr) {
        let opened = tokio::time::timeout(TOKEN_PATIENCE, first(&mut socket)).await;
        let opened = opened.unwrap_or_else(|_| Err("no OpenDataChannelInput came in time".into()));
        let opened = opened.and_then(|open| {
            let session = self.ecs.open_session(id, &open.token_value).map_err(|error| error.to_string())?;
            Ok((open, session))
        });
        let why = match opened {
            Ok((open, Opened::New(session))) => return self.run(socket, open, *session, peer).await,
            Ok((_, Opened::Again)) => match self.line(id) {
                Some(line) => match line.send(Command::Attach(Box::new(socket))).await {
                    Ok(()) => return,
                    Err(mpsc::error::SendError(Command::Attach(back))) => {
                        socket = *back;
                        "the session has ended".to_owned()
                    }
                    Err(_) => return,
                },
                None => "the session has ended".to_owned(),
            },
            Err(why) => why,
        };
        tracing::info!(session = id, why, %peer, "an ECS Exec session was not opened");
        let frame = CloseFrame { code: CloseCode::Policy, reason: why.into() };
        let _ = tokio::time::timeout(TOKEN_PATIENCE, socket.close(Some(frame))).await;
    }

    /// `None`: the session is not logged; an error: it cannot be, and so must not be.
    async fn log(&self, session: &ExecSession) -> Result<Option<log::Log>, String> {
        let Some(to) = &session.wanted.log else { return Ok(None) };
        match self.open_log(session, to).await {
            Ok(log) => Ok(Some(log)),
            Err(why) => {
                let (id, task, group) = (&session.id, &session.wanted.task_arn, &to.group);
                if !to.required {
                    tracing::warn!(session = id, task, group, why, "an ECS Exec session is not logged");
                    return Ok(None);
                }
                tracing::error!(session = id, task, group, why, "an ECS Exec session cannot be logged");
                Err(format!(
                    "We couldn't start the session because it cannot be logged to the CloudWatch Logs log group '{group}': {why}"
                ))
            }
        }
    }

    async fn open_log(&self, session: &ExecSession, to: &SessionLog) -> Result<log::Log, String> {
        let task_arn = &session.wanted.task_arn;
        let roles = self.ecs.task_roles(task_arn).ok_or("the task is gone")?;
        let role_arn = roles.task_role_arn.ok_or("the task has no task role, which has to allow it")?;
        let caller = Caller::Role {
            role_arn,
            service: crate::plane::TASKS_SERVICE,
            session_name: crate::plane::session_name(task_arn),
        };
        let client = ferrogate_api::logs::Client::new(Arc::clone(&self.invoke), caller, &to.region);
        log::Log::open(client, Arc::clone(&self.clock), to, &session.id)
            .await
            .map_err(|error| error.to_string())
    }

    async fn run(&self, socket: Socket, open: OpenDataChannel, session: ExecSession, peer: SocketAddr) {
        let (commands, heard) = mpsc::channel(COMMANDS_MAX);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).insert(session.id.clone(), commands);
        let _listed = Listed { door: self, id: &session.id };
        let request = ExecRequest {
            task_arn: session.wanted.task_arn.clone(),
            container: session.wanted.container.clone(),
            argv: session.wanted.argv.clone(),
            terminal: open.terminal != Some(false),
        };
        // What cannot be logged and has to be is not begun.
        let log = self.log(&session).await;
        let (started, log) = match (log, self.broker.get().and_then(Weak::upgrade)) {
            (Err(why), _) => (Err(why), None),
            (Ok(_), None) => (Err("no node is connected".to_owned()), None),
            (Ok(log), Some(broker)) => (broker.open(request).await.map_err(|error| error.to_string()), log),
        };
        let task = session.wanted.task_arn.as_str();
        match &started {
            Ok(_) => tracing::info!(session = session.id, task, %peer, "an ECS Exec session begins"),
            Err(why) => {
                tracing::info!(session = session.id, task, why, "an ECS Exec command was not started")
            }
        }
        let line = Line::new(socket, heard, &session);
        let end = relay::run(line, open.terminal.is_some(), started, log).await;
        tracing::info!(session = session.id, task, end, "an ECS Exec session has ended");
    }
}

/// A session that can be reached, until this is dropped.
struct Listed<'a> {
    door: &'a ExecDoor,
    id: &'a str,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.door.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
    }
}

/// A client's first frame.
async fn first(socket: &mut Socket) -> Result<OpenDataChannel, String> {
    while let Some(frame) = socket.next().await {
        match frame.map_err(|error| error.to_string())? {
            Message::Text(text) => return OpenDataChannel::parse(text.as_bytes()),
            Message::Ping(_) | Message::Pong(_) => {}
            _ => break,
        }
    }
    Err("the first message was not OpenDataChannelInput".into())
}

impl Door for ExecDoor {
    fn takes(&self, head: &Parts) -> bool {
        head.uri.path().starts_with(PATH)
    }

    fn serve(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        peer: SocketAddr,
    ) -> BoxFuture<'static, Response<DoorBody>> {
        Box::pin(async move {
            let Some(key) = websocket_key(&request) else {
                return answer(
                    StatusCode::UPGRADE_REQUIRED,
                    "this is a WebSocket of version 13: ask for an upgrade",
                );
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                return answer(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "there are too many sessions: try again later",
                );
            };
            let id = request.uri().path().trim_start_matches(PATH).to_owned();
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let _place = place;
                let Ok(upgraded) = upgrade.await else { return };
                let limits = WebSocketConfig::default()
                    .max_message_size(Some(ferrogate_session::MESSAGE_BYTES_MAX))
                    .max_frame_size(Some(ferrogate_session::MESSAGE_BYTES_MAX));
                let io = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
                Box::pin(self.connection(socket, &id, peer)).await;
            });
            let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, "");
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
            response
        })
    }
}

/// What answers a request for an upgrade. RFC 6455, 4.2.
fn websocket_key(request: &Request<Incoming>) -> Option<HeaderValue> {
    let text = |name: header::HeaderName| request.headers().get(name)?.to_str().ok();
    let is = |name, wanted: &str| {
        text(name).is_some_and(|all| all.split(',').any(|one| one.trim().eq_ignore_ascii_case(wanted)))
    };
    let asked = is(header::UPGRADE, "websocket")
        && is(header::CONNECTION, "upgrade")
        && is(header::SEC_WEBSOCKET_VERSION, "13");
    let key = text(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

fn answer(status: StatusCode, text: &'static str) -> Response<DoorBody> {
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}
