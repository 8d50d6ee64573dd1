//! AssumeRole by the trait, with an identity that the test makes up.

use std::sync::Arc;

use ferrogate_api::sts::*;
use ferrogate_api::{ApiError, Context, Principal, PrincipalKind};
use ferrogate_front::{Credential, CredentialError, Identity, PrincipalPolicies, Role, Secret};
use ferrogate_policy::{DocumentKind, Named, Policy};
use ferrogate_store::Sealer;
use ferrogate_sts::StsService;
use jiff::Timestamp;

const ACCOUNT: &str = "123456789012";
const ROLE: &str = "arn:aws:iam::123456789012:role/team/worker";
const ALICE: &str = "arn:aws:iam::123456789012:user/alice";

/// One role with this trust policy, and callers with these rights.
struct Fixed {
    trust: String,
    allowed: Option<&'static str>,
}

impl Identity for Fixed {
    fn credential(&self, id: &str, _: Option<&str>, _: Timestamp) -> Result<Credential, CredentialError> {
        match id {
            "AKIAKNOWN" => Ok(Credential { secret: Secret::new("s"), principal: Arc::new(alice()) }),
            _ => Err(CredentialError::Unknown),
        }
    }

    fn policies(&self, _: &Principal) -> PrincipalPolicies {
        let identity = self.allowed.map(|action| {
            let text = format!(r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":"*"}}]}}"#);
            Named { name: "p".into(), policy: Policy::parse(&text, DocumentKind::Identity).unwrap() }
        });
        PrincipalPolicies { identity: identity.into_iter().collect(), boundary: None }
    }

    fn role(&self, role_arn: &str) -> Option<Role> {
        (role_arn == ROLE).then(|| Role {
            arn: ROLE.into(),
            name: "worker".into(),
            role_id: "AROAWORKER".into(),
            account: ACCOUNT.into(),
            trust: Named {
                name: "trust".into(),
                policy: Policy::parse(&self.trust, DocumentKind::Trust).unwrap(),
            },
            max_session_seconds: 7200,
            tags: vec![("Team".into(), "role".into()), ("kept".into(), "role".into())],
        })
    }
}

fn alice() -> Principal {
    Principal {
        arn: ALICE.into(),
        account: ACCOUNT.into(),
        user_id: "AIDAALICE".into(),
        kind: PrincipalKind::User { name: "alice".into() },
        tags: Vec::new(),
    }
}

fn cx(principal: Principal) -> Context {
    Context {
        account: ACCOUNT.into(),
        region: "us-east-1".into(),
        request_id: "r".into(),
        principal: Arc::new(principal),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now: Timestamp::from_second(1_795_000_000).unwrap(),
    }
}

/// A trust policy for `principal`, with more text behind the action.
fn trust(principal: &str, more: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{{principal}}},"Action":["sts:AssumeRole","sts:TagSession"]{more}}}]}}"#
    )
}

fn service(trust: String, allowed: Option<&'static str>) -> (StsService, Arc<Sealer>) {
    let sealer = Arc::new(Sealer::ephemeral());
    (StsService::new(ACCOUNT, Arc::new(Fixed { trust, allowed }), Arc::clone(&sealer)), sealer)
}

fn request() -> AssumeRoleRequest {
    AssumeRoleRequest {
        role_arn: Some(ROLE.into()),
        role_session_name: Some("session".into()),
        ..AssumeRoleRequest::default()
    }
}

