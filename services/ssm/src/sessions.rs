//! The seam to who runs sessions: ECS Exec's door.

use jiff::Timestamp;

/// Who has the sessions. Times and tokens are its own affair; what it is asked for, the caller was allowed.
pub trait SessionManager: Send + Sync + 'static {
    /// A new token for a session that has not ended, and where to bring it. `host`: what the caller calls this place.
    /// `None`: there is no such session in the region.
    fn resume(&self, id: &str, region: &str, host: Option<&str>) -> Option<SessionTicket>;

    /// Ends a session. One that is not there, or not any more, is none to end.
    fn terminate(&self, id: &str, region: &str);

    /// The region's sessions, also the last that have ended.
    fn sessions(&self, region: &str) -> Vec<SessionSeen>;
}

pub struct SessionTicket {
    pub token: String,
    /// `ws://<host>/…`
    pub url: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStatus {
    Connecting,
    Connected,
    Disconnected,
    Terminated,
}

impl SessionStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connecting => "Connecting",
            Self::Connected => "Connected",
            Self::Disconnected => "Disconnected",
            Self::Terminated => "Terminated",
        }
    }
}

#[derive(Clone, Debug)]
pub struct SessionSeen {
    pub id: String,
    /// `ecs:<cluster>_<task id>_<runtime id>`
    pub target: String,
    /// The ARN of who began it.
    pub owner: String,
    /// The SSM document that it runs.
    pub document: String,
    pub status: SessionStatus,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}
