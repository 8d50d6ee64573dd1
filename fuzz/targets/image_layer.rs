#![no_main]
//! Layers: whatever the bytes say, nothing outside the layer's directory changes, and no device comes to be.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::LazyLock;

use tempfile::TempDir;

static HOME: LazyLock<TempDir> = LazyLock::new(|| {
    let home = TempDir::new().expect("a temporary folder");
    fs::write(home.path().join("canary"), "sings").expect("written");
    home
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let home = HOME.path();
    let (root, trash, layer) = (home.join("root"), home.join("trash"), home.join("layer"));
    fs::create_dir(&root).and_then(|()| fs::create_dir(&trash)).expect("made");
    fs::write(&layer, input).expect("written");
    let open = |path: &Path| File::open(path).expect("opened");
    let unpacked = ferrogate_image::fuzzing::unpack(open(&layer), input, open(&root), open(&trash));
    if unpacked {
        no_devices(&root);
    }
    for folder in [&root, &trash] {
        fs::remove_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    }
    assert_eq!(fs::read(home.join("canary")).expect("the canary"), b"sings");
    let mut left: Vec<_> =
        fs::read_dir(home).expect("the folder").map(|e| e.expect("one").file_name()).collect();
    left.sort();
    assert_eq!(left, ["canary", "layer"], "something was made outside the layer");
});

/// A whiteout is a character device 0:0: that one overlayfs needs.
fn no_devices(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let metadata = entry.path().symlink_metadata().expect("its metadata");
        let kind = metadata.file_type();
        assert!(!kind.is_block_device(), "{}", entry.path().display());
        assert!(!kind.is_char_device() || metadata.rdev() == 0, "{}", entry.path().display());
        if kind.is_dir() {
            no_devices(&entry.path());
        }
    }
}
