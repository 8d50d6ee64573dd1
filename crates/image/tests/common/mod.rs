//! What the tests share: images made in memory, Debian's registry as a process, and a registry that misbehaves.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod fake;
pub mod real;

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use ferrogate_image::{
    Auth, Config, Digest, Image, ImageRef, ImageStore, Mirror, Platform, PullError, Retry, Timeouts,
};
use serde_json::{Value, json};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A tar archive in the making.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Tar(tar::Builder::new(Vec::new()))
    }

    pub fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, 0o644);
        header.set_size(content.len() as u64);
        self.entry(header, path.as_bytes(), b"", content.as_bytes())
    }

    pub fn dir(self, path: &str) -> Self {
        self.entry(Self::header(tar::EntryType::Directory, 0o755), path.as_bytes(), b"", b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(Self::header(tar::EntryType::Symlink, 0o777), path.as_bytes(), target.as_bytes(), b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(Self::header(tar::EntryType::Link, 0o644), path.as_bytes(), target.as_bytes(), b"")
    }

    /// Writes names as they are, however bad; long ones the GNU way.
    pub fn entry(mut self, mut header: tar::Header, path: &[u8], link: &[u8], data: &[u8]) -> Self {
        for (kind, text, length_max) in [(b'L', path, 100), (b'K', link, 100)] {
            if text.len() > length_max {
                let mut long = Self::header(tar::EntryType::new(kind), 0o644);
                long.as_gnu_mut().unwrap().name[..13].copy_from_slice(b"././@LongLink");
                long.set_size(text.len() as u64 + 1);
                long.set_cksum();
                self.0.append(&long, [text, b"\0"].concat().as_slice()).unwrap();
            }
        }
        let gnu = header.as_gnu_mut().unwrap();
        let length = path.len().min(100);
        gnu.name[..length].copy_from_slice(&path[..length]);
        let length = link.len().min(100);
        gnu.linkname[..length].copy_from_slice(&link[..length]);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

pub struct Layer {
    pub diff_id: Digest,
    pub blob: Vec<u8>,
    pub media_type: &'static str,
}

pub fn layer(tar: Vec<u8>, compression: Compression) -> Layer {
    let diff_id = Digest::of(&tar);
    let (blob, media_type) = match compression {
        Compression::None => (tar, "application/vnd.oci.image.layer.v1.tar"),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&tar).unwrap();
            (encoder.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
        }
        Compression::Zstd => {
            (zstd::encode_all(tar.as_slice(), 3).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd")
        }
    };
    Layer { diff_id, blob, media_type }
}

/// An image as a registry holds it.
#[derive(Clone, Default)]
pub struct Built {
    pub manifest: Vec<u8>,
    pub media_type: String,
    pub blobs: HashMap<Digest, Vec<u8>>,
}

impl Built {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

pub fn image(layers: &[Layer]) -> Built {
    image_for("amd64", json!({"Cmd": ["sh"]}), layers)
}

pub fn image_for(architecture: &str, config: Value, layers: &[Layer]) -> Built {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({"architecture": architecture, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = serde_json::to_vec(&config).unwrap();
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|layer| json!({"mediaType": layer.media_type, "digest": Digest::of(&layer.blob), "size": layer.blob.len()}))
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config),
            "size": config.len()},
        "layers": descriptors});
    let mut blobs: HashMap<Digest, Vec<u8>> =
        layers.iter().map(|layer| (Digest::of(&layer.blob), layer.blob.clone())).collect();
    blobs.insert(Digest::of(&config), config);
    Built { manifest: serde_json::to_vec(&manifest).unwrap(), media_type: OCI_MANIFEST.to_owned(), blobs }
}

/// Quick retries, quick deadlines.
pub fn config(registry: &str) -> Config {
    Config {
        mirrors: vec![Mirror::parse(&format!("docker.io/*=http://{registry}/*")).unwrap()],
        retry: Retry {
            delay: Duration::from_millis(1),
            delay_max: Duration::from_millis(4),
            ..Retry::default()
        },
        timeouts: Timeouts { connect: Duration::from_secs(5), ..Timeouts::default() },
        ..Config::default()
    }
}

pub async fn pull(store: &ImageStore, name: &str) -> Result<Image, PullError> {
    store.pull(&ImageRef::parse(name).unwrap(), Auth::Anonymous, Platform::LinuxAmd64, |_| {}).await
}

/// What is below a directory, for "nothing is left": relative paths, sorted.
pub fn files(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        // What vanishes meanwhile is not there.
        for entry in std::fs::read_dir(&path).into_iter().flatten().map_while(Result::ok) {
            found.push(entry.path().strip_prefix(dir).unwrap().to_string_lossy().into_owned());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
