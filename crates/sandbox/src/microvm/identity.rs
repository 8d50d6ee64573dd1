//! What a snapshot depends on, and what it is: digests.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use ferrogate_shim::machine::config::{Accelerator, SnapshotFiles, VmmConfig};
use rustix::fs::SeekFrom;

/// Longest prefix of a digest that is a name.
const NAME_BYTES: usize = 12;
const PAGE_BYTES: usize = 4096;
const READ_BYTES: usize = 256 << 10;
const HOST_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const HOST_KERNEL: &str = "/proc/sys/kernel/osrelease";
const HOST_CPU: &str = "/proc/cpuinfo";
/// Of a processor, what a guest that has it may have seen.
const CPU_FIELDS: &[&str] =
    &["vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags", "bugs"];

/// A name for everything a machine's state depends on but its size. Reads whole programs: blocking.
pub(super) fn base(vmm: &VmmConfig, shim: &Path) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    // What they do, not where they are: the shim has the machine's devices and the words it is started with.
    for path in [&vmm.kernel, &vmm.initramfs, &vmm.program, shim] {
        context.update(&content(path)?);
    }
    for path in &vmm.files {
        let meta = fs::metadata(path)?;
        context.update(format!("{}\0{}\0{}\0", path.display(), meta.size(), meta.mtime()).as_bytes());
    }
    let machine = format!("{:?} {}\0", vmm.accelerator, vmm.acpi);
    context.update(machine.as_bytes());
    let host = match vmm.accelerator {
        // What of a processor a guest is shown, and so what it mitigates, is KVM's choice as well.
        Accelerator::Kvm => fs::read_to_string(HOST_KERNEL)? + &processor(&fs::read_to_string(HOST_CPU)?),
        // Its clock counter is the host's, as fast as that was measured to be.
        Accelerator::Tcg => fs::read_to_string(HOST_BOOT_ID)?,
    };
    context.update(host.as_bytes());
    Ok(hex(&context.finish().as_ref()[..NAME_BYTES]))
}

fn processor(text: &str) -> String {
    let first = text.split("\n\n").next().unwrap_or_default();
    let of_guest =
        |line: &&str| line.split_once(':').is_some_and(|(name, _)| CPU_FIELDS.contains(&name.trim()));
    first.lines().filter(of_guest).collect::<Vec<_>>().join("\n")
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(named)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer).map_err(named)? {
            0 => return Ok(context.finish().as_ref().to_vec()),
            count => context.update(&buffer[..count]),
        }
    }
}

/// Of a snapshot's content, whatever of it are holes. Blocking.
pub(super) fn digest(files: &SnapshotFiles) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    context.update(&content(&files.state)?);
    let memory = File::open(&files.memory)?;
    let size = memory.metadata()?.len();
    context.update(&size.to_le_bytes());
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < size {
        offset = match rustix::fs::seek(memory.as_fd(), SeekFrom::Data(offset)) {
            Ok(begin) => begin - begin % PAGE_BYTES as u64,
            // Nothing but a hole from here on.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(memory.as_fd(), SeekFrom::Hole(offset))?.max(offset + 1);
        while offset < end {
            let count = memory.read_at(&mut buffer, offset)?;
            if count == 0 {
                break;
            }
            for (index, page) in buffer[..count].chunks(PAGE_BYTES).enumerate() {
                if page != &[0; PAGE_BYTES][..page.len()] {
                    context.update(&(offset + (index * PAGE_BYTES) as u64).to_le_bytes());
                    context.update(page);
                }
            }
            offset += count as u64;
        }
    }
    Ok(hex(context.finish().as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> SnapshotFiles {
        let files = SnapshotFiles { memory: dir.join("memory"), state: dir.join("state") };
        fs::write(&files.state, "state").unwrap();
        let memory = File::create(&files.memory).unwrap();
        memory.set_len(8 << 20).unwrap();
        memory.write_all_at(b"text", 3 << 20).unwrap();
        memory.sync_all().unwrap();
        files
    }

    #[test]
    fn a_digest_is_of_content_and_not_of_holes() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let before = digest(&files).unwrap();
        let memory = File::options().write(true).open(&files.memory).unwrap();
        memory.write_all_at(&[0; 64 << 10], 1 << 20).unwrap();
        assert_eq!(digest(&files).unwrap(), before, "zeroes are zeroes");
        memory.write_all_at(&[1], 5 << 20).unwrap();
        let other = digest(&files).unwrap();
        assert_ne!(other, before);
        memory.write_all_at(&[0], 5 << 20).unwrap();
        assert_eq!(digest(&files).unwrap(), before);
        memory.write_all_at(b"text", (3 << 20) + PAGE_BYTES as u64).unwrap();
        memory.write_all_at(b"\0\0\0\0", 3 << 20).unwrap();
        assert_ne!(digest(&files).unwrap(), before, "at another place it is another memory");
        fs::write(&files.state, "State").unwrap();
        assert_ne!(digest(&files).unwrap(), other);
    }

    #[test]
    fn what_an_upgrade_changes_is_another_base() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let vmm = VmmConfig {
            program: file("qemu"),
            files: vec![file("library")],
            kernel: file("kernel"),
            initramfs: file("initramfs"),
            acpi: false,
            accelerator: Accelerator::Tcg,
            tsc_khz: Some(1),
        };
        let shim = file("shim");
        let first = base(&vmm, &shim).unwrap();
        assert_eq!(
            base(&VmmConfig { tsc_khz: Some(2), ..vmm.clone() }, &shim).unwrap(),
            first,
            "it is measured"
        );
        let mut seen = vec![first.clone()];
        for name in ["qemu", "library", "kernel", "initramfs", "shim"] {
            fs::write(dir.path().join(name), format!("{name} of an upgrade")).unwrap();
            seen.push(base(&vmm, &shim).unwrap());
        }
        seen.push(base(&VmmConfig { acpi: true, ..vmm.clone() }, &shim).unwrap());
        seen.push(base(&VmmConfig { accelerator: Accelerator::Kvm, ..vmm }, &shim).unwrap());
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn of_a_processor_counts_what_a_guest_sees() {
        let text = "processor\t: 0\nmodel name\t: A\ncpu MHz\t\t: 2000.1\nflags\t\t: fpu vme\n\nprocessor\t: 1\nmodel name\t: A\n";
        assert_eq!(processor(text), "model name\t: A\nflags\t\t: fpu vme");
    }
}
