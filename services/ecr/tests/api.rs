//! The API itself: repositories, policies, images, layers, lifecycle.

mod common;

use common::{ACCOUNT, OCI_INDEX, OCI_MANIFEST, World, sha256};
use ferrogate_api::Value;
use ferrogate_api::ecr::*;
use jiff::SignedDuration;
use reqwest::StatusCode;
use serde_json::json;

fn name(name: &str) -> Option<String> {
    Some(name.to_owned())
}

fn by_tag(tag: &str) -> ImageIdentifier {
    ImageIdentifier { image_tag: name(tag), image_digest: None }
}

fn by_digest(digest: &str) -> ImageIdentifier {
    ImageIdentifier { image_digest: name(digest), image_tag: None }
}

async fn describe(world: &World, ids: Option<Vec<ImageIdentifier>>) -> Vec<ImageDetail> {
    let input = DescribeImagesRequest { repository_name: name("app"), image_ids: ids, ..Default::default() };
    world.service.describe_images(&world.cx(), input).await.unwrap().image_details.unwrap()
}

#[tokio::test]
async fn repositories() {
    let world = World::new().await;
    let (service, cx) = (&world.service, world.cx());
    let made = world.create("team/web").await;
    let port = world.address.port();
    assert_eq!(
        made.repository_arn.as_deref(),
        Some("arn:aws:ecr:us-east-1:123456789012:repository/team/web")
    );
    let uri = format!("{ACCOUNT}.dkr.ecr.us-east-1.localhost:{port}/team/web");
    assert_eq!(made.repository_uri, Some(uri));
    assert_eq!(made.image_tag_mutability.as_deref(), Some("MUTABLE"));
    assert_eq!(made.encryption_configuration.unwrap().encryption_type.as_deref(), Some("AES256"));

    let again = CreateRepositoryRequest { repository_name: name("app"), ..Default::default() };
    let error = service.create_repository(&cx, again).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "RepositoryAlreadyExistsException: The repository with name 'app' already exists in the registry with id '123456789012'"
    );
    let kms = EncryptionConfiguration { encryption_type: name("KMS"), kms_key: None };
    let input = CreateRepositoryRequest {
        repository_name: name("kms"),
        encryption_configuration: Some(kms),
        ..Default::default()
    };
    assert_eq!(service.create_repository(&cx, input).await.unwrap_err().code, "InvalidParameterException");

    let page =
        |token| DescribeRepositoriesRequest { max_results: Some(1), next_token: token, ..Default::default() };
    let first = service.describe_repositories(&cx, page(None)).await.unwrap();
    let second = service.describe_repositories(&cx, page(first.next_token)).await.unwrap();
    assert_eq!(first.repositories.unwrap()[0].repository_name.as_deref(), Some("app"));
    assert_eq!(second.repositories.unwrap()[0].repository_name.as_deref(), Some("team/web"));
    assert_eq!(second.next_token, None);
    assert!(service.describe_repositories(&cx, page(name("bad"))).await.is_err());
    for (registry, expected) in [(None, ACCOUNT), (name("999999999999"), "999999999999")] {
        let names = Some(vec!["none".to_owned()]);
        let input = DescribeRepositoriesRequest {
            repository_names: names,
            registry_id: registry,
            ..Default::default()
        };
        let error = service.describe_repositories(&cx, input).await.unwrap_err();
        let text = format!(
            "RepositoryNotFoundException: The repository with name 'none' does not exist in the registry with id '{expected}'"
        );
        assert_eq!(error.to_string(), text);
    }

    world.image("app", "1", "content").await;
    let delete = |force| DeleteRepositoryRequest { repository_name: name("app"), force, registry_id: None };
    let error = service.delete_repository(&cx, delete(None)).await.unwrap_err();
    assert_eq!(error.code, "RepositoryNotEmptyException");
    assert!(world.files() > 0);
    service.delete_repository(&cx, delete(Some(true))).await.unwrap();
    assert_eq!(
        service.delete_repository(&cx, delete(None)).await.unwrap_err().code,
        "RepositoryNotFoundException"
    );
    // Its files go, and one made anew has nothing of it.
    world.activate("ecr-sweep").await;
    assert_eq!(world.files(), 0);
    world.create("app").await;
    assert!(describe(&world, None).await.is_empty());
}

