//! The data folder: what is in it, who may read it, and who holds it.
//!
//! ```text
//! <data>/            0700
//!   lock             held by the program that runs; its pid
//!   instance         names cgroups and namespaces of this folder's Ferrogate
//!   root.json        the root access key, 0600
//!   endpoint.json    where the API is served, for the CLI
//!   aws/             config and credentials, as AWS tools read them, 0600
//!   seal.key         key of what is sealed in the store
//!   store.redb
//!   images/  tasks/  logs/  trail/
//!   admin.sock       0600: status and down
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Where the names of namespaces are, of all instances: gone with the machine's memory, as they are.
pub(crate) const RUN_DIR: &str = "/run/ferrogate";

/// The paths of one data folder.
#[derive(Clone, Debug)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let absolute =
            std::path::absolute(path).with_context(|| format!("data folder {}", path.display()))?;
        Ok(Self(absolute))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn create(&self) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .with_context(|| format!("the data folder {} cannot be made", self.0.display()))
    }

    /// Random at first, then kept: two data folders never meet in a cgroup or namespace name.
    pub(crate) fn instance(&self) -> Result<String> {
        let path = self.join("instance");
        match fs::read_to_string(&path) {
            Ok(name) => Ok(name.trim().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let name = ferrogate_model::hex_id()[..8].to_owned();
                write_private(&path, name.as_bytes())?;
                Ok(name)
            }
            Err(error) => Err(error).with_context(|| format!("{}", path.display())),
        }
    }

    pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>> {
        let path = self.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(
                serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}", path.display())),
        }
    }

    pub(crate) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        write_private(&self.join(name), &serde_json::to_vec_pretty(value)?)
    }
}

/// Replaces a file whole, readable by its owner only.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// The root user's access key.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RootKey {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

impl RootKey {
    const FILE: &str = "root.json";

    /// From the environment, else as kept, else made now. What the environment says is kept.
    pub(crate) fn of(data: &DataDir) -> Result<Self> {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (id, secret) = (given("FERROGATE_ROOT_ACCESS_KEY_ID"), given("FERROGATE_ROOT_SECRET_ACCESS_KEY"));
        let key = match (id, secret, data.read_json::<Self>(Self::FILE)?) {
            (Some(access_key_id), Some(secret_access_key), _) => {
                let key = Self { access_key_id, secret_access_key };
                key.check()?;
                key
            }
            (Some(_), None, _) | (None, Some(_), _) => {
                bail!(
                    "FERROGATE_ROOT_ACCESS_KEY_ID and FERROGATE_ROOT_SECRET_ACCESS_KEY go together: set both or none"
                )
            }
            (None, None, Some(kept)) => return Ok(kept),
            (None, None, None) => Self {
                access_key_id: ferrogate_model::unique_id("AKIA"),
                secret_access_key: ferrogate_model::hex_id() + &ferrogate_model::hex_id()[..8],
            },
        };
        data.write_json(Self::FILE, &key)?;
        Ok(key)
    }

    pub(crate) fn kept(data: &DataDir) -> Result<Option<Self>> {
        data.read_json(Self::FILE)
    }

    fn check(&self) -> Result<()> {
        let id = &self.access_key_id;
        if !(16..=128).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            bail!("FERROGATE_ROOT_ACCESS_KEY_ID is '{id}': an access key id is 16 to 128 letters and digits");
        }
        if self.secret_access_key.len() < 16 {
            bail!("FERROGATE_ROOT_SECRET_ACCESS_KEY is too short: at least 16 characters");
        }
        Ok(())
    }
}

/// Where the program serves, for the commands that talk to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) listen: SocketAddr,
    pub(crate) region: String,
    pub(crate) account: String,
}

impl Endpoint {
    pub(crate) const FILE: &str = "endpoint.json";

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listen)
    }
}

/// An AWS profile `ferrogate`, in files of our own.
pub(crate) fn write_profile(data: &DataDir, endpoint: &Endpoint, key: &RootKey) -> Result<()> {
    let folder = data.join("aws");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let config = format!(
        "[default]\nregion = {region}\nendpoint_url = {url}\n\n[profile ferrogate]\nregion = {region}\nendpoint_url = {url}\n",
        region = endpoint.region,
        url = endpoint.url()
    );
    let of = |name: &str| {
        format!(
            "[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            key.access_key_id, key.secret_access_key
        )
    };
    write_private(&folder.join("config"), config.as_bytes())?;
    write_private(&folder.join("credentials"), format!("{}\n{}", of("default"), of("ferrogate")).as_bytes())
}

/// How long the lock of a program that is gone is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Held while the program runs; a second one is told who holds it.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(data: &DataDir) -> Result<Self> {
        let path = data.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        let patience = Instant::now() + LOCK_PATIENCE;
        while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            file.rewind()?;
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim();
            // A program that was killed while it made a process may be held open by that one until it is made.
            let gone = pid.is_empty() || !Path::new("/proc").join(pid).exists();
            if !gone || Instant::now() > patience {
                bail!(
                    "the data folder {} is in use by process {pid}: `ferrogate down` stops it, or choose another --data-dir",
                    data.path().display(),
                );
            }
            std::thread::sleep(LOCK_RETRY);
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        file.flush()?;
        Ok(Self { _file: file })
    }

    /// The process that holds it; `None` when nobody does.
    pub(crate) fn holder(data: &DataDir) -> Option<u32> {
        let path = data.join("lock");
        let file = OpenOptions::new().read(true).write(true).open(&path).ok()?;
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            return None;
        }
        fs::read_to_string(&path).ok()?.trim().parse().ok()
    }
}
