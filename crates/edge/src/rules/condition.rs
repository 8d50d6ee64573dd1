//! The conditions of one rule.

use std::net::IpAddr;

use ferrogate_nodeapi::Condition;
use http::{HeaderMap, HeaderName, Method};
use ipnet::IpNet;
use regex::Regex;

use super::{Case, Pattern, RegexError, regex};

/// What conditions look at.
pub struct RequestView<'a> {
    pub method: &'a Method,
    /// The Host header without its port.
    pub host: &'a str,
    /// As it came: nothing decoded, no dot segment resolved.
    pub path: &'a str,
    /// Without its `?`.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// The address of the connection; `X-Forwarded-For` is not looked at.
    pub source: IpAddr,
}

/// All conditions of one rule.
#[derive(Debug, Default)]
pub struct Conditions {
    all: Vec<Compiled>,
}

#[derive(Debug)]
enum Compiled {
    Host(Values),
    Path(Values),
    /// `None`: a name that no header can have; it never matches.
    Header(Option<HeaderName>, Values),
    Method(Vec<String>),
    Query(Vec<(Option<Pattern>, Pattern)>),
    SourceIp(Vec<IpNet>),
}

/// Any one of them.
#[derive(Debug)]
struct Values {
    patterns: Vec<Pattern>,
    regexes: Vec<Regex>,
}

impl Values {
    fn new(patterns: &[String], regexes: &[String], case: Case, escapes: bool) -> Result<Values, RegexError> {
        Ok(Values {
            patterns: patterns.iter().map(|text| Pattern::new(text, case, escapes)).collect(),
            regexes: regexes
                .iter()
                .map(|text| regex(text, case == Case::Ignored))
                .collect::<Result<_, _>>()?,
        })
    }

    fn match_any(&self, text: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(text))
            || (!self.regexes.is_empty()
                && std::str::from_utf8(text)
                    .is_ok_and(|text| self.regexes.iter().any(|regex| regex.is_match(text))))
    }
}

