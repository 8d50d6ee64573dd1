use proptest::prelude::*;

use super::*;
use crate::{Context, Principal, PrincipalKind};

fn with_user<T>(name: &str, tags: &[(String, String)], test: impl FnOnce(&Request<'_>) -> T) -> T {
    let mut context = Context::new();
    context.set_all("aws:TagKeys", vec!["a".into(), "b".into()]);
    context.set("s3:prefix", "p*");
    let principal = Principal {
        arn: "arn:aws:iam::123456789012:user/u",
        account: "123456789012",
        kind: PrincipalKind::User { name },
        id: "AIDAEXAMPLE",
        tags,
    };
    test(&Request {
        principal,
        action: "s3:GetObject",
        resource: "*",
        resource_account: "",
        context: &context,
    })
}

fn matches(pattern: &str, text: &str) -> bool {
    let pattern = Pattern::parse(pattern, Syntax::Wildcards, true).unwrap();
    with_user("alice", &[], |request| pattern.resolve(request).is_some_and(|resolved| resolved.matches(text)))
}

#[test]
fn wildcards() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("*", "a:b/c", true),
        ("", "", true),
        ("", "a", false),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "abcd", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("a?c", "aéc", true),
        ("*a*b*", "xxaxxbxx", true),
        ("*ab", "aab", true),
        ("*aab*", "aaab", true),
        ("**", "x", true),
        ("a*", "b", false),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b/k/l", true),
        ("arn:aws:ecs:*:task/*", "arn:aws:ecs:eu-west-1:123456789012:task/c/1", true),
        ("arn:aws:s3:::B/*", "arn:aws:s3:::b/k", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} against {text}");
    }
}

#[test]
fn variables() {
    assert!(matches("arn:aws:s3:::b/${aws:username}/*", "arn:aws:s3:::b/alice/k"));
    assert!(matches("${AWS:UserName}", "alice"));
    assert!(matches("${aws:PrincipalTag/team, 'none'}/x", "none/x"));
    assert!(matches("${aws:PrincipalTag/team,'*'}", "*"));
    assert!(!matches("${aws:PrincipalTag/team,'*'}", "anything"));
    assert!(matches("a${*}b${?}c${$}{d}", "a*b?c${d}"));
    assert!(!matches("a${*}b", "axb"));
    // Absent, or with several values: like nothing.
    assert!(!matches("x${aws:PrincipalTag/team}", "x"));
    assert!(!matches("${aws:TagKeys}", "a"));
    // The request's own keys do not act as wildcards either.
    assert!(matches("${s3:prefix}", "p*"));
    assert!(!matches("${s3:prefix}", "pq"));
    for bad in ["${", "${}", "${aws:username", "${a,b}", "${a,'b}", "${a,'b'", "${a${b}}"] {
        assert!(Pattern::parse(bad, Syntax::Wildcards, true).is_err(), "{bad}");
    }
    // Before 2012-10-17 there are no variables.
    let old = Pattern::parse("${aws:username}", Syntax::Wildcards, false).unwrap();
    assert!(with_user("alice", &[], |request| old.resolve(request).unwrap().matches("${aws:username}")));
}

#[test]
fn arn_fields_stand_by_themselves() {
    let arn = |pattern: &str, text: &str| {
        let pattern = Pattern::parse(pattern, Syntax::Wildcards, true).unwrap();
        with_user("alice", &[], |request| {
            pattern.resolve(request).is_some_and(|resolved| resolved.matches_arn(text))
        })
    };
    let topic = "arn:aws:sns:eu-west-1:123456789012:orders";
    assert!(arn(topic, topic));
    assert!(arn("*", topic));
    assert!(arn("arn:aws:sns:*:123456789012:*", topic));
    assert!(arn("arn:aws:sns:*:*:ord?rs", topic));
    assert!(!arn("arn:aws:sns:*:orders", topic));
    assert!(!arn("arn:aws:*", topic));
    assert!(!arn("arn:aws:sns:*", topic));
    assert!(arn("arn:aws:logs:*:*:log-group:*", "arn:aws:logs:r:1:log-group:/ecs/a:b"));
    assert!(arn("${aws:PrincipalArn}", "arn:aws:iam::123456789012:user/u"));
    assert!(!arn("*", "no-arn"));
}

#[test]
fn actions_have_no_case() {
    let action = |pattern: &str, action: &str| ActionPattern::parse(pattern).unwrap().matches(action);
    assert!(action("*", "ecs:RunTask"));
    assert!(action("ECS:runtask", "ecs:RunTask"));
    assert!(action("Ecs:*", "ecs:RunTask"));
    assert!(action("ecs:Run*", "ecs:runTask"));
    assert!(action("ecs:?unTask", "ecs:RunTask"));
    assert!(!action("ecs:Run", "ecs:RunTask"));
    assert!(!action("ec2:*", "ecs:RunTask"));
}

/// The textbook definition, exponential and obvious.
fn reference(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|skip| reference(rest, &text[skip..])),
        Some(('?', rest)) => !text.is_empty() && reference(rest, &text[1..]),
        Some((c, rest)) => text.first() == Some(c) && reference(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn glob_is_the_reference(pattern in "[ab:é*?]{0,8}", text in "[ab:é]{0,10}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(matches(&pattern, &text), reference(&chars(&pattern), &chars(&text)));
    }

    #[test]
    fn a_value_is_never_a_pattern(value in "[a*?:$/{}]{1,6}", text in "[abc*?:$/{}]{0,8}") {
        let tags = [("t".to_owned(), value.clone())];
        let pattern = Pattern::parse("<${aws:PrincipalTag/t}>", Syntax::Wildcards, true).unwrap();
        let text = format!("<{text}>");
        let hit = with_user(&value, &tags, |request| pattern.resolve(request).unwrap().matches(&text));
        prop_assert_eq!(hit, text == format!("<{value}>"));
    }

    #[test]
    fn patterns_never_panic(pattern in "\\PC{0,40}", text in "\\PC{0,40}") {
        if let Ok(pattern) = Pattern::parse(&pattern, Syntax::Wildcards, true) {
            with_user("u", &[], |request| {
                if let Some(resolved) = pattern.resolve(request) {
                    resolved.matches(&text);
                    resolved.matches_arn(&text);
                }
            });
        }
    }
}
