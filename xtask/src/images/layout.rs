//! OCI image layouts on disk (image-spec, image-layout.md).

use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::recipes::Recipe;
use super::tree::Tree;

/// Half the time of the default for a twentieth more bytes.
const GZIP_LEVEL: flate2::Compression = flate2::Compression::new(4);
const INPUTS: &str = "inputs.txt";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Clone)]
pub(super) struct Layer {
    blob: Rc<Vec<u8>>,
    diff_id: String,
}

impl Layer {
    pub(super) fn new(tree: &Tree) -> Result<Self> {
        let tar = tree.to_tar()?;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), GZIP_LEVEL);
        encoder.write_all(&tar)?;
        Ok(Layer { blob: Rc::new(encoder.finish()?), diff_id: digest(&tar) })
    }
}

pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)))
}

/// The image there was made, whole, from these inputs.
pub(super) fn has_inputs(layout: &Path, inputs: &str) -> bool {
    std::fs::read_to_string(layout.join(INPUTS)).is_ok_and(|had| had == inputs)
}

/// Replaces the layout; returns its size in bytes. It is there in full or not at all.
pub(super) fn write(layout: &Path, recipe: &Recipe, layers: &[Layer], inputs: &str) -> Result<u64> {
    let parent = layout.parent().context("the layout has no parent directory")?;
    std::fs::create_dir_all(parent)?;
    let scratch = tempfile::Builder::new().prefix(".layout-").tempdir_in(parent)?;
    let blobs = scratch.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let mut bytes = 0;
    let mut add = |media_type: &str, content: &[u8]| -> Result<Value> {
        let digest = digest(content);
        std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), content)?;
        bytes += content.len() as u64;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": content.len()}))
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({
        "created": "2023-11-14T22:13:20Z",
        "architecture": architecture,
        "os": "linux",
        "config": (recipe.config)(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = add("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config)?)?;
    let layers = layers
        .iter()
        .map(|layer| add("application/vnd.oci.image.layer.v1.tar+gzip", &layer.blob))
        .collect::<Result<Vec<_>>>()?;
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers});
    let mut manifest = add(MANIFEST_TYPE, &serde_json::to_vec(&manifest)?)?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest]});
    std::fs::write(scratch.path().join("index.json"), serde_json::to_vec_pretty(&index)?)?;
    std::fs::write(scratch.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    std::fs::write(scratch.path().join(INPUTS), inputs)?;
    if layout.exists() {
        std::fs::remove_dir_all(layout)?;
    }
    std::fs::rename(scratch.keep(), layout)?;
    Ok(bytes)
}

/// An image read back.
pub(super) struct Image {
    pub(super) manifest: Vec<u8>,
    pub(super) manifest_digest: String,
    pub(super) config: Value,
    /// Config and layers: digest and content. Layers in order, the config last.
    pub(super) blobs: Vec<(String, Vec<u8>)>,
}

pub(super) fn read(layout: &Path) -> Result<Image> {
    let blob = |digest: &Value| -> Result<(String, Vec<u8>)> {
        let digest = digest.as_str().context("a descriptor without digest")?;
        let path = layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        Ok((
            digest.to_owned(),
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
        ))
    };
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let (manifest_digest, manifest) = blob(&index["manifests"][0]["digest"])?;
    let parsed: Value = serde_json::from_slice(&manifest)?;
    let layers = parsed["layers"].as_array().context("a manifest without layers")?;
    let mut blobs = layers.iter().map(|layer| blob(&layer["digest"])).collect::<Result<Vec<_>>>()?;
    let config = blob(&parsed["config"]["digest"])?;
    let document: Value = serde_json::from_slice(&config.1)?;
    blobs.push(config);
    Ok(Image { manifest, manifest_digest, config: document["config"].clone(), blobs })
}