fn is_denied(result: Result<AssumeRoleResponse, ApiError>) {
    let error = result.expect_err("it is denied");
    assert_eq!((error.code.as_str(), error.status), ("AccessDenied", Some(403)));
    assert!(
        error.message.starts_with(&format!("User: {ALICE} is not authorized to perform: sts:")),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn trust_and_rights() {
    let account = trust(r#""AWS":"123456789012""#, "");
    let user = trust(&format!(r#""AWS":"{ALICE}""#), "");
    let other = trust(r#""AWS":"arn:aws:iam::123456789012:user/bob""#, "");
    let service_only = trust(r#""Service":"ecs-tasks.amazonaws.com""#, "");
    let as_alice = cx(alice());
    for (trust, allowed, may) in [
        (&account, Some("sts:*"), true),
        // The account is trusted, which leaves it to the account's own policies.
        (&account, None, false),
        (&account, Some("ecs:*"), false),
        // The very user is trusted.
        (&user, None, true),
        (&other, Some("sts:*"), false),
        (&service_only, Some("sts:*"), false),
    ] {
        let (sts, _) = service(trust.clone(), allowed);
        let result = Sts::assume_role(&sts, &as_alice, request()).await;
        if may { drop(result.unwrap()) } else { is_denied(result) }
    }
    let (sts, _) = service(account, Some("sts:*"));
    let absent = AssumeRoleRequest { role_arn: Some(format!("{ROLE}x")), ..request() };
    is_denied(Sts::assume_role(&sts, &as_alice, absent).await);
    let root = Principal { kind: PrincipalKind::Root, ..alice() };
    let error = Sts::assume_role(&sts, &cx(root), request()).await.unwrap_err();
    assert_eq!(error.message, "Roles may not be assumed by root accounts.");
}

#[tokio::test]
async fn what_is_no_arn_of_a_role_is_invalid_whoever_asks() {
    let (sts, _) = service(trust(r#""AWS":"123456789012""#, ""), Some("sts:*"));
    let root = Principal { kind: PrincipalKind::Root, ..alice() };
    for arn in [
        "not-an-arn-at-all-but-long",
        "arn:aws:iam::123456789012:user/alice",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::123456789012:role/a b",
        "arn:aws:iam::1234:role/application",
        "arn:aws:iam:us-east-1:123456789012:role/x",
        "arn:aws:sts::123456789012:assumed-role/x/y",
    ] {
        for principal in [alice(), root.clone()] {
            let input = AssumeRoleRequest { role_arn: Some(arn.into()), ..request() };
            let error = Sts::assume_role(&sts, &cx(principal), input).await.expect_err(arn);
            assert_eq!(
                (&*error.code, &*error.message),
                ("ValidationError", "Request ARN is invalid"),
                "{arn}"
            );
        }
    }
    // One with a path, or of another account, is one that is not there for this caller.
    for arn in ["arn:aws:iam::123456789012:role/a/b/c", "arn:aws-cn:iam::210987654321:role/x"] {
        let input = AssumeRoleRequest { role_arn: Some(arn.into()), ..request() };
        let error = Sts::assume_role(&sts, &cx(alice()), input).await.expect_err(arn);
        assert_eq!(error.code, "AccessDenied", "{arn}");
    }
}

#[tokio::test]
async fn conditions_of_the_trust_policy() {
    for (condition, input, may) in [
        (
            r#""StringEquals":{"sts:ExternalId":"id"}"#,
            AssumeRoleRequest { external_id: Some("id".into()), ..request() },
            true,
        ),
        (
            r#""StringEquals":{"sts:ExternalId":"id"}"#,
            AssumeRoleRequest { external_id: Some("no".into()), ..request() },
            false,
        ),
        (r#""StringEquals":{"sts:ExternalId":"id"}"#, request(), false),
        (r#""StringEquals":{"sts:RoleSessionName":"session"}"#, request(), true),
        (r#""StringEquals":{"sts:RoleSessionName":"other"}"#, request(), false),
        (r#""StringEquals":{"iam:ResourceTag/Team":"role"}"#, request(), true),
        (r#""StringEquals":{"aws:ResourceTag/Team":"other"}"#, request(), false),
    ] {
        let more = format!(r#","Condition":{{{condition}}}"#);
        let (sts, _) = service(trust(r#""AWS":"123456789012""#, &more), Some("sts:*"));
        let result = Sts::assume_role(&sts, &cx(alice()), input).await;
        if may { drop(result.expect(condition)) } else { is_denied(result) }
    }
}

#[tokio::test]
async fn what_a_session_is() {
    let (sts, sealer) = service(trust(r#""AWS":"123456789012""#, ""), Some("sts:*"));
    let policy =
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ecs:*","Resource":"*"}]}"#;
    let input = AssumeRoleRequest {
        policy: Some(policy.into()),
        tags: Some(vec![Tag { key: Some("team".into()), value: Some("session".into()) }]),
        duration_seconds: Some(900),
        ..request()
    };
    let cx = cx(alice());
    let answer = Sts::assume_role(&sts, &cx, input).await.unwrap();
    assert_eq!(
        answer.assumed_role_user.unwrap().arn.as_deref(),
        Some("arn:aws:sts::123456789012:assumed-role/worker/session")
    );
    assert!(answer.packed_policy_size.unwrap() > 0);
    let issued = answer.credentials.unwrap();
    assert_eq!(issued.expiration.unwrap().as_second() - cx.now.as_second(), 900);
    let id = issued.access_key_id.unwrap();
    let opened = ferrogate_sts::credential(&sealer, &id, issued.session_token.as_deref(), cx.now).unwrap();
    assert_eq!(opened.secret.expose(), issued.secret_access_key.unwrap());
    assert_eq!(opened.principal.user_id, "AROAWORKER:session");
    // Session tags come before the role's.
    let tags = [("team".to_owned(), "session".to_owned()), ("kept".to_owned(), "role".to_owned())];
    assert_eq!(opened.principal.tags, tags);
    let PrincipalKind::AssumedRole { session_policies, .. } = &opened.principal.kind else {
        panic!("it is a session")
    };
    assert_eq!(session_policies, &[policy.to_owned()]);
    // Another installation's sealer knows nothing of it.
    let stranger =
        ferrogate_sts::credential(&Sealer::ephemeral(), &id, issued.session_token.as_deref(), cx.now);
    assert_eq!(stranger.unwrap_err(), CredentialError::InvalidToken);
}

#[tokio::test]
async fn tagging_a_session_needs_its_own_permission() {
    let only = trust(r#""AWS":"123456789012""#, "").replace(r#","sts:TagSession""#, "");
    let (sts, _) = service(only, Some("sts:*"));
    let tagged = AssumeRoleRequest {
        tags: Some(vec![Tag { key: Some("a".into()), value: Some("b".into()) }]),
        ..request()
    };
    is_denied(Sts::assume_role(&sts, &cx(alice()), tagged).await);
    Sts::assume_role(&sts, &cx(alice()), request()).await.unwrap();
}

#[tokio::test]
async fn refusals() {
    let (sts, _) = service(trust(r#""AWS":"123456789012""#, ""), Some("sts:*"));
    let chained = Principal {
        kind: PrincipalKind::AssumedRole {
            role_arn: ROLE.into(),
            session_name: "s".into(),
            session_policies: Vec::new(),
        },
        ..alice()
    };
    let seconds = |seconds| AssumeRoleRequest { duration_seconds: Some(seconds), ..request() };
    for (principal, input, code) in [
        (alice(), seconds(7201), "ValidationError"),
        (chained.clone(), seconds(3601), "ValidationError"),
        (alice(), AssumeRoleRequest { policy: Some("{".into()), ..request() }, "MalformedPolicyDocument"),
        (
            alice(),
            AssumeRoleRequest {
                policy: Some(format!(
                    r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"a:{}","Resource":"*"}}]}}"#,
                    "b".repeat(2048)
                )),
                ..request()
            },
            "PackedPolicyTooLarge",
        ),
        (
            alice(),
            AssumeRoleRequest {
                tags: Some(
                    ["a", "A"].map(|key| Tag { key: Some(key.into()), value: Some("v".into()) }).into(),
                ),
                ..request()
            },
            "InvalidParameterValue",
        ),
        (
            alice(),
            AssumeRoleRequest { serial_number: Some("arn:aws:iam::1:mfa/x".into()), ..request() },
            "ValidationError",
        ),
    ] {
        let error = Sts::assume_role(&sts, &cx(principal), input).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
    }
    Sts::assume_role(&sts, &cx(alice()), seconds(7200)).await.unwrap();
    Sts::assume_role(&sts, &cx(chained), seconds(3600)).await.unwrap();
    let info = |id: &str| GetAccessKeyInfoRequest { access_key_id: Some(id.into()) };
    assert_eq!(
        Sts::get_access_key_info(&sts, &cx(alice()), info("AKIAKNOWN")).await.unwrap().account.as_deref(),
        Some(ACCOUNT)
    );
    assert_eq!(
        Sts::get_access_key_info(&sts, &cx(alice()), info("AKIAOTHER")).await.unwrap_err().code,
        "InvalidClientTokenId"
    );
}
