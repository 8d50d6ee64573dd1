//! Values as Route 53 takes them ("Supported DNS record types", developer guide).

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{RData, RecordType};

use crate::name::{NameError, wire};

/// One string of a TXT record.
const TXT_STRING_BYTES_MAX: usize = 255;
/// The name of a CAA property: RFC 6844, 5.1; there are readers that take no longer one.
const CAA_TAG_BYTES_MAX: usize = 15;
/// All of one TXT value.
const TXT_CHARACTERS_MAX: usize = 4000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("records of type {0} are not served")]
    Kind(String),
    #[error("Value is not a valid IPv4 address")]
    Ipv4,
    #[error("Value is not a valid IPv6 address")]
    Ipv6,
    #[error("Value should be enclosed in quotation marks")]
    Quotes,
    #[error("Value is too long")]
    Long,
    #[error("{expected}: {got} fields")]
    Fields { expected: &'static str, got: usize },
    #[error("{0} is not a number in range")]
    Number(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a CAA value is flags, tag and a value in quotation marks")]
    Caa,
}

/// Whether a value is one of its kind: `A`, `AAAA`, `CAA`, `CNAME`, `MX`, `NS`, `PTR`, `SOA`, `SRV`, `TXT`.
///
/// # Errors
/// Why it is not.
pub fn check(kind: &str, value: &str) -> Result<(), ValueError> {
    let record_type = record_type(kind).ok_or_else(|| ValueError::Kind(kind.to_owned()))?;
    parse(record_type, value).map(drop)
}

pub(crate) fn record_type(kind: &str) -> Option<RecordType> {
    Some(match kind {
        "A" => RecordType::A,
        "AAAA" => RecordType::AAAA,
        "CAA" => RecordType::CAA,
        "CNAME" => RecordType::CNAME,
        "MX" => RecordType::MX,
        "NS" => RecordType::NS,
        "PTR" => RecordType::PTR,
        "SOA" => RecordType::SOA,
        "SRV" => RecordType::SRV,
        "TXT" => RecordType::TXT,
        _ => return None,
    })
}

pub(crate) fn parse(kind: RecordType, value: &str) -> Result<RData, ValueError> {
    Ok(match kind {
        RecordType::A => RData::A(A(value.parse::<Ipv4Addr>().map_err(|_| ValueError::Ipv4)?)),
        RecordType::AAAA => RData::AAAA(AAAA(value.parse::<Ipv6Addr>().map_err(|_| ValueError::Ipv6)?)),
        RecordType::CNAME => RData::CNAME(CNAME(wire(value)?)),
        RecordType::NS => RData::NS(NS(wire(value)?)),
        RecordType::PTR => RData::PTR(PTR(wire(value)?)),
        RecordType::MX => {
            let [preference, exchange] = fields("[preference] [name]", value)?;
            RData::MX(MX::new(number(preference)?, wire(exchange)?))
        }
        RecordType::SRV => {
            let [priority, weight, port, target] = fields("[priority] [weight] [port] [name]", value)?;
            RData::SRV(SRV::new(number(priority)?, number(weight)?, number(port)?, wire(target)?))
        }
        RecordType::SOA => {
            let [mname, rname, serial, refresh, retry, expire, minimum] =
                fields("[name] [mailbox] [serial] [refresh] [retry] [expire] [minimum]", value)?;
            RData::SOA(SOA::new(
                wire(mname)?,
                wire(rname)?,
                number(serial)?,
                number(refresh)?,
                number(retry)?,
                number(expire)?,
                number(minimum)?,
            ))
        }
        RecordType::TXT => {
            let strings = strings(value)?;
            RData::TXT(TXT::from_bytes(strings.iter().map(Vec::as_slice).collect()))
        }
        RecordType::CAA => caa(value)?,
        other => return Err(ValueError::Kind(other.to_string())),
    })
}

fn fields<'a, const N: usize>(expected: &'static str, value: &'a str) -> Result<[&'a str; N], ValueError> {
    let fields: Vec<&str> = value.split_whitespace().collect();
    let got = fields.len();
    fields.try_into().map_err(|_| ValueError::Fields { expected, got })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, ValueError> {
    text.parse().map_err(|_| ValueError::Number(text.to_owned()))
}

/// `"one" "two"`; inside, `\"`, `\\` and `\ooo`.
fn strings(value: &str) -> Result<Vec<Vec<u8>>, ValueError> {
    if value.len() > TXT_CHARACTERS_MAX {
        return Err(ValueError::Long);
    }
    let mut rest = value.trim();
    let mut strings = Vec::new();
    while !rest.is_empty() {
        let (string, after) = quoted(rest)?;
        strings.push(string);
        rest = after.trim_start();
    }
    if strings.is_empty() { Err(ValueError::Quotes) } else { Ok(strings) }
}

fn quoted(text: &str) -> Result<(Vec<u8>, &str), ValueError> {
    let inner = text.strip_prefix('"').ok_or(ValueError::Quotes)?;
    let mut string = Vec::new();
    let mut bytes = inner.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                if string.len() > TXT_STRING_BYTES_MAX {
                    return Err(ValueError::Long);
                }
                return Ok((string, &inner[at + 1..]));
            }
            b'\\' => string.push(escaped(&mut bytes.by_ref().map(|(_, byte)| byte))?),
            byte => string.push(byte),
        }
    }
    Err(ValueError::Quotes)
}

fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, ValueError> {
    let first = bytes.next().ok_or(ValueError::Quotes)?;
    let Some(first) = char::from(first).to_digit(8) else { return Ok(first) };
    let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(8)).ok_or(ValueError::Quotes);
    let octal = first * 64 + digit()? * 8 + digit()?;
    u8::try_from(octal).map_err(|_| ValueError::Quotes)
}

fn caa(value: &str) -> Result<RData, ValueError> {
    let mut parts = value.splitn(3, char::is_whitespace);
    let flags: u8 = number(parts.next().unwrap_or_default())?;
    let tag = parts.next().ok_or(ValueError::Caa)?;
    let (text, rest) = quoted(parts.next().ok_or(ValueError::Caa)?.trim())?;
    let named =
        (1..=CAA_TAG_BYTES_MAX).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !rest.trim().is_empty() || !named {
        return Err(ValueError::Caa);
    }
    let mut caa = CAA::new_issue(flags & 0x80 != 0, None, Vec::new());
    caa.reserved_flags = flags & 0x7f;
    tag.clone_into(&mut caa.tag);
    caa.value = text;
    Ok(RData::CAA(caa))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones() {
        for (kind, value) in [
            ("A", "10.0.0.1"),
            ("AAAA", "2001:db8::1"),
            ("CNAME", "www.example.com."),
            ("MX", "10 mail.example.com"),
            ("SRV", "1 1 8080 task.web.local"),
            ("TXT", r#""one" "t\"wo" "\303\244""#),
            ("CAA", r#"0 issue "ca.example.com; a=b""#),
            ("SOA", "ns. host.example.com. 1 7200 900 1209600 86400"),
        ] {
            assert_eq!(check(kind, value), Ok(()), "{kind} {value}");
        }
    }

    #[test]
    fn bad_ones() {
        for (kind, value, error) in [
            ("A", "10.0.0", ValueError::Ipv4),
            ("AAAA", "10.0.0.1", ValueError::Ipv6),
            ("TXT", "bare", ValueError::Quotes),
            ("TXT", "\"open", ValueError::Quotes),
            ("CNAME", "a b", ValueError::Name(NameError::Character)),
            ("SRV", "1 1 99999 a", ValueError::Number("99999".into())),
            ("LOC", "x", ValueError::Kind("LOC".into())),
            ("CAA", r#"0 abcdefghijklmnop "x""#, ValueError::Caa),
        ] {
            assert_eq!(check(kind, value), Err(error), "{kind} {value}");
        }
        assert!(check("TXT", &format!("\"{}\"", "a".repeat(256))).is_err());
    }
}
