//! The parsers, as `fuzz/` reaches them.

use jiff::{SignedDuration, Timestamp};

use crate::manifest::{self, DOCKER_MANIFEST, OCI_INDEX};
use crate::plan::lifecycle::{Image, Policy, expiries};

/// A manifest as somebody pushes it, with and without a media type beside it.
pub fn manifest(bytes: &[u8]) {
    for media_type in [None, Some(DOCKER_MANIFEST), Some(OCI_INDEX), Some("text/plain; charset=utf-8")] {
        match manifest::parse(bytes, media_type) {
            Ok(manifest) => assert!(manifest.blobs.is_empty() || manifest.children.is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// A lifecycle policy, and what it makes of a few images: each goes once at most.
pub fn lifecycle(text: &str) {
    let Ok(policy) = Policy::parse(text) else { return };
    let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365);
    let image = |number: usize, tags: &[&str]| Image {
        digest: format!("sha256:{number:064x}"),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        pushed_at: now - SignedDuration::from_hours(24 * number as i64),
        children: if number == 0 { vec![format!("sha256:{:064x}", 1)] } else { Vec::new() },
    };
    let tags: [&[&str]; 6] = [&["latest"], &[], &["prod-1", "v1"], &[], &["prod-2"], &["", "*"]];
    let images: Vec<Image> = tags.iter().enumerate().map(|(number, tags)| image(number, tags)).collect();
    let mut gone: Vec<String> =
        expiries(&policy, &images, now).into_iter().map(|expiry| expiry.digest).collect();
    let all = gone.len();
    gone.sort();
    gone.dedup();
    assert_eq!(gone.len(), all, "an image goes twice");
    assert!(gone.iter().all(|digest| images.iter().any(|image| image.digest == *digest)));
}
