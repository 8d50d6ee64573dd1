//! PutLogEvents, GetLogEvents, FilterLogEvents, TestMetricFilter.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};

use common::*;
use ferrogate_api::logs::*;
use proptest::prelude::*;

const INVALID: &str = "InvalidParameterException";
const HOUR: i64 = 60 * 60 * 1000;

#[tokio::test]
async fn batches_keep_the_rules() {
    let world = World::new().await;
    let order = "Log events in a single PutLogEvents request must be in chronological order.";
    refused(world.put(&[(NOW, "b"), (NOW - 1, "a")]).await, INVALID, order);
    let span = "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.";
    refused(world.put(&[(NOW - 24 * HOUR - 1, "a"), (NOW, "b")]).await, INVALID, span);
    assert!(world.put(&[(NOW, "")]).await.unwrap_err().message.contains("logEvents.1.member.message"));
    let long = "x".repeat(1_048_576 - 25);
    let large = "Upload too large: 1048577 bytes exceeds limit of 1048576";
    refused(world.put(&[(NOW, &long)]).await, INVALID, large);
    assert_eq!(world.put(&vec![(NOW, "x"); 10_001]).await.unwrap_err().code, INVALID);
    let no_stream = world.service.put_log_events(&world.cx, put("g", "nobody", &[(NOW, "x")])).await;
    refused(no_stream, "ResourceNotFoundException", "The specified log stream does not exist.");
    assert_eq!(world.messages().await, [""; 0]);

    world.put(&vec![(NOW, "x"); 10_000]).await.unwrap();
    world.put(&[(NOW, &long[1..])]).await.unwrap();
    let mut seen = 0;
    let mut input = get("g", "s");
    loop {
        let page = world.get(input.clone()).await;
        seen += messages(&page).len();
        if page.next_forward_token == input.next_token {
            break;
        }
        input.next_token = page.next_forward_token;
    }
    assert_eq!(seen, 10_001);
}

#[tokio::test]
async fn too_old_and_too_new_are_rejected_and_the_rest_is_kept() {
    let world = World::new().await;
    let old = NOW - 14 * 24 * HOUR;
    let output = world.put(&[(old - 2, "a"), (old - 1, "b"), (old, "c")]).await.unwrap();
    assert_eq!(output.rejected_log_events_info.unwrap().too_old_log_event_end_index, Some(2));
    assert_eq!(output.next_sequence_token.unwrap().len(), 56);
    let output = world.put(&[(NOW, "d"), (NOW + 2 * HOUR, "e"), (NOW + 2 * HOUR + 1, "f")]).await.unwrap();
    assert_eq!(output.rejected_log_events_info.unwrap().too_new_log_event_start_index, Some(2));
    assert_eq!(world.put(&[(NOW, "g")]).await.unwrap().rejected_log_events_info, None);
    assert_eq!(world.messages().await, ["c", "d", "g", "e"]);
    let entity = PutLogEventsRequest { entity: Some(Entity::default()), ..put("g", "s", &[(NOW, "h")]) };
    let output = world.service.put_log_events(&world.cx, entity).await.unwrap();
    assert!(output.rejected_entity_info.is_some());
}

