//! aws-chunked bodies: `size[;chunk-signature=…]\r\n data \r\n … 0[;…]\r\n [trailers] \r\n`.
//!
//! ```text
//!  Header ──size > 0──▶ Data ──all read──▶ DataEnd ──"\r\n"──▶ Header
//!     │ size = 0
//!     ├── with trailer ──▶ Trailer ──empty line──▶ Done
//!     └── without ───────▶ LastEnd ──"\r\n"──────▶ Done
//! ```
//!
//! Of a signed body not one byte is handed on before the signature of its chunk has been checked, so a chunk
//! is held in memory, up to [`MAX_SIGNED_CHUNK_BYTES`].

use crate::{
    SigError,
    keys::{SigningKey, same, sha256_hex},
    presented::Streaming,
};

/// The largest chunk of a signed body, in bytes.
pub const MAX_SIGNED_CHUNK_BYTES: u64 = 16 * 1024 * 1024;
/// The largest chunk of an unsigned body: such a chunk is handed on as it comes.
const MAX_UNSIGNED_CHUNK_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// The longest `size;chunk-signature=…` line, in bytes.
const MAX_HEADER_LINE_BYTES: usize = 256;
/// All trailer lines together, in bytes.
pub const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// Where a chain of chunk signatures starts: the signature of the request's headers.
#[derive(Debug, Clone)]
pub(crate) struct ChunkSeed {
    pub(crate) streaming: Streaming,
    pub(crate) key: SigningKey,
    pub(crate) timestamp: String,
    pub(crate) scope: String,
    pub(crate) signature: [u8; 32],
    pub(crate) decoded_content_length: Option<u64>,
}

impl ChunkSeed {
    /// Signature of one chunk's data, following the last signature.
    pub(crate) fn chunk_signature(&self, data: &[u8]) -> [u8; 32] {
        let to_sign = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{}\n{}\n{}",
            self.timestamp,
            self.scope,
            hex::encode(self.signature),
            sha256_hex(b""),
            sha256_hex(data),
        );
        self.key.sign(to_sign.as_bytes())
    }

    /// Signature of the trailers, given as `name:value\n…`.
    pub(crate) fn trailer_signature(&self, canonical: &[u8]) -> [u8; 32] {
        let to_sign = format!(
            "AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{}\n{}",
            self.timestamp,
            self.scope,
            hex::encode(self.signature),
            sha256_hex(canonical),
        );
        self.key.sign(to_sign.as_bytes())
    }
}

#[derive(Debug)]
enum State {
    Header,
    Data {
        left: u64,
        signature: Option<[u8; 32]>,
    },
    DataEnd,
    LastEnd,
    Trailer,
    Done,
    /// An error has been returned; every later call returns it again.
    Failed(SigError),
}

/// Decodes an aws-chunked body piece by piece; pieces may be cut anywhere.
#[derive(Debug)]
pub struct ChunkDecoder {
    seed: ChunkSeed,
    state: State,
    /// An unfinished line, or the bytes of a chunk whose signature is still to be checked.
    held: Vec<u8>,
    decoded_bytes: u64,
    trailer_bytes: usize,
    trailers: Vec<(String, String)>,
    trailer_signed: bool,
}

impl ChunkDecoder {
    pub(crate) fn new(seed: ChunkSeed) -> Self {
        Self {
            seed,
            state: State::Header,
            held: Vec::new(),
            decoded_bytes: 0,
            trailer_bytes: 0,
            trailers: Vec::new(),
            trailer_signed: false,
        }
    }

