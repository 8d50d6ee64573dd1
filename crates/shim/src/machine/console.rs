//! What the guest's kernel prints and what the machine's program complains of: a file of bounded size, and the last words
//! of a kernel that panicked.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Below the task's directory; the one before it ends in `.old`.
const CONSOLE_FILE: &str = "console.log";
const FILE_BYTES_MAX: usize = 256 << 10;
const READ_BYTES: usize = 4 << 10;
/// A line is looked at as far as this.
const LINE_BYTES_MAX: usize = 400;
/// Between a machine's words and those of the one in its place.
const AGAIN_LINE: &[u8] = b"\nferrogate: the machine is booted again\n";
/// Lines that say why a machine is no more.
const LAST_WORDS: &[&str] =
    &["Kernel panic - not syncing: ", "ferrogate-guest: ", "qemu-system-x86_64: ", "qemu: "];

pub(super) struct Console {
    path: PathBuf,
    file: File,
    written: usize,
    ends: [Option<OwnedFd>; 2],
    line: Vec<u8>,
    last_words: Option<String>,
}

impl Console {
    pub(super) fn open(directory: &Path, ends: [OwnedFd; 2]) -> io::Result<Self> {
        non_blocking(&ends)?;
        let path = directory.join(CONSOLE_FILE);
        let file = create(&path)?;
        Ok(Console { path, file, written: 0, ends: ends.map(Some), line: Vec::new(), last_words: None })
    }

    /// Another machine's, from now on: what the one before it said stays.
    pub(super) fn follow(&mut self, ends: [OwnedFd; 2]) -> io::Result<()> {
        let _ = self.last_words();
        non_blocking(&ends)?;
        self.take(AGAIN_LINE);
        (self.ends, self.last_words) = (ends.map(Some), None);
        Ok(())
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.ends.iter().enumerate().filter_map(|(index, end)| Some((index, end.as_ref()?.as_fd())))
    }

    pub(super) fn read(&mut self, index: usize) {
        let Some(end) = &self.ends[index] else { return };
        let mut buffer = [0; READ_BYTES];
        match rustix::io::read(end, &mut buffer) {
            Ok(count) if count > 0 => self.take(&buffer[..count]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => self.ends[index] = None,
        }
    }

    /// Why the machine is no more, by its own account.
    pub(super) fn last_words(&mut self) -> Option<String> {
        for index in 0..self.ends.len() {
            for _ in 0..FILE_BYTES_MAX / READ_BYTES {
                self.read(index);
            }
        }
        self.last_words.clone()
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => {
                    self.look();
                    self.line.clear();
                }
                byte if self.line.len() < LINE_BYTES_MAX => self.line.push(*byte),
                _ => {}
            }
        }
        if self.written + bytes.len() > FILE_BYTES_MAX
            && std::fs::rename(&self.path, self.path.with_extension("log.old")).is_ok()
            && let Ok(file) = create(&self.path)
        {
            (self.file, self.written) = (file, 0);
        }
        // A full disk loses it.
        if self.written + bytes.len() <= FILE_BYTES_MAX && self.file.write_all(bytes).is_ok() {
            self.written += bytes.len();
        }
    }

    /// The guest may print what it likes: it is shown as text, and believed in nothing.
    fn look(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line: String = line.chars().filter(|letter| !letter.is_control()).collect();
        if self.last_words.is_none()
            && let Some(at) = LAST_WORDS.iter().find_map(|words| line.find(words))
        {
            self.last_words = Some(line[at..].to_owned());
        }
    }
}

fn non_blocking(ends: &[OwnedFd; 2]) -> io::Result<()> {
    for end in ends {
        let flags = rustix::fs::fcntl_getfl(end)?;
        rustix::fs::fcntl_setfl(end, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    File::options().create(true).write(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(directory: &Path) -> (Console, OwnedFd) {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ((first, writer), (second, _)) = (pipe(), pipe());
        (Console::open(directory, [first, second]).unwrap(), writer)
    }

    #[test]
    fn a_panic_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (mut console, writer) = console(dir.path());
        rustix::io::write(
            &writer,
            b"[ 1.0] ok\n[    1.2] Kernel panic - not syncing: sysrq\x1b[0m triggered\nmore\n",
        )
        .unwrap();
        assert_eq!(console.last_words().as_deref(), Some("Kernel panic - not syncing: sysrq[0m triggered"));
    }

    #[test]
    fn what_a_machine_said_that_is_booted_again_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (mut console, writer) = console(dir.path());
        rustix::io::write(&writer, b"Kernel panic - not syncing: one\nhalf a li").unwrap();
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ((first, writer), (second, _)) = (pipe(), pipe());
        console.follow([first, second]).unwrap();
        assert_eq!(console.last_words(), None);
        rustix::io::write(&writer, b"Kernel panic - not syncing: two\n").unwrap();
        assert_eq!(console.last_words().as_deref(), Some("Kernel panic - not syncing: two"));
        let kept = std::fs::read_to_string(dir.path().join(CONSOLE_FILE)).unwrap();
        assert!(kept.contains("one\nhalf a li\nferrogate: ") && kept.ends_with("two\n"), "{kept}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let (mut console, _writer) = console(dir.path());
        for _ in 0..1000 {
            console.take(&[b'x'; 4096]);
        }
        let bytes: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= 2 * FILE_BYTES_MAX as u64, "{bytes}");
    }
}
