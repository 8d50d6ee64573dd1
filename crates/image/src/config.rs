//! What an operator may set, with its defaults.

use std::time::Duration;

use crate::upkeep::Upkeep;

/// `..Default::default()` fits every field but the mirrors to production.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest matching prefix wins. A mirror replaces its registry: there is no falling back to the original.
    pub mirrors: Vec<Mirror>,
    /// Before all mirrors.
    pub own: Option<OwnRegistry>,
    pub limits: Limits,
    pub retry: Retry,
    pub timeouts: Timeouts,
    /// Layers of one source downloaded and unpacked at the same time, over all its pulls.
    pub layers_in_parallel: usize,
    pub upkeep: Upkeep,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mirrors: Vec::new(),
            own: None,
            limits: Limits::default(),
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            layers_in_parallel: 3,
            upkeep: Upkeep::default(),
        }
    }
}

/// References below `prefix` come from `target` instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// `docker.io/library/*`, `docker.io/*` or one repository, `docker.io/library/nginx`. What `*` stands for is
    /// appended to the target's path.
    pub prefix: String,
    /// `http://127.0.0.1:5000/library/*`: scheme, host, and the path of the repositories there.
    pub target: String,
    /// Plain http to a host that is not loopback is meant.
    pub insecure: bool,
}

/// A registry that this program serves itself, under many names: those that start with `prefix` and end in one of
/// `suffixes`. What credentials a pull from it brings go nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRegistry {
    /// `123456789012.dkr.ecr.`
    pub prefix: String,
    /// `.amazonaws.com`; the first one is how the registry itself is told the name.
    pub suffixes: Vec<String>,
    /// Where it is, `http://127.0.0.1:4566`: its name becomes the first part of the repository's path there.
    pub url: String,
}

impl Mirror {
    /// From a setting: `docker.io/library/*=http://127.0.0.1:5000/library/*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((prefix, target)) if !prefix.is_empty() && !target.is_empty() => {
                Ok(Mirror { prefix: prefix.to_owned(), target: target.to_owned(), insecure: false })
            }
            _ => Err(format!(
                "registry mirror '{text}' is not PREFIX=URL, as in docker.io/library/*=http://127.0.0.1:5000/library/*"
            )),
        }
    }
}

/// What an image may cost. Everything that passes one of these is refused, whoever serves it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Manifests and indexes; 4 MiB is what registries accept themselves.
    pub manifest_bytes_max: u64,
    pub config_bytes_max: u64,
    /// Layers of one image; overlayfs stops at 500, Docker at 127.
    pub layers_max: usize,
    /// One layer as sent.
    pub layer_bytes_max: u64,
    /// One layer unpacked: the tar stream, and the sum of its files' sizes with holes counted.
    pub unpacked_bytes_max: u64,
    /// Entries of one layer.
    pub entries_max: u64,
    /// A path inside the image.
    pub path_bytes_max: usize,
    /// Unpacked bytes per compressed byte, asked once `ratio_free_bytes` are unpacked.
    pub ratio_max: u64,
    pub ratio_free_bytes: u64,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            manifest_bytes_max: 4 * MIB,
            config_bytes_max: 8 * MIB,
            layers_max: 127,
            layer_bytes_max: 20 * GIB,
            unpacked_bytes_max: 50 * GIB,
            entries_max: 2_000_000,
            path_bytes_max: 4096,
            ratio_max: 250,
            ratio_free_bytes: GIB,
        }
    }
}

/// How often and how fast a thing that failed is tried again. What cannot get better is not.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// First try included. A blob that moved on by `progress_bytes` starts counting anew.
    pub attempts_max: u32,
    /// Doubled after each attempt up to `delay_max`.
    pub delay: Duration,
    pub delay_max: Duration,
    pub progress_bytes: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts_max: 5,
            delay: Duration::from_millis(200),
            delay_max: Duration::from_secs(2),
            progress_bytes: MIB,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub connect: Duration,
    /// Between two reads, and until the first.
    pub idle: Duration,
    /// The least that a layer has to come at.
    pub slowest: Slowest,
    /// A manifest, token or config from question to last byte.
    pub document: Duration,
    /// The whole pull.
    pub pull: Duration,
}

/// A rate: in each `window` of waiting for a registry, `bytes` have to come. Else the download has failed, as if it had
/// broken off. Time that the unpacking takes is not the registry's.
#[derive(Clone, Copy, Debug)]
pub struct Slowest {
    pub bytes: u64,
    pub window: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            slowest: Slowest { bytes: 256 << 10, window: Duration::from_secs(60) },
            document: Duration::from_secs(60),
            pull: Duration::from_secs(3600),
        }
    }
}

/// Who asks. Given per pull: a store keeps no credentials.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Auth {
    #[default]
    Anonymous,
    /// Sent over TLS or loopback only.
    Basic { user: String, password: String },
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Auth::Anonymous => f.write_str("Anonymous"),
            Auth::Basic { user, .. } => write!(f, "Basic({user}, …)"),
        }
    }
}
