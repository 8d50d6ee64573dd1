//! Image layers as disks: each one EROFS file, made once, named by what it is, shared by all machines.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::Error;

const PROGRAM: &str = "/usr/bin/mkfs.erofs";
/// Of a layer the image store has: `layers/<digest>/fs`.
const DIGEST_HEX_LEN: usize = 64;

/// What this machine lacks to make them; `None`: nothing.
pub(super) fn missing() -> Option<String> {
    let found = Path::new(PROGRAM).exists();
    (!found).then(|| format!("{PROGRAM} is not there: install the package erofs-utils"))
}

/// The layer's disk; made if it is not there yet. Blocking.
pub(super) fn disk(store: &Path, layer: &Path) -> Result<PathBuf, Error> {
    let failed = |source| Error::Io { action: "make a disk of the layer", path: layer.to_owned(), source };
    let disk = store.join(format!("{}.erofs", name(layer).map_err(failed)?));
    if disk.exists() {
        return Ok(disk);
    }
    fs::create_dir_all(store).map_err(failed)?;
    // Under a name of its own first: two tasks may make the same at once, and a crash may come in between.
    let fresh = crate::storage::tempfile_in(store).map_err(failed)?;
    let made = make(layer, &fresh).and_then(|()| fs::rename(&fresh, &disk));
    made.map_err(|error| {
        let _ = fs::remove_file(&fresh);
        failed(error)
    })?;
    Ok(disk)
}

/// The digest of its content where the directory is called by it, as the image store's are; of any other its identity on
/// this host.
fn name(layer: &Path) -> io::Result<String> {
    let parent = layer.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let is_digest =
        |name: &String| name.len() == DIGEST_HEX_LEN && name.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(digest) = parent.filter(is_digest) {
        return Ok(digest);
    }
    let meta = fs::metadata(layer)?;
    Ok(format!("{:x}-{:x}-{:x}.{:x}", meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

fn make(layer: &Path, disk: &Path) -> io::Result<()> {
    let output = std::process::Command::new(PROGRAM)
        .args(["--quiet", "-U", "00000000-0000-0000-0000-000000000000"])
        .arg(disk)
        .arg(layer)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{PROGRAM} (package erofs-utils): {error}")))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{PROGRAM}: {}: {}", output.status, words.trim())));
    }
    // Read by name no more: what is not on disk when the host goes down must not be found half written.
    File::open(disk)?.sync_all()
}
