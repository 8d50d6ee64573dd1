//! The layer's bytes, decompressed, counted and hashed as they pass.

use std::io::{BufRead, BufReader, Read};

use super::UnpackError;
use crate::config::Limits;
use crate::digest::{Digest, Hasher};

/// 128 MiB: what `zstd --long` asks for at most without a flag for the reader.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const BUFFER_BYTES: usize = 256 << 10;

pub(super) struct Metered {
    inner: Box<dyn Read>,
    hasher: Hasher,
    read: u64,
    layer_bytes: u64,
    limits: Limits,
}

impl Metered {
    /// The compression is told by its magic, as Docker does: media types lie.
    pub(super) fn open(layer: Box<dyn Read>, layer_bytes: u64, limits: &Limits) -> Result<Self, UnpackError> {
        let mut input = BufReader::with_capacity(BUFFER_BYTES, layer);
        let magic = input.fill_buf().map_err(UnpackError::from_read)?;
        let inner: Box<dyn Read> = if magic.starts_with(&[0x1f, 0x8b]) {
            Box::new(flate2::bufread::MultiGzDecoder::new(input))
        } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(input).map_err(UnpackError::from_read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(UnpackError::from_read)?;
            Box::new(decoder)
        } else {
            Box::new(input)
        };
        Ok(Metered { inner, hasher: Hasher::new(), read: 0, layer_bytes, limits: *limits })
    }

    pub(super) fn finish(self) -> Digest {
        self.hasher.finish()
    }

    fn check(&self) -> Result<(), UnpackError> {
        let max = self.limits.unpacked_bytes_max;
        if self.read > max {
            return Err(UnpackError::TooLarge(format!("the layer unpacks to more than {max} bytes")));
        }
        let ratio = self.read / self.layer_bytes.max(1);
        if self.read > self.limits.ratio_free_bytes && ratio > self.limits.ratio_max {
            let max = self.limits.ratio_max;
            return Err(UnpackError::TooLarge(format!(
                "the layer unpacks to more than {max} times its size"
            )));
        }
        Ok(())
    }
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        self.check().map_err(std::io::Error::other)?;
        Ok(read)
    }
}
