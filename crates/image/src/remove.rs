//! Removing trees of any depth and shape with two open directories and no recursion.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes the directory `path` with everything below; absent is fine. Symbolic links are not followed.
///
/// A layer may nest directories deeper than a process may have files open, so each level is lifted to the top before it
/// is emptied.
pub(crate) fn remove_tree(path: &Path) -> std::io::Result<()> {
    let top = match open_directory(fs::CWD, path.as_os_str().as_encoded_bytes()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut lifted = 0u64;
    // Names first met at the top may look like lifted ones.
    let prefix = "ferrogate-lifted-";
    loop {
        let mut again = false;
        for name in names(&top)? {
            match fs::unlinkat(&top, name.as_slice(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
            let directory = open_directory(&top, &name)?;
            for child in names(&directory)? {
                match fs::unlinkat(&directory, child.as_slice(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR | Errno::PERM) => {
                        again = true;
                        lifted = lift(&directory, &child, &top, prefix, lifted)?;
                    }
                    Err(errno) => return Err(errno.into()),
                }
            }
            fs::unlinkat(&top, name.as_slice(), AtFlags::REMOVEDIR)?;
        }
        if !again {
            break;
        }
    }
    drop(top);
    std::fs::remove_dir(path)
}

fn lift(from: &OwnedFd, name: &[u8], top: &OwnedFd, prefix: &str, mut lifted: u64) -> std::io::Result<u64> {
    loop {
        lifted += 1;
        match fs::renameat(from, name, top, format!("{prefix}{lifted}")) {
            Ok(()) => return Ok(lifted),
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn open_directory(at: impl std::os::fd::AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    fs::openat(
        at,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn names(directory: &OwnedFd) -> std::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_bytes().to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_and_wide_trees_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("ferrogate-lifted-1/a/b")).unwrap();
        std::fs::write(tree.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        let mut at = open_directory(fs::CWD, tree.as_os_str().as_encoded_bytes()).unwrap();
        for _ in 0..1500 {
            fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = open_directory(&at, b"d").unwrap();
        }
        drop(at);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove_tree(&tree).unwrap();
    }
}