#[tokio::test]
async fn tokens_lead_forward_and_backward_and_stay_at_the_end() {
    let world = World::new().await;
    // Out of order between batches, with equal times.
    world.put(&[(NOW + 4, "4"), (NOW + 5, "5"), (NOW + 5, "6")]).await.unwrap();
    world.put(&[(NOW, "0"), (NOW + 1, "1"), (NOW + 3, "3")]).await.unwrap();
    world.put(&[(NOW + 1, "2")]).await.unwrap();
    let page = |token: &Option<String>, head| GetLogEventsRequest {
        next_token: token.clone(),
        limit: Some(3),
        start_from_head: Some(head),
        ..get("g", "s")
    };
    let first = world.get(page(&None, true)).await;
    assert_eq!(messages(&first), ["0", "1", "2"]);
    assert!(first.next_forward_token.as_ref().unwrap().starts_with("f/"));
    assert!(first.next_backward_token.as_ref().unwrap().starts_with("b/"));
    let second = world.get(page(&first.next_forward_token, true)).await;
    assert_eq!(messages(&second), ["3", "4", "5"]);
    let third = world.get(page(&second.next_forward_token, true)).await;
    assert_eq!(messages(&third), ["6"]);
    let end = world.get(page(&third.next_forward_token, true)).await;
    assert_eq!((messages(&end).len(), &end.next_forward_token), (0, &third.next_forward_token));
    // What comes later is found there.
    world.put(&[(NOW + 9, "7")]).await.unwrap();
    assert_eq!(messages(&world.get(page(&end.next_forward_token, true)).await), ["7"]);

    assert_eq!(messages(&world.get(page(&third.next_backward_token, true)).await), ["3", "4", "5"]);
    let latest = world.get(page(&None, false)).await;
    assert_eq!(messages(&latest), ["5", "6", "7"]);
    let before = world.get(page(&latest.next_backward_token, false)).await;
    assert_eq!(messages(&before), ["2", "3", "4"]);
    let earliest = world.get(page(&before.next_backward_token, false)).await;
    assert_eq!(messages(&earliest), ["0", "1"]);
    let start = world.get(page(&earliest.next_backward_token, false)).await;
    assert_eq!((messages(&start).len(), &start.next_backward_token), (0, &earliest.next_backward_token));

    let bounded = GetLogEventsRequest { start_time: Some(NOW + 1), end_time: Some(NOW + 4), ..get("g", "s") };
    assert_eq!(messages(&world.get(bounded).await), ["1", "2", "3"]);
    let bad = world.service.get_log_events(&world.cx, page(&Some("f/1/s".into()), true)).await;
    refused(bad, INVALID, "The specified nextToken is invalid.");
}

#[tokio::test]
async fn a_follower_that_starts_on_an_empty_stream_sees_what_comes() {
    let world = World::new().await;
    for head in [true, false] {
        let input = GetLogEventsRequest { start_from_head: Some(head), ..get("g", "s") };
        let empty = world.get(input.clone()).await;
        let again =
            world.get(GetLogEventsRequest { next_token: empty.next_forward_token.clone(), ..input }).await;
        assert_eq!(again.next_forward_token, empty.next_forward_token);
        world.put(&[(NOW, "x")]).await.unwrap();
        let input = GetLogEventsRequest { next_token: empty.next_forward_token, ..get("g", "s") };
        assert!(!messages(&world.get(input).await).is_empty());
    }
}

