//! PAX extended headers, and the four ways in which tar writes a file with holes.

use std::io::Read;

use super::UnpackError;
use super::archive::SPARSE_SEGMENTS_MAX;

/// A file of `real_size` bytes of which only `segments` (offset, length) are stored, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) real_size: u64,
    pub(super) segments: Vec<(u64, u64)>,
}

impl Sparse {
    /// Ascending, inside the file, and together what is stored.
    pub(super) fn check(&self, stored: u64) -> Result<(), UnpackError> {
        let mut end = 0;
        let mut sum = 0u64;
        for (offset, length) in &self.segments {
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= self.real_size);
            end =
                next.ok_or_else(|| UnpackError::malformed("a sparse file's pieces overlap or pass its end"))?;
            sum += length;
        }
        if sum == stored {
            Ok(())
        } else {
            Err(UnpackError::malformed("a sparse file's pieces are not its size"))
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    sparse_major: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_map: Option<Vec<u64>>,
}

const XATTR: &str = "SCHILY.xattr.";

impl Pax {
    /// Records are `<length> <key>=<value>\n`, the length counting all of it.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, UnpackError> {
        let mut pax = Pax::default();
        while !bytes.is_empty() {
            let bad = || UnpackError::malformed("a PAX record is broken");
            let blank = bytes.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length = decimal(&bytes[..blank])? as usize;
            if length <= blank + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &bytes[blank + 1..length - 1];
            bytes = &bytes[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let key = std::str::from_utf8(&record[..equals]).map_err(|_| bad())?;
            pax.set(key, &record[equals + 1..])?;
        }
        // The name in the header is a made-up one then.
        if let Some(name) = pax.sparse_name.take() {
            pax.path = Some(name);
        }
        Ok(pax)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), UnpackError> {
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = Some(decimal(value)?),
            "uid" => self.uid = Some(decimal(value)?),
            "gid" => self.gid = Some(decimal(value)?),
            "mtime" => self.mtime = Some(time(value)?),
            "GNU.sparse.major" => self.sparse_major = Some(decimal(value)?),
            "GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            "GNU.sparse.realsize" | "GNU.sparse.size" => self.sparse_size = Some(decimal(value)?),
            "GNU.sparse.offset" | "GNU.sparse.numbytes" => self.piece(decimal(value)?)?,
            "GNU.sparse.map" => {
                for number in value.split(|byte| *byte == b',').filter(|number| !number.is_empty()) {
                    self.piece(decimal(number)?)?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn piece(&mut self, number: u64) -> Result<(), UnpackError> {
        let map = self.sparse_map.get_or_insert_default();
        if map.len() >= 2 * SPARSE_SEGMENTS_MAX {
            return Err(UnpackError::TooLarge(format!(
                "a sparse file of more than {SPARSE_SEGMENTS_MAX} pieces"
            )));
        }
        map.push(number);
        Ok(())
    }

    /// Format 1.0 keeps the map in front of the data.
    pub(super) fn sparse_in_data(&self) -> bool {
        self.sparse_major == Some(1)
    }

    pub(super) fn sparse_from_data(&self, data: &mut impl Read) -> Result<Sparse, UnpackError> {
        let mut block = [0u8; 512];
        let mut at = block.len();
        let mut next = || -> Result<u64, UnpackError> {
            let mut digits = Vec::new();
            loop {
                if at == block.len() {
                    data.read_exact(&mut block).map_err(UnpackError::from_read)?;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return decimal(&digits),
                    _ if digits.len() < 20 => digits.push(byte),
                    _ => return Err(UnpackError::malformed("a sparse file's map is broken")),
                }
            }
        };
        let count = next()?;
        if count > SPARSE_SEGMENTS_MAX as u64 {
            return Err(UnpackError::TooLarge(format!("a sparse file of {count} pieces")));
        }
        let mut segments = Vec::new();
        for _ in 0..count {
            segments.push((next()?, next()?));
        }
        let real_size =
            self.sparse_size.ok_or_else(|| UnpackError::malformed("a sparse file does not say its size"))?;
        Ok(Sparse { real_size, segments })
    }

    /// Formats 0.0 and 0.1 keep the map in the header.
    pub(super) fn sparse(&self) -> Result<Option<Sparse>, UnpackError> {
        let (Some(map), Some(real_size)) = (&self.sparse_map, self.sparse_size) else { return Ok(None) };
        if !map.len().is_multiple_of(2) {
            return Err(UnpackError::malformed("a sparse file's map is broken"));
        }
        Ok(Some(Sparse { real_size, segments: map.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect() }))
    }
}

fn decimal(bytes: &[u8]) -> Result<u64, UnpackError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|number| i64::try_from(*number).is_ok())
        .ok_or_else(|| {
            UnpackError::Malformed(format!("'{}' in a PAX record is no number", bytes.escape_ascii()))
        })
}

/// Seconds with an optional fraction, possibly before 1970.
fn time(bytes: &[u8]) -> Result<(i64, u32), UnpackError> {
    let bad = || UnpackError::Malformed(format!("'{}' in a PAX record is no time", bytes.escape_ascii()));
    let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    let nanoseconds = format!("{:0<9.9}", fraction).parse::<u32>().map_err(|_| bad())?;
    match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => Ok((seconds.checked_sub(1).ok_or_else(bad)?, 1_000_000_000 - nanoseconds)),
        _ => Ok((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(time(b"1700000000.5").unwrap(), (1_700_000_000, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"-0.5").unwrap(), (-1, 500_000_000));
        assert_eq!(time(b"7").unwrap(), (7, 0));
        assert!(time(b"1e5").is_err() && time(b"").is_err() && time(b"1.x").is_err());
    }

    #[test]
    fn a_sparse_map_is_checked() {
        let sparse = |real_size, segments: &[(u64, u64)]| Sparse { real_size, segments: segments.to_vec() };
        assert!(sparse(100, &[(0, 10), (50, 10)]).check(20).is_ok());
        assert!(sparse(100, &[(0, 10), (5, 10)]).check(20).is_err());
        assert!(sparse(100, &[(95, 10)]).check(10).is_err());
        assert!(sparse(100, &[(0, 10)]).check(11).is_err());
        assert!(sparse(u64::MAX, &[(u64::MAX, 10)]).check(10).is_err());
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::parse(&bytes);
        }

        #[test]
        fn records_are_read_back(value in "[^\n\0]{0,200}") {
            let body = format!(" path={value}\n");
            let mut length = body.len() + 1;
            while format!("{length}{body}").len() != length {
                length += 1;
            }
            prop_assert_eq!(Pax::parse(format!("{length}{body}").as_bytes()).unwrap().path.unwrap(), value.as_bytes());
        }
    }
}
