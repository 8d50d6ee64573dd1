//! The distribution specification's conformance cases, over HTTP: pull, push, content discovery, content management.

mod common;

use common::{ACCOUNT, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, World, code, header, sha256};
use jiff::SignedDuration;
use reqwest::StatusCode;
use serde_json::{Value as Json, json};

const NOWHERE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

#[tokio::test]
async fn nobody_comes_in_without_a_token() {
    let world = World::new().await;
    let response = world.http.get(world.url("/v2/")).send().await.unwrap();
    assert_eq!(response.status(), 401);
    let challenge = format!("Basic realm=\"http://{}/\",service=\"ecr.amazonaws.com\"", world.address);
    assert_eq!(header(&response, "www-authenticate"), challenge);
    assert_eq!(header(&response, "docker-distribution-api-version"), "registry/2.0");
    assert_eq!(code(response).await.1, "UNAUTHORIZED");

    assert_eq!(world.get("/v2/").await.status(), 200);
    for (user, password) in [("AWS", "v1.forged"), ("root", &world.token().await), ("AWS", "")] {
        let request = world.http.get(world.url("/v2/")).basic_auth(user, Some(password));
        assert_eq!(request.send().await.unwrap().status(), 401, "{user}");
    }
    let request = world.http.get(world.url("/v2/")).header("authorization", "Bearer x");
    assert_eq!(request.send().await.unwrap().status(), 401);

    let token = world.token().await;
    world.clock.advance(SignedDuration::from_hours(12));
    let late = world.http.get(world.url("/v2/")).basic_auth("AWS", Some(token)).send().await.unwrap();
    assert_eq!(code(late).await, (StatusCode::FORBIDDEN, "DENIED".into()));
}

#[tokio::test]
async fn pull() {
    let world = World::new().await;
    let digest = world.image("app", "1.0", "the layer").await;
    let layer = sha256(b"the layer");
    for reference in ["1.0", &digest] {
        let path = format!("/v2/app/manifests/{reference}");
        let head = world.ask("HEAD", &path).await;
        assert_eq!(head.status(), 200);
        let length = header(&head, "content-length").to_owned();
        assert_eq!(header(&head, "docker-content-digest"), digest);
        let got = world.get(&path).await;
        assert_eq!(header(&got, "content-type"), OCI_MANIFEST);
        let text = got.text().await.unwrap();
        assert_eq!((sha256(text.as_bytes()), text.len().to_string()), (digest.clone(), length));
    }
    let blob = format!("/v2/app/blobs/{layer}");
    let head = world.ask("HEAD", &blob).await;
    assert_eq!((head.status(), header(&head, "content-length")), (StatusCode::OK, "9"));
    let got = world.get(&blob).await;
    assert_eq!(header(&got, "docker-content-digest"), layer);
    assert_eq!(got.text().await.unwrap(), "the layer");
    // Resumed.
    let part = world.request("GET", &blob).await.header("range", "bytes=4-").send().await.unwrap();
    assert_eq!((part.status(), header(&part, "content-range")), (StatusCode::PARTIAL_CONTENT, "bytes 4-8/9"));
    assert_eq!(part.text().await.unwrap(), "layer");
    let outside = world.request("GET", &blob).await.header("range", "bytes=9-").send().await.unwrap();
    assert_eq!(outside.status(), 416);

    for (path, expected) in [
        ("/v2/app/manifests/none".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("/v2/app/manifests/{NOWHERE}"), "MANIFEST_UNKNOWN"),
        (format!("/v2/app/blobs/{NOWHERE}"), "BLOB_UNKNOWN"),
        ("/v2/other/manifests/1.0".to_owned(), "NAME_UNKNOWN"),
        ("/v2/_catalog".to_owned(), "NAME_INVALID"),
    ] {
        assert_eq!(code(world.get(&path).await).await, (StatusCode::NOT_FOUND, expected.into()), "{path}");
        if !path.ends_with("_catalog") {
            assert_eq!(world.ask("HEAD", &path).await.status(), 404, "{path}");
        }
    }
    let bad = code(world.get("/v2/app/blobs/sha256:..%2Fx").await).await;
    assert_eq!(bad, (StatusCode::BAD_REQUEST, "DIGEST_INVALID".into()));
}

