#![no_main]
//! Policy documents, and what they say to a few requests. A document never grants what another denies, and nobody gains
//! by a document of another kind.

use std::sync::{Arc, LazyLock};

use ferrogate_policy::{
    Context, DocumentKind, Named, Outcome, Policies, Policy, Principal, PrincipalKind, Request, evaluate,
    evaluate_trust, size_without_whitespace,
};
use jiff::Timestamp;

static DENY: LazyLock<Named> = LazyLock::new(|| {
    let text = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#;
    named("deny", Policy::parse(text, DocumentKind::Identity).expect("a policy"))
});

static CONTEXT: LazyLock<Context> = LazyLock::new(|| {
    let mut context = Context::new();
    context.set("aws:SourceIp", "10.1.2.3").set("aws:username", "*").set("aws:PrincipalTag/team", "a${*}b");
    context.set("ecs:cluster", "arn:aws:ecs:us-east-1:123456789012:cluster/default");
    context.set_all("aws:TagKeys", vec!["team".into(), "stage".into()]);
    context.set_time(Timestamp::from_second(1_795_231_535).expect("a time"));
    context
});

fn named(name: &str, policy: Arc<Policy>) -> Named {
    Named { name: Arc::from(name), policy }
}

fn requests() -> Vec<Request<'static>> {
    let user = Principal {
        arn: "arn:aws:iam::123456789012:user/dev/alice",
        account: "123456789012",
        kind: PrincipalKind::User { name: "alice" },
        id: "AIDAEXAMPLE",
        tags: &[],
    };
    let session = Principal {
        arn: "arn:aws:sts::123456789012:assumed-role/app/s",
        kind: PrincipalKind::AssumedRole { role_arn: "arn:aws:iam::123456789012:role/app" },
        id: "AROAEXAMPLE:s",
        ..user
    };
    let service = Principal {
        arn: "ecs-tasks.amazonaws.com",
        account: "",
        kind: PrincipalKind::Service { name: "ecs-tasks.amazonaws.com" },
        id: "",
        tags: &[],
    };
    let request = |principal, action, resource| Request {
        principal,
        action,
        resource,
        resource_account: "123456789012",
        context: &CONTEXT,
    };
    vec![
        request(user, "ecs:RunTask", "arn:aws:ecs:us-east-1:123456789012:task-definition/web:1"),
        request(session, "s3:GetObject", "arn:aws:s3:::bucket/a b/c"),
        request(service, "sts:AssumeRole", "arn:aws:iam::123456789012:role/app"),
        request(user, "ecs:ListClusters", "*"),
    ]
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    assert!(size_without_whitespace(text) <= text.len());
    for kind in [DocumentKind::Identity, DocumentKind::Trust, DocumentKind::Resource] {
        let Ok(policy) = Policy::parse(text, kind) else { continue };
        policy.context_keys();
        let one = [named("one", policy)];
        // Written anew by somebody else it says the same: no key counts twice, no escape is read in two ways.
        let value: serde_json::Value = serde_json::from_str(text).expect("a policy is JSON");
        let anew = Policy::parse(&value.to_string(), kind).expect("it was one before");
        let anew = [named("anew", anew)];
        let denied = [one[0].clone(), DENY.clone()];
        for request in requests() {
            let policies = match kind {
                DocumentKind::Identity => Policies { identity: &one, ..Policies::default() },
                DocumentKind::Trust | DocumentKind::Resource => {
                    Policies { resource: Some(&one[0]), ..Policies::default() }
                }
            };
            let decision = match kind {
                DocumentKind::Trust => evaluate_trust(&request, &policies),
                _ => evaluate(&request, &policies),
            };
            decision.message(&request);
            assert_eq!(decision.is_allowed(), decision.outcome == Outcome::Allow);
            let again = match kind {
                DocumentKind::Identity => Policies { identity: &anew, ..Policies::default() },
                DocumentKind::Trust | DocumentKind::Resource => {
                    Policies { resource: Some(&anew[0]), ..Policies::default() }
                }
            };
            let again = match kind {
                DocumentKind::Trust => evaluate_trust(&request, &again),
                _ => evaluate(&request, &again),
            };
            assert_eq!(decision.outcome, again.outcome);
            if kind == DocumentKind::Identity {
                let both = Policies { identity: &denied, ..Policies::default() };
                assert!(!evaluate(&request, &both).is_allowed(), "a deny is the end");
                let boundary = Policies { identity: &one, boundary: Some(&DENY), ..Policies::default() };
                assert!(!evaluate(&request, &boundary).is_allowed());
                let session = Policies { identity: &one, session: Some(&[]), ..Policies::default() };
                assert!(!evaluate(&request, &session).is_allowed(), "an empty session policy allows nothing");
            }
        }
    }
});
