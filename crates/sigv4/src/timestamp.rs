//! The two spellings of time in a signature: `20260121T032535Z` and `20260121`.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// `YYYYMMDDTHHMMSSZ`, or nothing when it is spelled otherwise.
pub(crate) fn parse_basic(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i16> {
        bytes[from..to].iter().try_fold(0i16, |sum, b| {
            b.is_ascii_digit().then(|| sum.checked_mul(10)?.checked_add(i16::from(b - b'0'))).flatten()
        })
    };
    let small = |from: usize, to: usize| number(from, to).and_then(|n| i8::try_from(n).ok());
    let civil = DateTime::new(
        number(0, 4)?,
        small(4, 6)?,
        small(6, 8)?,
        small(9, 11)?,
        small(11, 13)?,
        small(13, 15)?,
        0,
    )
    .ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The value of an `X-Amz-Date` or `Date` header: basic ISO 8601, or the HTTP date.
pub(crate) fn parse_header(text: &str) -> Option<Timestamp> {
    parse_basic(text).or_else(|| Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp()))
}

/// `YYYYMMDDTHHMMSSZ`.
pub(crate) fn basic(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_basic_format_is_a_date() {
        let at = parse_basic("20261121T032535Z").unwrap();
        assert_eq!(basic(at), "20261121T032535Z");
        for bad in [
            "",
            "2026-11-21T03:25:35Z",
            "20261321T032535Z",
            "20261121T032535",
            "2026112ＴT03253Z",
            "20261121T03253éZ",
        ] {
            assert!(parse_basic(bad).is_none(), "{bad}");
        }
        assert_eq!(parse_header("Sat, 21 Nov 2026 03:25:35 GMT"), Some(at));
    }
}
