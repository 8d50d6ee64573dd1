//! FilterLogEvents and TestMetricFilter.

use ferrogate_api::logs::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::range_json;

use super::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX};
use crate::LogsService;
use crate::errors;
use crate::pattern::Pattern;
use crate::segments::{Direction, Found, Key, Query};
use crate::state::{self, GroupRecord, StreamRecord, named_group, streams_prefix};

/// Bytes of events that one call looks through; a page may therefore be short, or empty, and yet have a token.
const SCAN_BYTES_MAX: u64 = 64 << 20;
/// "Setting startFromHead to false is supported only when startTime is on or after Jan 1, 2024 00:00:00 UTC."
const BACKWARD_START_MS_MIN: i64 = 1_704_067_200_000;

pub(crate) async fn filter(
    service: &LogsService,
    cx: &Context,
    input: FilterLogEventsRequest,
) -> Result<FilterLogEventsResponse, ApiError> {
    let pattern =
        Pattern::parse(input.filter_pattern.as_deref().unwrap_or_default()).map_err(errors::pattern)?;
    let group =
        named_group(service, cx, input.log_group_name.as_deref(), input.log_group_identifier.as_deref())?;
    let records = records(service, cx, &group, &input)?;
    if input.end_time.is_some_and(|end| end < input.start_time.unwrap_or(0)) {
        return Err(errors::invalid("endTime must not be earlier than startTime."));
    }
    let direction = direction(&input)?;
    let cursor = match input.next_token.as_deref() {
        Some(token) => parse(token, direction, &group).ok_or_else(errors::bad_token)?,
        None if direction == Direction::Forward => Key::MIN,
        None => Key::MAX,
    };
    let mut streams = Vec::with_capacity(records.len());
    for record in &records {
        let stream = service.segments.stream(&group.id, &record.id).await.map_err(errors::segments)?;
        streams.push((record.number(), stream));
    }
    let query = Query {
        streams,
        start: input.start_time.unwrap_or(0).max(group.cutoff_ms(cx.now.as_millisecond())),
        // "Events with a timestamp later than this time are not returned."
        end: input.end_time.unwrap_or(i64::MAX),
        cursor,
        direction,
        count_max: input.limit.map_or(PAGE_EVENTS_MAX, |limit| limit as usize).clamp(1, PAGE_EVENTS_MAX),
        bytes_max: PAGE_BYTES_MAX,
        scan_bytes_max: SCAN_BYTES_MAX,
        pattern,
    };
    let page = service.segments.read(query).await.map_err(errors::segments)?;
    let events = page.events.into_iter().map(|found| FilteredLogEvent {
        log_stream_name: Some(records[found.stream].name.clone()),
        timestamp: Some(found.key.timestamp),
        event_id: Some(event_id(&found)),
        message: Some(found.message),
        ingestion_time: Some(found.ingestion),
    });
    Ok(FilterLogEventsResponse {
        events: Some(events.collect()),
        // "As of May 15, 2020, this parameter is no longer supported. This parameter returns an empty list."
        searched_log_streams: Some(Vec::new()),
        next_token: page.more.map(|key| token(key, direction, &group)),
    })
}

fn records(
    service: &LogsService,
    cx: &Context,
    group: &GroupRecord,
    input: &FilterLogEventsRequest,
) -> Result<Vec<StreamRecord>, ApiError> {
    let prefix = input.log_stream_name_prefix.as_deref();
    match &input.log_stream_names {
        Some(_) if prefix.is_some() => {
            Err(errors::invalid("Only one of logStreamNames and logStreamNamePrefix can be specified."))
        }
        Some(names) => {
            let mut names: Vec<&String> = names.iter().collect();
            names.sort();
            names.dedup();
            names.into_iter().map(|name| state::stream(service, cx, group, name)).collect()
        }
        None => {
            let prefix = streams_prefix(service, &cx.region, group) + prefix.unwrap_or_default();
            Ok(range_json(&*service.store, &prefix).into_iter().map(|found| found.record).collect())
        }
    }
}

fn direction(input: &FilterLogEventsRequest) -> Result<Direction, ApiError> {
    if input.start_from_head != Some(false) {
        return Ok(Direction::Forward);
    }
    if input.start_time.is_none_or(|start| start < BACKWARD_START_MS_MIN) {
        return Err(errors::invalid(
            "Setting startFromHead to false is supported only when startTime is on or after Jan 1, 2024 00:00:00 UTC.",
        ));
    }
    Ok(Direction::Backward)
}

/// 56 digits, as AWS's: unique in the group, and in the order of time.
fn event_id(found: &Found) -> String {
    let Key { timestamp, stream, seq } = found.key;
    format!("3{timestamp:017}{stream:019}{seq:019}")
}

fn sum(text: &str, group: &GroupRecord) -> u32 {
    crc32fast::hash(format!("{text} {}", group.id).as_bytes())
}

/// The place to go on, opaque, with a sum that no foreign token has.
fn token(key: Key, direction: Direction, group: &GroupRecord) -> String {
    let way = if direction == Direction::Forward { 'f' } else { 'b' };
    let text = format!("{way}.{}.{}.{}", key.timestamp, key.stream, key.seq);
    hex::encode(format!("{text}.{}", sum(&text, group)))
}

fn parse(token: &str, direction: Direction, group: &GroupRecord) -> Option<Key> {
    let text = String::from_utf8(hex::decode(token).ok()?).ok()?;
    let (text, found) = text.rsplit_once('.')?;
    let mut parts = text.split('.');
    let way = if direction == Direction::Forward { "f" } else { "b" };
    if found.parse() != Ok(sum(text, group)) || parts.next() != Some(way) {
        return None;
    }
    Some(Key {
        timestamp: parts.next()?.parse().ok()?,
        stream: parts.next()?.parse().ok()?,
        seq: parts.next()?.parse().ok()?,
    })
}

pub(crate) fn test_metric_filter(
    input: TestMetricFilterRequest,
) -> Result<TestMetricFilterResponse, ApiError> {
    let pattern =
        Pattern::parse(input.filter_pattern.as_deref().unwrap_or_default()).map_err(errors::pattern)?;
    let messages = input.log_event_messages.unwrap_or_default();
    let matches = messages.into_iter().enumerate().filter(|(_, message)| pattern.matches(message)).map(
        |(place, message)| MetricFilterMatchRecord {
            event_number: Some(place as i64 + 1),
            extracted_values: Some(pattern.extract(&message)),
            event_message: Some(message),
        },
    );
    Ok(TestMetricFilterResponse { matches: Some(matches.collect()) })
}
