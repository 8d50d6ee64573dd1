//! Signing keys: the chain of HMACs from a secret to a scope's key, and a cache of its results.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::{constant_time, digest, hmac};

use crate::presented::Scope;

/// SHA-256 of `data` as lower-case hex.
pub fn sha256_hex(data: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, data))
}

/// The key derived from a secret for one day, region and service. Says nothing of itself in `Debug`.
#[derive(Clone)]
pub(crate) struct SigningKey(hmac::Key);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    pub(crate) fn derive(secret: &str, scope: &Scope) -> Self {
        let mut seed = Vec::with_capacity(4 + secret.len());
        seed.extend_from_slice(b"AWS4");
        seed.extend_from_slice(secret.as_bytes());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &seed);
        for part in [&scope.date, &scope.region, &scope.service, "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        Self(key)
    }

    pub(crate) fn sign(&self, string_to_sign: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, string_to_sign).as_ref());
        out
    }
}

/// Equality that takes as long for a near miss as for a hit.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[derive(PartialEq, Eq, Hash)]
struct CacheKey {
    access_key_id: String,
    scope: Scope,
}

struct Cached {
    secret_sha256: [u8; 32],
    key: SigningKey,
}

/// Derived signing keys, so that a busy caller costs one HMAC chain a day and not one a request.
///
/// Holds at most twice the capacity it is made with: what was not used for a whole generation is dropped. An
/// entry is good only for the very secret it was derived from; a rotated secret derives anew.
pub struct SigningKeyCache {
    capacity: usize,
    generations: Mutex<(HashMap<CacheKey, Cached>, HashMap<CacheKey, Cached>)>,
}

impl std::fmt::Debug for SigningKeyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKeyCache").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl SigningKeyCache {
    /// A cache of `capacity` keys a generation; at least one.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), generations: Mutex::default() }
    }

    pub(crate) fn get(&self, access_key_id: &str, secret: &str, scope: &Scope) -> SigningKey {
        let mut secret_sha256 = [0; 32];
        secret_sha256.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
        let cache_key = CacheKey { access_key_id: access_key_id.to_owned(), scope: scope.clone() };

        let mut guard = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *guard;
        if let Some(hit) = young.get(&cache_key)
            && same(&hit.secret_sha256, &secret_sha256)
        {
            return hit.key.clone();
        }
        let entry = match old.remove(&cache_key) {
            Some(hit) if same(&hit.secret_sha256, &secret_sha256) => hit,
            _ => Cached { secret_sha256, key: SigningKey::derive(secret, scope) },
        };
        let key = entry.key.clone();
        if young.len() >= self.capacity {
            *old = std::mem::take(young);
        }
        young.insert(cache_key, entry);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(date: &str) -> Scope {
        Scope { date: date.into(), region: "us-east-1".into(), service: "iam".into() }
    }

    #[test]
    fn derives_the_published_key() {
        // "Derive a signing key", IAM User Guide: the example's key signs the empty string to a known value.
        let key = SigningKey::derive("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", &scope("20120215"));
        let expected =
            hex::decode("f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d").unwrap();
        let reference = hmac::Key::new(hmac::HMAC_SHA256, &expected);
        assert_eq!(key.sign(b"x"), hmac::sign(&reference, b"x").as_ref());
    }

    #[test]
    fn cache_is_bounded_and_follows_a_changed_secret() {
        let cache = SigningKeyCache::new(2);
        for day in 10..30 {
            let scope = scope(&format!("202601{day}"));
            for secret in ["one", "two", "one"] {
                let expected = SigningKey::derive(secret, &scope).sign(b"x");
                assert_eq!(cache.get("AKID", secret, &scope).sign(b"x"), expected);
            }
            let guard = cache.generations.lock().unwrap();
            assert!(guard.0.len() <= 2 && guard.1.len() <= 2);
        }
    }
}