#[tokio::test]
async fn the_group_is_named_once_by_name_or_arn() {
    let world = World::new().await;
    world.put(&[(NOW, "x")]).await.unwrap();
    let arn = format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:g");
    for identifier in [arn.clone(), format!("{arn}:*"), "g".into()] {
        let input = GetLogEventsRequest {
            log_group_name: None,
            log_group_identifier: Some(identifier),
            ..get("g", "s")
        };
        assert_eq!(messages(&world.get(input).await), ["x"]);
    }
    for (name, identifier) in [(None, None), (Some("g".to_owned()), Some(arn))] {
        let input =
            GetLogEventsRequest { log_group_name: name, log_group_identifier: identifier, ..get("g", "s") };
        assert_eq!(world.service.get_log_events(&world.cx, input).await.unwrap_err().code, INVALID);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_shows_nothing() {
    let world = World::new().await;
    let folder = world.stream_folder();
    std::fs::create_dir_all(&folder).unwrap();
    let segment = folder.join(format!("{:020}.seg", 0));
    symlink("/dev/full", &segment).unwrap();
    let error = world.put(&[(NOW, "lost")]).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.status), ("ServiceUnavailableException", Some(503)));
    assert_eq!(world.messages().await, [""; 0]);
    world.put(&[(NOW, "kept")]).await.unwrap();
    assert_eq!(world.messages().await, ["kept"]);
    let mode = std::fs::metadata(&segment).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_puts_are_all_there_once() {
    let world = World::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..32 {
        let (service, cx) = (world.service.clone(), world.cx.clone());
        tasks.spawn(async move {
            for n in 0..20 {
                let events = [(NOW, &*format!("{writer} {n} a")), (NOW, &*format!("{writer} {n} b"))];
                service.put_log_events(&cx, put("g", "s", &events)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let found = world.messages().await;
    assert_eq!(found.len(), 32 * 20 * 2);
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
    // A put's events are next to each other, and a writer's puts in its order.
    let mut last = [-1; 32];
    for pair in found.chunks(2) {
        let words: Vec<i32> = pair[0].split(' ').take(2).map(|word| word.parse().unwrap()).collect();
        assert_eq!(pair[1], format!("{} {} b", words[0], words[1]));
        assert_eq!(words[1], last[words[0] as usize] + 1);
        last[words[0] as usize] = words[1];
    }
}

#[tokio::test]
async fn more_than_a_segment_comes_back_page_by_page() {
    let world = World::new().await;
    let line = "x".repeat(100_000);
    for batch in 0..20 {
        let lines: Vec<String> = (0..10).map(|n| format!("{batch:02} {n} {line}")).collect();
        let events: Vec<(i64, &str)> = lines.iter().map(|line| (NOW + batch, line.as_str())).collect();
        world.put(&events).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(world.stream_folder()).unwrap().count(), 2);
    let events =
        world.filter(FilterLogEventsRequest { log_group_name: Some("g".into()), ..Default::default() }).await;
    let found: Vec<String> =
        events.iter().map(|event| event.message.as_ref().unwrap()[..4].to_owned()).collect();
    let wanted: Vec<String> = (0..200).map(|n| format!("{:02} {}", n / 10, n % 10)).collect();
    assert_eq!(found, wanted);
    let ids: Vec<_> = events.iter().map(|event| event.event_id.clone().unwrap()).collect();
    assert!(ids.is_sorted() && ids[0].len() == 56 && ids.iter().collect::<BTreeSet<_>>().len() == 200);
}

#[tokio::test]
async fn filters_by_stream_time_and_pattern() {
    let world = World::new().await;
    for (stream, at) in [("web/1", 1), ("web/2", 2), ("db/1", 3)] {
        world.stream("g", stream).await;
        let events = [(NOW + at, "ERROR one"), (NOW + 10 + at, "info two"), (NOW + 20 + at, "ERROR -three")];
        world.service.put_log_events(&world.cx, put("g", stream, &events)).await.unwrap();
    }
    let base = FilterLogEventsRequest { log_group_name: Some("g".into()), ..Default::default() };
    let found = async |input: FilterLogEventsRequest| -> Vec<String> {
        let events = world.filter(input).await;
        events
            .into_iter()
            .map(|e| format!("{} {}", e.log_stream_name.unwrap(), e.timestamp.unwrap() - NOW))
            .collect()
    };
    let errors = FilterLogEventsRequest {
        filter_pattern: Some("ERROR -three".into()),
        limit: Some(1),
        ..base.clone()
    };
    assert_eq!(found(errors).await, ["web/1 1", "web/2 2", "db/1 3"]);
    let prefix = FilterLogEventsRequest {
        log_stream_name_prefix: Some("web/".into()),
        start_time: Some(NOW + 11),
        end_time: Some(NOW + 21),
        ..base.clone()
    };
    assert_eq!(found(prefix.clone()).await, ["web/1 11", "web/2 12", "web/1 21"]);
    let latest = FilterLogEventsRequest { start_from_head: Some(false), limit: Some(2), ..prefix.clone() };
    assert_eq!(found(latest).await, ["web/1 21", "web/2 12", "web/1 11"]);
    let names = FilterLogEventsRequest { log_stream_names: Some(vec!["db/1".into()]), ..base.clone() };
    assert_eq!(found(names.clone()).await, ["db/1 3", "db/1 13", "db/1 23"]);

    for (input, code) in [
        (FilterLogEventsRequest { filter_pattern: Some("a-b".into()), ..base.clone() }, INVALID),
        (FilterLogEventsRequest { next_token: Some("00".into()), ..base.clone() }, INVALID),
        (FilterLogEventsRequest { start_from_head: Some(false), ..base.clone() }, INVALID),
        (FilterLogEventsRequest { log_stream_name_prefix: Some("w".into()), ..names }, INVALID),
        (
            FilterLogEventsRequest { log_stream_names: Some(vec!["no".into()]), ..base },
            "ResourceNotFoundException",
        ),
    ] {
        assert_eq!(world.service.filter_log_events(&world.cx, input).await.unwrap_err().code, code);
    }
}

#[tokio::test]
async fn test_metric_filter_numbers_and_extracts() {
    let world = World::new().await;
    let input = TestMetricFilterRequest {
        filter_pattern: Some("[ip, status = 4*]".into()),
        log_event_messages: Some(vec!["1.1.1.1 200".into(), "2.2.2.2 404".into()]),
    };
    let matches = world.service.test_metric_filter(&world.cx, input).await.unwrap().matches.unwrap();
    assert_eq!(matches.len(), 1);
    assert_eq!(matches[0].event_number, Some(2));
    assert_eq!(matches[0].extracted_values.as_ref().unwrap()["$ip"], "2.2.2.2");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// FilterLogEvents gives what a look at every event gives.
    #[test]
    fn filtering_is_the_naive_answer(
        batches in proptest::collection::vec(
            (0..3_usize, 0..50_i64, proptest::collection::vec("(ab|cd|ef| |[0-9]){1,5}", 1..8)), 0..30),
        pattern in 0..6_usize,
        start in 0..60_i64,
        length in 0..60_i64,
        limit in 1..20_i32,
    ) {
        type Reference = fn(&str) -> bool;
        let patterns: [(&str, Reference); 6] = [
            ("", |_| true),
            ("ab cd", |m| m.contains("ab") && m.contains("cd")),
            ("ab -cd", |m| m.contains("ab") && !m.contains("cd")),
            ("?ab ?\"ef ab\"", |m| m.contains("ab") || m.contains("ef ab")),
            ("%[0-9]$%", |m| m.ends_with(|c: char| c.is_ascii_digit())),
            ("[first = ab*, ...]", |m| m.trim_start().starts_with("ab")),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let mut all = Vec::new();
            for stream in 0..3 {
                world.stream("g", &stream.to_string()).await;
            }
            for (stream, at, messages) in &batches {
                let stream = stream.to_string();
                let events: Vec<(i64, &str)> =
                    messages.iter().enumerate().map(|(n, message)| (NOW + at + n as i64, message.as_str())).collect();
                world.service.put_log_events(&world.cx, put("g", &stream, &events)).await.unwrap();
                all.extend(events.iter().map(|(at, message)| (*at, stream.clone(), (*message).to_owned())));
            }
            let (pattern, reference) = patterns[pattern];
            let (start, end) = (NOW + start, NOW + start + length);
            let mut wanted: Vec<_> = all
                .into_iter()
                .filter(|(at, _, message)| start <= *at && *at <= end && reference(message))
                .collect();
            let found = world.filter(FilterLogEventsRequest {
                log_group_name: Some("g".into()),
                filter_pattern: Some(pattern.into()),
                start_time: Some(start),
                end_time: Some(end),
                limit: Some(limit),
                ..Default::default()
            }).await;
            let mut found: Vec<_> = found
                .into_iter()
                .map(|event| (event.timestamp.unwrap(), event.log_stream_name.unwrap(), event.message.unwrap()))
                .collect();
            prop_assert!(found.is_sorted_by_key(|(at, _, _)| *at));
            // Streams at the same time have an order, but no promised one.
            found.sort();
            wanted.sort();
            prop_assert_eq!(found, wanted);
            Ok(())
        })?;
    }
}