#[tokio::test]
async fn tags_and_policies() {
    let world = World::new().await;
    let (service, cx) = (&world.service, world.cx());
    let arn = name("arn:aws:ecr:us-east-1:123456789012:repository/app");
    let tag = |key: &str| Tag { key: name(key), value: name("v") };
    let input = TagResourceRequest { resource_arn: arn.clone(), tags: Some(vec![tag("a"), tag("b")]) };
    service.tag_resource(&cx, input).await.unwrap();
    let input = UntagResourceRequest { resource_arn: arn.clone(), tag_keys: Some(vec!["a".into()]) };
    service.untag_resource(&cx, input).await.unwrap();
    let list = ListTagsForResourceRequest { resource_arn: arn.clone() };
    assert_eq!(service.list_tags_for_resource(&cx, list).await.unwrap().tags, Some(vec![tag("b")]));
    for (tags, code) in [
        (vec![tag("aws:x")], "InvalidTagParameterException"),
        ((0..51).map(|n| tag(&n.to_string())).collect(), "TooManyTagsException"),
    ] {
        let input = TagResourceRequest { resource_arn: arn.clone(), tags: Some(tags) };
        assert_eq!(service.tag_resource(&cx, input).await.unwrap_err().code, code);
    }

    let get = || GetRepositoryPolicyRequest { repository_name: name("app"), registry_id: None };
    assert_eq!(
        service.get_repository_policy(&cx, get()).await.unwrap_err().code,
        "RepositoryPolicyNotFoundException"
    );
    let set = |text: &str, force| SetRepositoryPolicyRequest {
        repository_name: name("app"),
        policy_text: name(text),
        force,
        registry_id: None,
    };
    assert_eq!(
        service.set_repository_policy(&cx, set("{}", None)).await.unwrap_err().code,
        "InvalidParameterException"
    );
    let statement = |effect: &str, action: &str| {
        json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": effect, "Principal": "*", "Action": action,
        }]})
        .to_string()
    };
    let lock = statement("Deny", "ecr:*");
    assert_eq!(
        service.set_repository_policy(&cx, set(&lock, None)).await.unwrap_err().code,
        "InvalidParameterException"
    );
    service.set_repository_policy(&cx, set(&lock, Some(true))).await.unwrap();
    let open = statement("Allow", "ecr:BatchGetImage");
    service.set_repository_policy(&cx, set(&open, None)).await.unwrap();
    assert_eq!(service.get_repository_policy(&cx, get()).await.unwrap().policy_text, Some(open.clone()));
    // It has a say, and so have the tags.
    let input = Value::Struct(vec![("repositoryName", Value::String("app".into()))]);
    let demands = service.demands(&cx, "BatchGetImage", &input);
    assert_eq!((demands.len(), &demands[0].resource_policy), (1, &Some(open)));
    assert!(demands[0].context.contains(&("aws:ResourceTag/b".into(), vec!["v".into()])));
    let delete = DeleteRepositoryPolicyRequest { repository_name: name("app"), registry_id: None };
    service.delete_repository_policy(&cx, delete).await.unwrap();
    assert!(service.get_repository_policy(&cx, get()).await.is_err());
}

#[tokio::test]
async fn immutable_tags() {
    let world = World::new().await;
    let (service, cx) = (&world.service, world.cx());
    let set = async |mutability: &str, filters: &[&str]| {
        let filters: Vec<_> = filters
            .iter()
            .map(|filter| ImageTagMutabilityExclusionFilter {
                filter_type: name("WILDCARD"),
                filter: name(filter),
            })
            .collect();
        let input = PutImageTagMutabilityRequest {
            repository_name: name("app"),
            image_tag_mutability: name(mutability),
            image_tag_mutability_exclusion_filters: (!filters.is_empty()).then_some(filters),
            registry_id: None,
        };
        service.put_image_tag_mutability(&cx, input).await
    };
    let push = async |tag: &str, content: &str| {
        let manifest = world.manifest_of("app", content).await.to_string();
        let input = PutImageRequest {
            repository_name: name("app"),
            image_manifest: Some(manifest),
            image_tag: name(tag),
            ..Default::default()
        };
        service.put_image(&cx, input).await.map(drop).map_err(|error| error.to_string())
    };
    push("1", "a").await.unwrap();
    push("1", "b").await.unwrap();
    let twice = push("1", "b").await.unwrap_err();
    assert!(twice.starts_with("ImageAlreadyExistsException: Image with digest 'sha256:"), "{twice}");
    assert!(twice.ends_with(
        "and tag '1' already exists in the repository with name 'app' in the registry with id '123456789012'"
    ));

    set("IMMUTABLE", &[]).await.unwrap();
    let expected = "ImageTagAlreadyExistsException: The image tag '1' already exists in the 'app' repository and cannot be \
                    overwritten because the tag is immutable.";
    assert_eq!(push("1", "c").await.unwrap_err(), expected);
    push("2", "c").await.unwrap();
    set("IMMUTABLE_WITH_EXCLUSION", &["latest*"]).await.unwrap();
    push("latest", "a").await.unwrap();
    push("latest", "b").await.unwrap();
    assert!(push("2", "a").await.is_err());
    set("MUTABLE_WITH_EXCLUSION", &["release-*"]).await.unwrap();
    push("2", "a").await.unwrap();
    push("release-1", "a").await.unwrap();
    assert!(push("release-1", "b").await.is_err());
    for (mutability, filters) in
        [("IMMUTABLE", &["x"][..]), ("MUTABLE_WITH_EXCLUSION", &[]), ("IMMUTABLE_WITH_EXCLUSION", &["***"])]
    {
        assert_eq!(set(mutability, filters).await.unwrap_err().code, "InvalidParameterException");
    }
}

