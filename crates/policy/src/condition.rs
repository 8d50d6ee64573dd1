//! Conditions: operators, and what each says of a key that is absent.
//!
//! | | key absent | several values in the request |
//! |---|---|---|
//! | positive operator | does not hold | holds if any value matches |
//! | negated operator | holds | holds if no value matches |
//! | `…IfExists` | holds | as without |
//! | `ForAllValues:` | holds | every value passes by itself |
//! | `ForAnyValue:` | does not hold | some value passes by itself |

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ipnet::IpNet;
use jiff::{Timestamp, civil, tz::TimeZone};

use crate::{
    context::lookup,
    error::MalformedPolicy,
    evaluate::Request,
    pattern::{Pattern, Syntax},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    Plain,
    ForAllValues,
    ForAnyValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// The operand values, in the form their operator compares.
#[derive(Debug)]
enum Operands {
    String(Vec<Pattern>),
    StringIgnoreCase(Vec<Pattern>),
    StringLike(Vec<Pattern>),
    Arn(Vec<Pattern>),
    Numeric(Order, Vec<Number>),
    Date(Order, Vec<Timestamp>),
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Ip(Vec<IpNet>),
    Null(Vec<bool>),
}

/// One operator on one key.
#[derive(Debug)]
pub(crate) struct Condition {
    key: String,
    operands: Operands,
    negated: bool,
    if_exists: bool,
    quantifier: Quantifier,
}

impl Condition {
    /// `operator` as written, with prefix and suffix; `variables`: the document's version knows `${…}`.
    pub(crate) fn parse(
        operator: &str,
        key: &str,
        values: &[String],
        variables: bool,
    ) -> Result<Self, MalformedPolicy> {
        let (quantifier, rest) = match operator.split_once(':') {
            None => (Quantifier::Plain, operator),
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("ForAllValues") => {
                (Quantifier::ForAllValues, rest)
            }
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("ForAnyValue") => {
                (Quantifier::ForAnyValue, rest)
            }
            Some(_) => return Err(MalformedPolicy::syntax()),
        };
        let lower = rest.to_ascii_lowercase();
        let (name, if_exists) = match lower.strip_suffix("ifexists") {
            Some(name) => (name, true),
            None => (lower.as_str(), false),
        };
        let (operands, negated) = operands(name, values, variables)?;
        // `Null` asks whether the key exists: there is nothing to add to it.
        if matches!(operands, Operands::Null(_)) && (if_exists || quantifier != Quantifier::Plain) {
            return Err(MalformedPolicy::syntax());
        }
        Ok(Self { key: key.to_owned(), operands, negated, if_exists, quantifier })
    }

    pub(crate) fn holds(&self, request: &Request<'_>) -> bool {
        let values = lookup(request, &self.key).filter(|values| values.iter().next().is_some());
        if let Operands::Null(wanted) = &self.operands {
            return wanted.contains(&values.is_none());
        }
        let passes = |value| self.operands.contain(value, request) != self.negated;
        match (values, self.quantifier) {
            (None, Quantifier::Plain) => self.negated || self.if_exists,
            (None, Quantifier::ForAllValues) => true,
            (None, Quantifier::ForAnyValue) => self.if_exists,
            (Some(values), Quantifier::Plain) => {
                values.iter().any(|value| self.operands.contain(value, request)) != self.negated
            }
            (Some(values), Quantifier::ForAllValues) => values.iter().all(passes),
            (Some(values), Quantifier::ForAnyValue) => values.iter().any(passes),
        }
    }

    pub(crate) fn context_keys<'a>(&'a self, keys: &mut BTreeSet<&'a str>) {
        keys.insert(&self.key);
        if let Operands::String(patterns)
        | Operands::StringIgnoreCase(patterns)
        | Operands::StringLike(patterns)
        | Operands::Arn(patterns) = &self.operands
        {
            keys.extend(patterns.iter().flat_map(Pattern::variables));
        }
    }
}

/// The operands of the operator of this lower-case name, and whether it is a negated one.
fn operands(name: &str, values: &[String], variables: bool) -> Result<(Operands, bool), MalformedPolicy> {
    let patterns = |syntax| -> Result<Vec<Pattern>, MalformedPolicy> {
        values.iter().map(|value| Pattern::parse(value, syntax, variables)).collect()
    };
    let order = |suffix: &str| match suffix {
        "equals" => Some((Order::Equal, false)),
        "notequals" => Some((Order::Equal, true)),
        "lessthan" => Some((Order::Less, false)),
        "lessthanequals" => Some((Order::LessOrEqual, false)),
        "greaterthan" => Some((Order::Greater, false)),
        "greaterthanequals" => Some((Order::GreaterOrEqual, false)),
        _ => None,
    };
    Ok(match name {
        "stringequals" => (Operands::String(patterns(Syntax::Plain)?), false),
        "stringnotequals" => (Operands::String(patterns(Syntax::Plain)?), true),
        "stringequalsignorecase" => (Operands::StringIgnoreCase(patterns(Syntax::Plain)?), false),
        "stringnotequalsignorecase" => (Operands::StringIgnoreCase(patterns(Syntax::Plain)?), true),
        "stringlike" => (Operands::StringLike(patterns(Syntax::Wildcards)?), false),
        "stringnotlike" => (Operands::StringLike(patterns(Syntax::Wildcards)?), true),
        "arnequals" | "arnlike" => (Operands::Arn(patterns(Syntax::Wildcards)?), false),
        "arnnotequals" | "arnnotlike" => (Operands::Arn(patterns(Syntax::Wildcards)?), true),
        "bool" => (Operands::Bool(each(values, boolean)?), false),
        "null" => (Operands::Null(each(values, boolean)?), false),
        "binaryequals" => (Operands::Binary(each(values, |text| BASE64.decode(text).ok())?), false),
        "ipaddress" => (Operands::Ip(each(values, network)?), false),
        "notipaddress" => (Operands::Ip(each(values, network)?), true),
        _ => {
            let numeric = name.strip_prefix("numeric").and_then(order);
            let date = name.strip_prefix("date").and_then(order);
            match (numeric, date) {
                (Some((order, negated)), _) => {
                    (Operands::Numeric(order, each(values, Number::parse)?), negated)
                }
                (None, Some((order, negated))) => (Operands::Date(order, each(values, instant)?), negated),
                (None, None) => return Err(MalformedPolicy::syntax()),
            }
        }
    })
}

