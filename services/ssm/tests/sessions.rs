//! Session Manager's calls, over sessions that somebody else has.

use std::sync::{Arc, Mutex};

use ferrogate_api::ssm::*;
use ferrogate_api::{Context, Principal, PrincipalKind, Value};
use ferrogate_ssm::{SessionManager, SessionSeen, SessionStatus, SessionTicket, SsmService};
use ferrogate_store::{MemoryStore, Sealer};
use jiff::Timestamp;

#[derive(Default)]
struct Fixed(Mutex<Vec<String>>);

const STATUSES: [SessionStatus; 4] = [
    SessionStatus::Connecting,
    SessionStatus::Connected,
    SessionStatus::Disconnected,
    SessionStatus::Terminated,
];

impl SessionManager for Fixed {
    fn resume(&self, id: &str, region: &str, host: Option<&str>) -> Option<SessionTicket> {
        let url = format!("ws://{}/{region}/{id}", host?);
        (id == "s-1").then(|| SessionTicket { token: "t".into(), url })
    }

    fn terminate(&self, id: &str, region: &str) {
        self.0.lock().unwrap().push(format!("{region} {id}"));
    }

    fn sessions(&self, region: &str) -> Vec<SessionSeen> {
        let seen = STATUSES.into_iter().enumerate().map(|(number, status)| SessionSeen {
            id: format!("s-{number}"),
            target: format!("ecs:{region}"),
            owner: format!("o-{number}"),
            document: "d".into(),
            status,
            started_at: Timestamp::from_second(number as i64).unwrap(),
            ended_at: (status == SessionStatus::Terminated).then_some(Timestamp::MAX),
        });
        // As they come.
        seen.rev().collect()
    }
}

fn cx() -> Context {
    let principal = Principal {
        arn: "arn:aws:iam::123456789012:root".into(),
        account: "123456789012".into(),
        user_id: "123456789012".into(),
        kind: PrincipalKind::Root,
        tags: Vec::new(),
    };
    Context {
        account: "123456789012".into(),
        region: "us-east-1".into(),
        request_id: "r".into(),
        principal: Arc::new(principal),
        source_ip: None,
        host: Some("h:1".into()),
        user_agent: None,
        access_key_id: None,
        now: Timestamp::UNIX_EPOCH,
    }
}

fn service() -> (SsmService, Arc<Fixed>) {
    let service = SsmService::new(Arc::new(MemoryStore::new()), Arc::new(Sealer::ephemeral()));
    let manager = Arc::new(Fixed::default());
    service.serve_sessions_of(Arc::<Fixed>::clone(&manager));
    (service, manager)
}

#[tokio::test]
async fn resumed_and_terminated() {
    let (service, manager) = service();
    let cx = cx();
    let resume = |id: &str| ResumeSessionRequest { session_id: Some(id.into()) };
    let answer = service.resume_session(&cx, resume("s-1")).await.unwrap();
    assert_eq!(answer.token_value.as_deref(), Some("t"));
    assert_eq!(answer.stream_url.as_deref(), Some("ws://h:1/us-east-1/s-1"));
    let error = service.resume_session(&cx, resume("s-9")).await.unwrap_err();
    assert_eq!(error.code, "DoesNotExistException");
    // Any is none to end afterwards.
    for id in ["s-1", "s-9"] {
        let input = TerminateSessionRequest { session_id: Some(id.into()) };
        assert_eq!(service.terminate_session(&cx, input).await.unwrap().session_id.as_deref(), Some(id));
    }
    assert_eq!(*manager.0.lock().unwrap(), ["us-east-1 s-1", "us-east-1 s-9"]);
}

#[tokio::test]
async fn described_by_state_filter_and_page() {
    let (service, _) = service();
    let cx = cx();
    let ask = async |state: &str, filters: &[(&str, &str)], max_results, next_token| {
        let filter = |(key, value): &(&str, &str)| SessionFilter {
            key: Some((*key).into()),
            value: Some((*value).into()),
        };
        let filters = Some(filters.iter().map(filter).collect());
        let input = DescribeSessionsRequest { state: Some(state.into()), filters, max_results, next_token };
        let answer = service.describe_sessions(&cx, input).await?;
        let sessions = answer.sessions.unwrap().into_iter();
        let shown = sessions.map(|one| format!("{} {}", one.session_id.unwrap(), one.status.unwrap()));
        Ok::<_, ferrogate_api::ApiError>((shown.collect::<Vec<_>>(), answer.next_token))
    };
    let all = ["s-0 Connecting", "s-1 Connected", "s-2 Disconnected"];
    assert_eq!(ask("Active", &[], None, None).await.unwrap().0, all);
    assert_eq!(ask("History", &[], None, None).await.unwrap().0, ["s-3 Terminated"]);
    for (filter, expected) in [
        (("SessionId", "s-1"), &all[1..2]),
        (("Owner", "o-2"), &all[2..]),
        (("Status", "Connecting"), &all[..1]),
        (("Target", "ecs:us-east-1"), &all[..]),
        (("Target", "other"), &[]),
        (("InvokedAfter", "1970-01-01T00:00:00Z"), &all[1..]),
        (("InvokedBefore", "1970-01-01T00:00:02Z"), &all[..2]),
        (("AccessType", "JustInTime"), &[]),
    ] {
        assert_eq!(ask("Active", &[filter], None, None).await.unwrap().0, expected, "{filter:?}");
    }
    let error = ask("Active", &[("InvokedAfter", "yesterday")], None, None).await.unwrap_err();
    assert_eq!(error.code, "ValidationException");
    let (first, token) = ask("Active", &[], Some(2), None).await.unwrap();
    assert_eq!((&first[..], token.is_some()), (&all.map(str::to_owned)[..2], true));
    assert_eq!(ask("Active", &[], Some(2), token).await.unwrap(), (vec![all[2].to_owned()], None));
}

#[test]
fn each_call_is_a_right_on_its_session() {
    let (service, _) = service();
    let demand = |operation, input: Value| {
        let demands = service.demands(&cx(), operation, &input);
        let [demand] = &demands[..] else { panic!("{demands:?}") };
        format!("{} {}", demand.action, demand.resource)
    };
    let id = Value::Struct(vec![("SessionId", Value::String("s-1".into()))]);
    let session = "arn:aws:ssm:us-east-1:123456789012:session/s-1";
    assert_eq!(demand("ResumeSession", id.clone()), format!("ssm:ResumeSession {session}"));
    assert_eq!(demand("TerminateSession", id.clone()), format!("ssm:TerminateSession {session}"));
    assert_eq!(demand("DescribeSessions", id), "ssm:DescribeSessions *");
}