#[tokio::test]
async fn images_are_described_listed_got_and_deleted() {
    let world = World::new().await;
    let (service, cx) = (&world.service, world.cx());
    let first = world.image("app", "a", "12345").await;
    world.image("app", "b", "12345").await;
    let second = world.image("app", "c", "1").await;
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        { "digest": first, "size": 1, "mediaType": OCI_MANIFEST }, { "digest": second, "size": 1, "mediaType": OCI_MANIFEST },
    ]});
    assert_eq!(world.put_manifest("app", "all", OCI_INDEX, &index).await.status(), StatusCode::CREATED);

    let details = describe(&world, Some(vec![by_tag("a"), by_digest(&first)])).await;
    assert_eq!(details.len(), 1);
    let config =
        json!({ "architecture": "amd64", "os": "linux", "comment": "12345" }).to_string().len() as i64;
    assert_eq!(details[0].image_size_in_bytes, Some(5 + config));
    assert_eq!(details[0].image_tags, Some(vec!["a".into(), "b".into()]));
    assert_eq!(details[0].artifact_media_type.as_deref(), Some("application/vnd.oci.image.config.v1+json"));
    assert_eq!(details[0].image_pushed_at, Some(cx.now));
    let all = describe(&world, Some(vec![by_tag("all")])).await;
    assert_eq!(all[0].image_size_in_bytes, details[0].image_size_in_bytes);
    let error = service
        .describe_images(
            &cx,
            DescribeImagesRequest {
                repository_name: name("app"),
                image_ids: Some(vec![by_tag("none")]),
                ..Default::default()
            },
        )
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "ImageNotFoundException: The image with imageId {imageDigest:'null', imageTag:'none'} does not exist within the \
         repository with name 'app' in the registry with id '123456789012'"
    );

    let list = async |status: Option<&str>| {
        let filter = ListImagesFilter { tag_status: status.map(str::to_owned), image_status: None };
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let input = ListImagesRequest {
                repository_name: name("app"),
                filter: Some(filter.clone()),
                max_results: Some(2),
                next_token: token,
                ..Default::default()
            };
            let page = service.list_images(&cx, input).await.unwrap();
            found.extend(page.image_ids.unwrap().into_iter().map(|id| id.image_tag.unwrap_or_default()));
            token = page.next_token;
            if token.is_none() {
                return found.join(",");
            }
        }
    };
    assert_eq!(list(None).await, "a,all,b,c");
    world.image("app", "c", "other").await;
    assert_eq!(list(Some("UNTAGGED")).await, "");
    assert_eq!(list(None).await.trim_start_matches(','), "a,all,b,c");

    let get = |ids: Vec<ImageIdentifier>, accepted: Option<Vec<String>>| BatchGetImageRequest {
        repository_name: name("app"),
        image_ids: Some(ids),
        accepted_media_types: accepted,
        ..Default::default()
    };
    let got = service
        .batch_get_image(&cx, get(vec![by_tag("a"), by_tag("none"), by_digest("x:1")], None))
        .await
        .unwrap();
    assert_eq!(sha256(got.images.unwrap()[0].image_manifest.as_ref().unwrap().as_bytes()), first);
    let codes: Vec<_> =
        got.failures.unwrap().into_iter().map(|failure| failure.failure_code.unwrap()).collect();
    assert_eq!(codes, ["ImageNotFound", "InvalidImageDigest"]);
    assert_eq!(describe(&world, Some(vec![by_tag("a")])).await[0].last_recorded_pull_time, Some(cx.now));
    let got =
        service.batch_get_image(&cx, get(vec![by_tag("a")], Some(vec![OCI_INDEX.into()]))).await.unwrap();
    assert_eq!((got.images.unwrap().len(), got.failures.unwrap().len()), (0, 1));

    let delete = async |id: ImageIdentifier| {
        let input = BatchDeleteImageRequest {
            repository_name: name("app"),
            image_ids: Some(vec![id]),
            ..Default::default()
        };
        let answer = service.batch_delete_image(&cx, input).await.unwrap();
        let failure = answer.failures.unwrap().pop().and_then(|failure| failure.failure_code);
        (answer.image_ids.unwrap().len(), failure)
    };
    assert_eq!(delete(by_digest(&first)).await, (0, name("ImageReferencedByManifestList")));
    assert_eq!(delete(by_tag("none")).await, (0, name("ImageNotFound")));
    let both = ImageIdentifier { image_digest: name(&second), image_tag: name("a") };
    assert_eq!(delete(both).await, (0, name("ImageTagDoesNotMatchDigest")));
    assert_eq!(delete(by_tag("all")).await, (1, None));
    assert_eq!(delete(by_digest(&first)).await, (2, None));
    assert_eq!(list(Some("TAGGED")).await, "c");
}

