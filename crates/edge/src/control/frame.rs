//! Messages as bytes.

use bytes::{Buf, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A balancer with all its rules, 5000 targets and 100 certificates needs about 4 MiB.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
const LENGTH_BYTES: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {0} bytes; at most {FRAME_BYTES_MAX} are taken")]
    TooLong(usize),
    #[error("no message of this protocol: {0}")]
    NotAMessage(#[source] serde_json::Error),
    #[error("a message cannot be written: {0}")]
    NotWritable(#[source] serde_json::Error),
}

/// One message, with its length before it.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::NotWritable)?;
    let length = frame.len() - LENGTH_BYTES;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    frame[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

/// Bytes in, messages out. It holds at most one message and what came in the same read after it.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where bytes that came are put.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether more may be read before what is here has been taken.
    pub fn has_room(&self) -> bool {
        self.buffer.len() < LENGTH_BYTES + FRAME_BYTES_MAX
    }

    /// The next whole message; `None`: bytes are missing. After an error nothing that follows means anything.
    pub fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let body = self.buffer.split_to(length);
        serde_json::from_slice(&body).map(Some).map_err(FrameError::NotAMessage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ToEdge;

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = encode(&ToEdge::Hello { version: 7 }).unwrap();
        bytes.extend(encode(&ToEdge::Answer { sequence: 3, taken: true }).unwrap());
        for piece in 1..bytes.len() {
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            for chunk in bytes.chunks(piece) {
                decoder.buffer().extend_from_slice(chunk);
                while let Some(message) = decoder.message::<ToEdge>().unwrap() {
                    seen.push(message);
                }
            }
            assert!(
                matches!(
                    seen[..],
                    [ToEdge::Hello { version: 7 }, ToEdge::Answer { sequence: 3, taken: true }]
                ),
                "{seen:?}"
            );
        }
    }

    /// Read one bit off, a number would be another one each time it is passed on.
    #[test]
    fn a_number_comes_out_as_it_went_in() {
        for text in ["1e-30", "2e-28", "12345.2079210167210568", "9327878509507033844e5"] {
            let number: f64 = text.parse().unwrap();
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&encode(&number).unwrap());
            assert_eq!(decoder.message::<f64>().unwrap(), Some(number), "{text}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(decoder.message::<ToEdge>(), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&encode(&serde_json::json!({ "begone": 1 })).unwrap());
        assert!(matches!(decoder.message::<ToEdge>(), Err(FrameError::NotAMessage(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.message::<ToEdge>() {}
        }
    }
}
