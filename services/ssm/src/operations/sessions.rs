//! Session Manager, as far as sessions that somebody else began: resumed, ended, looked at.

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;

use crate::sessions::{SessionSeen, SessionStatus};
use crate::{SsmService, errors};

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 200;

pub(crate) async fn resume(
    service: &SsmService,
    cx: &Context,
    input: ResumeSessionRequest,
) -> Result<ResumeSessionResponse, ApiError> {
    let id = input.session_id.unwrap_or_default();
    let manager = service.sessions.get();
    let ticket = manager.and_then(|manager| manager.resume(&id, &cx.region, cx.host.as_deref()));
    let ticket = ticket.ok_or_else(|| {
        ApiError::new("DoesNotExistException", format!("Session {id} does not exist or has been terminated."))
    })?;
    Ok(ResumeSessionResponse {
        session_id: Some(id),
        token_value: Some(ticket.token),
        stream_url: Some(ticket.url),
    })
}

pub(crate) async fn terminate(
    service: &SsmService,
    cx: &Context,
    input: TerminateSessionRequest,
) -> Result<TerminateSessionResponse, ApiError> {
    let id = input.session_id.unwrap_or_default();
    if let Some(manager) = service.sessions.get() {
        manager.terminate(&id, &cx.region);
    }
    Ok(TerminateSessionResponse { session_id: Some(id) })
}

pub(crate) async fn describe(
    service: &SsmService,
    cx: &Context,
    input: DescribeSessionsRequest,
) -> Result<DescribeSessionsResponse, ApiError> {
    let is_history = input.state.as_deref() == Some("History");
    let filters = input.filters.unwrap_or_default();
    let mut found = service.sessions.get().map(|manager| manager.sessions(&cx.region)).unwrap_or_default();
    found.retain(|seen| (seen.status == SessionStatus::Terminated) == is_history);
    for filter in &filters {
        let fits = test(filter)?;
        found.retain(|seen| fits(seen));
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let limit = input.max_results.map_or(PAGE_DEFAULT, |limit| limit as usize).clamp(1, PAGE_MAX);
    let page = paginate(found, |seen| &seen.id, input.next_token.as_deref(), limit)
        .map_err(|_| errors::bad_token())?;
    Ok(DescribeSessionsResponse {
        sessions: Some(page.items.into_iter().map(shape).collect()),
        next_token: page.next_token,
    })
}

type Test<'a> = Box<dyn Fn(&SessionSeen) -> bool + Send + 'a>;

fn test(filter: &SessionFilter) -> Result<Test<'_>, ApiError> {
    let value = filter.value.as_deref().unwrap_or_default();
    let time = || {
        value.parse::<jiff::Timestamp>().map_err(|_| {
            errors::validation(format!("'{value}' is not a time: it has to look like 2018-08-29T00:00:00Z."))
        })
    };
    Ok(match filter.key.as_deref().unwrap_or_default() {
        "InvokedAfter" => {
            let time = time()?;
            Box::new(move |seen| seen.started_at > time)
        }
        "InvokedBefore" => {
            let time = time()?;
            Box::new(move |seen| seen.started_at < time)
        }
        "Target" => Box::new(move |seen| seen.target == value),
        "Owner" => Box::new(move |seen| seen.owner == value),
        "Status" => Box::new(move |seen| seen.status.name() == value),
        "SessionId" => Box::new(move |seen| seen.id == value),
        "AccessType" => Box::new(move |_| value == "Standard"),
        other => {
            return Err(ApiError::new(
                "InvalidFilterKey",
                format!("The specified key isn't valid: {other}."),
            ));
        }
    })
}

fn shape(seen: SessionSeen) -> Session {
    Session {
        session_id: Some(seen.id),
        target: Some(seen.target),
        status: Some(seen.status.name().into()),
        start_date: Some(seen.started_at),
        end_date: seen.ended_at,
        document_name: Some(seen.document),
        owner: Some(seen.owner),
        access_type: Some("Standard".into()),
        ..Default::default()
    }
}
