//! ECS Exec's sessions: what ExecuteCommand permitted and a client may now open, and those that are open. In memory:
//! a session does not outlive the program.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use ferrogate_nodeapi::ManagedAgentStatus;
use jiff::{SignedDuration, Timestamp};

use crate::state::{TaskKey, TaskRecord};

/// How long a token can be used, once.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_secs(60);
/// Of one task; Amazon ECS service quotas.
pub(crate) const SESSIONS_MAX: usize = 20;

/// Which container, and what to run there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhereExec {
    pub task_arn: String,
    pub container: String,
    pub argv: Vec<String>,
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

struct Entry {
    task_arn: String,
    /// `None`: opened.
    pending: Option<Pending>,
}

struct Pending {
    token: String,
    expires: Timestamp,
    wanted: WhereExec,
}

type Entries = Arc<Mutex<HashMap<String, Entry>>>;

#[derive(Default)]
pub(crate) struct Sessions {
    entries: Entries,
    /// `ws://<host>:<port>`
    url: OnceLock<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Wrong, used, too old, or of a session there never was: who asks is not told which.
    #[error("the token is not valid for this session")]
    Token,
}

/// A session a client has opened. Dropped, it no longer counts.
pub struct ExecSession {
    pub id: String,
    pub wanted: WhereExec,
    entries: Entries,
}

impl Drop for ExecSession {
    fn drop(&mut self) {
        self.entries.lock().expect("sessions lock").remove(&self.id);
    }
}

/// What a client is given.
pub(crate) struct Ticket {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) url: String,
}

pub(crate) enum Refused {
    TooMany,
    /// Nothing serves sessions here.
    NoDoor,
}

impl Sessions {
    pub(crate) fn prepare(&self, wanted: WhereExec, now: Timestamp) -> Result<Ticket, Refused> {
        let url = self.url.get().ok_or(Refused::NoDoor)?;
        let mut entries = self.entries.lock().expect("sessions lock");
        entries.retain(|_, entry| entry.pending.as_ref().is_none_or(|pending| pending.expires > now));
        if entries.values().filter(|entry| entry.task_arn == wanted.task_arn).count() >= SESSIONS_MAX {
            return Err(Refused::TooMany);
        }
        let id = format!("ecs-execute-command-{}", ferrogate_model::hex_id());
        let token = format!("{}{}", ferrogate_model::hex_id(), ferrogate_model::hex_id());
        let url = format!("{url}/v1/data-channel/{id}?role=publish_subscribe");
        let task_arn = wanted.task_arn.clone();
        let pending = Pending { token: token.clone(), expires: now + TOKEN_LIFE, wanted };
        entries.insert(id.clone(), Entry { task_arn, pending: Some(pending) });
        Ok(Ticket { id, token, url })
    }

    fn open(&self, id: &str, token: &str, now: Timestamp) -> Result<ExecSession, SessionError> {
        let mut entries = self.entries.lock().expect("sessions lock");
        let entry = entries.get_mut(id).ok_or(SessionError::Token)?;
        let pending = entry.pending.as_ref().ok_or(SessionError::Token)?;
        if pending.expires <= now
            || verify_slices_are_equal(pending.token.as_bytes(), token.as_bytes()).is_err()
        {
            return Err(SessionError::Token);
        }
        let pending = entry.pending.take().ok_or(SessionError::Token)?;
        Ok(ExecSession { id: id.to_owned(), wanted: pending.wanted, entries: Arc::clone(&self.entries) })
    }
}

impl crate::EcsService {
    /// Where clients open their sessions: `ws://<host>:<port>`. Until it is said, ExecuteCommand is refused; the first
    /// call counts.
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
    pub fn open_session(&self, id: &str, token: &str) -> Result<ExecSession, SessionError> {
        self.sessions.open(id, token, self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        let sessions = Sessions::default();
        sessions.url.set("ws://127.0.0.1:1".into()).expect("set once");
        sessions
    }

    fn wanted(task: &str) -> WhereExec {
        WhereExec { task_arn: task.into(), container: "app".into(), argv: vec!["sh".into()], log: None }
    }

    #[test]
    fn a_token_opens_its_session_once_and_in_time() {
        let (sessions, now) = (sessions(), Timestamp::UNIX_EPOCH);
        let Ok(ticket) = sessions.prepare(wanted("t"), now) else { panic!("refused") };
        assert_eq!(
            ticket.url,
            format!("ws://127.0.0.1:1/v1/data-channel/{}?role=publish_subscribe", ticket.id)
        );
        assert!(sessions.open(&ticket.id, "wrong", now).is_err());
        assert!(sessions.open("ecs-execute-command-0", &ticket.token, now).is_err());
        assert!(sessions.open(&ticket.id, &ticket.token, now + TOKEN_LIFE).is_err());
        let opened = sessions.open(&ticket.id, &ticket.token, now).map(|session| session.wanted.clone());
        assert_eq!(opened, Ok(wanted("t")));
        assert!(sessions.open(&ticket.id, &ticket.token, now).is_err());
    }

    #[test]
    fn a_task_has_so_many_sessions_at_once() {
        let (sessions, now) = (sessions(), Timestamp::UNIX_EPOCH);
        let tickets: Vec<Ticket> =
            (0..SESSIONS_MAX).filter_map(|_| sessions.prepare(wanted("t"), now).ok()).collect();
        assert_eq!(tickets.len(), SESSIONS_MAX);
        assert!(sessions.prepare(wanted("t"), now).is_err());
        assert!(sessions.prepare(wanted("other"), now).is_ok());
        let open = sessions.open(&tickets[0].id, &tickets[0].token, now).map_err(|_| "refused").unwrap();
        // The tokens that nobody used are forgotten; the open session counts.
        let later = now + TOKEN_LIFE;
        let again = (0..SESSIONS_MAX).filter(|_| sessions.prepare(wanted("t"), later).is_ok()).count();
        assert_eq!(again, SESSIONS_MAX - 1);
        drop(open);
        assert!(sessions.prepare(wanted("t"), later).is_ok());
    }
}
