//! The whole of a guest's file system at its first moment: PID 1, and modules for a kernel that needs some. A cpio archive
//! of the kind the kernel unpacks ("newc", kernel documentation, `driver-api/early-userspace/buffer-format`).

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Where PID 1 speaks before it has mounted anything.
const CONSOLE: (u32, u32) = (5, 1);

struct Archive<W> {
    to: W,
    written: usize,
    entries: u32,
}

/// Writes the archive for this program and these modules, in the order they are to be loaded.
pub(super) fn write(to: impl Write, program: &Path, modules: &[PathBuf]) -> io::Result<()> {
    let mut archive = Archive { to, written: 0, entries: 0 };
    archive.entry("dev", DIRECTORY, (0, 0), &[])?;
    archive.entry("dev/console", CHARACTER_DEVICE, CONSOLE, &[])?;
    archive.entry("init", PROGRAM, (0, 0), &read(program)?)?;
    if !modules.is_empty() {
        archive.entry("modules", DIRECTORY, (0, 0), &[])?;
    }
    for path in modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.entry(&format!("modules/{name}"), FILE, (0, 0), &read(path)?)?;
    }
    archive.entry(TRAILER, 0, (0, 0), &[])?;
    archive.to.flush()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

impl<W: Write> Archive<W> {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(data.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let name_size = name.len() as u32 + 1;
        // Number, mode, owner, group, links, time, size, device it is on (2), device it is (2), name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = MAGIC.to_owned();
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(name);
        header.push('\0');
        self.put(header.as_bytes())?;
        self.put(data)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.written += bytes.len();
        let rest = self.written.next_multiple_of(4) - self.written;
        self.written += rest;
        self.to.write_all(&[0; 3][..rest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_its_entries_in_order_and_aligned() {
        let dir = tempfile::tempdir().unwrap();
        let (program, module) = (dir.path().join("program"), dir.path().join("000-virtio.ko"));
        fs::write(&program, b"12345").unwrap();
        fs::write(&module, b"abc").unwrap();
        let mut bytes = Vec::new();
        write(&mut bytes, &program, &[module]).unwrap();
        let mut names = Vec::new();
        let mut at = 0;
        loop {
            let number = |field: usize| {
                let from = at + 6 + field * 8;
                usize::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], MAGIC.as_bytes());
            let (size, name_size) = (number(6), number(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_size - 1]).unwrap().to_owned();
            let data = (at + 110 + name_size).next_multiple_of(4);
            if name == "init" {
                assert_eq!(&bytes[data..data + size], b"12345");
            }
            names.push(name.clone());
            if name == TRAILER {
                break;
            }
            at = (data + size).next_multiple_of(4);
        }
        assert_eq!(names, ["dev", "dev/console", "init", "modules", "modules/000-virtio.ko", TRAILER]);
        assert_eq!(bytes.len() % 4, 0);
    }
}
