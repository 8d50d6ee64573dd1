//! A booted guest that is nobody's becomes what later machines begin with ([`super::restore`]).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Machine;
use super::config::SnapshotFiles;
use super::vmm::VmmError;

const MIB: u64 = 1 << 20;

/// The file the guest's memory is, all zeroes and all holes.
pub(super) fn memory(path: &Path, memory_mib: u64) -> Result<File, VmmError> {
    // Another file than that of a machine before this one, which may still be about to end.
    let fresh = match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => create(path),
    };
    let made = fresh.and_then(|file| file.set_len(memory_mib * MIB).map(|()| file));
    made.map_err(VmmError::io("make a file for the machine's memory"))
}

fn create(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)
}

impl Machine {
    /// The machine is over then, and its shim with it: whoever wants the snapshot may be gone.
    pub(super) fn become_snapshot(&mut self, files: &SnapshotFiles) {
        match self.save(files) {
            Ok(()) => self.ending = true,
            Err(error) => self.lose(&format!("its snapshot cannot be taken: {error}")),
        }
    }

    fn save(&mut self, files: &SnapshotFiles) -> Result<(), VmmError> {
        // It is under its name when it is whole.
        let fresh = files.state.with_extension("new");
        let state = create(&fresh).map_err(VmmError::io("make a file for the machine's state"))?;
        let synced = state.try_clone().map_err(VmmError::io("hand over the machine's state"))?;
        self.vmm.save(state)?;
        synced.sync_all().map_err(VmmError::io("write the machine's state"))?;
        let memory = File::open(&files.memory).and_then(|memory| memory.sync_all());
        memory.map_err(VmmError::io("write the machine's memory"))?;
        fs::rename(&fresh, &files.state).map_err(VmmError::io("name the machine's state"))
    }
}
