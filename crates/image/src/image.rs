//! A whole image on disk, ready to be mounted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::digest::Digest;
use crate::pins::Pin;
use crate::platform::Platform;

/// An image that is here in full. While this value (or a clone) lives, nothing of it is removed.
#[derive(Clone, Debug)]
pub struct Image {
    /// What the reference resolved to: an index's digest or the manifest's own. AWS's `imageDigest`.
    pub digest: Digest,
    /// The manifest of this platform; the same as `digest` where there is no index.
    pub manifest_digest: Digest,
    /// Docker's image id.
    pub config_digest: Digest,
    pub platform: Platform,
    pub config: ImageConfig,
    /// Lowest first, none twice; each is ready as an overlay lowerdir. Empty for an image without layers.
    pub layers: Vec<PathBuf>,
    /// Manifest, config and layers as the registry has them.
    pub size_bytes: u64,
    /// The layers' files.
    pub unpacked_bytes: u64,
    pub(crate) _pin: Pin,
}

/// The part of an image config that a task needs (OCI image-spec, config.md).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `KEY=value`
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty: root.
    pub user: String,
    /// Empty: `/`.
    pub working_dir: String,
    /// `SIGQUIT`, `3`; `None`: SIGTERM.
    pub stop_signal: Option<String>,
    /// Paths.
    pub volumes: Vec<String>,
    /// `80/tcp`
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// The config document. Docker writes `null` where it has nothing, hence the options everywhere.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigDocument {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    config: Option<ConfigSection>,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigSection {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

impl ConfigDocument {
    pub(crate) fn image_config(self) -> ImageConfig {
        let section = self.config.unwrap_or_default();
        ImageConfig {
            entrypoint: section.entrypoint.unwrap_or_default(),
            cmd: section.cmd.unwrap_or_default(),
            env: section.env.unwrap_or_default(),
            user: section.user.unwrap_or_default(),
            working_dir: section.working_dir.unwrap_or_default(),
            stop_signal: section.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: section.volumes.unwrap_or_default().into_keys().collect(),
            exposed_ports: section.exposed_ports.unwrap_or_default().into_keys().collect(),
            labels: section.labels.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_config_with_nulls_is_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Entrypoint":["/x"],"Env":["A=b"],
            "ExposedPorts":{"80/tcp":{}},"Volumes":null,"StopSignal":"SIGQUIT","Labels":null,"OnBuild":null},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x"}]}"#;
        let config = serde_json::from_str::<ConfigDocument>(text).unwrap().image_config();
        assert_eq!((config.entrypoint, config.cmd), (vec!["/x".to_owned()], vec![]));
        assert_eq!(
            (config.exposed_ports, config.stop_signal),
            (vec!["80/tcp".to_owned()], Some("SIGQUIT".into()))
        );
    }
}
