//! What QEMU reads of the host: the files its jail gets, and nothing else.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "qemu-system-x86_64";
const PATH: &[&str] = &["/usr/local/bin", "/usr/bin", "/bin"];
/// Firmware and option ROMs; the parts of QEMU that are loaded when asked for (the emulator among them).
const DATA: &[&str] = &["/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu"];
const PARTS: &[&str] = &["/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu", "/usr/lib/qemu"];

pub(super) fn find() -> Option<PathBuf> {
    PATH.iter().map(|directory| Path::new(directory).join(PROGRAM)).find(|path| path.is_file())
}

/// The program, its loader and libraries, its data.
pub(super) fn files(program: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: BTreeSet<PathBuf> = BTreeSet::from([program.to_owned()]);
    files.extend(libraries(program)?);
    let there = |paths: &[&str]| {
        paths.iter().map(PathBuf::from).filter(|path| path.is_dir()).collect::<Vec<PathBuf>>()
    };
    for parts in there(PARTS) {
        // Only the emulators: what else may be loaded is of no use to this machine.
        for entry in std::fs::read_dir(&parts)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("accel-tcg")) {
                files.extend(libraries(&path)?);
                files.insert(path);
            }
        }
    }
    files.extend(there(DATA));
    Ok(files.into_iter().collect())
}

/// By the loader's own account: `name => path (address)`, and the loader itself as `path (address)`.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("/usr/bin/ldd").arg(program).env_clear().output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("ldd {}: {words}", program.display())));
    }
    Ok(paths(&String::from_utf8_lossy(&output.stdout)))
}

fn paths(listed: &str) -> Vec<PathBuf> {
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_lists() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths(listed), expected.map(PathBuf::from));
    }
}
