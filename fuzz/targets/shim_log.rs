#![no_main]
//! A container's kept output: any bytes as its last segment, and a writer that goes on behind them.

use std::fs;
use std::sync::LazyLock;

use ferrogate_shim::log::writer::LogWriter;
use ferrogate_shim::log::{Stream, decode, segment_path, segments};
use ferrogate_shim::protocol::{LogLimits, WhenFull};
use tempfile::TempDir;

static HOME: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary folder"));

/// Lines up to the first damage.
fn lines(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    while let Ok(Some((record, used))) = decode(bytes) {
        lines.push(record.bytes.to_vec());
        bytes = &bytes[used..];
    }
    lines
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [kind, kept @ ..] = input else { return };
    let folder = HOME.path().join("log");
    fs::create_dir(&folder).expect("made");
    fs::write(segment_path(&folder, 0), kept).expect("written");
    let before = lines(kept);
    let when_full = [WhenFull::Block, WhenFull::DropNewest, WhenFull::DropOldest][usize::from(kind % 3)];
    let limits = LogLimits { bytes_max: 1 << 20, when_full };
    let mut writer = LogWriter::open(folder.clone(), limits).expect("opened");
    writer.output(Stream::Stdout, b"a line\nand a b", 1).expect("written");
    writer.finish(2).expect("finished");
    let mut all = Vec::new();
    for segment in segments(&folder).expect("listed") {
        all.extend(fs::read(segment.path).expect("read"));
    }
    let after = lines(&all);
    assert!(after.starts_with(&before), "what was whole is lost");
    assert_eq!(after[before.len()..], [b"a line".to_vec(), b"and a b".to_vec()], "behind what is torn");
    writer.acknowledge(u64::MAX);
    drop(writer);
    fs::remove_dir_all(&folder).expect("removed");
});
