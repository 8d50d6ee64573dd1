//! ECS Exec's sessions: what ExecuteCommand permitted and a client may now open, those that are open, and the last that
//! have ended. In memory: a session does not outlive the program.
//!
//! ```text
//! ExecuteCommand ──▶ Connecting ── token ──▶ Connected ◀── token of ResumeSession ── Disconnected
//!                        │ TOKEN_LIFE            │  └────────── the connection breaks ────▲
//!                        ▼                       ▼
//!                    forgotten              Terminated
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use ferrogate_nodeapi::ManagedAgentStatus;
use jiff::{SignedDuration, Timestamp};

use crate::state::{TaskKey, TaskRecord};

/// How long a token can be used, once.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_secs(60);
/// Of one task; Amazon ECS service quotas.
pub(crate) const SESSIONS_MAX: usize = 20;
/// Ended sessions that are remembered, of all tasks.
const ENDED_MAX: usize = 200;

/// Which container, and what to run there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhereExec {
    pub task_arn: String,
    pub container: String,
    pub argv: Vec<String>,
    /// `ecs:<cluster>_<task id>_<runtime id>`, as Session Manager calls it.
    pub target: String,
    /// The ARN of who asked for it.
    pub owner: String,
    /// `None`: what is said there is not kept.
    pub log: Option<SessionLog>,
}

/// Where a session's output is kept, as the task's role, in a stream with the session's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLog {
    pub group: String,
    pub region: String,
    /// Without its log there is no session.
    pub required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStatus {
    /// Its client has not come yet.
    Connecting,
    Connected,
    /// Its client has gone and may come back.
    Disconnected,
    Terminated,
}

/// A session, for who looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSeen {
    pub id: String,
    pub wanted: WhereExec,
    pub status: SessionStatus,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

struct Entry {
    wanted: WhereExec,
    status: SessionStatus,
    started_at: Timestamp,
    /// `None`: used.
    token: Option<Token>,
}

struct Token {
    text: String,
    expires: Timestamp,
}

impl Token {
    fn new(now: Timestamp) -> Self {
        let text = format!("{}{}", ferrogate_model::hex_id(), ferrogate_model::hex_id());
        Self { text, expires: now + TOKEN_LIFE }
    }

    fn is(&self, text: &str, now: Timestamp) -> bool {
        self.expires > now && verify_slices_are_equal(self.text.as_bytes(), text.as_bytes()).is_ok()
    }
}

impl Entry {
    fn seen(&self, id: &str) -> SessionSeen {
        SessionSeen {
            id: id.to_owned(),
            wanted: self.wanted.clone(),
            status: self.status,
            started_at: self.started_at,
            ended_at: None,
        }
    }

    /// Nobody can open it any more.
    fn is_forgotten(&self, now: Timestamp) -> bool {
        self.status == SessionStatus::Connecting
            && self.token.as_ref().is_none_or(|token| token.expires <= now)
    }
}

#[derive(Default)]
struct Book {
    entries: BTreeMap<String, Entry>,
    /// Oldest first.
    ended: VecDeque<SessionSeen>,
}

impl Book {
    fn end(&mut self, id: &str, now: Timestamp) -> bool {
        let Some(entry) = self.entries.remove(id) else { return false };
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        let ended = SessionSeen { status: SessionStatus::Terminated, ended_at: Some(now), ..entry.seen(id) };
        self.ended.push_back(ended);
        true
    }

    fn forget_old(&mut self, now: Timestamp) {
        self.entries.retain(|_, entry| !entry.is_forgotten(now));
    }
}

type Shared = Arc<Mutex<Book>>;

