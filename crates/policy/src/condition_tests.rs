use super::*;
use crate::{Context, Principal, PrincipalKind};

/// Whether the operator with these operands holds for these values of `x:k`; `None`: the key is absent.
fn holds(operator: &str, operands: &[&str], values: Option<&[&str]>) -> bool {
    let mut context = Context::new();
    if let Some(values) = values {
        context.set_all("X:K", values.iter().map(|value| (*value).to_owned()).collect());
    }
    let operands: Vec<String> = operands.iter().map(|operand| (*operand).to_owned()).collect();
    let condition = Condition::parse(operator, "x:k", &operands, true).unwrap();
    let principal = Principal {
        arn: "arn:aws:iam::123456789012:user/alice",
        account: "123456789012",
        kind: PrincipalKind::User { name: "alice" },
        id: "AIDAEXAMPLE",
        tags: &[],
    };
    condition.holds(&Request {
        principal,
        action: "a:b",
        resource: "*",
        resource_account: "",
        context: &context,
    })
}

fn one(operator: &str, operand: &str, value: &str) -> bool {
    holds(operator, &[operand], Some(&[value]))
}

#[test]
fn strings() {
    assert!(one("StringEquals", "a", "a"));
    assert!(!one("StringEquals", "a", "A"));
    assert!(!one("StringEquals", "a*", "ab"));
    assert!(one("StringEquals", "a*", "a*"));
    assert!(one("StringEquals", "${aws:username}-x", "alice-x"));
    assert!(one("StringEqualsIgnoreCase", "É", "é"));
    assert!(!one("StringNotEqualsIgnoreCase", "A", "a"));
    assert!(one("StringNotEquals", "a", "b"));
    assert!(one("StringLike", "a*c?", "abbcd"));
    assert!(!one("StringNotLike", "a*", "ab"));
    assert!(holds("StringEquals", &["a", "b"], Some(&["b"])));
    assert!(!holds("StringNotEquals", &["a", "b"], Some(&["b"])));
}

#[test]
fn a_variable_without_value_is_like_nothing() {
    assert!(!one("StringEquals", "${aws:PrincipalTag/none}", ""));
    assert!(!one("StringLike", "${aws:PrincipalTag/none}*", "x"));
    assert!(one("StringNotEquals", "${aws:PrincipalTag/none}", "x"));
}

#[test]
fn numbers() {
    assert!(one("NumericEquals", "10", "10.0"));
    assert!(one("NumericNotEquals", "10", "11"));
    assert!(one("NumericLessThan", "10", "9"));
    assert!(!one("NumericLessThan", "10", "10"));
    assert!(one("NumericLessThanEquals", "10", "10"));
    assert!(one("NumericGreaterThan", "-1", "0"));
    assert!(one("NumericGreaterThanEquals", "1.5", "1.5"));
    assert!(!one("NumericEquals", "9007199254740993", "9007199254740992"));
    assert!(!one("NumericLessThan", "10", "NaN"));
    assert!(!one("NumericLessThan", "10", "nine"));
}

#[test]
fn dates() {
    let at = "2026-11-21T10:00:00Z";
    assert!(one("DateEquals", at, "2026-11-21T11:00:00+01:00"));
    assert!(one("DateEquals", at, "1795255200"));
    assert!(one("DateLessThan", at, "2026-11-21"));
    assert!(one("DateGreaterThan", "2026", at));
    assert!(one("DateGreaterThan", "2026-11", at));
    assert!(one("DateLessThanEquals", at, "2026-11-21T10:00:00"));
    assert!(one("DateGreaterThanEquals", "2026-11-21T10:00Z", at));
    assert!(one("DateNotEquals", at, "2026-11-21T10:00:01Z"));
    assert!(!one("DateLessThan", at, "tomorrow"));
}

#[test]
fn bool_binary_null() {
    assert!(one("Bool", "true", "TRUE"));
    assert!(!one("Bool", "true", "false"));
    assert!(!holds("Bool", &["false"], None));
    assert!(holds("BoolIfExists", &["true"], None));
    assert!(one("BinaryEquals", "QmluYXJ5", "QmluYXJ5"));
    assert!(!one("BinaryEquals", "QmluYXJ5", "QmluYXJ6"));
    assert!(holds("Null", &["true"], None));
    assert!(holds("Null", &["true"], Some(&[])));
    assert!(!holds("Null", &["true"], Some(&["x"])));
    assert!(holds("Null", &["false"], Some(&["x"])));
    assert!(!holds("Null", &["false"], None));
}

