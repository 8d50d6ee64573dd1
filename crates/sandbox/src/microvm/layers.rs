//! Image layers as disks: each one EROFS file, made once, shared by all machines. That of a layer of the image store lies
//! beside the layer, counts with it and goes with it; a machine that has it open by then keeps it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;

const PROGRAM: &str = "/usr/bin/mkfs.erofs";
/// Of a layer the image store has: `layers/<digest>/fs`.
const DIGEST_HEX_LEN: usize = 64;
const DISK_FILE: &str = "fs.erofs";
/// Behind the name of one that is not whole: the image store removes what a crash leaves of it.
const HALF_MADE: &str = ".new";

/// What this machine lacks to make them; `None`: nothing.
pub(super) fn missing() -> Option<String> {
    let found = Path::new(PROGRAM).exists();
    (!found).then(|| format!("{PROGRAM} is not there: install the package erofs-utils"))
}

/// The one maker of layers' disks: two tasks that want the same wait for one.
#[derive(Debug, Default)]
pub(super) struct Maker(Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>>);

impl Maker {
    /// The layer's disk; made if it is not there yet, below `store` if the layer is not the image store's. Blocking.
    pub(super) fn disk(&self, store: &Path, layer: &Path) -> Result<PathBuf, Error> {
        let failed =
            |source| Error::Io { action: "make a disk of the layer", path: layer.to_owned(), source };
        let disk = place(store, layer).map_err(failed)?;
        if disk.exists() {
            return Ok(disk);
        }
        let turn = Arc::clone(self.turns().entry(disk.clone()).or_default());
        let made = {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if disk.exists() { Ok(()) } else { make(layer, &disk) }
        };
        drop(turn);
        // Nobody else waits for it, or has it any more.
        self.turns().retain(|_, turn| Arc::strong_count(turn) > 1);
        made.map_err(failed).map(|()| disk)
    }

    fn turns(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Arc<Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beside a directory that is called by the digest of its content, as the image store's are; any other has its identity on
/// this host for a name.
fn place(store: &Path, layer: &Path) -> io::Result<PathBuf> {
    let parent = layer.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let is_digest =
        |name: &String| name.len() == DIGEST_HEX_LEN && name.bytes().all(|b| b.is_ascii_hexdigit());
    if parent.as_ref().is_some_and(is_digest) {
        return Ok(layer.with_file_name(DISK_FILE));
    }
    let meta = fs::metadata(layer)?;
    let name = format!("{:x}-{:x}-{:x}.{:x}.erofs", meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec());
    fs::create_dir_all(store)?;
    Ok(store.join(name))
}

/// Under a name of its own first: a crash may come in between.
fn make(layer: &Path, disk: &Path) -> io::Result<()> {
    let mut fresh = disk.as_os_str().to_owned();
    fresh.push(HALF_MADE);
    let fresh = PathBuf::from(fresh);
    // An agent that was killed leaves one, and perhaps a program that writes to it still: not to the file that is made now.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(layer, &fresh).and_then(|()| fs::rename(&fresh, disk)).inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}

fn write(layer: &Path, disk: &Path) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn layer(home: &Path) -> PathBuf {
        let layer = home.join(DIGEST).join("fs");
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join("file"), vec![b'x'; 1 << 20]).unwrap();
        layer
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn many_who_want_one_layer_get_one_disk_made_once() {
        let home = tempfile::tempdir().unwrap();
        let layer = layer(home.path());
        // What an agent that was killed left of it.
        fs::write(layer.with_file_name("fs.erofs.new"), "half").unwrap();
        let maker = Maker::default();
        let inodes: Vec<u64> = std::thread::scope(|scope| {
            let make = || fs::metadata(maker.disk(home.path(), &layer).unwrap()).unwrap().ino();
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(inodes.windows(2).all(|pair| pair[0] == pair[1]), "{inodes:?}");
        assert_eq!(names(&home.path().join(DIGEST)), ["fs", "fs.erofs"]);
        assert!(maker.turns().is_empty());
        // The magic number of its superblock.
        let bytes = fs::read(home.path().join(DIGEST).join(DISK_FILE)).unwrap();
        assert_eq!(bytes[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
    }

    #[test]
    fn a_disk_that_cannot_be_made_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let layer = home.path().join(DIGEST).join("fs");
        fs::create_dir_all(layer.parent().unwrap()).unwrap();
        let error = Maker::default().disk(home.path(), &layer).unwrap_err();
        assert!(error.to_string().contains("make a disk of the layer"), "{error}");
        assert_eq!(names(&home.path().join(DIGEST)), Vec::<String>::new());
    }
}