#[tokio::test]
async fn a_layer_in_parts() {
    let world = World::new().await;
    let (service, cx) = (&world.service, world.cx());
    let begin = InitiateLayerUploadRequest { repository_name: name("app"), registry_id: None };
    let upload = service.initiate_layer_upload(&cx, begin).await.unwrap().upload_id.unwrap();
    let part = |first: i64, bytes: &[u8]| UploadLayerPartRequest {
        repository_name: name("app"),
        upload_id: name(&upload),
        part_first_byte: Some(first),
        part_last_byte: Some(first + bytes.len() as i64 - 1),
        layer_part_blob: Some(bytes.to_vec()),
        registry_id: None,
    };
    let complete = |digest: &str| CompleteLayerUploadRequest {
        repository_name: name("app"),
        upload_id: name(&upload),
        layer_digests: Some(vec![digest.to_owned()]),
        registry_id: None,
    };
    let digest = sha256(b"onetwo");
    let error = service.complete_layer_upload(&cx, complete(&digest)).await.unwrap_err();
    assert_eq!(error.code, "EmptyUploadException");
    assert_eq!(service.upload_layer_part(&cx, part(0, b"one")).await.unwrap().last_byte_received, Some(2));
    let gap = service.upload_layer_part(&cx, part(9, b"two")).await.unwrap_err();
    assert_eq!(gap.code, "InvalidLayerPartException");
    assert!(gap.members.contains(&("lastValidByteReceived", Value::Int(2))));
    let short = UploadLayerPartRequest { part_last_byte: Some(99), ..part(3, b"two") };
    assert_eq!(service.upload_layer_part(&cx, short).await.unwrap_err().code, "InvalidParameterException");
    service.upload_layer_part(&cx, part(3, b"two")).await.unwrap();
    let wrong = service.complete_layer_upload(&cx, complete(&sha256(b"x"))).await.unwrap_err();
    assert_eq!(wrong.code, "InvalidLayerException");
    service.complete_layer_upload(&cx, complete(&digest)).await.unwrap();
    let gone = service.upload_layer_part(&cx, part(6, b"more")).await.unwrap_err();
    assert_eq!(gone.code, "UploadNotFoundException");

    let check = BatchCheckLayerAvailabilityRequest {
        repository_name: name("app"),
        layer_digests: Some(vec![digest.clone(), sha256(b"x"), "x:1".into()]),
        registry_id: None,
    };
    let checked = service.batch_check_layer_availability(&cx, check).await.unwrap();
    let told: Vec<_> =
        checked.layers.unwrap().into_iter().map(|layer| layer.layer_availability.unwrap()).collect();
    assert_eq!(told, ["AVAILABLE", "UNAVAILABLE"]);
    assert_eq!(checked.failures.unwrap()[0].failure_code.as_deref(), Some("InvalidLayerDigest"));

    // The URL alone is enough, for an hour.
    let ask = |digest: &str| GetDownloadUrlForLayerRequest {
        repository_name: name("app"),
        layer_digest: name(digest),
        registry_id: None,
    };
    let url = service.get_download_url_for_layer(&cx, ask(&digest)).await.unwrap().download_url.unwrap();
    let got = world.http.get(&url).send().await.unwrap();
    assert_eq!(got.text().await.unwrap(), "onetwo");
    let forged = url.replace("v1%2E", "v2%2E");
    assert_eq!(world.http.get(&forged).send().await.unwrap().status(), 403);
    world.clock.advance(SignedDuration::from_hours(1));
    assert_eq!(world.http.get(&url).send().await.unwrap().status(), 403);
    let missing = service.get_download_url_for_layer(&cx, ask(&sha256(b"x"))).await.unwrap_err();
    assert_eq!(missing.code, "LayersNotFoundException");
}

