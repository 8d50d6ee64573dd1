//! A tar reader for hostile input: ustar, GNU and PAX, nothing read into memory without a limit.
//!
//! The `tar` crate reads GNU long names and PAX records whole, however long they say they are, and knows no PAX
//! sparse files; both matter for what anybody may push to a registry.

use std::io::Read;

use super::UnpackError;
use super::pax::{Pax, Sparse};

const BLOCK: usize = 512;
/// One PAX header: paths, links and extended attributes (a kernel attribute ends at 64 KiB).
const PAX_BYTES_MAX: u64 = 1 << 20;
/// Headers that only describe the next one.
const METADATA_HEADERS_MAX: usize = 16;
/// A sparse file's pieces.
pub(super) const SPARSE_SEGMENTS_MAX: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Fifo,
    Device,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    /// Target of a symbolic or hard link.
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_seconds: i64,
    pub(super) mtime_nanoseconds: u32,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    /// Where the data belongs if the file has holes.
    pub(super) sparse: Option<Sparse>,
    /// Data bytes in the archive.
    pub(super) size: u64,
}

pub(super) struct Archive<R> {
    input: R,
    path_bytes_max: usize,
    /// Of the current entry.
    data_left: u64,
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(input: R, path_bytes_max: usize) -> Self {
        Archive { input, path_bytes_max, data_left: 0, padding: 0 }
    }

