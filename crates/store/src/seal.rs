//! Secrets at rest: envelope encryption under a key that is kept beside the store.
//!
//! `v1:` base64( salt 32 | nonce 12 | ciphertext | tag 16 ). Each secret is sealed by AES-256-GCM under a key of its
//! own, derived from the key file's by HKDF-SHA256 with the salt. Without that, one key with random nonces would be
//! safe for 2³² seals only, which session tokens alone could use up.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 32;
/// Says how the rest is to be read.
const VERSION: &str = "v1:";
/// Keeps the keys derived here apart from any others derived from the same file.
const PURPOSE: &[u8] = b"ferrogate seal v1";

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the key file {path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the key file {path} has mode {mode:04o}, which lets others at it; allowed is 0600 or less: if nobody else \
         had it, `chmod 600 {path}`, else replace every secret"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the key file {path} is damaged: {bytes} bytes instead of {KEY_BYTES}; restore a copy of it")]
    Damaged { path: PathBuf, bytes: usize },
    /// Another key, another place, or damage: which one cannot be told.
    #[error(
        "a sealed value cannot be opened: it is damaged, or belongs to another place or another key file"
    )]
    Open,
}

/// Seals and opens; one key file for all of a data folder.
pub struct Sealer(Prk);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// Reads the key file, or makes it, mode 0600.
    pub fn open(path: &Path) -> Result<Self, SealError> {
        let io = |source| SealError::Io { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(path).and_then(|()| File::open(path)).map_err(io)?
            }
            Err(error) => return Err(io(error)),
        };
        let mode = file.metadata().map_err(io)?.mode() & 0o777;
        if mode & 0o177 != 0 {
            return Err(SealError::Exposed { path: path.to_owned(), mode });
        }
        let mut key = Vec::with_capacity(KEY_BYTES + 1);
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key).map_err(io)?;
        if key.len() != KEY_BYTES {
            let bytes = fs::metadata(path).map_or(key.len(), |meta| meta.len() as usize);
            return Err(SealError::Damaged { path: path.to_owned(), bytes });
        }
        Ok(Self::with_key(&key))
    }

    /// A key that is gone with the program: for tests.
    pub fn ephemeral() -> Self {
        Self::with_key(&random::<KEY_BYTES>())
    }

    fn with_key(key: &[u8]) -> Self {
        Self(Salt::new(HKDF_SHA256, PURPOSE).extract(key))
    }

    /// `place` says what the secret belongs to: moved elsewhere, it does not open.
    pub fn seal(&self, secret: &[u8], place: &str) -> String {
        let salt = random::<SALT_BYTES>();
        let mut cipher = secret.to_vec();
        let nonce = self
            .key(&salt)
            .seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut cipher)
            .expect("sealing fails only above 64 GiB");
        format!("{VERSION}{}", BASE64.encode([&salt[..], &nonce.as_ref()[..], &cipher].concat()))
    }

    /// The secret that was sealed for this `place`.
    pub fn unseal(&self, sealed: &str, place: &str) -> Result<Vec<u8>, SealError> {
        let encoded = sealed.strip_prefix(VERSION).ok_or(SealError::Open)?;
        let bytes = BASE64.decode(encoded).map_err(|_| SealError::Open)?;
        let (salt, rest) = bytes.split_at_checked(SALT_BYTES).ok_or(SealError::Open)?;
        let (nonce, cipher) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::Open)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Open)?;
        let mut cipher = cipher.to_vec();
        let plain = self
            .key(salt)
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut cipher)
            .map_err(|_| SealError::Open)?;
        Ok(plain.to_vec())
    }

    fn key(&self, salt: &[u8]) -> RandomizedNonceKey {
        let mut key = [0; KEY_BYTES];
        let derived = self.0.expand(&[salt], HKDF_SHA256).and_then(|derived| derived.fill(&mut key));
        derived.and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &key)).expect("the lengths are right")
    }
}

/// The key gets its name when it is on disk, whole: a crash here leaves none.
fn make(path: &Path) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&random::<KEY_BYTES>())?;
    file.sync_all()?;
    // Not a rename: if somebody else made one meanwhile, that one stays.
    match fs::hard_link(&new, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => fs::remove_file(&new)?,
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_where_it_was_sealed_and_nowhere_else() {
        let sealer = Sealer::ephemeral();
        for secret in [&b""[..], b"s", &[7; 4096]] {
            let sealed = sealer.seal(secret, "here");
            assert_eq!(sealer.unseal(&sealed, "here").unwrap(), secret);
            assert!(sealer.unseal(&sealed, "there").is_err());
            assert!(Sealer::ephemeral().unseal(&sealed, "here").is_err());
            assert_ne!(sealer.seal(secret, "here"), sealed);
        }
    }

    #[test]
    fn no_changed_character_is_accepted() {
        let sealer = Sealer::ephemeral();
        let sealed = sealer.seal(b"secret", "here");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            // The last character before the padding has bits that mean nothing; base64 refuses them if set.
            assert!(sealer.unseal(&changed, "here").is_err(), "{changed}");
        }
        for end in 0..sealed.len() {
            assert!(sealer.unseal(&sealed[..end], "here").is_err());
        }
    }
}
