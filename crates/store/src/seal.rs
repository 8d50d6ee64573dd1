//! Secrets at rest: AES-256-GCM under a key that is kept beside the store.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

const KEY_BYTES: usize = 32;
/// Says how the rest is to be read.
const VERSION: &str = "v1:";

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the key file {path} cannot be used")]
    Io { path: PathBuf, #[source] source: io::Error },
    #[error("the key file {path} has mode {mode:o}: others may read it; `chmod 600 {path}` and think about who did")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the key file {path} is damaged: {bytes} bytes instead of {KEY_BYTES}")]
    Damaged { path: PathBuf, bytes: usize },
    /// Another key, another place, or damage: which one cannot be told.
    #[error("a sealed value cannot be opened")]
    Open,
}

/// Seals and opens; one key for all of a data folder.
pub struct Sealer(RandomizedNonceKey);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// Reads the key file, or makes it, mode 0600.
    pub fn open(path: &Path) -> Result<Self, SealError> {
        let io = |source| SealError::Io { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(meta) if meta.mode() & 0o077 != 0 => {
                return Err(SealError::Exposed { path: path.to_owned(), mode: meta.mode() & 0o777 });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; KEY_BYTES];
                aws_lc_rs::rand::fill(&mut key).map_err(|_| io(io::Error::other("no random bytes")))?;
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
                file.write_all(&key).and_then(|()| file.sync_all()).map_err(io)?;
            }
            Err(error) => return Err(io(error)),
        }
        let key = fs::read(path).map_err(io)?;
        Self::with_key(&key).ok_or(SealError::Damaged { path: path.to_owned(), bytes: key.len() })
    }

    /// A key that is gone with the program: for tests.
    pub fn ephemeral() -> Self {
        let mut key = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut key).expect("the operating system gives random bytes");
        Self::with_key(&key).expect("a key of the right length")
    }

    fn with_key(key: &[u8]) -> Option<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, key).ok().map(Self)
    }

    /// `place` says what the secret belongs to: moved elsewhere, it does not open.
    pub fn seal(&self, secret: &[u8], place: &str) -> String {
        let mut bytes = secret.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut bytes)
            .expect("sealing fails only above 64 GiB");
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend(bytes);
        format!("{VERSION}{}", BASE64.encode(sealed))
    }

    pub fn unseal(&self, sealed: &str, place: &str) -> Result<Vec<u8>, SealError> {
        let encoded = sealed.strip_prefix(VERSION).ok_or(SealError::Open)?;
        let mut bytes = BASE64.decode(encoded).map_err(|_| SealError::Open)?;
        if bytes.len() < NONCE_LEN {
            return Err(SealError::Open);
        }
        let mut cipher = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| SealError::Open)?;
        let plain = self
            .0
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut cipher)
            .map_err(|_| SealError::Open)?;
        Ok(plain.to_vec())
    }
}
