use proptest::prelude::*;

use crate::{DocumentKind, MAX_DOCUMENT_BYTES, MAX_STATEMENTS, Policy, size_without_whitespace};

fn refusal(kind: DocumentKind, text: &str) -> String {
    match Policy::parse(text, kind) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn identity(statement: &str) -> String {
    refusal(DocumentKind::Identity, &format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#))
}

fn trust(statement: &str) -> String {
    refusal(DocumentKind::Trust, &format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#))
}

const SYNTAX: &str = "Syntax errors in policy.";

#[test]
fn what_iam_accepts() {
    for statement in [
        r#"{"Effect":"Allow","Action":"*","Resource":"*"}"#,
        r#"[{"Effect":"Allow","Action":["ecs:*","s3:Get*"],"Resource":["*"]}]"#,
        r#"{"Sid":"","Effect":"Deny","NotAction":"iam:*","NotResource":"arn:aws:s3:::b/*"}"#,
        r#"{"Effect":"Allow","Action":"a:b","Resource":"arn:aws:s3:::${aws:username}"}"#,
        r#"{"Effect":"Allow","Action":"a:b","Resource":"*","Condition":{}}"#,
        r#"{"Effect":"Allow","Action":"a:b","Resource":"*","Condition":{"Bool":{"aws:SecureTransport":true},"NumericLessThan":{"aws:MultiFactorAuthAge":[3600,"7200"]}}}"#,
    ] {
        assert_eq!(identity(statement), "accepted", "{statement}");
    }
    for statement in [
        r#"{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}"#,
        r#"{"Effect":"Allow","Principal":{"AWS":["123456789012","arn:aws:iam::123456789012:root"]},"Action":["sts:AssumeRole","sts:TagSession"]}"#,
        r#"{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}"#,
        r#"{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::123456789012:oidc-provider/x"},"Action":"sts:AssumeRoleWithWebIdentity"}"#,
    ] {
        assert_eq!(trust(statement), "accepted", "{statement}");
    }
    for version in [r#""Version":"2008-10-17","#, r#""Version":"2012-10-17","Id":"x","#, ""] {
        let text = format!(r#"{{{version}"Statement":{{"Effect":"Allow","Action":"a:b","Resource":"*"}}}}"#);
        assert_eq!(refusal(DocumentKind::Identity, &text), "accepted", "{text}");
    }
    let resource = r#"{"Statement":{"Sid":"any text","Effect":"Allow","Principal":"*","Action":"ecr:*"}}"#;
    assert_eq!(refusal(DocumentKind::Resource, resource), "accepted");
}

#[test]
fn what_iam_refuses() {
    for (statement, message) in [
        (r#"[]"#, SYNTAX),
        (r#""x""#, SYNTAX),
        (r#"{"Action":"*","Resource":"*"}"#, SYNTAX),
        (r#"{"Effect":"allow","Action":"*","Resource":"*"}"#, SYNTAX),
        (r#"{"Effect":"Allow","Action":"*","Resource":"*","Extra":1}"#, SYNTAX),
        (r#"{"Effect":"Allow","Action":"*","NotAction":"*","Resource":"*"}"#, SYNTAX),
        (r#"{"Effect":"Allow","Action":1,"Resource":"*"}"#, SYNTAX),
        (r#"{"Effect":"Allow","Effect":"Deny","Action":"*","Resource":"*"}"#, SYNTAX),
        (r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Foo":{"a:b":"c"}}}"#, SYNTAX),
        (r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"a:b":null}}}"#, SYNTAX),
        (r#"{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::${aws:x"}"#, SYNTAX),
        (r#"{"Effect":"Allow","Action":"*"}"#, "Policy statement must contain resources."),
        (r#"{"Effect":"Allow","Action":"*","Resource":[]}"#, "Policy statement must contain resources."),
        (r#"{"Effect":"Allow","Resource":"*"}"#, "Policy statement must contain actions."),
        (r#"{"Effect":"Allow","Action":[],"Resource":"*"}"#, "Policy statement must contain actions."),
        (
            r#"{"Effect":"Allow","Action":"RunTask","Resource":"*"}"#,
            "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
        ),
        (
            r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"b":"true"}}}"#,
            "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
        ),
        (
            r#"{"Effect":"Allow","Action":"a:b:c","Resource":"*"}"#,
            "Actions/Condition can contain only one colon.",
        ),
        (r#"{"Effect":"Allow","Action":"a/b:c","Resource":"*"}"#, "Vendor a/b is not valid"),
        (
            r#"{"Effect":"Allow","Action":"*","Resource":"bucket"}"#,
            r#"Resource bucket must be in ARN format or "*"."#,
        ),
        (
            r#"{"Effect":"Allow","Action":"*","Resource":"arn:foo:s3:::b"}"#,
            r#"Partition "foo" is not valid for resource "arn:foo:s3:::b"."#,
        ),
        (r#"{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3"}"#, "The policy failed legacy parsing"),
        (
            r#"{"Effect":"Allow","Action":"*","Resource":"*","Principal":"*"}"#,
            "Policy document should not specify a principal.",
        ),
        (
            r#"{"Sid":"a b","Effect":"Allow","Action":"*","Resource":"*"}"#,
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*",
        ),
        (
            r#"[{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"},{"Sid":"a","Effect":"Deny","Action":"*","Resource":"*"}]"#,
            "Statement IDs (SID) in a single policy must be unique.",
        ),
    ] {
        assert_eq!(identity(statement), message, "{statement}");
    }
    for (statement, message) in [
        (
            r#"{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole","Resource":"*"}"#,
            "Has prohibited field Resource",
        ),
        (r#"{"Effect":"Allow","Action":"sts:AssumeRole"}"#, "Missing required field Principal"),
        (r#"{"Effect":"Allow","Principal":"*"}"#, "Missing required field Action"),
        (
            r#"{"Effect":"Allow","Principal":"*","Action":"s3:GetObject"}"#,
            "AssumeRole policy may only specify STS AssumeRole actions.",
        ),
        (
            r#"{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::1:user/x"},"Action":"sts:AssumeRole"}"#,
            r#"Invalid principal in policy: "AWS":"arn:aws:iam::1:user/x""#,
        ),
        (
            r#"{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:user/*"},"Action":"sts:AssumeRole"}"#,
            r#"Invalid principal in policy: "AWS":"arn:aws:iam::123456789012:user/*""#,
        ),
        (r#"{"Effect":"Allow","Principal":{},"Action":"sts:AssumeRole"}"#, SYNTAX),
        (r#"{"Effect":"Allow","Principal":{"Foo":"x"},"Action":"sts:AssumeRole"}"#, SYNTAX),
    ] {
        assert_eq!(trust(statement), message, "{statement}");
    }
    assert_eq!(refusal(DocumentKind::Trust, "{"), "This policy contains invalid Json");
    assert_eq!(refusal(DocumentKind::Identity, ""), SYNTAX);
    assert_eq!(
        refusal(DocumentKind::Identity, r#"{"Version":"2013-01-01","Statement":[]}"#),
        "Policy document must be version 2012-10-17 or greater."
    );
}

#[test]
fn limits() {
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(refusal(DocumentKind::Identity, &deep), SYNTAX);
    assert_eq!(identity(&format!("{}1{}", "[".repeat(40), "]".repeat(40))), SYNTAX);
    let statement = r#"{"Effect":"Allow","Action":"a:b","Resource":"*"}"#;
    let list = |n: usize| format!("[{}]", vec![statement; n].join(","));
    assert_eq!(identity(&list(MAX_STATEMENTS)), "accepted");
    assert!(identity(&list(MAX_STATEMENTS + 1)).contains("1000 statements"));
    assert!(identity(&" ".repeat(MAX_DOCUMENT_BYTES)).contains("131072 bytes"));
    assert_eq!(size_without_whitespace("{ \"a\" :\n\"é\"\t}"), 9);
}

#[test]
fn context_keys_are_collected() {
    let text = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*",
        "Resource":"arn:aws:s3:::b/${aws:username}",
        "Condition":{"StringLike":{"s3:prefix":"${aws:PrincipalTag/t,'x'}"},"Bool":{"aws:SecureTransport":"true"}}}}"#;
    let policy = Policy::parse(text, DocumentKind::Identity).unwrap();
    let keys: Vec<&str> = policy.context_keys().into_iter().collect();
    assert_eq!(keys, ["aws:PrincipalTag/t", "aws:SecureTransport", "aws:username", "s3:prefix"]);
}

/// Random JSON in the vocabulary of policies, so that it gets past the first test.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let word = prop::sample::select(vec![
        "Version",
        "2012-10-17",
        "Statement",
        "Sid",
        "Effect",
        "Allow",
        "Deny",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Principal",
        "NotPrincipal",
        "Condition",
        "StringEquals",
        "ForAllValues:Bool",
        "NullIfExists",
        "AWS",
        "Service",
        "*",
        "s3:*",
        "arn:aws:s3:::*",
        "${aws:username}",
        "${",
        "123456789012",
        "aws:x",
        "true",
        "",
    ])
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        word.clone().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn random_json_never_panics(value in json(), statement in json()) {
        let text = serde_json::json!({"Version": "2012-10-17", "Statement": statement}).to_string();
        for kind in [DocumentKind::Identity, DocumentKind::Trust, DocumentKind::Resource] {
            let _ = Policy::parse(&value.to_string(), kind);
            let _ = Policy::parse(&text, kind);
        }
    }

    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}") {
        let _ = Policy::parse(&text, DocumentKind::Identity);
    }
}
