//! Scalars as text: what query, XML, headers and URIs have in common; and the forms of time.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Member, ShapeModel, Structure, TimestampFormat};
use jiff::Timestamp;
use jiff::civil;
use jiff::tz::TimeZone;

use crate::fault::{Fault, Path};

/// Padding is optional: AWS takes both.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) fn base64_encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn base64_decode(text: &str, path: &Path<'_>) -> Result<Vec<u8>, Fault> {
    let compact: Cow<'_, str> = if text.contains(|c: char| c.is_ascii_whitespace()) {
        text.split_ascii_whitespace().collect::<String>().into()
    } else {
        text.into()
    };
    LENIENT.decode(compact.as_bytes()).map_err(|_| Fault::at(path, "must be base64"))
}

/// The format a timestamp of this member has, when model or shape say so.
pub(crate) fn timestamp_format(member: Option<&Member>, shape: &ShapeModel) -> Option<TimestampFormat> {
    let of_shape = if let Kind::Timestamp { format } = &shape.kind { *format } else { None };
    member.and_then(|member| member.timestamp_format).or(of_shape)
}

/// A scalar from its text. Structures, lists and maps have none.
pub(crate) fn parse(shape: &ShapeModel, text: &str, path: &Path<'_>) -> Result<Value, Fault> {
    let trimmed = text.trim();
    let bad = |expected: &str| Fault::text(path, text, expected);
    Ok(match &shape.kind {
        Kind::String => Value::String(text.to_owned()),
        Kind::Integer => Value::Int(trimmed.parse::<i32>().map_err(|_| bad("an integer of 32 bits"))?.into()),
        Kind::Long => Value::Int(trimmed.parse().map_err(|_| bad("an integer of 64 bits"))?),
        Kind::Float | Kind::Double => Value::Float(trimmed.parse().map_err(|_| bad("a number"))?),
        Kind::Boolean if trimmed.eq_ignore_ascii_case("true") => Value::Bool(true),
        Kind::Boolean if trimmed.eq_ignore_ascii_case("false") => Value::Bool(false),
        Kind::Boolean => return Err(bad("true or false")),
        Kind::Blob { .. } => Value::Blob(base64_decode(text, path)?),
        Kind::Timestamp { .. } => Value::Timestamp(
            timestamp(trimmed).ok_or_else(|| bad("a timestamp, such as 2026-01-31T00:00:00Z"))?,
        ),
        Kind::Structure(_) => return Err(bad("a structure")),
        Kind::List { .. } => return Err(bad("a list")),
        Kind::Map { .. } => return Err(bad("a map")),
    })
}

/// The text of a scalar. `None` for what has no text: null, lists, maps, structures.
pub(crate) fn format<'v>(
    shape: &ShapeModel,
    value: &'v Value,
    time: TimestampFormat,
) -> Option<Cow<'v, str>> {
    Some(match value {
        Value::Timestamp(at) => write_timestamp(*at, time).into(),
        // A record of the store may hold a time as text.
        Value::String(text) if matches!(shape.kind, Kind::Timestamp { .. }) => {
            timestamp(text).map_or(Cow::Borrowed(text.as_str()), |at| write_timestamp(at, time).into())
        }
        Value::String(text) => Cow::Borrowed(text),
        Value::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
        Value::Int(number) => number.to_string().into(),
        Value::Float(number) => float(*number).into(),
        Value::Blob(bytes) => base64_encode(bytes).into(),
        Value::Null | Value::List(_) | Value::Map(_) | Value::Struct(_) => return None,
    })
}

/// As Java and Python both read it.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        "NaN".into()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        format!("{number:?}")
    }
}

/// Any form AWS takes: ISO 8601 with or without zone, RFC 822, seconds of the epoch.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return epoch(seconds);
    }
    let zoneless = text.parse::<civil::DateTime>().or_else(|_| text.parse::<civil::Date>().map(Into::into));
    if let Ok(zoneless) = zoneless {
        return zoneless.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp());
    }
    jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp())
}

