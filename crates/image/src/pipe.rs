//! A layer's bytes on their way from the registry to whoever unpacks them, a bounded number at a time.

use std::io::Read;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Pieces on their way; each is what one read from the connection gave, 400 KiB at most.
const PIECES_MAX: usize = 32;

pub(crate) fn pipe() -> (Inlet, Outlet) {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    (Inlet(sender), Outlet { receiver, piece: Bytes::new(), whole: false })
}

/// Dropped without [`Inlet::end`], the reader gets an error instead of an end.
pub(crate) struct Inlet(mpsc::Sender<Option<Bytes>>);

impl Inlet {
    /// False: nobody reads any more.
    pub(crate) async fn put(&self, piece: Bytes) -> bool {
        piece.is_empty() || self.0.send(Some(piece)).await.is_ok()
    }

    /// The bytes were what they had to be.
    pub(crate) async fn end(self) {
        // Who has gone needs no end.
        let _ = self.0.send(None).await;
    }
}

/// Blocking.
pub(crate) struct Outlet {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    whole: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the download ended early")]
pub(crate) struct Broken;

impl Read for Outlet {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() && !self.whole {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.whole = true,
                None => return Err(std::io::Error::other(Broken)),
            }
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_is_said_is_an_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = |mut outlet: Outlet| {
            let mut bytes = Vec::new();
            outlet.read_to_end(&mut bytes).map(|_| bytes)
        };
        let (inlet, outlet) = pipe();
        runtime.block_on(async {
            assert!(inlet.put(Bytes::from_static(b"ab")).await && inlet.put(Bytes::from_static(b"c")).await);
            inlet.end().await;
        });
        assert_eq!(read(outlet).unwrap(), b"abc");
        let (inlet, outlet) = pipe();
        assert!(runtime.block_on(inlet.put(Bytes::from_static(b"ab"))));
        drop(inlet);
        assert!(read(outlet).is_err());
        let (inlet, outlet) = pipe();
        drop(outlet);
        assert!(!runtime.block_on(inlet.put(Bytes::from_static(b"ab"))));
    }
}
