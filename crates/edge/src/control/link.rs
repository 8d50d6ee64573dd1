//! One end of the connection.

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::frame::{Decoder, FrameError, encode};

/// How long the other side may take to read one message.
pub const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// Asked of the socket at once.
const READ_BYTES: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the other side has closed the connection")]
    Closed,
    #[error("the other side did not read for {} s", SEND_PATIENCE.as_secs())]
    NotRead,
    #[error("the other side does not keep to the protocol: {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends `S` and receives `R`.
#[derive(Debug)]
pub struct Link<S, R> {
    stream: UnixStream,
    decoder: Decoder,
    messages: PhantomData<fn(S) -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Link<S, R> {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::default(), messages: PhantomData }
    }

    /// Reads meanwhile, so two that send to each other never wait for each other. Not cancel-safe.
    pub async fn send(&mut self, message: &S) -> Result<(), LinkError> {
        self.send_within(message, SEND_PATIENCE).await
    }

    async fn send_within(&mut self, message: &S, patience: Duration) -> Result<(), LinkError> {
        let frame = encode(message)?;
        let (mut reader, mut writer) = self.stream.split();
        let decoder = &mut self.decoder;
        let sending = async {
            let mut rest = &frame[..];
            while !rest.is_empty() {
                let room = decoder.has_room();
                decoder.buffer().reserve(READ_BYTES);
                tokio::select! {
                    written = writer.write(rest) => rest = &rest[written?..],
                    read = reader.read_buf(decoder.buffer()), if room => {
                        if read? == 0 {
                            return Err(LinkError::Closed);
                        }
                    }
                }
            }
            Ok(())
        };
        tokio::time::timeout(patience, sending).await.unwrap_or(Err(LinkError::NotRead))
    }

    /// The next message. Cancel-safe.
    pub async fn receive(&mut self) -> Result<R, LinkError> {
        loop {
            if let Some(message) = self.decoder.message()? {
                return Ok(message);
            }
            self.decoder.buffer().reserve(READ_BYTES);
            if self.stream.read_buf(self.decoder.buffer()).await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_that_send_much_to_each_other_at_once_both_come_through() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (Link::<String, String>::new(here), Link::<String, String>::new(there));
        let much = "x".repeat(4 << 20);
        let (one, other) = tokio::join!(here.send(&much), there.send(&much));
        one.unwrap();
        other.unwrap();
        assert_eq!(here.receive().await.unwrap(), much);
        assert_eq!(there.receive().await.unwrap(), much);
    }

    #[tokio::test]
    async fn who_does_not_read_is_given_up() {
        let (here, _there) = UnixStream::pair().unwrap();
        let mut here = Link::<String, String>::new(here);
        let sent = here.send_within(&"x".repeat(4 << 20), Duration::from_millis(20)).await;
        assert!(matches!(sent, Err(LinkError::NotRead)), "{sent:?}");
    }

    #[tokio::test]
    async fn the_end_of_the_other_side_is_told() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut here = Link::<String, String>::new(here);
        drop(there);
        assert!(matches!(here.receive().await, Err(LinkError::Closed)));
    }
}