impl Conditions {
    pub fn new(conditions: &[Condition]) -> Result<Conditions, RegexError> {
        Ok(Conditions { all: conditions.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Whether every condition holds.
    pub fn hold(&self, request: &RequestView<'_>) -> bool {
        self.all.iter().all(|condition| condition.holds(request))
    }
}

fn compile(condition: &Condition) -> Result<Compiled, RegexError> {
    Ok(match condition {
        Condition::HostHeader { patterns, regexes } => {
            Compiled::Host(Values::new(patterns, regexes, Case::Ignored, false)?)
        }
        Condition::PathPattern { patterns, regexes } => {
            Compiled::Path(Values::new(patterns, regexes, Case::Sensitive, false)?)
        }
        Condition::HttpHeader { name, patterns, regexes } => {
            let values = Values::new(patterns, regexes, Case::Ignored, true)?;
            Compiled::Header(HeaderName::from_bytes(name.as_bytes()).ok(), values)
        }
        Condition::HttpRequestMethod { methods } => Compiled::Method(methods.clone()),
        Condition::QueryString { pairs } => {
            let pattern = |text: &String| Pattern::new(text, Case::Ignored, true);
            Compiled::Query(
                pairs.iter().map(|(key, value)| (key.as_ref().map(pattern), pattern(value))).collect(),
            )
        }
        Condition::SourceIp { cidrs } => Compiled::SourceIp(cidrs.clone()),
    })
}

impl Compiled {
    fn holds(&self, request: &RequestView<'_>) -> bool {
        match self {
            Compiled::Host(values) => values.match_any(request.host.as_bytes()),
            Compiled::Path(values) => values.match_any(request.path.as_bytes()),
            Compiled::Header(Some(name), values) => {
                request.headers.get_all(name).iter().any(|value| values.match_any(value.as_bytes()))
            }
            Compiled::Header(None, _) => false,
            Compiled::Method(methods) => methods.iter().any(|method| method == request.method.as_str()),
            Compiled::Query(wanted) => {
                let query = request.query.unwrap_or_default();
                query.split('&').filter(|pair| !pair.is_empty()).any(|pair| one_of(wanted, pair))
            }
            Compiled::SourceIp(cidrs) => cidrs.iter().any(|cidr| cidr.contains(&request.source)),
        }
    }
}

/// Whether `key=value` is one of those wanted; without `=`, all of it is the key.
fn one_of(wanted: &[(Option<Pattern>, Pattern)], pair: &str) -> bool {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    wanted.iter().any(|(wanted_key, wanted_value)| match wanted_key {
        Some(wanted_key) => wanted_key.matches(key.as_bytes()) && wanted_value.matches(value.as_bytes()),
        // A value without a key: the user guide has it match the value of any key; a lone word is one too.
        None => wanted_value.matches(if pair.contains('=') { value } else { key }.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::HeaderValue;

    use super::*;

    fn hold(condition: Condition, method: &str, host: &str, target: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let view = RequestView {
            method: &method,
            host,
            path,
            query,
            headers: &map,
            source: IpAddr::V4(Ipv4Addr::new(10, 0, 3, 7)),
        };
        Conditions::new(&[condition]).unwrap().hold(&view)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn each_field_has_its_own_rules() {
        let host = || Condition::HostHeader { patterns: words(&["*.example.com"]), regexes: vec![] };
        assert!(hold(host(), "GET", "WWW.Example.COM", "/", &[]));
        let path =
            || Condition::PathPattern { patterns: words(&["/auth/*"]), regexes: words(&["^/v[0-9]+/"]) };
        assert!(hold(path(), "GET", "h", "/auth/login?x=/", &[]));
        assert!(hold(path(), "GET", "h", "/v12/x", &[]) && !hold(path(), "GET", "h", "/V12/x", &[]));
        assert!(!hold(path(), "GET", "h", "/?/auth/x", &[]));
        let header = || Condition::HttpHeader {
            name: "User-Agent".to_owned(),
            patterns: words(&["*chrome*"]),
            regexes: vec![],
        };
        assert!(hold(header(), "GET", "h", "/", &[("user-agent", "Mozilla Chrome/1")]));
        assert!(hold(header(), "GET", "h", "/", &[("user-agent", "a"), ("user-agent", "chrome")]));
        assert!(!hold(header(), "GET", "h", "/", &[]));
        let method = || Condition::HttpRequestMethod { methods: words(&["GET", "PURGE"]) };
        assert!(hold(method(), "PURGE", "h", "/", &[]) && !hold(method(), "get", "h", "/", &[]));
        let source = |cidr: &str| Condition::SourceIp { cidrs: vec![cidr.parse().unwrap()] };
        assert!(hold(source("10.0.0.0/16"), "GET", "h", "/", &[]));
        assert!(!hold(source("10.0.3.8/32"), "GET", "h", "/", &[("x-forwarded-for", "10.0.3.8")]));
    }

    #[test]
    fn a_query_string_matches_by_pair_or_by_value() {
        let query = |key: Option<&str>, value: &str| Condition::QueryString {
            pairs: vec![(key.map(str::to_owned), value.to_owned())],
        };
        assert!(hold(query(Some("version"), "v1"), "GET", "h", "/?a=b&Version=V1", &[]));
        assert!(!hold(query(Some("version"), "v1"), "GET", "h", "/?version=v12", &[]));
        assert!(hold(query(None, "*example*"), "GET", "h", "/?q=an-example-1", &[]));
        assert!(!hold(query(None, "q"), "GET", "h", "/?q=1", &[]));
        assert!(!hold(query(None, "*"), "GET", "h", "/", &[]));
    }

    #[test]
    fn a_rule_without_conditions_holds_and_a_bad_regex_is_refused() {
        let bad = Condition::PathPattern { patterns: vec![], regexes: words(&["("]) };
        assert!(Conditions::new(&[bad]).is_err());
        let huge = Condition::PathPattern { patterns: vec![], regexes: words(&["(a{500}){500}"]) };
        assert!(Conditions::new(&[huge]).is_err());
    }
}
