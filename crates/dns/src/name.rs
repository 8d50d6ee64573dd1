//! Names as text: lower case, no dot at the end, bytes that are no plain characters as `\ooo`, octal ("DNS domain name
//! format", Route 53 developer guide).

use std::fmt::Write;

use hickory_proto::rr::Name;

const LABEL_BYTES_MAX: usize = 63;
/// Without the lengths of the labels: RFC 1035 counts 255 with them.
const NAME_CHARACTERS_MAX: usize = 253;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("a label is empty")]
    EmptyLabel,
    #[error("a label has more than 63 bytes")]
    LongLabel,
    #[error("the name has more than 253 characters")]
    Long,
    #[error("a character is not allowed, or an escape is not `\\` with three octal digits")]
    Character,
}

/// A byte that stands for itself.
fn plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'.' && byte != b'\\'
}

fn push(text: &mut String, byte: u8) {
    let byte = byte.to_ascii_lowercase();
    if plain(byte) {
        text.push(char::from(byte));
    } else {
        let _ = write!(text, "\\{byte:03o}");
    }
}

/// The name as keys are: `WWW.Example.com.` → `www.example.com`, `\052.example.com` → `*.example.com`.
///
/// # Errors
/// What is no name.
pub fn normal(text: &str) -> Result<String, NameError> {
    let labels = labels(text)?;
    let mut normal = String::with_capacity(text.len());
    for label in &labels {
        if !normal.is_empty() {
            normal.push('.');
        }
        label.iter().for_each(|byte| push(&mut normal, *byte));
    }
    Ok(normal)
}

/// As `normal`, of a name from a packet.
pub(crate) fn key(name: &Name) -> String {
    let mut text = String::with_capacity(64);
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        label.iter().for_each(|byte| push(&mut text, *byte));
    }
    text
}

/// For a packet; case stays as it is.
pub(crate) fn wire(text: &str) -> Result<Name, NameError> {
    if text == "." {
        return Ok(Name::root());
    }
    let labels = labels(text)?;
    Name::from_labels(labels.iter().map(Vec::as_slice)).map_err(|_| NameError::Long)
}

fn labels(text: &str) -> Result<Vec<Vec<u8>>, NameError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let mut labels = vec![Vec::new()];
    let mut bytes = text.bytes();
    let mut length = 0;
    while let Some(byte) = bytes.next() {
        let label = labels.last_mut().expect("never empty");
        length += 1;
        match byte {
            b'.' if label.is_empty() => return Err(NameError::EmptyLabel),
            b'.' => labels.push(Vec::new()),
            b'\\' => {
                let mut octal = 0_u32;
                for _ in 0..3 {
                    let digit = bytes.next().and_then(|digit| char::from(digit).to_digit(8));
                    octal = octal * 8 + digit.ok_or(NameError::Character)?;
                }
                label.push(u8::try_from(octal).map_err(|_| NameError::Character)?);
            }
            byte if plain(byte) => label.push(byte),
            _ => return Err(NameError::Character),
        }
        if labels.last().is_some_and(|label| label.len() > LABEL_BYTES_MAX) {
            return Err(NameError::LongLabel);
        }
        if length > NAME_CHARACTERS_MAX {
            return Err(NameError::Long);
        }
    }
    if labels.last().is_some_and(Vec::is_empty) {
        return Err(NameError::EmptyLabel);
    }
    Ok(labels)
}

/// The name and those above it: `a.b.c`, `b.c`, `c`.
pub(crate) fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_names() {
        assert_eq!(normal("WWW.Example.COM."), Ok("www.example.com".into()));
        assert_eq!(normal("\\052.example.com"), Ok("*.example.com".into()));
        assert_eq!(normal("a\\056b.c"), Ok("a\\056b.c".into()));
        assert_eq!(normal(""), Err(NameError::Empty));
        assert_eq!(normal("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(normal("a b"), Err(NameError::Character));
        assert_eq!(normal("a\\9"), Err(NameError::Character));
        assert_eq!(normal(&"a".repeat(64)), Err(NameError::LongLabel));
        assert_eq!(normal(&"a.".repeat(130)), Err(NameError::Long));
    }

    proptest! {
        #[test]
        fn what_is_normal_stays(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 1..6)) {
            let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
            let text = key(&name);
            prop_assert_eq!(normal(&text), Ok(text.clone()));
            prop_assert_eq!(key(&wire(&text).unwrap()), text);
        }
    }
}
