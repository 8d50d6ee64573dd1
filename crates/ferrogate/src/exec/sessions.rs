//! Session Manager's calls about sessions: ResumeSession, TerminateSession, DescribeSessions.

use ferrogate_ecs::SessionStatus as Status;
use ferrogate_ssm::{SessionManager, SessionSeen, SessionStatus, SessionTicket};

use super::ExecDoor;
use super::line::Command;

/// What ECS Exec asks Session Manager to run.
const DOCUMENT: &str = "AmazonECS-ExecuteInteractiveCommand";

impl SessionManager for ExecDoor {
    fn resume(&self, id: &str, region: &str, host: Option<&str>) -> Option<SessionTicket> {
        let ticket = self.ecs.resume_session(id, region, host)?;
        Some(SessionTicket { token: ticket.token, url: ticket.url })
    }

    fn terminate(&self, id: &str, region: &str) {
        if self.ecs.terminate_session(id, region)
            && let Some(line) = self.line(id)
        {
            // One whose queue is full is being ended, or hears of it with the next try.
            let _ = line.try_send(Command::Terminate);
        }
    }

    fn sessions(&self, region: &str) -> Vec<SessionSeen> {
        let seen = self.ecs.sessions_seen(region).into_iter().map(|seen| SessionSeen {
            id: seen.id,
            target: seen.wanted.target,
            owner: seen.wanted.owner,
            document: DOCUMENT.into(),
            status: match seen.status {
                Status::Connecting => SessionStatus::Connecting,
                Status::Connected => SessionStatus::Connected,
                Status::Disconnected => SessionStatus::Disconnected,
                Status::Terminated => SessionStatus::Terminated,
            },
            started_at: seen.started_at,
            ended_at: seen.ended_at,
        });
        seen.collect()
    }
}
