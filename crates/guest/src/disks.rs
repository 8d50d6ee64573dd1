//! Disks that come while the guest runs: found by their SCSI target, layers mounted where the host said they would be.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferrogate_shim::machine::wire::GUEST_LAYERS_DIR;
use rustix::mount::{MountFlags, mount};

/// Longest from the host's word to the disk.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(20);
const SCAN: &str = "/sys/class/scsi_host/host0/scan";
const LAYER_FILE_SYSTEM: &str = "erofs";

#[derive(Default)]
pub(crate) struct Disks {
    mounted: BTreeMap<u32, PathBuf>,
    /// Since when a target is looked for.
    awaited: BTreeMap<u32, Instant>,
}

impl Disks {
    /// Mounts what is there; `false`: not all is. To look for one more takes its time, so that is done for one at a time.
    pub(crate) fn mount_layers(&mut self, targets: &[u32]) -> Result<bool, String> {
        let (mut all, mut looked) = (true, false);
        for target in targets {
            if self.mounted.contains_key(target) {
                continue;
            }
            let is_new = !self.awaited.contains_key(target);
            if is_new && std::mem::replace(&mut looked, true) {
                return Ok(false);
            }
            match self.look(*target)? {
                Some(device) => {
                    let place = mount_layer(&device, *target)
                        .map_err(|error| format!("cannot mount disk {target}: {error}"))?;
                    self.mounted.insert(*target, place);
                }
                None => all = false,
            }
        }
        Ok(all)
    }

    fn look(&mut self, target: u32) -> Result<Option<PathBuf>, String> {
        if !self.awaited.contains_key(&target) {
            scan(target).map_err(|error| format!("cannot look for disk {target}: {error}"))?;
        }
        if let Some(device) = find(target) {
            self.awaited.remove(&target);
            return Ok(Some(device));
        }
        let since = self.awaited.entry(target).or_insert_with(Instant::now);
        if since.elapsed() > ARRIVAL_DEADLINE {
            // Who asks again has it looked for again.
            self.awaited.remove(&target);
            return Err(format!("disk {target} did not come within {} s", ARRIVAL_DEADLINE.as_secs()));
        }
        Ok(None)
    }
}

/// The kernel looks for none by itself (`scsi_mod.scan`). One that is found is a device a moment later.
fn scan(target: u32) -> io::Result<()> {
    fs::write(SCAN, format!("0 {target} 0"))
}

/// The one SCSI host there is has number 0; LUN and channel are 0 too.
fn find(target: u32) -> Option<PathBuf> {
    let block = format!("/sys/class/scsi_device/0:0:{target}:0/device/block");
    let name = fs::read_dir(block).ok()?.flatten().next()?.file_name();
    let device = Path::new("/dev").join(name);
    match fs::File::open(&device) {
        Ok(_) => Some(device),
        // Its file is there a moment before it is.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // Whoever uses it says why it cannot be.
        Err(_) => Some(device),
    }
}

fn mount_layer(device: &Path, target: u32) -> io::Result<PathBuf> {
    let place = Path::new(GUEST_LAYERS_DIR).join(target.to_string());
    fs::create_dir_all(&place)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME;
    mount(device, &place, LAYER_FILE_SYSTEM, flags, None)?;
    Ok(place)
}