#[tokio::test]
async fn push_in_chunks_and_resume() {
    let world = World::new().await;
    let content = b"0123456789abcdef";
    let digest = sha256(content);
    let begun = world.ask("POST", "/v2/app/blobs/uploads/").await;
    assert_eq!(begun.status(), 202);
    let at = header(&begun, "location").to_owned();
    assert!(at.starts_with("/v2/app/blobs/uploads/"), "{at}");

    let send = async |range: &str, bytes: &[u8]| {
        let request = world.request("PATCH", &at).await.header("content-range", range);
        request.header("content-type", "application/octet-stream").body(bytes.to_vec()).send().await.unwrap()
    };
    let first = send("0-7", &content[..8]).await;
    assert_eq!((first.status(), header(&first, "range")), (StatusCode::ACCEPTED, "0-7"));
    // Out of order, and twice.
    for (range, bytes) in [("12-15", &content[12..]), ("0-7", &content[..8])] {
        let refused = send(range, bytes).await;
        assert_eq!((refused.status(), header(&refused, "range")), (StatusCode::RANGE_NOT_SATISFIABLE, "0-7"));
    }
    // Not as long as it says, or no range at all.
    for range in ["8-12", "8-10", "8-18446744073709551615", "8", "8-", "nonsense", "11-8"] {
        let refused = send(range, &content[8..12]).await;
        assert_eq!(
            (refused.status(), header(&refused, "range")),
            (StatusCode::RANGE_NOT_SATISFIABLE, "0-7"),
            "{range}"
        );
        assert_eq!(code(refused).await.1, "BLOB_UPLOAD_INVALID", "{range}");
    }
    // Also where only the end of the body tells how long it is.
    let endless = reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(
        content[8..12].to_vec(),
    )]));
    let request = world.request("PATCH", &at).await.header("content-range", "8-10");
    assert_eq!(request.body(endless).send().await.unwrap().status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let status = world.get(&at).await;
    assert_eq!((status.status(), header(&status, "range")), (StatusCode::NO_CONTENT, "0-7"));
    assert_eq!(send("8-11", &content[8..12]).await.status(), 202);
    // A wrong digest is refused and loses nothing.
    let wrong = world.request("PUT", &format!("{at}?digest={NOWHERE}")).await.send().await.unwrap();
    assert_eq!(code(wrong).await, (StatusCode::BAD_REQUEST, "DIGEST_INVALID".into()));
    let finish = world.request("PUT", &format!("{at}?digest={digest}")).await;
    let done = finish.header("content-range", "12-15").body(content[12..].to_vec()).send().await.unwrap();
    assert_eq!(done.status(), 201, "{}", done.text().await.unwrap());
    assert_eq!(header(&done, "docker-content-digest"), digest);
    let place = header(&done, "location").to_owned();
    assert_eq!(world.get(&place).await.bytes().await.unwrap(), &content[..]);
    // It is over.
    assert_eq!(code(world.get(&at).await).await, (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN".into()));
}

#[tokio::test]
async fn push_whole_empty_twice_and_cancelled() {
    let world = World::new().await;
    // POST then PUT.
    let begun = world.ask("POST", "/v2/app/blobs/uploads/").await;
    let at = format!("{}?digest={}", header(&begun, "location"), sha256(b"body"));
    let done = world.request("PUT", &at).await.body("body").send().await.unwrap();
    assert_eq!(done.status(), 201);
    // One POST; what is there already; nothing at all.
    world.blob("app", b"body").await;
    let empty = world.blob("app", b"").await;
    assert_eq!(header(&world.ask("HEAD", &format!("/v2/app/blobs/{empty}")).await, "content-length"), "0");
    // Parts of more than one UploadLayerPart.
    let large = vec![7; (8 << 20) + 5];
    let digest = world.blob("app", &large).await;
    assert_eq!(world.get(&format!("/v2/app/blobs/{digest}")).await.bytes().await.unwrap(), large);
    let parts = world.inside.called.lock().unwrap().iter().filter(|name| *name == "UploadLayerPart").count();
    assert_eq!(parts, 5);

    let begun = world.ask("POST", "/v2/app/blobs/uploads/").await;
    let at = header(&begun, "location").to_owned();
    assert_eq!(world.ask("DELETE", &at).await.status(), 204);
    assert_eq!(world.get(&at).await.status(), 404);
    assert_eq!(world.ask("POST", "/v2/none/blobs/uploads/").await.status(), 404);
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    let world = World::new().await;
    world.create("other").await;
    let digest = world.blob("app", b"shared").await;
    let mounted = world.ask("POST", &format!("/v2/other/blobs/uploads/?mount={digest}&from=app")).await;
    assert_eq!(
        (mounted.status(), header(&mounted, "docker-content-digest")),
        (StatusCode::CREATED, &*digest)
    );
    let place = header(&mounted, "location").to_owned();
    assert_eq!(world.get(&place).await.text().await.unwrap(), "shared");
    // What cannot be mounted is to be uploaded.
    for (mount, from) in [(NOWHERE, "app"), (&*digest, "none")] {
        let response =
            world.ask("POST", &format!("/v2/other/blobs/uploads/?mount={mount}&from={from}")).await;
        assert_eq!(response.status(), 202);
    }
    world.inside.denied.lock().unwrap().insert("ecr:GetDownloadUrlForLayer".into());
    world.create("third").await;
    let response = world.ask("POST", &format!("/v2/third/blobs/uploads/?mount={digest}&from=app")).await;
    assert_eq!(response.status(), 202);
}

#[tokio::test]
async fn manifests_are_checked() {
    let world = World::new().await;
    let good = world.manifest_of("app", "x").await;
    let put = async |reference: &str, media_type: &str, manifest: &Json| {
        code(world.put_manifest("app", reference, media_type, manifest).await).await
    };
    let mut missing = good.clone();
    missing["layers"][0]["digest"] = NOWHERE.into();
    assert_eq!(
        put("1", OCI_MANIFEST, &missing).await,
        (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN".into())
    );
    assert_eq!(put("1", OCI_MANIFEST, &json!({})).await.1, "MANIFEST_INVALID");
    assert_eq!(put("1", DOCKER_MANIFEST, &good).await.1, "MANIFEST_INVALID");
    assert_eq!(put(NOWHERE, OCI_MANIFEST, &good).await, (StatusCode::BAD_REQUEST, "DIGEST_INVALID".into()));
    assert_eq!(put("-bad", OCI_MANIFEST, &good).await.1, "TAG_INVALID");
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        { "mediaType": OCI_MANIFEST, "digest": NOWHERE, "size": 1 },
    ]});
    assert_eq!(put("i", OCI_INDEX, &index).await.1, "MANIFEST_BLOB_UNKNOWN");

    // By digest, by tag, again; then an index of it, and Docker's own kind.
    let digest = sha256(good.to_string().as_bytes());
    for reference in [&digest, "1", "1"] {
        let response = world.put_manifest("app", reference, OCI_MANIFEST, &good).await;
        assert_eq!(response.status(), 201);
        assert_eq!(header(&response, "docker-content-digest"), digest);
        let place = header(&response, "location").to_owned();
        assert_eq!(world.get(&place).await.status(), 200);
    }
    let mut index = index;
    index["manifests"][0]["digest"] = digest.clone().into();
    assert_eq!(world.put_manifest("app", "i", OCI_INDEX, &index).await.status(), 201);
    let mut docker = good;
    docker["mediaType"] = DOCKER_MANIFEST.into();
    assert_eq!(world.put_manifest("app", "d", DOCKER_MANIFEST, &docker).await.status(), 201);
    let got = world.get("/v2/app/manifests/d").await;
    assert_eq!(header(&got, "content-type"), DOCKER_MANIFEST);
    // What an index names is kept.
    let kept = world.ask("DELETE", &format!("/v2/app/manifests/{digest}")).await;
    assert_eq!(code(kept).await, (StatusCode::FORBIDDEN, "DENIED".into()));
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let world = World::new().await;
    let empty: Json = world.get("/v2/app/tags/list").await.text().await.unwrap().parse().unwrap();
    assert_eq!(empty, json!({ "name": "app", "tags": [] }));
    for tag in ["b", "a", "c", "B"] {
        world.image("app", tag, "same").await;
    }
    let list = async |path: &str| {
        let response = world.get(path).await;
        let link = header(&response, "link").to_owned();
        let body: Json = response.text().await.unwrap().parse().unwrap();
        (body["tags"].to_string(), link)
    };
    assert_eq!(list("/v2/app/tags/list").await, (r#"["B","a","b","c"]"#.into(), String::new()));
    let (tags, link) = list("/v2/app/tags/list?n=2").await;
    assert_eq!((&*tags, &*link), (r#"["B","a"]"#, r#"</v2/app/tags/list?n=2&last=a>; rel="next""#));
    let next = link.trim_start_matches('<').split('>').next().unwrap();
    assert_eq!(list(next).await, (r#"["b","c"]"#.into(), String::new()));
    assert_eq!(list("/v2/app/tags/list?n=0").await.0, "[]");
    assert_eq!(world.get("/v2/app/tags/list?n=x").await.status(), 400);
    assert_eq!(world.get("/v2/none/tags/list").await.status(), 404);
}

#[tokio::test]
async fn referrers_are_found_and_filtered() {
    let world = World::new().await;
    let subject = world.image("app", "1", "subject").await;
    let mut found = Vec::new();
    for kind in ["application/sbom", "application/signature"] {
        let mut artifact = world.manifest_of("app", kind).await;
        artifact["artifactType"] = kind.into();
        artifact["subject"] = json!({ "mediaType": OCI_MANIFEST, "digest": subject, "size": 1 });
        artifact["annotations"] = json!({ "made": "by test" });
        let digest = sha256(artifact.to_string().as_bytes());
        let response = world.put_manifest("app", &digest, OCI_MANIFEST, &artifact).await;
        assert_eq!((response.status(), header(&response, "oci-subject")), (StatusCode::CREATED, &*subject));
        found.push((kind, digest, artifact.to_string().len()));
    }
    let response = world.get(&format!("/v2/app/referrers/{subject}")).await;
    assert_eq!((response.status(), header(&response, "content-type")), (StatusCode::OK, OCI_INDEX));
    let index: Json = response.text().await.unwrap().parse().unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let (kind, digest, size) = &found[1];
    let response = world.get(&format!("/v2/app/referrers/{subject}?artifactType={kind}")).await;
    assert_eq!(header(&response, "oci-filters-applied"), "artifactType");
    let index: Json = response.text().await.unwrap().parse().unwrap();
    let expected = json!([{
        "mediaType": OCI_MANIFEST, "digest": digest, "size": size, "artifactType": kind,
        "annotations": { "made": "by test" },
    }]);
    assert_eq!(index["manifests"], expected);
    // Of what is not there, and of what is no digest.
    let none: Json =
        world.get(&format!("/v2/app/referrers/{NOWHERE}")).await.text().await.unwrap().parse().unwrap();
    assert_eq!(none["manifests"], json!([]));
    assert_eq!(world.get("/v2/app/referrers/x").await.status(), 400);
}

#[tokio::test]
async fn tags_and_manifests_are_deleted_and_blobs_are_not() {
    let world = World::new().await;
    let digest = world.image("app", "1", "content").await;
    world.image("app", "2", "content").await;
    assert_eq!(world.ask("DELETE", "/v2/app/manifests/1").await.status(), 202);
    assert_eq!(world.get("/v2/app/manifests/1").await.status(), 404);
    assert_eq!(world.get("/v2/app/manifests/2").await.status(), 200);
    assert_eq!(world.ask("DELETE", &format!("/v2/app/manifests/{digest}")).await.status(), 202);
    for reference in ["2", &digest] {
        assert_eq!(world.get(&format!("/v2/app/manifests/{reference}")).await.status(), 404);
    }
    assert_eq!(world.ask("DELETE", "/v2/app/manifests/2").await.status(), 404);
    let blob = world.ask("DELETE", &format!("/v2/app/blobs/{}", sha256(b"content"))).await;
    assert_eq!(code(blob).await, (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED".into()));
}

#[tokio::test]
async fn every_step_is_a_call_that_can_be_denied() {
    let world = World::new().await;
    let digest = world.image("app", "1", "content").await;
    let layer = sha256(b"content");
    let begun = world.ask("POST", "/v2/app/blobs/uploads/").await;
    let upload = header(&begun, "location").to_owned();
    for (action, method, path) in [
        ("ecr:BatchGetImage", "GET", "/v2/app/manifests/1".to_owned()),
        ("ecr:GetDownloadUrlForLayer", "GET", format!("/v2/app/blobs/{layer}")),
        ("ecr:BatchCheckLayerAvailability", "GET", upload.clone()),
        ("ecr:InitiateLayerUpload", "POST", "/v2/app/blobs/uploads/".to_owned()),
        ("ecr:UploadLayerPart", "PATCH", upload.clone()),
        ("ecr:CompleteLayerUpload", "PUT", format!("{upload}?digest={layer}")),
        ("ecr:PutImage", "PUT", "/v2/app/manifests/2".to_owned()),
        ("ecr:BatchDeleteImage", "DELETE", format!("/v2/app/manifests/{digest}")),
        ("ecr:ListImages", "GET", "/v2/app/tags/list".to_owned()),
        ("ecr:DescribeImages", "GET", format!("/v2/app/referrers/{digest}")),
    ] {
        *world.inside.denied.lock().unwrap() = [action.to_owned()].into();
        let mut request = world.request(method, &path).await;
        if action == "ecr:PutImage" {
            let manifest =
                world.http.get(world.url("/v2/app/manifests/1")).basic_auth("AWS", Some(world.token().await));
            request = request.body(manifest.send().await.unwrap().text().await.unwrap());
        } else if action == "ecr:UploadLayerPart" {
            request = request.body("part");
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 403, "{action}");
        let text = response.text().await.unwrap();
        let user = format!("User: arn:aws:iam::{ACCOUNT}:user/alice is not authorized to perform: {action}");
        assert!(text.contains(&user) && text.contains("DENIED"), "{action}: {text}");
    }
}

#[tokio::test]
async fn a_registry_goes_by_three_names() {
    let world = World::new().await;
    world.image("app", "1", "content").await;
    let name = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com");
    let elsewhere = format!("{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com");
    let status = async |host: Option<&str>, path: &str| {
        let mut request = world.request("GET", path).await;
        if let Some(host) = host {
            request = request.header("host", host);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(None, "/v2/app/manifests/1").await, 200);
    assert_eq!(status(Some(&name), "/v2/app/manifests/1").await, 200);
    assert_eq!(
        status(Some(&name.replace("amazonaws.com", "localhost:4566")), "/v2/app/manifests/1").await,
        200
    );
    assert_eq!(status(None, &format!("/v2/{name}/app/manifests/1")).await, 200);
    // Another region has repositories of its own; another account has none.
    assert_eq!(status(None, &format!("/v2/{elsewhere}/app/manifests/1")).await, 404);
    assert_eq!(status(Some(&elsewhere), "/v2/app/manifests/1").await, 404);
    assert_eq!(
        status(Some("999999999999.dkr.ecr.us-east-1.amazonaws.com"), "/v2/app/manifests/1").await,
        404
    );
    // Who came by a path is sent on by it.
    let begun = world.ask("POST", &format!("/v2/{name}/app/blobs/uploads/")).await;
    assert!(header(&begun, "location").starts_with(&format!("/v2/{name}/app/blobs/uploads/")));
}

#[tokio::test]
async fn an_upload_is_its_owners() {
    let world = World::new().await;
    let begun = world.ask("POST", "/v2/app/blobs/uploads/").await;
    let at = header(&begun, "location").to_owned();
    let mut cx = world.cx();
    let mut bob = (*cx.principal).clone();
    bob.arn = bob.arn.replace("alice", "bob");
    cx.principal = std::sync::Arc::new(bob);
    let answer = ferrogate_api::ecr::Ecr::get_authorization_token(&*world.service, &cx, Default::default());
    let token = answer.await.unwrap().authorization_data.unwrap().remove(0).authorization_token.unwrap();
    for method in ["GET", "PATCH", "DELETE"] {
        let request = world.http.request(method.parse().unwrap(), world.url(&at));
        let response = request.header("authorization", format!("Basic {token}")).send().await.unwrap();
        assert_eq!(response.status(), 404, "{method}");
    }
    assert_eq!(world.get(&at).await.status(), 204);
}