#[test]
fn addresses() {
    assert!(one("IpAddress", "203.0.113.0/24", "203.0.113.7"));
    assert!(one("IpAddress", "203.0.113.7/24", "203.0.113.9"));
    assert!(one("IpAddress", "203.0.113.7", "203.0.113.7"));
    assert!(!one("IpAddress", "203.0.113.7", "203.0.113.8"));
    assert!(one("IpAddress", "203.0.113.0/24", "::ffff:203.0.113.7"));
    assert!(one("IpAddress", "2001:db8::/32", "2001:db8::1"));
    assert!(one("NotIpAddress", "203.0.113.0/24", "198.51.100.1"));
    assert!(!one("NotIpAddress", "203.0.113.0/24", "203.0.113.1"));
    assert!(holds("NotIpAddress", &["203.0.113.0/24"], None));
    assert!(!one("IpAddress", "0.0.0.0/0", "not an address"));
}

#[test]
fn arns() {
    let topic = "arn:aws:sns:eu-west-1:123456789012:t";
    for operator in ["ArnEquals", "ArnLike"] {
        assert!(one(operator, "arn:aws:sns:*:123456789012:*", topic));
        assert!(!one(operator, "arn:aws:sns:*:t", topic));
    }
    for operator in ["ArnNotEquals", "ArnNotLike"] {
        assert!(!one(operator, "arn:aws:sns:*:123456789012:*", topic));
        assert!(one(operator, "arn:aws:sqs:*:123456789012:*", topic));
        assert!(holds(operator, &[topic], None));
    }
}

#[test]
fn an_absent_key() {
    for (operator, operand) in [
        ("StringEquals", "a"),
        ("StringLike", "*"),
        ("NumericEquals", "1"),
        ("NumericLessThan", "1"),
        ("DateEquals", "2026"),
        ("Bool", "true"),
        ("BinaryEquals", "QQ=="),
        ("IpAddress", "0.0.0.0/0"),
        ("ArnLike", "*"),
    ] {
        assert!(!holds(operator, &[operand], None), "{operator}");
        assert!(holds(&format!("{operator}IfExists"), &[operand], None), "{operator}IfExists");
        assert!(holds(&format!("ForAllValues:{operator}"), &[operand], None), "ForAllValues:{operator}");
        assert!(!holds(&format!("ForAnyValue:{operator}"), &[operand], None), "ForAnyValue:{operator}");
    }
    for (operator, operand) in [
        ("StringNotEquals", "a"),
        ("StringNotEqualsIgnoreCase", "a"),
        ("StringNotLike", "*"),
        ("NumericNotEquals", "1"),
        ("DateNotEquals", "2026"),
        ("NotIpAddress", "0.0.0.0/0"),
        ("ArnNotLike", "*"),
    ] {
        assert!(holds(operator, &[operand], None), "{operator}");
        assert!(!holds(&format!("ForAnyValue:{operator}"), &[operand], None), "ForAnyValue:{operator}");
    }
}

#[test]
fn if_exists_still_compares_what_exists() {
    assert!(!holds("StringEqualsIfExists", &["a"], Some(&["b"])));
    assert!(!holds("StringNotEqualsIfExists", &["a"], Some(&["a"])));
}

#[test]
fn several_values() {
    let values = Some(&["a", "b"][..]);
    assert!(holds("ForAllValues:StringEquals", &["a", "b", "c"], values));
    assert!(!holds("ForAllValues:StringEquals", &["a"], values));
    assert!(holds("ForAnyValue:StringEquals", &["a"], values));
    assert!(!holds("ForAnyValue:StringEquals", &["c"], values));
    assert!(holds("ForAnyValue:StringNotEquals", &["a"], values));
    assert!(!holds("ForAnyValue:StringNotEquals", &["a", "b"], values));
    assert!(!holds("ForAllValues:StringNotEquals", &["a"], values));
    assert!(holds("ForAllValues:StringNotEquals", &["c"], values));
    // Without a quantifier a negated operator means "none of them".
    assert!(!holds("StringNotEquals", &["a"], values));
}

#[test]
fn what_is_no_operator_is_refused() {
    let refused = |operator: &str, operand: &str| {
        Condition::parse(operator, "x:k", &[operand.to_owned()], true).unwrap_err().to_string()
    };
    for operator in [
        "StringMatches",
        "Numeric",
        "NullIfExists",
        "ForAllValues:Null",
        "ForSomeValues:Bool",
        "",
        "IfExists",
    ] {
        assert_eq!(refused(operator, "true"), "Syntax errors in policy.", "{operator}");
    }
    for (operator, operand) in [
        ("NumericEquals", "x"),
        ("DateEquals", "x"),
        ("Bool", "yes"),
        ("IpAddress", "10.0.0.0/33"),
        ("BinaryEquals", "!"),
        ("Null", "x"),
    ] {
        assert_eq!(refused(operator, operand), "The policy failed legacy parsing", "{operator}");
    }
}