    /// Takes the next bytes of the body and appends what they decode to onto `out`.
    ///
    /// # Errors
    /// `Mismatch` for a wrong signature, `MalformedChunk`, `IncompleteBody`. After an error nothing more is
    /// decoded.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), SigError> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        let result = self.advance(input, out);
        if let Err(error) = &result {
            self.state = State::Failed(error.clone());
        }
        result
    }

    /// Ends the body and returns its trailers, names in lower case.
    ///
    /// # Errors
    /// `IncompleteBody` when the body is not whole or has another length than `x-amz-decoded-content-length`.
    pub fn finish(self) -> Result<Vec<(String, String)>, SigError> {
        match self.state {
            State::Done => Ok(self.trailers),
            State::Failed(error) => Err(error),
            _ => Err(SigError::IncompleteBody),
        }
    }

    fn advance(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), SigError> {
        while !input.is_empty() {
            match &mut self.state {
                State::Header => {
                    if let Some(line) = take_line(&mut self.held, &mut input, MAX_HEADER_LINE_BYTES)? {
                        self.header(&line)?;
                    }
                }
                State::Data { left, signature } => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    let (now, rest) = input.split_at(take);
                    input = rest;
                    *left -= take as u64;
                    let Some(expected) = *signature else {
                        out.extend_from_slice(now);
                        if *left == 0 {
                            self.state = State::DataEnd;
                        }
                        continue;
                    };
                    self.held.extend_from_slice(now);
                    if *left == 0 {
                        self.check_chunk(expected)?;
                        out.append(&mut self.held);
                        self.state = State::DataEnd;
                    }
                }
                State::DataEnd => {
                    if let Some(line) = take_line(&mut self.held, &mut input, 2)? {
                        expect_empty(&line)?;
                        self.state = State::Header;
                    }
                }
                State::LastEnd => {
                    if let Some(line) = take_line(&mut self.held, &mut input, 2)? {
                        expect_empty(&line)?;
                        self.done()?;
                    }
                }
                State::Trailer => {
                    if let Some(line) = take_line(&mut self.held, &mut input, MAX_TRAILER_BYTES)? {
                        self.trailer_line(&line)?;
                    }
                }
                State::Done => return Err(SigError::MalformedChunk("bytes follow the last chunk")),
                State::Failed(error) => return Err(error.clone()),
            }
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), SigError> {
        let text =
            std::str::from_utf8(line).map_err(|_| SigError::MalformedChunk("chunk header is not ASCII"))?;
        let (size, extension) = match text.split_once(';') {
            Some((size, extension)) => (size, Some(extension)),
            None => (text, None),
        };
        if size.is_empty() || size.len() > 16 || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SigError::MalformedChunk("chunk size is no hexadecimal number"));
        }
        let size = u64::from_str_radix(size, 16)
            .map_err(|_| SigError::MalformedChunk("chunk size is no hexadecimal number"))?;
        let signature = match self.seed.streaming {
            Streaming::UnsignedTrailer => None,
            Streaming::Signed | Streaming::SignedTrailer => {
                let hex_text = extension
                    .and_then(|extension| extension.strip_prefix("chunk-signature="))
                    .ok_or(SigError::MalformedChunk("chunk has no chunk-signature"))?;
                Some(signature(hex_text)?)
            }
        };
        let most = if signature.is_some() { MAX_SIGNED_CHUNK_BYTES } else { MAX_UNSIGNED_CHUNK_BYTES };
        if size > most {
            return Err(SigError::MalformedChunk("chunk is larger than allowed"));
        }
        self.decoded_bytes = self.decoded_bytes.saturating_add(size);
        if self.seed.decoded_content_length.is_some_and(|declared| self.decoded_bytes > declared) {
            return Err(SigError::IncompleteBody);
        }
        if size > 0 {
            self.state = State::Data { left: size, signature };
            return Ok(());
        }
        if let Some(expected) = signature {
            self.check_chunk(expected)?;
        }
        self.state = match self.seed.streaming {
            Streaming::Signed => State::LastEnd,
            Streaming::SignedTrailer | Streaming::UnsignedTrailer => State::Trailer,
        };
        Ok(())
    }

    /// Checks the held bytes against a chunk's signature, and makes it the one the next chunk follows.
    fn check_chunk(&mut self, expected: [u8; 32]) -> Result<(), SigError> {
        if !same(&self.seed.chunk_signature(&self.held), &expected) {
            return Err(SigError::Mismatch);
        }
        self.seed.signature = expected;
        Ok(())
    }

    fn trailer_line(&mut self, line: &[u8]) -> Result<(), SigError> {
        self.trailer_bytes += line.len() + 1;
        if self.trailer_bytes > MAX_TRAILER_BYTES {
            return Err(SigError::MalformedChunk("trailers are larger than allowed"));
        }
        let must_sign = self.seed.streaming == Streaming::SignedTrailer;
        if line.is_empty() {
            // Some clients end a trailer by "\n\r\n", which reads as an empty line before the signature.
            if must_sign && !self.trailer_signed {
                return Ok(());
            }
            return self.done();
        }
        let text = std::str::from_utf8(line).map_err(|_| SigError::MalformedChunk("trailer is not UTF-8"))?;
        let (name, value) =
            text.split_once(':').ok_or(SigError::MalformedChunk("trailer is not of the form name:value"))?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        if self.trailer_signed {
            return Err(SigError::MalformedChunk("a trailer follows x-amz-trailer-signature"));
        }
        if name != "x-amz-trailer-signature" {
            self.trailers.push((name, value));
            return Ok(());
        }
        if must_sign {
            let canonical: String =
                self.trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
            if !same(&self.seed.trailer_signature(canonical.as_bytes()), &signature(&value)?) {
                return Err(SigError::Mismatch);
            }
        }
        self.trailer_signed = true;
        Ok(())
    }

    fn done(&mut self) -> Result<(), SigError> {
        if self.seed.decoded_content_length.is_some_and(|declared| self.decoded_bytes != declared) {
            return Err(SigError::IncompleteBody);
        }
        self.state = State::Done;
        Ok(())
    }
}

/// The next line without its line end, once all of it is here.
fn take_line(held: &mut Vec<u8>, input: &mut &[u8], most: usize) -> Result<Option<Vec<u8>>, SigError> {
    let end = input.iter().position(|b| *b == b'\n');
    let take = end.map_or(input.len(), |at| at + 1);
    if held.len() + take > most {
        return Err(SigError::MalformedChunk("a line is longer than allowed"));
    }
    held.extend_from_slice(&input[..take]);
    *input = &input[take..];
    if end.is_none() {
        return Ok(None);
    }
    let mut line = std::mem::take(held);
    line.pop();
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

fn expect_empty(line: &[u8]) -> Result<(), SigError> {
    if line.is_empty() { Ok(()) } else { Err(SigError::MalformedChunk("chunk is longer than it says")) }
}

fn signature(text: &str) -> Result<[u8; 32], SigError> {
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out)
        .map_err(|_| SigError::MalformedChunk("a signature is not 64 hexadecimal digits"))?;
    Ok(out)
}

#[cfg(test)]
#[path = "chunks_tests.rs"]
mod tests;