fn each<T>(values: &[String], read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, MalformedPolicy> {
    values.iter().map(|value| read(value).ok_or_else(MalformedPolicy::legacy)).collect()
}

impl Operands {
    /// Whether the request's value equals, is like, or is ordered as asked towards one of the operands. A value
    /// of the wrong form is none of them.
    fn contain(&self, value: &str, request: &Request<'_>) -> bool {
        fn any<T>(read: Option<T>, operands: &[T], holds: impl Fn(&T, &T) -> bool) -> bool {
            read.is_some_and(|value| operands.iter().any(|operand| holds(&value, operand)))
        }
        match self {
            Self::String(patterns) => patterns
                .iter()
                .filter_map(|pattern| pattern.resolve(request))
                .any(|pattern| pattern.text() == value),
            Self::StringIgnoreCase(patterns) => patterns
                .iter()
                .filter_map(|pattern| pattern.resolve(request))
                .any(|pattern| same_ignoring_case(&pattern.text(), value)),
            Self::StringLike(patterns) => patterns
                .iter()
                .filter_map(|pattern| pattern.resolve(request))
                .any(|pattern| pattern.matches(value)),
            Self::Arn(patterns) => patterns
                .iter()
                .filter_map(|pattern| pattern.resolve(request))
                .any(|pattern| pattern.matches_arn(value)),
            Self::Numeric(order, numbers) => any(Number::parse(value), numbers, |value, operand| {
                value.compare(operand).is_some_and(|ordering| order.holds(ordering))
            }),
            Self::Date(order, instants) => {
                any(instant(value), instants, |value, operand| order.holds(value.cmp(operand)))
            }
            Self::Bool(operands) => any(boolean(value), operands, |value, operand| value == operand),
            Self::Binary(operands) => {
                any(BASE64.decode(value).ok(), operands, |value, operand| value == operand)
            }
            Self::Ip(networks) => any(network(value), networks, |value, operand| operand.contains(value)),
            Self::Null(_) => false,
        }
    }
}

fn same_ignoring_case(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        a.eq_ignore_ascii_case(b)
    } else {
        a.to_lowercase() == b.to_lowercase()
    }
}

/// A decimal number; integers compare exactly.
#[derive(Debug, Clone, Copy)]
enum Number {
    Integer(i128),
    Decimal(f64),
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(integer) = text.parse() {
            return Some(Self::Integer(integer));
        }
        // `f64` also reads "inf" and "NaN", which are no numbers here.
        let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
        let number: f64 = text.parse().ok().filter(|_| plain)?;
        number.is_finite().then_some(Self::Decimal(number))
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        let float = |number: &Self| match *number {
            Self::Integer(integer) => integer as f64,
            Self::Decimal(decimal) => decimal,
        };
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(b)),
            _ => float(self).partial_cmp(&float(other)),
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// An address or a network; an IPv4 address mapped into IPv6 is the IPv4 address.
fn network(text: &str) -> Option<IpNet> {
    let unmapped = |address: Ipv6Addr| address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(match address {
            IpAddr::V6(address) => unmapped(address),
            v4 => v4,
        }));
    }
    text.parse().ok()
}

/// ISO 8601 in the forms of the W3C profile, UTC where no offset is given, or seconds since 1970.
fn instant(text: &str) -> Option<Timestamp> {
    let utc = |date: civil::Date| Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp());
    let digits = text.strip_prefix('-').unwrap_or(text);
    // Four digits are a year: no policy means the first hours of 1970.
    if digits.bytes().all(|b| b.is_ascii_digit()) && text.len() > 4 {
        return Timestamp::from_second(text.parse().ok()?).ok();
    }
    match text.len() {
        4 => utc(format!("{text}-01-01").parse().ok()?),
        7 => utc(format!("{text}-01").parse().ok()?),
        10 => utc(text.parse().ok()?),
        _ => match text.parse::<Timestamp>() {
            Ok(at) => Some(at),
            Err(_) => Some(text.parse::<civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp()),
        },
    }
}

#[cfg(test)]
#[path = "condition_tests.rs"]
mod tests;
