//! Filter patterns ("Filter pattern syntax for metric filters, subscription filters, filter log events, and Live
//! Tail", CloudWatch Logs User Guide). Pure.
//!
//! - terms: `ERROR`, `"exact phrase"`, `-without`, `?either ?or`, `%regex%`
//! - JSON: `{ $.a = "x*" && ($.b > 3 || $.c IS NULL) }`
//! - space-delimited: `[ip, user, ..., status = 4*, bytes > 1000]`

mod columns;
mod compare;
mod json;
mod scan;
mod terms;

use std::collections::BTreeMap;

use columns::Columns;
use json::JsonPattern;
use terms::Terms;

/// Why a pattern is none, in words for its author.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PatternError(String);

impl PatternError {
    fn new(why: impl Into<String>) -> Self {
        Self(format!("Invalid filter pattern: {}", why.into()))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    Everything,
    Terms(Terms),
    Json(JsonPattern),
    Columns(Columns),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        match text.chars().next() {
            None => Ok(Self::Everything),
            Some('{') => JsonPattern::parse(text).map(Self::Json),
            Some('[') => Columns::parse(text).map(Self::Columns),
            Some(_) => Terms::parse(text).map(Self::Terms),
        }
    }

    pub(crate) fn matches(&self, message: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Terms(terms) => terms.matches(message),
            Self::Json(json) => json.matches(message),
            Self::Columns(columns) => columns.matches(message),
        }
    }

    /// The values the pattern names in a message it matches (TestMetricFilter).
    pub(crate) fn extract(&self, message: &str) -> BTreeMap<String, String> {
        match self {
            Self::Everything | Self::Terms(_) => BTreeMap::new(),
            Self::Json(json) => json.extract(message),
            Self::Columns(columns) => columns.extract(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JSON: &str = r#"{"eventType":"UpdateTrail","sourceIPAddress":"111.111.111.111","n":3,"f":1.5,"ok":true,
        "no":false,"nothing":null,"arrayKey":["value","another value"],"code":"404",
        "objectList":[{"name":"a","id":1},{"name":"b","id":2}],"cluster.name":"c"}"#;
    const LINE: &str =
        r#"127.0.0.1 - frank [10/Oct/2000:13:25:15 -0700] "GET /index.html HTTP/1.0" 404 1534"#;

    #[test]
    fn table() {
        let text = "[ERROR 401] UNAUTHORIZED REQUEST from a-b";
        for (pattern, message, matches) in [
            ("", "anything", true),
            ("  ", "", true),
            ("ERROR", text, true),
            ("error", text, false),
            ("ERROR REQUEST", text, true),
            ("ERROR MISSING", text, false),
            ("\"UNAUTHORIZED REQUEST\"", text, true),
            ("\"REQUEST UNAUTHORIZED\"", text, false),
            ("\"a-b\"", text, true),
            ("\"say \\\"x\\\"\"", "they say \"x\"", true),
            ("ERROR -401", text, false),
            ("ERROR -402", text, true),
            ("-\"UNAUTHORIZED REQUEST\"", text, false),
            ("-INFO", text, true),
            ("?WARN ?ERROR", text, true),
            ("?WARN ?INFO", text, false),
            ("?\"REQUEST from\" ?INFO", text, true),
            ("?INFO ERROR", text, true),
            ("%40[0-9]%", text, true),
            ("%^ERROR%", text, false),
            ("{ $.eventType = \"UpdateTrail\" }", JSON, true),
            ("{$.eventType=UpdateTrail}", JSON, true),
            ("{ $.eventType = \"Update*\" }", JSON, true),
            ("{ $.eventType != \"UpdateTrail\" }", JSON, false),
            ("{ $.sourceIPAddress != 123.123.* }", JSON, true),
            ("{ $.missing != \"x\" }", JSON, false),
            ("{ $.n = 3 }", JSON, true),
            ("{ $.n > 3 }", JSON, false),
            ("{ $.n >= 3 && $.f < 2 }", JSON, true),
            ("{ $.n < 3 || $.f <= 1.5 }", JSON, true),
            ("{ $.n = 3e0 }", JSON, true),
            ("{ $.f = 1.* }", JSON, true),
            ("{ ($.n = 9 || $.n = 3) && $.ok IS TRUE }", JSON, true),
            ("{ $.n = 3 || $.n = 9 && $.ok IS FALSE }", JSON, true),
            ("{ $.no IS FALSE }", JSON, true),
            ("{ $.nothing IS NULL }", JSON, true),
            ("{ $.n IS NULL }", JSON, false),
            ("{ $.missing IS NULL }", JSON, false),
            ("{ $.missing NOT EXISTS }", JSON, true),
            ("{ $.n NOT EXISTS }", JSON, false),
            ("{ $.arrayKey[0] = \"value\" }", JSON, true),
            ("{ $.arrayKey[1] = \"value\" }", JSON, false),
            ("{ $.arrayKey[*] = \"another value\" }", JSON, true),
            ("{ $.objectList[1].id = 2 }", JSON, true),
            ("{ $.objectList[*].name = b }", JSON, true),
            ("{ $.['cluster.name'] = \"c\" }", JSON, true),
            ("{ $.code = 404 }", JSON, true),
            ("{ $.eventType = %Update.*% }", JSON, true),
            ("{ $.eventType = %^Trail% }", JSON, false),
            ("{ $.n = 3 }", "not json", false),
            ("{ $.n = 3 }", "[1]", false),
            ("[ip, id, user, time, request, status, size]", LINE, true),
            ("[ip, id, user, time, request, status]", LINE, false),
            ("[ip, id, user, time, request, status = 4*, size > 1000]", LINE, true),
            ("[ip, id, user, time, request, status = 404, size < 1000]", LINE, false),
            ("[ip, id, user, time, request = \"*index.html*\", status != 200, size]", LINE, true),
            ("[..., status = 404 || status = 410, size]", LINE, true),
            ("[..., request=*.html*, status=4*,]", LINE, true),
            ("[ip, ...]", LINE, true),
            ("[ip = 127.*, ..., size >= 1534]", LINE, true),
            ("[ip = %^127[.]0%, ...]", LINE, true),
            ("[a, ..., b]", "one", false),
            ("[a, , c]", "1 2 3", true),
            ("[a,]", "1 2", true),
            ("[a,]", "1", false),
            ("[]", "", true),
        ] {
            let parsed = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(parsed.matches(message), matches, "{pattern} on {message}");
        }
    }

    #[test]
    fn refused() {
        for pattern in [
            "foo-bar",
            "a.b",
            "\"open",
            "-",
            "?",
            "%open",
            "%a(b)%",
            "%[%",
            "%x!%",
            "{",
            "{}",
            "{ $ }",
            "{ $.a }",
            "{ $.a = }",
            "{ $.a = \"x }",
            "{ $.a = 1 && }",
            "{ $.a = 1 $.b = 2 }",
            "{ ($.a = 1 }",
            "{ $.a = 1) }",
            "{ $.a > \"x\" }",
            "{ $.a IS MAYBE }",
            "{ $.a NOT }",
            "{ $.a[x] = 1 }",
            "{ $.a = 1 } x",
            "[",
            "[a",
            "[a] b",
            "[..., ...]",
            "[a = ]",
            "[a = 1, a = 2]",
            "[a = 1 && b = 2]",
            "[a > x]",
            "[..., b = 1 ||]",
        ] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn extracts() {
        let columns = Pattern::parse("[ip, ..., status = 404, size]").unwrap().extract(LINE);
        assert_eq!(columns["$ip"], "127.0.0.1");
        assert_eq!(columns["$3"], "frank");
        assert_eq!(columns["$5"], "GET /index.html HTTP/1.0");
        assert_eq!(columns["$status"], "404");
        let json =
            Pattern::parse("{ $.n = 3 && $.eventType = * && $.missing NOT EXISTS }").unwrap().extract(JSON);
        assert_eq!(
            json.into_iter().collect::<Vec<_>>(),
            [("$.eventType".to_owned(), "UpdateTrail".to_owned()), ("$.n".to_owned(), "3".to_owned()),]
        );
    }

    #[test]
    fn deep_nesting_is_refused_not_a_stack_overflow() {
        let deep = format!("{{{}$.a = 1{}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(Pattern::parse(&deep).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_text_panics(pattern in any::<String>(), message in any::<String>()) {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                pattern.matches(&message);
                pattern.extract(&message);
            }
        }

        #[test]
        fn no_text_of_the_syntax_panics(
            pattern in proptest::collection::vec(
                prop_oneof![
                    Just("{"), Just("}"), Just("["), Just("]"), Just("("), Just(")"), Just("$.a"), Just("$"), Just("."),
                    Just("="), Just("!="), Just("<"), Just(">="), Just("&&"), Just("||"), Just("IS"), Just("NOT"),
                    Just("NULL"), Just("EXISTS"), Just("TRUE"), Just("\""), Just("\\"), Just("%"), Just("*"), Just(","),
                    Just("..."), Just("-"), Just("?"), Just("1"), Just("x"), Just(" "), Just("ä"), Just("[0]"), Just("'"),
                ], 0..24),
            message in prop_oneof![Just("{\"a\":[1,\"x\"]}"), Just("{\"a\":1}"), Just("x 1 [a b] \"q"), Just("")],
        ) {
            if let Ok(pattern) = Pattern::parse(&pattern.concat()) {
                pattern.matches(message);
                pattern.extract(message);
            }
        }
    }
}