fn lock(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
pub(crate) struct Sessions {
    book: Shared,
    /// `ws://<host>:<port>`
    url: OnceLock<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Wrong, used, too old, or of a session there never was: who asks is not told which.
    #[error("the token is not valid for this session")]
    Token,
}

/// What a token opened.
pub enum Opened {
    New(Box<ExecSession>),
    /// A session that lost its client, who is back.
    Again,
}

/// A session a client has opened. Dropped, it has ended.
pub struct ExecSession {
    pub id: String,
    pub wanted: WhereExec,
    book: Shared,
    clock: Arc<dyn ferrogate_model::Clock>,
}

impl ExecSession {
    /// Whether its client is there.
    pub fn set_connected(&self, is_connected: bool) {
        if let Some(entry) = lock(&self.book).entries.get_mut(&self.id) {
            entry.status = match is_connected {
                true => SessionStatus::Connected,
                false => SessionStatus::Disconnected,
            };
        }
    }
}

impl Drop for ExecSession {
    fn drop(&mut self) {
        let now = self.clock.now();
        lock(&self.book).end(&self.id, now);
    }
}

/// What a client is given.
pub struct Ticket {
    pub id: String,
    pub token: String,
    pub url: String,
}

pub(crate) enum Refused {
    TooMany,
    /// Nothing serves sessions here.
    NoDoor,
}

impl Sessions {
    /// `host`: what the caller calls this place.
    pub(crate) fn prepare(
        &self,
        wanted: WhereExec,
        host: Option<&str>,
        now: Timestamp,
    ) -> Result<Ticket, Refused> {
        let id = format!("ecs-execute-command-{}", ferrogate_model::hex_id());
        let url = self.url_of(&id, host).ok_or(Refused::NoDoor)?;
        let mut book = lock(&self.book);
        book.forget_old(now);
        let of_task = book.entries.values().filter(|entry| entry.wanted.task_arn == wanted.task_arn);
        if of_task.count() >= SESSIONS_MAX {
            return Err(Refused::TooMany);
        }
        let token = Token::new(now);
        let ticket = Ticket { id: id.clone(), token: token.text.clone(), url };
        let (status, token) = (SessionStatus::Connecting, Some(token));
        book.entries.insert(id, Entry { wanted, status, started_at: now, token });
        Ok(ticket)
    }

    /// `None`: nothing serves sessions here.
    fn url_of(&self, id: &str, host: Option<&str>) -> Option<String> {
        let own = self.url.get()?;
        let base = match host.filter(|host| is_host(host)) {
            Some(host) => format!("ws://{host}"),
            None => own.clone(),
        };
        Some(format!("{base}/v1/data-channel/{id}?role=publish_subscribe"))
    }

    fn open(&self, id: &str, token: &str, now: Timestamp) -> Result<(WhereExec, bool), SessionError> {
        let mut book = lock(&self.book);
        let entry = book.entries.get_mut(id).ok_or(SessionError::Token)?;
        if !entry.token.as_ref().is_some_and(|known| known.is(token, now)) {
            return Err(SessionError::Token);
        }
        entry.token = None;
        let is_new = entry.status == SessionStatus::Connecting;
        entry.status = SessionStatus::Connected;
        Ok((entry.wanted.clone(), is_new))
    }

    /// A further token; the one before it is worth nothing any more. `None`: there is no such session in the region, or
    /// it has ended.
    fn resume(&self, id: &str, region: &str, host: Option<&str>, now: Timestamp) -> Option<Ticket> {
        let url = self.url_of(id, host)?;
        let mut book = lock(&self.book);
        book.forget_old(now);
        let entry = book.entries.get_mut(id).filter(|entry| is_in(&entry.wanted, region))?;
        let token = entry.token.insert(Token::new(now));
        Some(Ticket { id: id.to_owned(), token: token.text.clone(), url })
    }

    /// Ends one that nobody has opened yet. Whether there is one that is open.
    fn terminate(&self, id: &str, region: &str, now: Timestamp) -> bool {
        let mut book = lock(&self.book);
        let Some(entry) = book.entries.get_mut(id).filter(|entry| is_in(&entry.wanted, region)) else {
            return false;
        };
        entry.token = None;
        let is_open = entry.status != SessionStatus::Connecting;
        if !is_open {
            book.end(id, now);
        }
        is_open
    }

    fn seen(&self, region: &str, now: Timestamp) -> Vec<SessionSeen> {
        let mut book = lock(&self.book);
        book.forget_old(now);
        let open = book.entries.iter().map(|(id, entry)| entry.seen(id));
        open.chain(book.ended.iter().cloned()).filter(|seen| is_in(&seen.wanted, region)).collect()
    }
}

fn is_in(wanted: &WhereExec, region: &str) -> bool {
    wanted.task_arn.split(':').nth(3) == Some(region)
}

/// A name or address, perhaps with a port, and nothing else of a URL.
fn is_host(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !text.is_empty() && text.len() <= 260 && text.bytes().all(fits)
}

impl crate::EcsService {
    /// Where clients open their sessions, if they have named no host: `ws://<host>:<port>`. Until it is said,
    /// ExecuteCommand is refused; the first call counts.
    pub fn serve_sessions_at(&self, url: impl Into<String>) {
        let _ = self.sessions.url.set(url.into());
    }

    /// What is known of the `ExecuteCommandAgent` of a container; `None`: nothing yet.
    pub fn exec_agent(&self, task_arn: &str, container: &str) -> Option<ManagedAgentStatus> {
        let key = TaskKey::of_arn(task_arn)?;
        let task = ferrogate_store::get_json::<TaskRecord>(&*self.store, &key.record())?.record;
        task.lifecycle.container(container)?.exec_agent.clone()
    }

    /// What ExecuteCommand permitted, for who brings its token: once.
    pub fn open_session(&self, id: &str, token: &str) -> Result<Opened, SessionError> {
        let (wanted, is_new) = self.sessions.open(id, token, self.clock.now())?;
        if !is_new {
            return Ok(Opened::Again);
        }
        let (book, clock) = (Arc::clone(&self.sessions.book), Arc::clone(&self.clock));
        Ok(Opened::New(Box::new(ExecSession { id: id.to_owned(), wanted, book, clock })))
    }

    /// A further token for a session whose client lost its connection. `None`: there is none of this name in the region,
    /// or it has ended. `host`: what the caller calls this place.
    pub fn resume_session(&self, id: &str, region: &str, host: Option<&str>) -> Option<Ticket> {
        self.sessions.resume(id, region, host, self.clock.now())
    }

    /// Whether the session is open, and so has to be ended by who runs it; one that is not open yet never will be.
    pub fn terminate_session(&self, id: &str, region: &str) -> bool {
        self.sessions.terminate(id, region, self.clock.now())
    }

    /// Those of a region, also the last that have ended.
    pub fn sessions_seen(&self, region: &str) -> Vec<SessionSeen> {
        self.sessions.seen(region, self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: &str = "us-east-1";

    fn sessions() -> Sessions {
        let sessions = Sessions::default();
        sessions.url.set("ws://127.0.0.1:1".into()).expect("set once");
        sessions
    }

    fn wanted(task: &str) -> WhereExec {
        WhereExec {
            task_arn: format!("arn:aws:ecs:{REGION}:123456789012:task/default/{task}"),
            container: "app".into(),
            argv: vec!["sh".into()],
            target: format!("ecs:default_{task}_{task}-1"),
            owner: "arn:aws:iam::123456789012:root".into(),
            log: None,
        }
    }

    fn prepare(sessions: &Sessions, task: &str, now: Timestamp) -> Ticket {
        sessions.prepare(wanted(task), None, now).map_err(|_| "refused").unwrap()
    }

    #[test]
    fn a_token_opens_its_session_once_and_in_time() {
        let (sessions, now) = (sessions(), Timestamp::UNIX_EPOCH);
        let ticket = prepare(&sessions, "t", now);
        assert_eq!(
            ticket.url,
            format!("ws://127.0.0.1:1/v1/data-channel/{}?role=publish_subscribe", ticket.id)
        );
        assert!(sessions.open(&ticket.id, "wrong", now).is_err());
        assert!(sessions.open("ecs-execute-command-0", &ticket.token, now).is_err());
        assert!(sessions.open(&ticket.id, &ticket.token, now + TOKEN_LIFE).is_err());
        assert_eq!(sessions.open(&ticket.id, &ticket.token, now), Ok((wanted("t"), true)));
        assert!(sessions.open(&ticket.id, &ticket.token, now).is_err());
    }

    #[test]
    fn the_place_is_called_as_the_caller_calls_it() {
        let (sessions, now) = (sessions(), Timestamp::UNIX_EPOCH);
        let url = |host: &str| {
            let ticket = sessions.prepare(wanted("t"), Some(host), now).map_err(|_| "refused").unwrap();
            ticket.url.split("/v1/").next().map(str::to_owned).expect("a place")
        };
        assert_eq!(url("ecs.localhost:4566"), "ws://ecs.localhost:4566");
        assert_eq!(url("[::1]:80"), "ws://[::1]:80");
        for strange in ["", "a/b", "user@host", "a b", "a?b", "a#b"] {
            assert_eq!(url(strange), "ws://127.0.0.1:1", "{strange:?}");
        }
    }

    #[test]
    fn a_session_is_resumed_until_it_ends() {
        let (sessions, now) = (sessions(), Timestamp::UNIX_EPOCH);
        let resume = |id: &str, region: &str| sessions.resume(id, region, Some("h:1"), now);
        let first = prepare(&sessions, "t", now);
        // Also one that was not opened; the older token is worth nothing then.
        let again = resume(&first.id, REGION).expect("it is there");
        assert_eq!(again.url, first.url.replace("127.0.0.1:1", "h:1"));
        assert!(sessions.open(&first.id, &first.token, now).is_err());
        assert!(sessions.open(&first.id, &again.token, now).is_ok_and(|(_, is_new)| is_new));
        let third = resume(&first.id, REGION).expect("it is open");
        assert!(sessions.open(&first.id, &third.token, now).is_ok_and(|(_, is_new)| !is_new));
        assert!(resume(&first.id, "eu-west-1").is_none() && resume("other", REGION).is_none());

        assert!(sessions.terminate(&first.id, REGION, now), "who runs it ends it");
        lock(&sessions.book).end(&first.id, now);
        assert!(resume(&first.id, REGION).is_none());
        let second = prepare(&sessions, "t", now);
        assert!(!sessions.terminate(&second.id, "eu-west-1", now));
        assert!(!sessions.terminate(&second.id, REGION, now));
        assert!(sessions.open(&second.id, &second.token, now).is_err());
        let states: Vec<_> =
            sessions.seen(REGION, now).into_iter().map(|seen| (seen.id, seen.status)).collect();
        assert_eq!(states, [first.id, second.id].map(|id| (id, SessionStatus::Terminated)));
    }

    #[test]
    fn a_task_has_so_many_sessions_at_once_and_some_are_remembered() {
        let (sessions, now) = (sessions(), Timestamp::UNIX_EPOCH);
        let tickets: Vec<Ticket> = (0..SESSIONS_MAX).map(|_| prepare(&sessions, "t", now)).collect();
        assert!(sessions.prepare(wanted("t"), None, now).is_err());
        prepare(&sessions, "other", now);
        sessions.open(&tickets[0].id, &tickets[0].token, now).expect("its token");
        // The tokens that nobody used are forgotten; the open session counts.
        let later = now + TOKEN_LIFE;
        let again = (0..SESSIONS_MAX).filter(|_| sessions.prepare(wanted("t"), None, later).is_ok()).count();
        assert_eq!(again, SESSIONS_MAX - 1);
        lock(&sessions.book).end(&tickets[0].id, later);
        prepare(&sessions, "t", later);
        for _ in 0..ENDED_MAX + 5 {
            let ticket = prepare(&sessions, "more", later);
            lock(&sessions.book).end(&ticket.id, later);
        }
        assert_eq!(lock(&sessions.book).ended.len(), ENDED_MAX);
    }
}