    /// The next entry, or `None` at the end mark. Data not read of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        for _ in 0..METADATA_HEADERS_MAX {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(&header[124..136])?;
            self.set_data(size);
            match header[156] {
                b'x' => pax = Pax::parse(&self.metadata(size, PAX_BYTES_MAX)?)?,
                // Defaults for the whole archive; no builder of images relies on them, Docker ignores them too.
                b'g' => drop(self.metadata(size, PAX_BYTES_MAX)?),
                b'L' => long_name = Some(self.long(size)?),
                b'K' => long_link = Some(self.long(size)?),
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
        }
        Err(UnpackError::malformed("more than 16 header blocks before one entry"))
    }

    /// The rest of the current entry's data.
    pub(super) fn data(&mut self) -> impl Read {
        Data { archive: self }
    }

    /// After the last entry: whatever follows, so that the stream's digest is whole.
    pub(super) fn drain(mut self) -> Result<(), UnpackError> {
        std::io::copy(&mut self.input, &mut std::io::sink()).map_err(UnpackError::from_read)?;
        Ok(())
    }

    fn set_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn skip_rest(&mut self) -> Result<(), UnpackError> {
        let bytes = self.data_left + self.padding;
        self.set_data(0);
        let skipped = std::io::copy(&mut self.input.by_ref().take(bytes), &mut std::io::sink())
            .map_err(UnpackError::from_read)?;
        if skipped < bytes { Err(UnpackError::malformed("the archive ends inside an entry")) } else { Ok(()) }
    }

    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]).map_err(UnpackError::from_read)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(UnpackError::malformed("the archive ends inside a header")),
                read => filled += read,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let said = number(&block[148..156])?;
        let blanked = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { *byte };
        let unsigned: u64 = block.iter().enumerate().map(blanked).map(u64::from).sum();
        let signed: i64 =
            block.iter().enumerate().map(blanked).map(|byte| i64::from(byte.cast_signed())).sum();
        if said != unsigned && i64::try_from(said) != Ok(signed) {
            return Err(UnpackError::malformed("a header's checksum is wrong: this is no tar archive"));
        }
        Ok(Some(block))
    }

    fn metadata(&mut self, size: u64, bytes_max: u64) -> Result<Vec<u8>, UnpackError> {
        if size > bytes_max {
            return Err(UnpackError::TooLarge(format!("a header of {size} bytes; {bytes_max} are allowed")));
        }
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes).map_err(UnpackError::from_read)?;
        if bytes.len() as u64 == size {
            Ok(bytes)
        } else {
            Err(UnpackError::malformed("the archive ends inside a header"))
        }
    }

    fn long(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let bytes = self.metadata(size, self.path_bytes_max as u64 + 1)?;
        Ok(until_nul(&bytes).to_vec())
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, UnpackError> {
        let path = pax.path.take().or(long_name).unwrap_or_else(|| ustar_name(header));
        let link = pax.link.take().or(long_link).unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        for text in [&path, &link] {
            if text.len() > self.path_bytes_max {
                let (length, max) = (text.len(), self.path_bytes_max);
                return Err(UnpackError::TooLarge(format!("a path of {length} bytes; {max} are allowed")));
            }
        }
        let kind = match header[156] {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let text =
                    format!("{}: unknown entry type '{}'", show(&path), char::from(other).escape_default());
                return Err(UnpackError::Malformed(text));
            }
        };
        let mut size = pax.size.unwrap_or(number(&header[124..136])?);
        if kind != Kind::File {
            // Old writers put a size on links that carry no data.
            size = 0;
        }
        self.set_data(size);
        let sparse = match header[156] {
            b'S' => Some(self.gnu_sparse(header)?),
            _ if pax.sparse_in_data() => {
                let before = self.data_left;
                let sparse = pax.sparse_from_data(&mut Data { archive: self })?;
                size -= before - self.data_left;
                Some(sparse)
            }
            _ => pax.sparse()?,
        };
        if let Some(sparse) = &sparse {
            sparse.check(size)?;
        }
        let (mtime_seconds, mtime_nanoseconds) = match pax.mtime {
            Some(mtime) => mtime,
            None => (number(&header[136..148])?.cast_signed(), 0),
        };
        Ok(Entry {
            path,
            link,
            kind,
            mode: (number(&header[100..108])? & 0o7777) as u32,
            uid: id(pax.uid, &header[108..116])?,
            gid: id(pax.gid, &header[116..124])?,
            mtime_seconds,
            mtime_nanoseconds,
            xattrs: pax.xattrs,
            sparse,
            size,
        })
    }

    /// The old GNU format: four pieces in the header, more in blocks after it that the size does not count.
    fn gnu_sparse(&mut self, header: &[u8; BLOCK]) -> Result<Sparse, UnpackError> {
        let mut segments = Vec::new();
        let mut pieces = |bytes: &[u8]| -> Result<(), UnpackError> {
            for piece in bytes.chunks_exact(24).filter(|piece| piece[0] != 0) {
                segments.push((number(&piece[..12])?, number(&piece[12..])?));
            }
            if segments.len() > SPARSE_SEGMENTS_MAX {
                return Err(UnpackError::TooLarge("a sparse file of more than 65536 pieces".to_owned()));
            }
            Ok(())
        };
        pieces(&header[386..482])?;
        let mut more = header[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.input.read_exact(&mut block).map_err(UnpackError::from_read)?;
            pieces(&block[..504])?;
            more = block[504] != 0;
        }
        Ok(Sparse { real_size: number(&header[483..495])?, segments })
    }
}

struct Data<'a, R> {
    archive: &'a mut Archive<R>,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.archive.data_left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.archive.input.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.archive.data_left -= read as u64;
        Ok(read)
    }
}

pub(super) fn show(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

fn ustar_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    // GNU's magic is "ustar  \0" and has other things where POSIX has the prefix.
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

/// Octal with blanks around it, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Result<u64, UnpackError> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        if negative {
            // Only times before 1970 are written so; they are kept as the two's complement they are.
            return Ok(field.iter().fold(u64::MAX, |sum, byte| (sum << 8) | u64::from(*byte)));
        }
        // Twelve bytes at most.
        let sum = field[1..].iter().fold(0u128, |sum, byte| (sum << 8) | u128::from(*byte));
        return i64::try_from(sum)
            .map(i64::cast_unsigned)
            .map_err(|_| UnpackError::malformed("a header's number does not fit in 63 bits"));
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'7' => Ok((sum << 3) | u64::from(byte - b'0')),
        _ => Err(UnpackError::malformed("a header's number is not octal")),
    })
}

fn id(pax: Option<u64>, field: &[u8]) -> Result<u32, UnpackError> {
    let id = match pax {
        Some(id) => id,
        None => number(field)?,
    };
    // The last value means "leave alone" to chown.
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| UnpackError::Malformed(format!("user or group id {id} is out of range")))
}