#[tokio::test]
async fn many_pushes_at_once_lose_nothing() {
    let world = World::new().await;
    let pushes = (0..8).map(|n| {
        let (world, tag) = (&world, format!("t{n}"));
        async move { world.image("app", &tag, &format!("content {}", n % 4)).await }
    });
    futures_util::future::join_all(pushes).await;
    let tags: Vec<_> =
        describe(&world, None).await.into_iter().flat_map(|image| image.image_tags.unwrap()).collect();
    assert_eq!(tags.len(), 8);
}

#[tokio::test]
async fn lifecycle_policies_expire_images_and_the_sweep_their_files() {
    let world = World::new().await;
    let service = &world.service;
    for n in 1..=3 {
        world.image("app", &format!("v{n}"), &format!("content {n}")).await;
        world.clock.advance(SignedDuration::from_hours(1));
    }
    let cx = world.cx();
    let text = json!({ "rules": [{
        "rulePriority": 1, "description": "one is enough",
        "selection": { "tagStatus": "tagged", "tagPatternList": ["v*"], "countType": "imageCountMoreThan", "countNumber": 1 },
        "action": { "type": "expire" },
    }]})
    .to_string();
    let put = |text: &str| PutLifecyclePolicyRequest {
        repository_name: name("app"),
        lifecycle_policy_text: name(text),
        registry_id: None,
    };
    let error = service.put_lifecycle_policy(&cx, put("{}")).await.unwrap_err();
    assert!(error.message.starts_with("Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: 'Lifecycle policy validation failure: "), "{error}");
    let get = || GetLifecyclePolicyRequest { repository_name: name("app"), registry_id: None };
    assert_eq!(
        service.get_lifecycle_policy(&cx, get()).await.unwrap_err().code,
        "LifecyclePolicyNotFoundException"
    );

    let ask = || GetLifecyclePolicyPreviewRequest { repository_name: name("app"), ..Default::default() };
    let error = service.get_lifecycle_policy_preview(&cx, ask()).await.unwrap_err();
    assert_eq!(error.code, "LifecyclePolicyPreviewNotFoundException");
    let start = StartLifecyclePolicyPreviewRequest {
        repository_name: name("app"),
        lifecycle_policy_text: name(&text),
        registry_id: None,
    };
    service.start_lifecycle_policy_preview(&cx, start).await.unwrap();
    let preview = service.get_lifecycle_policy_preview(&cx, ask()).await.unwrap();
    let mut tags: Vec<_> =
        preview.preview_results.unwrap().into_iter().flat_map(|image| image.image_tags.unwrap()).collect();
    tags.sort();
    assert_eq!(tags, ["v1", "v2"]);
    assert_eq!(preview.summary.unwrap().expiring_image_total_count, Some(2));

    // A preview does nothing; the policy does.
    world.activate("ecr-lifecycle").await;
    assert_eq!(describe(&world, None).await.len(), 3);
    service.put_lifecycle_policy(&cx, put(&text)).await.unwrap();
    world.activate("ecr-lifecycle").await;
    let left = describe(&world, None).await;
    assert_eq!((left.len(), left[0].image_tags.as_deref()), (1, Some(&["v3".to_owned()][..])));
    assert_eq!(service.get_lifecycle_policy(&cx, get()).await.unwrap().last_evaluated_at, Some(cx.now));

    // v3 has manifest, config and layer; v1's and v2's layers are past their grace.
    world.activate("ecr-sweep").await;
    assert_eq!(world.files(), 3);
    assert_eq!(world.get("/v2/app/manifests/v3").await.status(), 200);
    assert_eq!(world.get(&format!("/v2/app/blobs/{}", sha256(b"content 3"))).await.status(), 200);
    assert_eq!(world.get(&format!("/v2/app/blobs/{}", sha256(b"content 1"))).await.status(), 404);

    let delete = DeleteLifecyclePolicyRequest { repository_name: name("app"), registry_id: None };
    assert_eq!(service.delete_lifecycle_policy(&cx, delete).await.unwrap().lifecycle_policy_text, Some(text));
}

