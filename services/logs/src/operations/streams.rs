//! Log streams.

use ferrogate_api::logs::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::{hex_id, paginate};
use ferrogate_store::{Txn, get_json, range_json};

use crate::LogsService;
use crate::errors;
use crate::operations::put::sequence_token;
use crate::segments::Statistics;
use crate::state::{self, GroupRecord, StreamRecord, group_key, named_group, stream_key, streams_prefix};

const PAGE_MAX: usize = 50;

pub(crate) async fn create(
    service: &LogsService,
    cx: &Context,
    input: CreateLogStreamRequest,
) -> Result<CreateLogStreamNoOutput, ApiError> {
    let (group_name, name) =
        (input.log_group_name.unwrap_or_default(), input.log_stream_name.unwrap_or_default());
    let group = state::group(service, cx, &group_name)?;
    let key = stream_key(service, cx, &group, &name)?;
    let record = StreamRecord { name, id: hex_id(), created_ms: cx.now.as_millisecond() };
    let txn = Txn::new()
        .when_present(group_key(service, cx, &group_name))
        .when_absent(&key)
        .put_json(&key, &record);
    if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        return Ok(CreateLogStreamNoOutput {});
    }
    // Which of the two was it?
    state::group(service, cx, &group_name)?;
    Err(errors::stream_exists())
}

pub(crate) async fn delete(
    service: &LogsService,
    cx: &Context,
    input: DeleteLogStreamRequest,
) -> Result<DeleteLogStreamNoOutput, ApiError> {
    let group = state::group(service, cx, input.log_group_name.as_deref().unwrap_or_default())?;
    let name = input.log_stream_name.unwrap_or_default();
    let key = stream_key(service, cx, &group, &name).map_err(|_| errors::no_stream())?;
    let found = get_json::<StreamRecord>(&*service.store, &key).ok_or_else(errors::no_stream)?;
    let txn = Txn::new().when_revision(&key, found.mod_revision).delete(&key);
    if !service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        return Err(errors::aborted());
    }
    // The stream is gone; should its files resist, the controller comes for them.
    if let Err(error) = service.segments.delete_stream(&group.id, &found.record.id).await {
        tracing::warn!(%error, "files of a deleted log stream remain for now");
    }
    Ok(DeleteLogStreamNoOutput {})
}

pub(crate) async fn describe(
    service: &LogsService,
    cx: &Context,
    input: DescribeLogStreamsRequest,
) -> Result<DescribeLogStreamsResponse, ApiError> {
    let group =
        named_group(service, cx, input.log_group_name.as_deref(), input.log_group_identifier.as_deref())?;
    let by_time = input.order_by.as_deref() == Some("LastEventTime");
    if by_time && input.log_stream_name_prefix.is_some() {
        return Err(errors::invalid("Cannot order by LastEventTime with a logStreamNamePrefix."));
    }
    let prefix = streams_prefix(service, &cx.region, &group)
        + input.log_stream_name_prefix.as_deref().unwrap_or_default();
    let records = range_json::<StreamRecord>(&*service.store, &prefix).into_iter().map(|found| found.record);
    // The rank sorts as the call wants and is the place the token names.
    let mut ranked: Vec<(String, StreamRecord)> = Vec::new();
    for record in records {
        let rank = if by_time {
            let last_event = statistics(service, &group, &record).await?.last_event.unwrap_or_default();
            format!("{last_event:020} {}", record.name)
        } else {
            record.name.clone()
        };
        ranked.push((rank, record));
    }
    ranked.sort_by(|left, right| left.0.cmp(&right.0));
    let limit = input.limit.map_or(PAGE_MAX, |limit| limit as usize).clamp(1, PAGE_MAX);
    let token = input.next_token.as_deref();
    let page = if input.descending == Some(true) {
        descending(ranked, token, limit)?
    } else {
        let page = paginate(ranked, |(rank, _)| rank, token, limit).map_err(|_| errors::bad_token())?;
        (page.items, page.next_token)
    };
    let mut log_streams = Vec::with_capacity(page.0.len());
    for (_, record) in page.0 {
        let statistics = statistics(service, &group, &record).await?;
        log_streams.push(shape(cx, &group, record, statistics));
    }
    Ok(DescribeLogStreamsResponse { log_streams: Some(log_streams), next_token: page.1 })
}

type Ranked = Vec<(String, StreamRecord)>;

/// A page from the end backward; the token names the last rank given.
fn descending(
    mut ranked: Ranked,
    token: Option<&str>,
    limit: usize,
) -> Result<(Ranked, Option<String>), ApiError> {
    if let Some(token) = token {
        let bytes = hex::decode(token).map_err(|_| errors::bad_token())?;
        let rank = String::from_utf8(bytes).ok().and_then(|text| text.strip_prefix("d:").map(str::to_owned));
        let rank = rank.ok_or_else(errors::bad_token)?;
        ranked.retain(|(other, _)| *other < rank);
    }
    ranked.reverse();
    let more = ranked.len() > limit;
    ranked.truncate(limit);
    let next_token = ranked.last().filter(|_| more).map(|(rank, _)| hex::encode(format!("d:{rank}")));
    Ok((ranked, next_token))
}

async fn statistics(
    service: &LogsService,
    group: &GroupRecord,
    stream: &StreamRecord,
) -> Result<Statistics, ApiError> {
    let stream = service.segments.stream(&group.id, &stream.id).await.map_err(errors::segments)?;
    Ok(stream.statistics())
}

fn shape(cx: &Context, group: &GroupRecord, stream: StreamRecord, statistics: Statistics) -> LogStream {
    LogStream {
        arn: Some(format!("{}:log-stream:{}", group.arn(cx), stream.name)),
        log_stream_name: Some(stream.name),
        creation_time: Some(stream.created_ms),
        first_event_timestamp: statistics.first_event,
        last_event_timestamp: statistics.last_event,
        last_ingestion_time: statistics.last_ingestion,
        upload_sequence_token: statistics.last_event.map(|_| sequence_token(statistics.next_seq)),
        // "From June 17, 2019, this parameter is no longer supported for log streams, and is always zero."
        stored_bytes: Some(0),
    }
}
