//! Condition context: the keys of a request and their values.

use jiff::Timestamp;

use crate::{evaluate::Request, principal::PrincipalKind};

/// The condition keys that the front end and the service know of a request. Names are compared without case.
/// Keys that follow from the principal (`aws:PrincipalArn`, `aws:username`, `aws:PrincipalTag/…` …) are not put
/// here: evaluation derives them, and an entry of the same name does not count.
#[derive(Debug, Clone, Default)]
pub struct Context {
    keys: Vec<(String, Vec<String>)>,
}

impl Context {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key to one value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.set_all(key, vec![value.into()])
    }

    /// Sets a multi-valued key. No values: the key is present and empty.
    pub fn set_all(&mut self, key: &str, values: Vec<String>) -> &mut Self {
        match self.keys.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(key)) {
            Some((_, known)) => *known = values,
            None => self.keys.push((key.to_owned(), values)),
        }
        self
    }

    /// Sets `aws:CurrentTime` and `aws:EpochTime`.
    pub fn set_time(&mut self, now: Timestamp) -> &mut Self {
        self.set("aws:CurrentTime", now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        self.set("aws:EpochTime", now.as_second().to_string())
    }

    fn get(&self, key: &str) -> Option<&[String]> {
        self.keys
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(key))
            .map(|(_, values)| values.as_slice())
    }
}

/// The values of a key: those of a [`Context`], or one that follows from the principal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    One(&'a str),
    Many(&'a [String]),
}

impl<'a> Values<'a> {
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a str> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), [].as_slice()),
            Self::Many(many) => (None, many),
        };
        one.into_iter().chain(many.iter().map(String::as_str))
    }

    /// The value, when there is exactly one.
    pub(crate) fn single(self) -> Option<&'a str> {
        match self {
            Self::One(one) => Some(one),
            Self::Many([one]) => Some(one),
            Self::Many(_) => None,
        }
    }
}

/// The values of `key` in this request; `None`: the key is absent.
pub(crate) fn lookup<'a>(request: &Request<'a>, key: &str) -> Option<Values<'a>> {
    let principal = &request.principal;
    let is = |name: &str| key.eq_ignore_ascii_case(name);
    const TAG: &str = "aws:PrincipalTag/";

    if key.len() > TAG.len() && key.as_bytes()[..TAG.len()].eq_ignore_ascii_case(TAG.as_bytes()) {
        let tag = &key[TAG.len()..];
        let value =
            principal.tags.iter().find(|(name, _)| name.eq_ignore_ascii_case(tag)).map(|(_, value)| value);
        return value.map(|value| Values::One(value));
    }
    let non_empty = |text: &'a str| (!text.is_empty()).then_some(text);
    let one = if is("aws:PrincipalArn") {
        match principal.kind {
            PrincipalKind::AssumedRole { role_arn } => Some(role_arn),
            PrincipalKind::Anonymous | PrincipalKind::Service { .. } | PrincipalKind::WebIdentity { .. } => {
                None
            }
            _ => Some(principal.arn),
        }
    } else if is("aws:PrincipalAccount") {
        non_empty(principal.account)
    } else if is("aws:userid") {
        non_empty(principal.id)
    } else if is("aws:username") {
        match principal.kind {
            PrincipalKind::User { name } => Some(name),
            _ => None,
        }
    } else if is("aws:PrincipalType") {
        Some(match principal.kind {
            PrincipalKind::Root => "Account",
            PrincipalKind::User { .. } => "User",
            PrincipalKind::AssumedRole { .. } => "AssumedRole",
            PrincipalKind::FederatedUser => "FederatedUser",
            PrincipalKind::WebIdentity { .. } => "FederatedUser",
            PrincipalKind::Service { .. } => "Service",
            PrincipalKind::Anonymous => "Anonymous",
        })
    } else if is("aws:PrincipalIsAWSService") {
        Some(if matches!(principal.kind, PrincipalKind::Service { .. }) { "true" } else { "false" })
    } else if is("aws:PrincipalServiceName") {
        match principal.kind {
            PrincipalKind::Service { name } => Some(name),
            _ => None,
        }
    } else if is("aws:ResourceAccount") {
        non_empty(request.resource_account)
    } else {
        return request.context.get(key).map(Values::Many);
    };
    one.map(Values::One)
}