/// Seconds since 1970, to the microsecond: more a double of today does not hold.
pub(crate) fn epoch(seconds: f64) -> Option<Timestamp> {
    let micros = (seconds * 1e6).round();
    (micros.abs() < 9e18).then(|| Timestamp::from_microsecond(micros as i64).ok())?
}

/// AWS tells milliseconds and no more.
pub(crate) fn write_timestamp(at: Timestamp, format: TimestampFormat) -> String {
    match format {
        TimestampFormat::Iso8601 if at.as_millisecond() % 1000 == 0 => format!("{at:.0}"),
        TimestampFormat::Iso8601 => format!("{at:.3}"),
        TimestampFormat::Rfc822 => at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
        TimestampFormat::UnixTimestamp => {
            let millis = at.as_millisecond();
            if millis % 1000 == 0 {
                (millis / 1000).to_string()
            } else {
                let sign = if millis < 0 { "-" } else { "" };
                let text = format!("{sign}{}.{:03}", (millis / 1000).abs(), (millis % 1000).abs());
                text.trim_end_matches('0').to_owned()
            }
        }
    }
}

/// The members of `value` that the model knows and that are not null. A structure may come as `Map`: that is how
/// the store gives it back.
pub(crate) fn members<'v>(
    structure: &'v Structure,
    value: &'v Value,
) -> impl Iterator<Item = (&'v Member, &'v Value)> {
    let (fields, entries) = match value {
        Value::Struct(fields) => (fields.as_slice(), [].as_slice()),
        Value::Map(entries) => ([].as_slice(), entries.as_slice()),
        _ => ([].as_slice(), [].as_slice()),
    };
    let named = fields.iter().map(|(name, value)| (*name, value));
    let named = named.chain(entries.iter().map(|(name, value)| (name.as_str(), value)));
    // Values come in the model's order, or nearly: the search goes on where it stood.
    let mut next = 0;
    named.filter(|(_, value)| !value.is_null()).filter_map(move |(name, value)| {
        let members = &structure.members;
        let found = members[next..].iter().position(|member| member.name == name).map(|at| at + next);
        let at = found.or_else(|| members[..next].iter().position(|member| member.name == name))?;
        next = at;
        Some((&members[at], value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_time_is_read() {
        let at: Timestamp = "2026-01-31T10:20:30Z".parse().unwrap();
        for text in [
            "2026-01-31T10:20:30Z",
            "2026-01-31T10:20:30.000Z",
            "2026-01-31T11:20:30+01:00",
            "2026-01-31T10:20:30",
            "1769854830",
            "1769854830.0",
            "Sat, 31 Jan 2026 10:20:30 GMT",
        ] {
            assert_eq!(timestamp(text), Some(at), "{text}");
        }
        assert_eq!(timestamp("2026-01-31"), "2026-01-31T00:00:00Z".parse().ok());
        for text in ["", "yesterday", "1e300", "NaN", "inf"] {
            assert_eq!(timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn time_is_written_to_the_millisecond() {
        let at: Timestamp = "2026-01-31T10:20:30.120456Z".parse().unwrap();
        assert_eq!(write_timestamp(at, TimestampFormat::Iso8601), "2026-01-31T10:20:30.120Z");
        assert_eq!(write_timestamp(at, TimestampFormat::Rfc822), "Sat, 31 Jan 2026 10:20:30 GMT");
        assert_eq!(write_timestamp(at, TimestampFormat::UnixTimestamp), "1769854830.12");
        let before: Timestamp = "1969-12-31T23:59:59.5Z".parse().unwrap();
        assert_eq!(write_timestamp(before, TimestampFormat::UnixTimestamp), "-0.5");
    }

    #[test]
    fn base64_needs_no_padding() {
        assert_eq!(base64_decode("YQ==", &Path::Root).unwrap(), b"a");
        assert_eq!(base64_decode("YQ", &Path::Root).unwrap(), b"a");
        assert!(base64_decode("Y!", &Path::Root).is_err());
    }
}
