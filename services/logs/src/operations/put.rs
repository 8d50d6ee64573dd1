//! PutLogEvents.

use ferrogate_api::logs::*;
use ferrogate_api::{ApiError, Context};

use crate::LogsService;
use crate::errors;
use crate::segments::{EVENT_OVERHEAD_BYTES, encode};
use crate::state::{self, DAY_MS, GroupRecord};

/// "The maximum number of log events in a batch is 10,000."
const BATCH_EVENTS_MAX: usize = 10_000;
/// "The maximum batch size is 1,048,576 bytes": UTF-8, plus 26 bytes for each event.
const BATCH_BYTES_MAX: usize = 1_048_576;
/// "None of the log events in the batch can be more than 2 hours in the future", nor "more than 14 days in the past".
const FUTURE_MS_MAX: i64 = 2 * 60 * 60 * 1000;
const PAST_MS_MAX: i64 = 14 * DAY_MS;

pub(crate) async fn put(
    service: &LogsService,
    cx: &Context,
    input: PutLogEventsRequest,
) -> Result<PutLogEventsResponse, ApiError> {
    let events = batch(input.log_events.unwrap_or_default())?;
    let group = state::group(service, cx, input.log_group_name.as_deref().unwrap_or_default())?;
    let record = state::stream(service, cx, &group, input.log_stream_name.as_deref().unwrap_or_default())?;
    let now_ms = cx.now.as_millisecond();
    let (from, to, rejected) = accepted(&events, &group, now_ms);
    let stream = service.segments.stream(&group.id, &record.id).await.map_err(errors::segments)?;
    let next_seq = if from < to {
        let frame = encode(now_ms, events[from..to].iter().map(|(at, message)| (*at, message.as_str())));
        service.segments.append(&stream, frame).await.map_err(errors::segments)?
    } else {
        stream.statistics().next_seq
    };
    Ok(PutLogEventsResponse {
        next_sequence_token: Some(sequence_token(next_seq)),
        rejected_log_events_info: rejected,
        // Entities are telemetry about the log group that nothing here shows; their place for saying no is this.
        rejected_entity_info: input
            .entity
            .map(|_| RejectedEntityInfo { error_type: Some("UnsupportedLogGroupType".into()) }),
    })
}

/// The batch, if it keeps AWS's rules.
fn batch(events: Vec<InputLogEvent>) -> Result<Vec<(i64, String)>, ApiError> {
    if events.is_empty() || events.len() > BATCH_EVENTS_MAX {
        return Err(errors::invalid(format!(
            "The batch has {} log events; it must have 1 to {BATCH_EVENTS_MAX}.",
            events.len()
        )));
    }
    let events: Vec<(i64, String)> = events
        .into_iter()
        .map(|event| (event.timestamp.unwrap_or_default(), event.message.unwrap_or_default()))
        .collect();
    if let Some(place) = events.iter().position(|(_, message)| message.is_empty()) {
        return Err(errors::invalid(format!(
            "1 validation error detected: Value '' at 'logEvents.{}.member.message' failed to satisfy constraint: \
             Member must have length greater than or equal to 1",
            place + 1
        )));
    }
    let bytes: usize = events.iter().map(|(_, message)| message.len() + EVENT_OVERHEAD_BYTES).sum();
    if bytes > BATCH_BYTES_MAX {
        return Err(errors::invalid(format!(
            "Upload too large: {bytes} bytes exceeds limit of {BATCH_BYTES_MAX}"
        )));
    }
    if events.iter().zip(&events[1..]).any(|((before, _), (after, _))| before > after) {
        return Err(errors::invalid(
            "Log events in a single PutLogEvents request must be in chronological order.",
        ));
    }
    let span = events.last().map_or(0, |(at, _)| *at).saturating_sub(events[0].0);
    if span > DAY_MS {
        return Err(errors::invalid(
            "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.",
        ));
    }
    Ok(events)
}

/// Which of the events are taken, `from..to`, and what is said of the others. They are in order of time, so those
/// that are too old come first and those that are too new last.
fn accepted(
    events: &[(i64, String)],
    group: &GroupRecord,
    now_ms: i64,
) -> (usize, usize, Option<RejectedLogEventsInfo>) {
    let before = |time: i64| events.partition_point(|(at, _)| *at < time);
    let too_old = before(now_ms - PAST_MS_MAX);
    let expired = before(group.cutoff_ms(now_ms));
    let too_new = events.partition_point(|(at, _)| *at <= now_ms + FUTURE_MS_MAX);
    let rejected = (too_old > 0 || expired > 0 || too_new < events.len()).then(|| RejectedLogEventsInfo {
        too_new_log_event_start_index: (too_new < events.len()).then_some(too_new as i32),
        too_old_log_event_end_index: (too_old > 0).then_some(too_old as i32),
        expired_log_event_end_index: (expired > 0).then_some(expired as i32),
    });
    (too_old.max(expired), too_new, rejected)
}

/// In the form of AWS's; it means nothing any more, there as here.
pub(crate) fn sequence_token(next_seq: u64) -> String {
    format!("496{next_seq:053}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn group(retention_days: Option<i32>) -> GroupRecord {
        GroupRecord { name: "g".into(), id: "1".into(), created_ms: 0, retention_days, tags: BTreeMap::new() }
    }

    fn at(times: &[i64]) -> Vec<(i64, String)> {
        times.iter().map(|at| (*at, "x".to_owned())).collect()
    }

    #[test]
    fn the_borders_of_old_and_new() {
        let now = 100 * DAY_MS;
        let events = at(&[
            now - PAST_MS_MAX - 1,
            now - PAST_MS_MAX,
            now,
            now + FUTURE_MS_MAX,
            now + FUTURE_MS_MAX + 1,
        ]);
        let (from, to, rejected) = accepted(&events, &group(None), now);
        assert_eq!((from, to), (1, 4));
        let rejected = rejected.unwrap();
        assert_eq!(rejected.too_old_log_event_end_index, Some(1));
        assert_eq!(rejected.too_new_log_event_start_index, Some(4));
        assert_eq!(rejected.expired_log_event_end_index, None);
        let (from, to, rejected) = accepted(&events, &group(Some(1)), now);
        assert_eq!((from, to), (2, 4));
        assert_eq!(rejected.unwrap().expired_log_event_end_index, Some(2));
        assert_eq!(accepted(&at(&[now]), &group(Some(1)), now), (0, 1, None));
    }

    #[test]
    fn tokens_have_56_digits() {
        assert_eq!(sequence_token(0).len(), 56);
        assert_eq!(sequence_token(u64::MAX).len(), 56);
    }
}
