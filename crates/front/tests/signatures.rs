//! Who is let in: every way a signature can be wrong, in the words of each family of services.

mod support;

use ferrogate_front::Limits;
use jiff::SignedDuration;
use support::{Call, House, credentials, statement};

const MINUTES: fn(i64) -> SignedDuration = SignedDuration::from_mins;

/// One call to a service of each family, and what a wrong signature, an unknown key and an expired token are there.
fn families() -> [(Call, [(&'static str, u16); 3]); 4] {
    let query = [("SignatureDoesNotMatch", 403), ("InvalidClientTokenId", 403), ("ExpiredToken", 403)];
    [
        (
            Call::ecs("ListClusters", "{}"),
            [
                ("InvalidSignatureException", 400),
                ("UnrecognizedClientException", 400),
                ("ExpiredTokenException", 400),
            ],
        ),
        (Call::query("iam", "Action=ListUsers"), query),
        (Call::query("sts", "Action=GetCallerIdentity"), query),
        (
            Call::query("ec2", "Action=DescribeVpcs"),
            [("AuthFailure", 401), ("AuthFailure", 401), ("RequestExpired", 400)],
        ),
    ]
}

#[tokio::test]
async fn the_right_key_is_accepted_by_every_family() {
    let house = House::new().await;
    for (call, _) in families() {
        call.clone().by(&house.root()).send(&house).await.is_served();
        let mut over_http2 = call.by(&house.root());
        over_http2.http2 = true;
        over_http2.send(&house).await.is_served();
    }
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_key() {
    let house = House::new().await;
    let wrong = credentials(&house.root().access_key_id, "another/secret", None);
    let unknown = credentials("AKIAUNKNOWNUNKNOWNUN", "x", None);
    for (call, [mismatch, no_key, _]) in families() {
        call.clone().by(&wrong).send(&house).await.is_refused(mismatch.0, mismatch.1);
        call.by(&unknown).send(&house).await.is_refused(no_key.0, no_key.1);
    }
}

#[tokio::test]
async fn what_was_changed_on_the_way() {
    let house = House::new().await;
    for (call, [mismatch, ..]) in families() {
        let call = call.by(&house.root());
        let more: &[u8] = if call.service == "ecs" { b" " } else { b"&Marker=1" };
        let refused = [
            call.clone().tampered(&house, |call| call.body.extend_from_slice(more)).await,
            call.clone().tampered(&house, |call| call.query = "a=b".into()).await,
            call.clone().tampered(&house, |call| call.path = "/other".into()).await,
            call.clone()
                .tampered(&house, |call| call.set("content-type", "application/x-www-form-urlencoded"))
                .await,
            // Unsigned, it could change what the request means.
            call.clone().tampered(&house, |call| call.set("x-amz-extra", "1")).await,
        ];
        for answer in refused {
            answer.is_refused(mismatch.0, mismatch.1);
        }
        let other_target = call.tampered(&house, |call| {
            call.set("x-amz-target", "AmazonEC2ContainerServiceV20141113.DeleteCluster")
        });
        assert_ne!(other_target.await.status, 200);
    }
    assert!(house.trail.of("DeleteCluster").is_empty());
}

#[tokio::test]
async fn clocks_that_differ() {
    let house = House::new().await;
    for (call, [mismatch, ..]) in families() {
        let call = call.by(&house.root());
        call.clone().signed_ago(MINUTES(4)).send(&house).await.is_served();
        call.clone().signed_ago(MINUTES(-4)).send(&house).await.is_served();
        call.clone().signed_ago(MINUTES(6)).send(&house).await.is_refused(mismatch.0, mismatch.1);
        call.signed_ago(MINUTES(-6)).send(&house).await.is_refused(mismatch.0, mismatch.1);
    }
}

#[tokio::test]
async fn presigned_requests() {
    let house = House::new().await;
    let mut call = Call::query("sts", "").by(&house.root());
    call.method = "GET";
    call.body.clear();
    call.headers.clear();
    call.query = "Action=GetCallerIdentity&Version=2011-06-15".into();
    call.expires_seconds = Some(600);
    call.clone().signed_ago(MINUTES(9)).send(&house).await.is_served();
    call.clone().signed_ago(MINUTES(11)).send(&house).await.is_refused("SignatureDoesNotMatch", 403);
    let longer = call.clone().tampered(&house, |call| {
        call.query = call.query.replace("X-Amz-Expires=600", "X-Amz-Expires=60000");
    });
    longer.await.is_refused("SignatureDoesNotMatch", 403);
    let other =
        call.tampered(&house, |call| call.query = call.query.replace("GetCallerIdentity", "GetSessionToken"));
    other.await.is_refused("SignatureDoesNotMatch", 403);
}

#[tokio::test]
async fn without_or_with_half_a_signature() {
    let house = House::new().await;
    Call::ecs("ListClusters", "{}").send(&house).await.is_refused("MissingAuthenticationTokenException", 400);
    Call::query("iam", "Action=ListUsers").send(&house).await.is_refused("MissingAuthenticationToken", 403);
    Call::query("ec2", "Action=DescribeVpcs")
        .send(&house)
        .await
        .is_refused("MissingAuthenticationToken", 403);
    let mut half = Call::query("iam", "Action=ListUsers");
    half.set("authorization", "AWS4-HMAC-SHA256 Credential=a/b");
    half.send(&house).await.is_refused("IncompleteSignature", 400);
    // Operations that nobody signs are let through to their service.
    let mut call = Call::query(
        "sts",
        "Action=AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::123456789012:role/r&RoleSessionName=ss&WebIdentityToken=tttttttt",
    );
    call.send(&house).await.is_refused("NotImplementedException", 501);
    assert_eq!(house.trail.of("AssumeRoleWithWebIdentity")[0].user_identity["type"], "Unknown");
    // Unknown operations say so, whoever asks.
    call = Call::ecs("DoWhatIMean", "{}");
    call.clone().send(&house).await.is_refused("UnknownOperationException", 400);
    call.by(&house.root()).send(&house).await.is_refused("UnknownOperationException", 400);
    Call::query("ec2", "Action=DoWhatIMean")
        .by(&house.root())
        .send(&house)
        .await
        .is_refused("InvalidAction", 400);
}

#[tokio::test]
async fn a_signature_is_good_for_its_service() {
    let house = House::new().await;
    let mut call = Call::ecs("ListClusters", "{}").by(&house.root());
    call.service = "ecr";
    call.send(&house).await.is_refused("InvalidSignatureException", 400);
    let mut call = Call::query("iam", "Action=ListUsers").by(&house.root());
    call.service = "sts";
    assert_ne!(call.send(&house).await.status, 200);
    let mut call = Call::query("iam", "Action=ListUsers").by(&house.root());
    call.service = "nosuchservice";
    call.send(&house).await.is_refused("NotImplementedException", 501);
}

#[tokio::test]
async fn the_path_that_is_signed_is_the_path_that_is_served() {
    let house = House::new().await;
    // `//a/..//` is signed as `/`, and served as that.
    let mut call = Call::query("sts", "Action=GetCallerIdentity").by(&house.root());
    call.path = "//a/..//".into();
    call.send(&house).await.is_served();
}

#[tokio::test]
async fn keys_end_with_their_user() {
    let house = House::new().await;
    let key = house.user("alice").await;
    let me = || Call::query("sts", "Action=GetCallerIdentity").by(&key);
    assert_eq!(me().send(&house).await.element("Arn"), "arn:aws:iam::123456789012:user/alice");

    let id = &key.access_key_id;
    house
        .query("iam", &format!("Action=UpdateAccessKey&UserName=alice&AccessKeyId={id}&Status=Inactive"))
        .await;
    me().send(&house).await.is_refused("InvalidClientTokenId", 403);
    house
        .query("iam", &format!("Action=UpdateAccessKey&UserName=alice&AccessKeyId={id}&Status=Active"))
        .await;
    me().send(&house).await.is_served();
    // A long-term key has no session token.
    let with_token = credentials(id, &key.secret_access_key, Some("token".into()));
    Call::query("sts", "Action=GetCallerIdentity")
        .by(&with_token)
        .send(&house)
        .await
        .is_refused("InvalidClientTokenId", 403);

    house.query("iam", "Action=UpdateUser&UserName=alice&NewUserName=Bob&NewPath=/x/").await;
    assert_eq!(me().send(&house).await.element("Arn"), "arn:aws:iam::123456789012:user/x/Bob");

    house.query("iam", &format!("Action=DeleteAccessKey&UserName=bob&AccessKeyId={id}")).await;
    house.query("iam", "Action=DeleteUser&UserName=bob").await;
    house.query("iam", "Action=CreateUser&UserName=bob").await;
    me().send(&house).await.is_refused("InvalidClientTokenId", 403);
    for (call, [_, no_key, _]) in families() {
        call.by(&key).send(&house).await.is_refused(no_key.0, no_key.1);
    }
}

#[tokio::test]
async fn sessions_end_with_their_time_and_their_role() {
    let house = House::new().await;
    let user = house.user("alice").await;
    house.allow("alice", &statement("Allow", "sts:*")).await;
    house.role("worker", &statement("Allow", "*")).await;
    let session = house.session(&user, "worker", "&DurationSeconds=900").await;
    for (call, [_, no_key, expired]) in families() {
        call.clone().by(&session).send(&house).await.is_served();
        let without = credentials(&session.access_key_id, &session.secret_access_key, None);
        call.clone().by(&without).send(&house).await.is_refused(no_key.0, no_key.1);
        let other = house.session(&user, "worker", "").await;
        let mixed = credentials(&session.access_key_id, &session.secret_access_key, other.session_token);
        call.clone().by(&mixed).send(&house).await.is_refused(no_key.0, no_key.1);
        house.clock.advance(SignedDuration::from_secs(901));
        call.by(&session).send(&house).await.is_refused(expired.0, expired.1);
        house.clock.advance(SignedDuration::from_secs(-901));
    }
    house.query("iam", "Action=DeleteRolePolicy&RoleName=worker&PolicyName=p").await;
    house.query("iam", "Action=DeleteRole&RoleName=worker").await;
    let me = || Call::query("sts", "Action=GetCallerIdentity").by(&session);
    me().send(&house).await.is_refused("InvalidClientTokenId", 403);
    // One of the same name is another role.
    house.role("worker", &statement("Allow", "*")).await;
    me().send(&house).await.is_refused("InvalidClientTokenId", 403);
}

#[tokio::test]
async fn two_hundred_at_once() {
    let house = std::sync::Arc::new(House::with(Limits::default()).await);
    let calls = (0..200).map(|n| {
        let house = std::sync::Arc::clone(&house);
        tokio::spawn(async move {
            let call = if n % 2 == 0 {
                Call::ecs("ListClusters", "{}")
            } else {
                Call::query("iam", "Action=ListRoles")
            };
            call.by(&house.root()).send(&house).await.is_served();
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(house.trail.of("ListClusters").len() + house.trail.of("ListRoles").len(), 200);
}
