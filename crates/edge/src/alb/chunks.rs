//! How far a chunked body goes, a client's or a target's, and what of it is data. Pure.

/// Hex digits of a chunk's size.
const SIZE_DIGITS_MAX: u8 = 15;
/// Chunk extensions and trailers mean nothing to a balancer; they are bounded, not kept.
const EXTENSION_BYTES_MAX: u16 = 4096;
const TRAILER_BYTES_MAX: u16 = 16 * 1024;

/// A chunked body that does not follow RFC 9112, 7.1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunked body that breaks its own framing")]
pub(super) struct BadChunk;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size {
        digits: u8,
        size: u64,
    },
    /// Blanks behind a target's size.
    Pad(u64),
    Extension {
        bytes: u16,
        size: u64,
    },
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty one that ends all.
    TrailerStart,
    TrailerName,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    at: At,
    trailer_bytes: u16,
    /// Old servers fill the size up with blanks. They do no harm in a response: it is framed anew.
    padded: bool,
}

/// What comes next of a chunked body, and how many bytes of it there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(usize),
    Framing(usize),
}

impl Default for Chunks {
    fn default() -> Self {
        Chunks { at: At::Size { digits: 0, size: 0 }, trailer_bytes: 0, padded: false }
    }
}

impl Chunks {
    pub(super) fn of_target() -> Chunks {
        Chunks { padded: true, ..Chunks::default() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.at == At::End
    }

    /// How many of the bytes belong to the body, and whether it ends there.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<(usize, bool), BadChunk> {
        let mut used = 0;
        while used < bytes.len() && !self.is_over() {
            used += match self.piece(&bytes[used..])? {
                Piece::Data(bytes) | Piece::Framing(bytes) => bytes,
            };
        }
        Ok((used, self.is_over()))
    }

    /// Data as far as it goes, or framing up to the next data or the end; of no bytes, nothing.
    pub(super) fn piece(&mut self, bytes: &[u8]) -> Result<Piece, BadChunk> {
        if let At::Data(left) = self.at {
            let take = usize::try_from(left).unwrap_or(bytes.len()).min(bytes.len());
            let left = left - take as u64;
            self.at = if left == 0 { At::DataCr } else { At::Data(left) };
            return Ok(Piece::Data(take));
        }
        let mut used = 0;
        while used < bytes.len() && !matches!(self.at, At::Data(_) | At::End) {
            self.at = self.next(bytes[used])?;
            used += 1;
        }
        Ok(Piece::Framing(used))
    }

    fn next(&mut self, byte: u8) -> Result<At, BadChunk> {
        Ok(match (self.at, byte) {
            (At::Size { digits, size }, byte) if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS_MAX => {
                let digit = u64::from((byte as char).to_digit(16).ok_or(BadChunk)?);
                At::Size { digits: digits + 1, size: size * 16 + digit }
            }
            (At::Size { digits: 1.., size }, b'\r') => At::SizeLf(size),
            (At::Size { digits: 1.., size } | At::Pad(size), b' ' | b'\t') if self.padded => At::Pad(size),
            (At::Pad(size), b'\r') => At::SizeLf(size),
            (At::Size { digits: 1.., size } | At::Pad(size), b';') => At::Extension { bytes: 0, size },
            (At::Extension { size, .. }, b'\r') => At::SizeLf(size),
            (At::Extension { bytes, size }, byte) if text(byte) && bytes < EXTENSION_BYTES_MAX => {
                At::Extension { bytes: bytes + 1, size }
            }
            (At::SizeLf(0), b'\n') => At::TrailerStart,
            (At::SizeLf(size), b'\n') => At::Data(size),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size { digits: 0, size: 0 },
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::TrailerStart | At::TrailerName, byte)
                if token(byte) && self.trailer_bytes < TRAILER_BYTES_MAX =>
            {
                self.trailer_bytes += 1;
                At::TrailerName
            }
            (At::TrailerName, b':') => At::Trailer,
            (At::Trailer, byte) if text(byte) && self.trailer_bytes < TRAILER_BYTES_MAX => {
                self.trailer_bytes += 1;
                At::Trailer
            }
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => At::End,
            _ => return Err(BadChunk),
        })
    }
}

/// Of a field's name.
fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Result<(usize, bool), BadChunk> {
        Chunks::default().pass(text.as_bytes())
    }

    #[test]
    fn a_body_ends_where_it_says() {
        assert_eq!(all("0\r\n\r\nGET"), Ok((5, true)));
        assert_eq!(all("4\r\nwiki\r\n0\r\n\r\n"), Ok((14, true)));
        assert_eq!(all("a;x=\"y\"\r\n0123456789\r\n0\r\nT: v\r\n\r\n"), Ok((32, true)));
        assert_eq!(all("4\r\nwi"), Ok((5, false)));
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        for text in [
            "\r\n",
            "4\nwiki",
            "4\r\nwikis\r\n",
            "0x4\r\n",
            " 4\r\n",
            "4 \r\n",
            "-1\r\n",
            "+4\r\n",
            "4;\n",
            "0\r\n\n",
            "fffffffffffffffff\r\n",
            "g\r\n",
            "4\rX",
            "4\r\nwiki\n",
            "0\r\nX: y\n\r\n",
            "0\r\nX: \0\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\n: v\r\n\r\n",
        ] {
            assert_eq!(all(text), Err(BadChunk), "{text:?}");
        }
    }

    #[test]
    fn data_is_taken_out() {
        let bytes = b"4 \r\nwiki\r\n3;x\r\nped\r\n0\r\nT: v\r\n\r\nGET";
        let (mut chunks, mut used, mut data) = (Chunks::of_target(), 0, Vec::new());
        while !chunks.is_over() {
            match chunks.piece(&bytes[used..]).unwrap() {
                Piece::Framing(bytes) => used += bytes,
                Piece::Data(count) => {
                    data.extend_from_slice(&bytes[used..used + count]);
                    used += count;
                }
            }
        }
        assert_eq!((&data[..], &bytes[used..]), (&b"wikiped"[..], &b"GET"[..]));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[0-3]{1,2}(;a)?\r\n[a-z\r\n0]{0,24}", cut in 0usize..12) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let whole = all(&text);
            let mut chunks = Chunks::default();
            let first = chunks.pass(&bytes[..cut]);
            let pieces = match first {
                Ok((used, false)) => chunks.pass(&bytes[used..]).map(|(more, end)| (used + more, end)),
                other => other,
            };
            prop_assert_eq!(whole, pieces);
        }
    }
}
