//! Log configurations: the awslogs driver and its options.

use ferrogate_api::{ApiError, ecs};

use crate::errors::{client, unsupported};

/// What is kept of a non-blocking container's output for a sink that lags, unless it says otherwise: the default of
/// ECS's log drivers.
pub(crate) const MAX_BUFFER_BYTES: u64 = 10 << 20;

const OPTIONS: &[&str] = &[
    "awslogs-create-group",
    "awslogs-datetime-format",
    "awslogs-group",
    "awslogs-multiline-pattern",
    "awslogs-region",
    "awslogs-stream-prefix",
    "max-buffer-size",
    "mode",
];

/// A driver that Fargate has. Its options are checked by [`check`].
pub(crate) fn check_driver(configuration: &ecs::LogConfiguration) -> Result<(), ApiError> {
    match configuration.log_driver.as_deref().unwrap_or_default() {
        "awslogs" => require(configuration, &["awslogs-stream-prefix"]),
        driver @ ("splunk" | "awsfirelens") => Err(unsupported(&format!("the log driver '{driver}'"))),
        driver => Err(client(format!(
            "{driver} is not a valid log driver. Must be one of [awslogs,splunk,awsfirelens]"
        ))),
    }
}

fn require(configuration: &ecs::LogConfiguration, names: &[&str]) -> Result<(), ApiError> {
    let has = |name: &str| {
        configuration
            .options
            .as_ref()
            .is_some_and(|options| options.get(name).is_some_and(|value| !value.is_empty()))
    };
    let missing: Vec<&str> = names.iter().copied().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(client(format!("Log driver awslogs requires options: {}", missing.join(", "))))
}

/// What waits for CloudWatch Logs lies on the node's disk, beside the task's own storage.
const BUFFER_BYTES_MAX: u64 = 100 << 20;

/// The options of awslogs; other drivers are no concern of this.
pub(crate) fn check(configuration: &ecs::LogConfiguration) -> Result<(), ApiError> {
    if configuration.log_driver.as_deref() != Some("awslogs") {
        return Ok(());
    }
    if configuration.secret_options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(unsupported("'secretOptions'"));
    }
    let options = configuration.options.clone().unwrap_or_default();
    let unknown: Vec<&str> =
        options.keys().map(String::as_str).filter(|name| !OPTIONS.contains(name)).collect();
    if !unknown.is_empty() {
        return Err(client(format!("Log driver awslogs disallows options: {}", unknown.join(", "))));
    }
    require(configuration, &["awslogs-region", "awslogs-group"])?;
    if options.get("awslogs-create-group").is_some_and(|value| value != "true") {
        let message = "Log driver awslogs option 'awslogs-create-group' should only be set to 'true', else omit option.";
        return Err(client(message));
    }
    if options.get("mode").is_some_and(|mode| !matches!(mode.as_str(), "blocking" | "non-blocking")) {
        return Err(client("Log driver awslogs option 'mode' should be 'blocking' or 'non-blocking'."));
    }
    let fits = |size: &String| bytes(size).is_some_and(|bytes| (1..=BUFFER_BYTES_MAX).contains(&bytes));
    if options.get("max-buffer-size").is_some_and(|size| !fits(size)) {
        return Err(client(
            "Log driver awslogs option 'max-buffer-size' should be a size such as '4m' or '512k', and at most 100m.",
        ));
    }
    let Some(pattern) = options.get("awslogs-multiline-pattern") else { return Ok(()) };
    if options.contains_key("awslogs-datetime-format") {
        return Err(client(
            "Log driver awslogs options 'awslogs-datetime-format' and 'awslogs-multiline-pattern' cannot be configured \
             at the same time.",
        ));
    }
    match regex::Regex::new(pattern) {
        Ok(_) => Ok(()),
        Err(error) => Err(client(format!(
            "Log driver awslogs option 'awslogs-multiline-pattern' is not a regular expression: {error}"
        ))),
    }
}

/// `1048576`, `512k`, `10m`, `1g`, also with a `b` after the unit.
pub(crate) fn bytes(size: &str) -> Option<u64> {
    let size = size.trim().to_ascii_lowercase();
    let size = size.strip_suffix('b').unwrap_or(&size);
    let (number, unit) = match size.char_indices().next_back()? {
        (at, 'k') => (&size[..at], 1 << 10),
        (at, 'm') => (&size[..at], 1 << 20),
        (at, 'g') => (&size[..at], 1 << 30),
        _ => (size, 1),
    };
    number.trim_end().parse::<u64>().ok()?.checked_mul(unit)
}

/// The regular expression for a date and time in strftime's notation, as Docker's awslogs driver reads it.
pub(crate) fn datetime_pattern(format: &str) -> String {
    let mut pattern = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        let directive = if c == '%' { rest.next() } else { None };
        match directive.and_then(directive_pattern) {
            Some(known) => pattern.push_str(known),
            // What is no directive stands for itself.
            None => {
                let text: String = std::iter::once(c).chain(directive).collect();
                pattern.push_str(&regex::escape(&text));
            }
        }
    }
    pattern
}

fn directive_pattern(directive: char) -> Option<&'static str> {
    Some(match directive {
        'A' => "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day",
        'a' => "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)",
        'B' => "(?:January|February|March|April|May|June|July|August|September|October|November|December)",
        'b' => "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)",
        'd' => r"(?:0[1-9]|[12]\d|3[01])",
        'f' => r"\d{6}",
        'H' => r"(?:[01]\d|2[0-3])",
        'I' => r"(?:0\d|1[0-2])",
        'j' => r"(?:[0-2]\d\d|3[0-5]\d|36[0-6])",
        'L' => r"\.\d{3}",
        'M' | 'S' => r"[0-5]\d",
        'm' => r"(?:0[1-9]|1[0-2])",
        'p' => "(?:AM|PM)",
        'w' => "[0-6]",
        'y' => r"\d{2}",
        'Y' => r"\d{4}",
        'Z' => "[A-Z]{1,4}T",
        'z' => r"[+-]\d{4}",
        '%' => "%",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1", Some(1)),
            ("512k", Some(512 << 10)),
            ("10M", Some(10 << 20)),
            ("1gb", Some(1 << 30)),
            ("b", None),
            ("", None),
            ("m", None),
            ("-1m", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn dates() {
        for (format, line) in [
            ("%Y-%m-%d %H:%M:%S", "2026-11-21 05:32:01 started"),
            ("[%b %d, %Y %H:%M:%S]", "[Nov 21, 2026 05:32:01] x"),
            ("%Y-%m-%dT%H:%M:%S,%f%z", "2026-11-21T05:32:01,123456+0100"),
            ("%H:%M:%S%L %j %w %y", "05:32:01.123 325 6 26"),
            ("100%% %p", "100% AM"),
            ("%q.", "%q."),
        ] {
            let pattern = regex::Regex::new(&datetime_pattern(format)).unwrap();
            assert!(pattern.is_match(line), "{format} {line}");
            assert!(!pattern.is_match("  at com.example.Main"), "{format}");
        }
        let day = regex::Regex::new(&datetime_pattern("%Y-%m-%d %H:%M")).unwrap();
        for other in ["2026-13-01 05:32", "2026-11-32 05:32", "2026-11-21 24:00", "2026-11-21 05:60"] {
            assert!(!day.is_match(other), "{other}");
        }
    }
}