#[tokio::test]
async fn the_sweep_leaves_pushes_under_way_alone() {
    let world = World::new().await;
    let layer = world.blob("app", b"fresh").await;
    let begun = world.ask("POST", "/v2/app/blobs/uploads/").await;
    let at = common::header(&begun, "location").to_owned();
    world.activate("ecr-sweep").await;
    assert_eq!(world.ask("HEAD", &format!("/v2/app/blobs/{layer}")).await.status(), 200);
    assert_eq!(world.get(&at).await.status(), 204);
    world.clock.advance(SignedDuration::from_hours(24));
    world.activate("ecr-sweep").await;
    assert_eq!(world.ask("HEAD", &format!("/v2/app/blobs/{layer}")).await.status(), 404);
    assert_eq!(world.get(&at).await.status(), 404);
    assert_eq!(world.files(), 0);
}

#[tokio::test]
async fn nothing_is_said_to_be_scanned() {
    let world = World::new().await;
    let (service, cx) = (&world.service, world.cx());
    world.image("app", "1", "x").await;
    let start = StartImageScanRequest {
        repository_name: name("app"),
        image_id: Some(by_tag("1")),
        registry_id: None,
    };
    assert_eq!(service.start_image_scan(&cx, start).await.unwrap_err().code, "ValidationException");
    let ask = |id| DescribeImageScanFindingsRequest {
        repository_name: name("app"),
        image_id: Some(id),
        ..Default::default()
    };
    let error = service.describe_image_scan_findings(&cx, ask(by_tag("1"))).await.unwrap_err();
    assert_eq!(error.code, "ScanNotFoundException");
    let error = service.describe_image_scan_findings(&cx, ask(by_tag("2"))).await.unwrap_err();
    assert_eq!(error.code, "ImageNotFoundException");
    let enhanced = PutRegistryScanningConfigurationRequest { scan_type: name("ENHANCED"), rules: None };
    assert!(service.put_registry_scanning_configuration(&cx, enhanced).await.is_err());

    // Where it should have been, it is said that it was not: by the repository's setting, and by the registry's rules.
    let said = async |is: Option<&str>| {
        for ids in [None, Some(vec![by_tag("1")])] {
            let status = describe(&world, ids).await.remove(0).image_scan_status;
            assert_eq!(status.as_ref().and_then(|status| status.status.as_deref()), is);
            let words = status.and_then(|status| status.description).unwrap_or_default();
            assert_eq!(words.contains("no image scanner"), is.is_some(), "{words}");
        }
    };
    said(None).await;
    for (on_push, is) in [(true, Some("FAILED")), (false, None)] {
        let input = PutImageScanningConfigurationRequest {
            repository_name: name("app"),
            image_scanning_configuration: Some(ImageScanningConfiguration { scan_on_push: Some(on_push) }),
            registry_id: None,
        };
        service.put_image_scanning_configuration(&cx, input).await.unwrap();
        said(is).await;
    }
    for (filter, is) in [("other*", None), ("ap*", Some("FAILED"))] {
        let filter = ScanningRepositoryFilter { filter: name(filter), filter_type: name("WILDCARD") };
        let rule = RegistryScanningRule {
            scan_frequency: name("SCAN_ON_PUSH"),
            repository_filters: Some(vec![filter]),
        };
        let input =
            PutRegistryScanningConfigurationRequest { scan_type: name("BASIC"), rules: Some(vec![rule]) };
        service.put_registry_scanning_configuration(&cx, input).await.unwrap();
        said(is).await;
    }
}

