//! Manifests and indexes: OCI image-spec v1 and Docker schema 2.

use serde::Deserialize;

use crate::config::Limits;
use crate::digest::Digest;
use crate::error::{Cause, CauseKind};
use crate::platform::Platform;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// In the order containerd asks for them.
pub(crate) const ACCEPTED: [&str; 4] = [DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX];

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Manifest {
    Image(ImageManifest),
    Index(Vec<IndexEntry>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
    /// Where else it is to be had, for what the registry may not distribute.
    #[serde(default)]
    pub(crate) urls: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct IndexEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<EntryPlatform>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct EntryPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<IndexEntry>>,
}

impl Manifest {
    /// Reads a document whose digest was checked.
    pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, Cause> {
        let malformed = |text: String| Cause::new(CauseKind::Malformed, text);
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| malformed(format!("invalid manifest: {error}")))?;
        if document.schema_version != Some(2) {
            return Err(malformed("unsupported manifest: its schemaVersion is not 2".to_owned()));
        }
        let media_type = document.media_type.as_deref();
        let image = media_type.is_none_or(|name| name == OCI_MANIFEST || name == DOCKER_MANIFEST);
        let index = media_type.is_none_or(|name| name == OCI_INDEX || name == DOCKER_INDEX);
        match (document.config, document.layers, document.manifests) {
            // A document that is both is read differently by different readers (CVE-2021-41190).
            (config, layers, Some(_)) if config.is_some() || layers.is_some() => {
                Err(malformed("invalid manifest: both a manifest and an index".to_owned()))
            }
            (Some(config), Some(layers), None) if image => {
                ImageManifest { config, layers }.check(limits).map(Manifest::Image)
            }
            (None, None, Some(entries)) if index => Ok(Manifest::Index(entries)),
            _ => Err(malformed(format!("unsupported media type {}", media_type.unwrap_or("(none)")))),
        }
    }
}

impl ImageManifest {
    fn check(self, limits: &Limits) -> Result<Self, Cause> {
        let too_large = |text: String| Err(Cause::new(CauseKind::TooLarge, text));
        if self.layers.len() > limits.layers_max {
            return too_large(format!("{} layers; {} are allowed", self.layers.len(), limits.layers_max));
        }
        if self.config.size > limits.config_bytes_max {
            let (size, max) = (self.config.size, limits.config_bytes_max);
            return too_large(format!("a config of {size} bytes; {max} are allowed"));
        }
        for layer in &self.layers {
            if layer.size > limits.layer_bytes_max {
                let (digest, size, max) = (&layer.digest, layer.size, limits.layer_bytes_max);
                return too_large(format!("layer {digest} has {size} bytes; {max} are allowed"));
            }
            let name = layer.media_type.as_str();
            if name.contains("encrypted") {
                let text = format!("layer {}: unsupported media type {name}", layer.digest);
                return Err(Cause::new(CauseKind::Malformed, text));
            }
        }
        Ok(self)
    }

    /// Config and layers as the registry has them.
    pub(crate) fn bytes(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// The first entry that runs on any machine of the platform: variants above the base one are left out. Then indexes
/// that do not say what they are for: perhaps one of those has it.
pub(crate) fn select(entries: &[IndexEntry], platform: Platform) -> impl Iterator<Item = &Descriptor> {
    let base = match platform {
        Platform::LinuxAmd64 => "v1",
        Platform::LinuxArm64 => "v8",
    };
    let fits = move |entry: &&IndexEntry| {
        entry.platform.as_ref().is_some_and(|of| {
            platform.is(&of.os, &of.architecture)
                && of.variant.as_deref().is_none_or(|variant| variant.is_empty() || variant == base)
        })
    };
    let nested = |entry: &&IndexEntry| {
        let media_type = entry.descriptor.media_type.as_str();
        entry.platform.is_none() && matches!(media_type, OCI_INDEX | DOCKER_INDEX)
    };
    let nested = entries.iter().filter(nested);
    entries.iter().find(fits).into_iter().chain(nested).map(|entry| &entry.descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Result<Manifest, Cause> {
        Manifest::parse(text.replace("$D", D).as_bytes(), &Limits::default())
    }

    #[test]
    fn an_index_gives_the_base_variant_of_a_platform() {
        let index = parse(
            r#"{"schemaVersion":2,"manifests":[
            {"digest":"$D","size":1,"platform":{"os":"unknown","architecture":"unknown"}},
            {"digest":"$D","size":2,"platform":{"os":"linux","architecture":"amd64","variant":"v3"}},
            {"digest":"$D","size":3,"platform":{"os":"linux","architecture":"amd64"}},
            {"digest":"$D","size":4,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}}]}"#,
        );
        let Ok(Manifest::Index(entries)) = index else { panic!("{index:?}") };
        assert_eq!(select(&entries, Platform::LinuxAmd64).next().unwrap().size, 3);
        assert_eq!(select(&entries, Platform::LinuxArm64).next().unwrap().size, 4);
        assert!(select(&entries[..2], Platform::LinuxAmd64).next().is_none());
    }

    #[test]
    fn what_is_neither_or_both_is_refused() {
        let config = r#""config":{"digest":"$D","size":1},"layers":[]"#;
        for (text, part) in [
            (format!(r#"{{"schemaVersion":2,{config},"manifests":[]}}"#), "both"),
            (format!(r#"{{"schemaVersion":1,{config}}}"#), "schemaVersion"),
            (format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}",{config}}}"#), "unsupported media type"),
            (r#"{"schemaVersion":2}"#.to_owned(), "unsupported media type"),
            (r#"{"schemaVersion":2,"config":{"digest":"x","size":1},"layers":[]}"#.to_owned(), "invalid manifest"),
            ("[]".to_owned(), "invalid manifest"),
            (
                r#"{"schemaVersion":2,"config":{"digest":"$D","size":1},"layers":[{"digest":"$D","size":99999999999999}]}"#
                    .to_owned(),
                "are allowed",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.text.contains(part), "{text}: {error}");
        }
        assert!(parse(&format!(r#"{{"schemaVersion":2,{config}}}"#)).is_ok());
    }
}
