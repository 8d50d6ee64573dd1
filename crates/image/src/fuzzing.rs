//! The parsers, as `fuzz/` reaches them: bytes in, nothing but a verdict out.

use std::fs::File;

use crate::config::Limits;
use crate::digest::Digest;
use crate::image::ConfigDocument;
use crate::manifest::{Manifest, select};
use crate::platform::Platform;

/// Small enough for a target that runs a thousand times a second.
const LIMITS: Limits = Limits {
    manifest_bytes_max: 1 << 20,
    config_bytes_max: 1 << 20,
    layers_max: 127,
    layer_bytes_max: 1 << 20,
    unpacked_bytes_max: 4 << 20,
    entries_max: 1000,
    path_bytes_max: 4096,
    ratio_max: 250,
    ratio_free_bytes: 1 << 20,
};

/// Unpacks a layer, whose bytes are `input`, into `root`. `true`: the layer is whole and was taken.
pub fn unpack(layer: File, input: &[u8], root: File, trash: File) -> bool {
    // Right for a layer that is not compressed; one that is ends with that error, and is taken here.
    let digest = Digest::of(input);
    match crate::unpack::unpack(layer, input.len() as u64, &digest, root.into(), trash.into(), &LIMITS) {
        Ok(_) | Err(crate::unpack::UnpackError::Digest { .. }) => true,
        Err(error) => {
            error.cause();
            false
        }
    }
}

/// Manifest, index and config of an image, and the challenge of a registry that wants to know who asks.
pub fn documents(bytes: &[u8]) {
    crate::registry::challenges(bytes);
    match Manifest::parse(bytes, &LIMITS) {
        Ok(Manifest::Image(image)) => assert!(image.bytes() >= image.config.size),
        Ok(Manifest::Index(entries)) => {
            assert!(select(&entries, Platform::LinuxAmd64).count() <= entries.len() + 1)
        }
        Err(cause) => assert!(!cause.to_string().is_empty()),
    }
    if let Ok(document) = serde_json::from_slice::<ConfigDocument>(bytes) {
        document.image_config();
    }
}
