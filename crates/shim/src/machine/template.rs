//! An empty file system without its holes: what a guest copies onto a fresh disk.
//!
//! ```text
//! | magic 8 | count 8 | offset 8, bytes 8 … | … to 4 KiB | data of the first extent, of the second, …
//! ```

/// Room for the list: 255 extents, where an empty ext4 has some ten.
pub const HEADER_BYTES: usize = 4 << 10;
/// Raised when a file of one version is none of another.
pub const VERSION: u32 = 2;
/// Of all extents together. An empty ext4 has some 60 KB in blocks of 4 KiB, and more where the host's file system has larger ones.
pub const DATA_BYTES_MAX: u64 = 16 << 20;
const MAGIC: &[u8; 8] = b"fgempty2";
pub const EXTENTS_MAX: usize = (HEADER_BYTES - 16) / 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    #[error("{0} extents: an empty file system has at most {EXTENTS_MAX}")]
    TooMany(usize),
    #[error("this is no template of an empty file system")]
    Damaged,
}

pub fn encode(extents: &[Extent]) -> Result<Vec<u8>, TemplateError> {
    if extents.len() > EXTENTS_MAX {
        return Err(TemplateError::TooMany(extents.len()));
    }
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&(extents.len() as u64).to_le_bytes());
    for extent in extents {
        header.extend_from_slice(&extent.offset.to_le_bytes());
        header.extend_from_slice(&extent.bytes.to_le_bytes());
    }
    header.resize(HEADER_BYTES, 0);
    Ok(header)
}

pub fn decode(header: &[u8]) -> Result<Vec<Extent>, TemplateError> {
    let parsed = || {
        let rest = header.strip_prefix(MAGIC)?;
        let (count, rest) = rest.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok().filter(|count| *count <= EXTENTS_MAX)?;
        let number = |bytes: &[u8]| Some(u64::from_le_bytes(*bytes.first_chunk()?));
        rest.chunks_exact(16)
            .take(count)
            .map(|pair| Some(Extent { offset: number(&pair[..8])?, bytes: number(&pair[8..])? }))
            .collect::<Option<Vec<_>>>()
            .filter(|extents| extents.len() == count)
    };
    parsed().ok_or(TemplateError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives() {
        let extents = [Extent { offset: 0, bytes: 4096 }, Extent { offset: 1 << 40, bytes: 12 }];
        let header = encode(&extents).unwrap();
        assert_eq!(header.len(), HEADER_BYTES);
        assert_eq!(decode(&header).unwrap(), extents);
        assert_eq!(decode(&[0; HEADER_BYTES]), Err(TemplateError::Damaged));
        assert_eq!(decode(&header[..24]), Err(TemplateError::Damaged));
        let many = vec![extents[0]; EXTENTS_MAX + 1];
        assert_eq!(encode(&many), Err(TemplateError::TooMany(EXTENTS_MAX + 1)));
    }
}
