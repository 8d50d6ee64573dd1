//! Log groups, streams and tags.

mod common;

use std::collections::BTreeMap;

use common::*;
use ferrogate_api::Shape;
use ferrogate_api::logs::*;

const NOT_FOUND: &str = "ResourceNotFoundException";
const INVALID: &str = "InvalidParameterException";
const NO_GROUP: &str = "The specified log group does not exist.";
const NO_STREAM: &str = "The specified log stream does not exist.";

fn delete_group(name: &str) -> DeleteLogGroupRequest {
    DeleteLogGroupRequest { log_group_name: Some(name.into()) }
}

fn describe_streams(by_time: bool, descending: bool) -> DescribeLogStreamsRequest {
    DescribeLogStreamsRequest {
        log_group_name: Some("g".into()),
        order_by: by_time.then(|| "LastEventTime".into()),
        descending: Some(descending),
        limit: Some(2),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_group_from_its_making_to_its_end() {
    let world = World::new().await;
    let (service, cx) = (&world.service, &world.cx);
    let again = CreateLogGroupRequest { log_group_name: Some("g".into()), ..Default::default() };
    let result = service.create_log_group(cx, again.clone()).await;
    refused(result, "ResourceAlreadyExistsException", "The specified log group already exists");
    for input in [
        CreateLogGroupRequest { log_group_class: Some("INFREQUENT_ACCESS".into()), ..again.clone() },
        CreateLogGroupRequest { kms_key_id: Some("arn".into()), ..again.clone() },
        CreateLogGroupRequest { deletion_protection_enabled: Some(true), ..again.clone() },
        CreateLogGroupRequest { log_group_name: Some("aws/x".into()), ..again.clone() },
    ] {
        assert_eq!(service.create_log_group(cx, input).await.unwrap_err().code, INVALID);
    }

    world.put(&[(NOW, "12345")]).await.unwrap();
    let found = service.describe_log_groups(cx, DescribeLogGroupsRequest::default()).await.unwrap();
    let group = &found.log_groups.unwrap()[0];
    let arn = format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:g");
    assert_eq!(group.arn, Some(format!("{arn}:*")));
    assert_eq!(group.log_group_arn.as_ref(), Some(&arn));
    assert_eq!((group.creation_time, group.stored_bytes), (Some(NOW), Some(5 + 26)));
    assert_eq!(group.log_group_class.as_deref(), Some("STANDARD"));

    let folder = world.stream_folder();
    assert!(folder.exists());
    service.delete_log_group(cx, delete_group("g")).await.unwrap();
    assert!(!folder.parent().unwrap().exists());
    refused(service.delete_log_group(cx, delete_group("g")).await, NOT_FOUND, NO_GROUP);
    refused(world.put(&[(NOW, "x")]).await, NOT_FOUND, NO_GROUP);

    // Made anew, it has nothing of the old one.
    world.group("g").await;
    refused(world.put(&[(NOW, "x")]).await, NOT_FOUND, NO_STREAM);
    world.stream("g", "s").await;
    assert_eq!(world.messages().await, [""; 0]);
}

#[tokio::test]
async fn groups_are_found_by_prefix_pattern_and_identifier_page_by_page() {
    let world = World::new().await;
    for name in ["/ecs/a", "/ecs/b", "/other/a"] {
        world.group(name).await;
    }
    let (service, cx) = (&world.service, &world.cx);
    let names = async |input: DescribeLogGroupsRequest| {
        let found = service.describe_log_groups(cx, input).await.unwrap();
        let names: Vec<String> =
            found.log_groups.unwrap().into_iter().map(|group| group.log_group_name.unwrap()).collect();
        (names, found.next_token)
    };
    let prefix = |text: &str| DescribeLogGroupsRequest {
        log_group_name_prefix: Some(text.into()),
        ..Default::default()
    };
    assert_eq!(names(prefix("/ecs/")).await.0, ["/ecs/a", "/ecs/b"]);
    let pattern =
        DescribeLogGroupsRequest { log_group_name_pattern: Some("/a".into()), ..Default::default() };
    assert_eq!(names(pattern).await.0, ["/ecs/a", "/other/a"]);
    let identifiers = vec![format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/ecs/b"), "g".into()];
    let by_identifier =
        DescribeLogGroupsRequest { log_group_identifiers: Some(identifiers), ..Default::default() };
    assert_eq!(names(by_identifier).await.0, ["/ecs/b", "g"]);

    let (first, token) = names(DescribeLogGroupsRequest { limit: Some(3), ..Default::default() }).await;
    let (second, end) =
        names(DescribeLogGroupsRequest { limit: Some(3), next_token: token, ..Default::default() }).await;
    assert_eq!((first.len(), second, end), (3, vec!["g".to_owned()], None));
    let bad = DescribeLogGroupsRequest { next_token: Some("nonsense".into()), ..Default::default() };
    refused(service.describe_log_groups(cx, bad).await, INVALID, "The specified nextToken is invalid.");
    let both = DescribeLogGroupsRequest { log_group_name_pattern: Some("x".into()), ..prefix("x") };
    assert_eq!(service.describe_log_groups(cx, both).await.unwrap_err().code, INVALID);

    let list =
        ListLogGroupsRequest { log_group_name_pattern: Some("^/oth|ecs/b".into()), ..Default::default() };
    let found = service.list_log_groups(cx, list).await.unwrap().log_groups.unwrap();
    let names: Vec<_> = found.into_iter().map(|group| group.log_group_name.unwrap()).collect();
    assert_eq!(names, ["/ecs/b", "/other/a"]);
}

#[tokio::test]
async fn retention_hides_refuses_and_removes() {
    let mut world = World::new().await;
    let retention =
        |days| PutRetentionPolicyRequest { log_group_name: Some("g".into()), retention_in_days: Some(days) };
    let error = world.service.put_retention_policy(&world.cx, retention(2)).await.unwrap_err();
    assert!(error.message.contains("Value '2' at 'retentionInDays'"), "{error}");
    world.put(&[(NOW, "old")]).await.unwrap();
    world.service.put_retention_policy(&world.cx, retention(3)).await.unwrap();
    let found =
        world.service.describe_log_groups(&world.cx, DescribeLogGroupsRequest::default()).await.unwrap();
    assert_eq!(found.log_groups.unwrap()[0].retention_in_days, Some(3));

    assert_eq!(world.service.sweep(world.cx.now).await.unwrap().expired_segments, 0);
    world.later(4);
    assert_eq!(world.messages().await, [""; 0]);
    let rejected = world.put(&[(NOW, "too late")]).await.unwrap().rejected_log_events_info.unwrap();
    assert_eq!(rejected.expired_log_event_end_index, Some(1));
    assert_eq!(world.service.sweep(world.cx.now).await.unwrap().expired_segments, 1);
    assert_eq!(std::fs::read_dir(world.stream_folder()).unwrap().count(), 0);
    let now = world.cx.now.as_millisecond();
    world.put(&[(now, "new")]).await.unwrap();
    assert_eq!(world.messages().await, ["new"]);

    let forever = DeleteRetentionPolicyRequest { log_group_name: Some("g".into()) };
    world.service.delete_retention_policy(&world.cx, forever).await.unwrap();
    world.later(400);
    assert_eq!(world.messages().await, ["new"]);
}

#[tokio::test]
async fn what_a_deletion_could_not_remove_the_controller_does() {
    let world = World::new().await;
    world.put(&[(NOW, "x")]).await.unwrap();
    let logs = world.dir.path().join("logs");
    let (group, stream) = (logs.join("0123"), world.stream_folder().parent().unwrap().join("4567"));
    std::fs::create_dir_all(group.join("89ab")).unwrap();
    std::fs::create_dir_all(&stream).unwrap();
    let swept = world.service.sweep(world.cx.now).await.unwrap();
    assert_eq!((swept.deleted_groups, swept.deleted_streams), (1, 1));
    assert!(!group.exists() && !stream.exists());
    assert_eq!(world.messages().await, ["x"]);
    assert!(world.service.controllers()[0].activate().await.outcome.is_ok());
}

#[tokio::test]
async fn streams_by_name_and_by_time() {
    let world = World::new().await;
    let (service, cx) = (&world.service, &world.cx);
    let again = service.create_log_stream(cx, create_stream("g", "s")).await;
    refused(again, "ResourceAlreadyExistsException", "The specified log stream already exists");
    refused(service.create_log_stream(cx, create_stream("nobody", "s")).await, NOT_FOUND, NO_GROUP);
    for (name, at) in [("a", 3), ("b", 1), ("c", 2)] {
        world.stream("g", name).await;
        service.put_log_events(cx, put("g", name, &[(NOW - 9, "x"), (NOW + at, "y")])).await.unwrap();
    }
    for (by_time, descending, wanted) in [
        (false, false, ["a", "b", "c", "s"]),
        (false, true, ["s", "c", "b", "a"]),
        (true, false, ["s", "b", "c", "a"]),
        (true, true, ["a", "c", "b", "s"]),
    ] {
        let (mut input, mut names) = (describe_streams(by_time, descending), Vec::new());
        loop {
            let page = service.describe_log_streams(cx, input.clone()).await.unwrap();
            names.extend(page.log_streams.unwrap().into_iter().map(|stream| stream.log_stream_name.unwrap()));
            input.next_token = page.next_token;
            if input.next_token.is_none() {
                break;
            }
        }
        assert_eq!(names, wanted, "by time {by_time}, descending {descending}");
    }
    let prefix = DescribeLogStreamsRequest {
        log_stream_name_prefix: Some("a".into()),
        ..describe_streams(false, false)
    };
    let found = service.describe_log_streams(cx, prefix).await.unwrap().log_streams.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].arn, Some(format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:g:log-stream:a")));
    assert_eq!(
        (found[0].first_event_timestamp, found[0].last_event_timestamp),
        (Some(NOW - 9), Some(NOW + 3))
    );
    assert_eq!((found[0].last_ingestion_time, found[0].stored_bytes), (Some(NOW), Some(0)));
    let both = DescribeLogStreamsRequest {
        log_stream_name_prefix: Some("a".into()),
        ..describe_streams(true, false)
    };
    let message = "Cannot order by LastEventTime with a logStreamNamePrefix.";
    refused(service.describe_log_streams(cx, both).await, INVALID, message);

    let delete =
        DeleteLogStreamRequest { log_group_name: Some("g".into()), log_stream_name: Some("a".into()) };
    service.delete_log_stream(cx, delete.clone()).await.unwrap();
    refused(service.delete_log_stream(cx, delete).await, NOT_FOUND, NO_STREAM);
    refused(service.get_log_events(cx, get("g", "a")).await, NOT_FOUND, NO_STREAM);
    let long = create_stream("g", &"ä".repeat(512));
    assert_eq!(service.create_log_stream(cx, long).await.unwrap_err().code, INVALID);
}

#[tokio::test]
async fn tags_by_old_calls_and_new() {
    let world = World::new().await;
    let (service, cx) = (&world.service, &world.cx);
    let arn = |name: &str| Some(format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{name}"));
    let tags =
        |count: usize| (0..count).map(|n| (format!("k{n}"), "v".to_owned())).collect::<BTreeMap<_, _>>();
    let tag = |name: &str, count| TagResourceRequest { resource_arn: arn(name), tags: Some(tags(count)) };
    service.tag_resource(cx, tag("g", 2)).await.unwrap();
    service.tag_resource(cx, tag("g:*", 3)).await.unwrap();
    let old = UntagLogGroupRequest { log_group_name: Some("g".into()), tags: Some(vec!["k0".into()]) };
    service.untag_log_group(cx, old).await.unwrap();
    let list = ListTagsForResourceRequest { resource_arn: arn("g") };
    let found = service.list_tags_for_resource(cx, list).await.unwrap().tags.unwrap();
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ["k1", "k2"]);
    let new = UntagResourceRequest { resource_arn: arn("g"), tag_keys: Some(vec!["k1".into(), "k2".into()]) };
    service.untag_resource(cx, new).await.unwrap();
    let add = TagLogGroupRequest { log_group_name: Some("g".into()), tags: Some(tags(1)) };
    service.tag_log_group(cx, add).await.unwrap();
    let list = ListTagsLogGroupRequest { log_group_name: Some("g".into()) };
    assert_eq!(service.list_tags_log_group(cx, list).await.unwrap().tags.unwrap(), tags(1));

    assert_eq!(service.tag_resource(cx, tag("g", 51)).await.unwrap_err().code, "TooManyTagsException");
    let reserved = BTreeMap::from([("aws:x".to_owned(), String::new())]);
    let reserved = TagResourceRequest { resource_arn: arn("g"), tags: Some(reserved) };
    assert_eq!(service.tag_resource(cx, reserved).await.unwrap_err().code, INVALID);
    let error = service.tag_resource(cx, tag("nobody", 1)).await.unwrap_err();
    assert_eq!(error.message, "The specified resource does not exist.");
    let foreign = TagResourceRequest {
        resource_arn: Some("arn:aws:logs:us-east-1:999999999999:log-group:g".into()),
        tags: Some(tags(1)),
    };
    assert_eq!(service.tag_resource(cx, foreign).await.unwrap_err().code, NOT_FOUND);
}

#[tokio::test]
async fn demands_name_the_resource_and_its_tags() {
    let world = World::new().await;
    let (service, cx) = (&world.service, &world.cx);
    let group = format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:g");
    let add = TagLogGroupRequest {
        log_group_name: Some("g".into()),
        tags: Some(BTreeMap::from([("team".into(), "blue".into())])),
    };
    let demands = service.demands(cx, "TagLogGroup", &add.to_value());
    assert!(demands[0].context.contains(&("aws:RequestTag/team".into(), vec!["blue".into()])));
    service.tag_log_group(cx, add).await.unwrap();

    let demands = service.demands(cx, "PutLogEvents", &put("g", "s", &[(1, "x")]).to_value());
    assert_eq!((demands.len(), demands[0].action.as_str()), (1, "logs:PutLogEvents"));
    assert_eq!(demands[0].resource, format!("{group}:log-stream:s"));
    assert!(demands[0].context.contains(&("aws:ResourceTag/team".into(), vec!["blue".into()])));
    let unmask = FilterLogEventsRequest {
        log_group_identifier: Some(group.clone()),
        unmask: Some(true),
        ..Default::default()
    };
    let demands = service.demands(cx, "FilterLogEvents", &unmask.to_value());
    assert_eq!(
        (demands[0].resource.as_str(), demands[1].action.as_str()),
        (format!("{group}:log-stream:").as_str(), "logs:Unmask")
    );
    let all = service.demands(cx, "DescribeLogGroups", &DescribeLogGroupsRequest::default().to_value());
    assert_eq!(all[0].resource, format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group::log-stream:"));
    let list = ListTagsForResourceRequest { resource_arn: Some(group.clone()) };
    assert_eq!(service.demands(cx, "ListTagsForResource", &list.to_value())[0].resource, group);
}
