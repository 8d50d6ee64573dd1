//! What a manifest names: Docker's schema 2, OCI images and artifacts, and lists of them. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::blobs::Digest;
use crate::state::BlobRef;

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";
/// What a manifest may be, in bytes (PutImage, imageManifest).
pub(crate) const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Blobs, and manifests, that one manifest names. Each is a compare of one transaction.
const REFERENCES_MAX: usize = 1000;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("Invalid JSON syntax: {0}")]
    Syntax(String),
    #[error("Manifest media type '{0}' is not supported; push a Docker schema 2 or an OCI manifest")]
    MediaType(String),
    #[error("The manifest says its media type is '{inside}', but it came as '{outside}'")]
    Differs { inside: String, outside: String },
    #[error("The manifest names '{0}', which is not a sha256 digest")]
    Digest(String),
    #[error("The manifest names {0} blobs or manifests, more than {REFERENCES_MAX}")]
    TooMany(usize),
    #[error("{0}")]
    Shape(&'static str),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    pub(crate) artifact_type: Option<String>,
    /// Config first; without those that live elsewhere by their nature.
    pub(crate) blobs: Vec<BlobRef>,
    /// Of an index.
    pub(crate) children: Vec<String>,
    pub(crate) subject: Option<String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

impl Descriptor {
    fn digest(self) -> Result<String, ManifestError> {
        if Digest::parse(&self.digest).is_some() {
            Ok(self.digest)
        } else {
            Err(ManifestError::Digest(self.digest))
        }
    }

    fn blob(self) -> Result<BlobRef, ManifestError> {
        let (size, media_type) = (self.size, self.media_type.clone());
        Ok(BlobRef { digest: self.digest()?, size, media_type })
    }

    /// Layers that must not be given away come from their makers.
    fn is_foreign(&self) -> bool {
        self.media_type.contains(".foreign.") || self.media_type.contains(".nondistributable.")
    }
}

pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, DOCKER_LIST | OCI_INDEX)
}

/// `media_type`: as said beside the manifest, if at all.
pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Manifest, ManifestError> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    // A parameter, as in `…; charset=utf-8`, says nothing here.
    let outside = media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
    if let (Some(inside), Some(outside)) = (&document.media_type, &outside)
        && inside != outside
    {
        return Err(ManifestError::Differs { inside: inside.clone(), outside: outside.clone() });
    }
    let media_type = match document.media_type.or(outside) {
        Some(media_type) => media_type,
        None if document.schema_version == Some(1) => DOCKER_SCHEMA_1.to_owned(),
        None if document.manifests.is_some() => OCI_INDEX.to_owned(),
        None => OCI_MANIFEST.to_owned(),
    };
    if !matches!(&*media_type, DOCKER_MANIFEST | DOCKER_LIST | OCI_MANIFEST | OCI_INDEX) {
        return Err(ManifestError::MediaType(media_type));
    }
    if document.schema_version != Some(2) {
        return Err(ManifestError::Shape("schemaVersion must be 2"));
    }
    let subject = document.subject.map(Descriptor::digest).transpose()?;
    let (mut blobs, mut children) = (Vec::new(), Vec::new());
    let mut artifact_type = document.artifact_type;
    if is_index(&media_type) {
        if document.config.is_some() || document.layers.is_some() {
            return Err(ManifestError::Shape("an index has manifests, and no config or layers"));
        }
        let manifests = document.manifests.ok_or(ManifestError::Shape("an index has manifests"))?;
        limit(manifests.len())?;
        children = manifests.into_iter().map(Descriptor::digest).collect::<Result<_, _>>()?;
    } else {
        if document.manifests.is_some() {
            return Err(ManifestError::Shape("an image manifest has no manifests"));
        }
        let config = document.config.ok_or(ManifestError::Shape("an image manifest has a config"))?;
        let layers = document.layers.ok_or(ManifestError::Shape("an image manifest has layers"))?;
        limit(layers.len() + 1)?;
        // The specification: without an artifactType, the config's media type says what it is.
        if artifact_type.is_none() && !config.media_type.is_empty() {
            artifact_type = Some(config.media_type.clone());
        }
        let here = std::iter::once(config).chain(layers).filter(|layer| !layer.is_foreign());
        blobs = here.map(Descriptor::blob).collect::<Result<_, _>>()?;
    }
    let annotations = document.annotations.unwrap_or_default();
    Ok(Manifest { media_type, artifact_type, blobs, children, subject, annotations })
}

fn limit(count: usize) -> Result<(), ManifestError> {
    if count > REFERENCES_MAX { Err(ManifestError::TooMany(count)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(document: serde_json::Value, media_type: Option<&str>) -> Result<Manifest, ManifestError> {
        parse(document.to_string().as_bytes(), media_type)
    }

    #[test]
    fn an_image() {
        let descriptor = |media_type: &str| json!({ "mediaType": media_type, "digest": DIGEST, "size": 7 });
        let image = json!({
            "schemaVersion": 2, "config": descriptor("c"), "subject": descriptor("s"), "annotations": { "k": "v" },
            "layers": [descriptor("l"), descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar")],
        });
        let manifest = read(image, None).unwrap();
        assert_eq!(manifest.media_type, OCI_MANIFEST);
        assert_eq!(manifest.artifact_type.as_deref(), Some("c"));
        assert_eq!(manifest.blobs.iter().map(|blob| &*blob.media_type).collect::<Vec<_>>(), ["c", "l"]);
        assert_eq!((manifest.subject.as_deref(), manifest.children.len()), (Some(DIGEST), 0));
    }

    #[test]
    fn an_index() {
        let index = json!({ "schemaVersion": 2, "manifests": [{ "digest": DIGEST }] });
        let manifest = read(index.clone(), None).unwrap();
        assert_eq!((&*manifest.media_type, &*manifest.children), (OCI_INDEX, &[DIGEST.to_owned()][..]));
        let list =
            read(index, Some("application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8"));
        assert_eq!(list.unwrap().media_type, DOCKER_LIST);
    }

    #[test]
    fn what_is_refused() {
        use ManifestError as E;
        let image = json!({ "schemaVersion": 2, "config": { "digest": DIGEST }, "layers": [] });
        assert!(matches!(parse(b"{", None), Err(E::Syntax(_))));
        assert!(matches!(read(json!({ "schemaVersion": 1, "fsLayers": [] }), None), Err(E::MediaType(_))));
        assert!(matches!(read(image.clone(), Some("text/plain")), Err(E::MediaType(_))));
        let mut said = image.clone();
        said["mediaType"] = OCI_MANIFEST.into();
        assert!(matches!(read(said, Some(DOCKER_MANIFEST)), Err(E::Differs { .. })));
        let mut bad = image.clone();
        bad["config"]["digest"] = "sha256:../x".into();
        assert!(matches!(read(bad, None), Err(E::Digest(_))));
        let mut both = image.clone();
        both["manifests"] = json!([]);
        assert!(matches!(read(both, Some(OCI_MANIFEST)), Err(E::Shape(_))));
        let mut many = image;
        many["layers"] = vec![json!({ "digest": DIGEST }); REFERENCES_MAX].into();
        assert!(matches!(read(many, None), Err(E::TooMany(1001))));
    }
}