#[tokio::test]
async fn a_restart_keeps_images_and_uploads() {
    let world = World::new().await;
    let digest = world.image("app", "1", "content").await;
    let begun = world.ask("POST", "/v2/app/blobs/uploads/").await;
    let id = common::header(&begun, "docker-upload-uuid").to_owned();
    let part = |first: i64, bytes: &[u8]| UploadLayerPartRequest {
        repository_name: name("app"),
        upload_id: name(&id),
        part_first_byte: Some(first),
        part_last_byte: Some(first + bytes.len() as i64 - 1),
        layer_part_blob: Some(bytes.to_vec()),
        registry_id: None,
    };
    world.service.upload_layer_part(&world.cx(), part(0, b"before ")).await.unwrap();
    let stray = world.dir.path().join("ecr/incoming/stray");
    std::fs::write(&stray, "left by a crash").unwrap();

    let options = ferrogate_ecr::EcrOptions::new(ACCOUNT, "http://127.0.0.1:4566", "us-east-1");
    let sealer = std::sync::Arc::new(ferrogate_store::Sealer::ephemeral());
    let store = std::sync::Arc::clone(&world.store);
    let again =
        ferrogate_ecr::EcrService::open(options, store, sealer, world.dir.path().join("ecr")).unwrap();
    assert!(!stray.exists());
    let cx = world.cx();
    let get = BatchGetImageRequest {
        repository_name: name("app"),
        image_ids: Some(vec![by_tag("1")]),
        ..Default::default()
    };
    let images = again.batch_get_image(&cx, get).await.unwrap().images.unwrap();
    assert_eq!(sha256(images[0].image_manifest.as_ref().unwrap().as_bytes()), digest);
    assert_eq!(again.upload_layer_part(&cx, part(7, b"after")).await.unwrap().last_byte_received, Some(11));
    let complete = CompleteLayerUploadRequest {
        repository_name: name("app"),
        upload_id: name(&id),
        layer_digests: Some(vec![sha256(b"before after")]),
        registry_id: None,
    };
    again.complete_layer_upload(&cx, complete).await.unwrap();
}

#[tokio::test]
async fn settings_and_the_registrys_policy() {
    let world = World::new().await;
    let (service, cx) = (&world.service, world.cx());
    let get = |setting: &str| GetAccountSettingRequest { name: name(setting) };
    let put =
        |setting: &str, value: &str| PutAccountSettingRequest { name: name(setting), value: name(value) };
    assert_eq!(service.get_account_setting(&cx, get("BLOB_MOUNTING")).await.unwrap().value, name("ENABLED"));
    service.put_account_setting(&cx, put("BLOB_MOUNTING", "DISABLED")).await.unwrap();
    assert_eq!(service.get_account_setting(&cx, get("BLOB_MOUNTING")).await.unwrap().value, name("DISABLED"));
    let digest = world.blob("app", b"x").await;
    world.create("other").await;
    let mount = format!("/v2/other/blobs/uploads/?mount={digest}&from=app");
    assert_eq!(world.ask("POST", &mount).await.status(), StatusCode::ACCEPTED);
    for (setting, value) in [("BLOB_MOUNTING", "MAYBE"), ("REGISTRY_POLICY_SCOPE", "V2"), ("OTHER", "x")] {
        assert_eq!(
            service.put_account_setting(&cx, put(setting, value)).await.unwrap_err().code,
            "InvalidParameterException"
        );
    }
    let error = service.get_registry_policy(&cx, Default::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "RegistryPolicyNotFoundException: Registry policy does not exist in the registry with id '123456789012'"
    );
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": "*", "Action": "ecr:CreateRepository", "Resource": "*",
    }]})
    .to_string();
    let input = PutRegistryPolicyRequest { policy_text: name(&policy) };
    service.put_registry_policy(&cx, input).await.unwrap();
    let input = Value::Struct(vec![("repositoryName", Value::String("new".into()))]);
    assert_eq!(service.demands(&cx, "CreateRepository", &input)[0].resource_policy, Some(policy.clone()));
    let deleted = service.delete_registry_policy(&cx, Default::default()).await.unwrap();
    assert_eq!(deleted.policy_text, Some(policy));
    // Replication is refused, nothing of it is kept.
    let rules = ReplicationConfiguration { rules: Some(vec![ReplicationRule::default()]) };
    let input = PutReplicationConfigurationRequest { replication_configuration: Some(rules) };
    assert_eq!(
        service.put_replication_configuration(&cx, input).await.unwrap_err().code,
        "InvalidParameterException"
    );
}
