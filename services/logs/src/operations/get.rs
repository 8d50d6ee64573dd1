//! GetLogEvents.

use ferrogate_api::logs::*;
use ferrogate_api::{ApiError, Context};

use super::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX};
use crate::LogsService;
use crate::errors;
use crate::pattern::Pattern;
use crate::segments::{Direction, Key, Query};
use crate::state::{self, named_group};

/// What a token has digits for; no event is that late.
const TIMESTAMP_MAX: i64 = 99_999_999_999_999_999;

pub(crate) async fn get(
    service: &LogsService,
    cx: &Context,
    input: GetLogEventsRequest,
) -> Result<GetLogEventsResponse, ApiError> {
    let group =
        named_group(service, cx, input.log_group_name.as_deref(), input.log_group_identifier.as_deref())?;
    let record = state::stream(service, cx, &group, input.log_stream_name.as_deref().unwrap_or_default())?;
    let number = record.number();
    let start = input.start_time.unwrap_or(0).max(group.cutoff_ms(cx.now.as_millisecond()));
    // "Events with a timestamp equal to or later than this time are not included."
    let end = input.end_time.map_or(i64::MAX, |end| end.saturating_sub(1));
    if input.end_time.is_some_and(|end| end < input.start_time.unwrap_or(0)) {
        return Err(errors::invalid("endTime must not be earlier than startTime."));
    }
    let (direction, cursor) = match input.next_token.as_deref() {
        Some(token) => parse(token, number).ok_or_else(errors::bad_token)?,
        None if input.start_from_head == Some(true) => (Direction::Forward, Key::MIN),
        None => (Direction::Backward, Key::MAX),
    };
    let stream = service.segments.stream(&group.id, &record.id).await.map_err(errors::segments)?;
    let query = Query {
        streams: vec![(number, stream)],
        start,
        end,
        cursor,
        direction,
        count_max: input.limit.map_or(PAGE_EVENTS_MAX, |limit| limit as usize).clamp(1, PAGE_EVENTS_MAX),
        bytes_max: PAGE_BYTES_MAX,
        scan_bytes_max: u64::MAX,
        pattern: Pattern::Everything,
    };
    let mut events = service.segments.read(query).await.map_err(errors::segments)?.events;
    if direction == Direction::Backward {
        events.reverse();
    }
    // At the end, the place stays where it was: the caller gets the token it came with.
    let here = if input.next_token.is_some() {
        cursor
    } else {
        Key { stream: number, ..Key::at(start.clamp(0, TIMESTAMP_MAX)) }
    };
    let (first, after) = match (events.first(), events.last()) {
        (Some(first), Some(last)) => (first.key, last.key.next()),
        _ => (here, here),
    };
    let output = events.into_iter().map(|found| OutputLogEvent {
        timestamp: Some(found.key.timestamp),
        message: Some(found.message),
        ingestion_time: Some(found.ingestion),
    });
    Ok(GetLogEventsResponse {
        events: Some(output.collect()),
        next_forward_token: Some(token('f', number, after)),
        next_backward_token: Some(token('b', number, first)),
    })
}

/// `f/` or `b/`, 56 digits and `/s`. The digits are a place between events: the first event the forward reader
/// gets, which is the one after the first the backward reader gets.
fn token(direction: char, stream: u64, key: Key) -> String {
    format!("{direction}/3{:017}{stream:019}{:019}/s", key.timestamp, key.seq)
}

fn parse(token: &str, stream: u64) -> Option<(Direction, Key)> {
    let direction = match token.get(..2)? {
        "f/" => Direction::Forward,
        "b/" => Direction::Backward,
        _ => return None,
    };
    let digits = token[2..].strip_suffix("/s").filter(|digits| digits.len() == 56)?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) || !digits.starts_with('3') {
        return None;
    }
    let key = Key {
        timestamp: digits[1..18].parse().ok()?,
        stream: digits[18..37].parse().ok().filter(|number| *number == stream)?,
        seq: digits[37..].parse().ok()?,
    };
    Some((direction, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_for_their_own_stream_only() {
        let key = Key { timestamp: 1_795_000_000_123, stream: 7, seq: 9 };
        let text = token('f', 7, key);
        assert_eq!(text.len(), 60);
        assert_eq!(parse(&text, 7), Some((Direction::Forward, key)));
        assert_eq!(parse(&text, 8), None);
        for text in ["", "f/", "f/1/s", "x/3", "ä", &text[..59]] {
            assert_eq!(parse(text, 7), None, "{text}");
        }
    }
}
