//! What GNU tar packs is what stands here afterwards: names, modes, owners, times, links, holes, attributes.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::fake::FakeRegistry;
use common::{Compression, config, image, layer, pull};
use ferrogate_image::ImageStore;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File(Vec<u8>),
    /// Pieces (at, length) of data in a file of this size.
    Sparse(Vec<(u32, u16)>, u32),
    Symlink(String),
    /// To the n-th file made before.
    HardLink(usize),
    Fifo,
}

#[derive(Clone, Debug)]
struct Node {
    /// Into the n-th directory made before.
    parent: usize,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattr: Option<Vec<u8>>,
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let plain = proptest::collection::vec(any::<u8>(), 1..12);
    let long = "[a-z]{90,250}".prop_map(String::into_bytes);
    prop_oneof![4 => plain, 1 => long, 2 => "[a-z]{1,3}".prop_map(String::into_bytes)].prop_filter_map(
        "a name",
        |name| {
            let bad = name.contains(&b'/') || name.contains(&0) || matches!(name.as_slice(), b"." | b"..");
            (!bad && !name.starts_with(b".wh.")).then_some(name)
        },
    )
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        4 => proptest::collection::vec(any::<u8>(), 0..3000).prop_map(Kind::File),
        2 => (proptest::collection::vec((0u32..4_000_000, 1u16..9000), 0..8), 0u32..5_000_000)
            .prop_map(|(pieces, size)| Kind::Sparse(pieces, size)),
        2 => "[a-z./]{1,150}".prop_map(Kind::Symlink),
        2 => (0usize..20).prop_map(Kind::HardLink),
        1 => Just(Kind::Fifo),
    ];
    let owner =
        (prop_oneof![Just(0u32), Just(33), Just(3_000_000)], prop_oneof![Just(0u32), Just(4_000_000)]);
    let mtime = (prop_oneof![0i64..2_000_000_000, -1000i64..0, Just(9_000_000_000)], 0u32..1_000_000_000);
    let xattr = proptest::option::weighted(0.3, proptest::collection::vec(any::<u8>(), 1..100));
    let node = (0usize..8, names(), kind, 0u32..0o10000, owner, mtime, xattr).prop_map(
        |(parent, name, kind, mode, owner, mtime, xattr)| Node {
            parent,
            name,
            kind,
            mode,
            owner,
            mtime,
            xattr,
        },
    );
    proptest::collection::vec(node, 1..25)
}

fn make(root: &Path, nodes: &[Node]) {
    let (mut directories, mut files) = (vec![root.to_owned()], Vec::<PathBuf>::new());
    let mut times = Vec::new();
    for node in nodes {
        let path = directories[node.parent % directories.len()].join(OsString::from_vec(node.name.clone()));
        if path.symlink_metadata().is_ok() || path.as_os_str().len() > 3500 {
            continue;
        }
        match &node.kind {
            Kind::Directory => {
                std::fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            Kind::File(content) => std::fs::write(&path, content).unwrap(),
            Kind::Sparse(pieces, size) => {
                let file = File::create(&path).unwrap();
                file.set_len(u64::from(*size)).unwrap();
                for (at, length) in pieces {
                    file.write_all_at(&vec![b'x'; usize::from(*length)], u64::from(*at)).unwrap();
                }
            }
            Kind::Symlink(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
            Kind::HardLink(number) => {
                if let Some(target) = files.get(number % files.len().max(1)) {
                    std::fs::hard_link(target, &path).unwrap();
                }
                continue;
            }
            Kind::Fifo => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            }
        }
        let owner = (Some(node.owner.0), Some(node.owner.1));
        std::os::unix::fs::lchown(&path, owner.0, owner.1).unwrap();
        let plain = matches!(node.kind, Kind::Directory | Kind::File(_) | Kind::Sparse(..));
        if !matches!(node.kind, Kind::Symlink(_)) {
            let mode = Mode::from_raw_mode(node.mode);
            rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty()).unwrap();
        }
        if let Some(value) = node.xattr.as_ref().filter(|_| plain) {
            rustix::fs::lsetxattr(&path, "user.test", value, XattrFlags::empty()).unwrap();
        }
        if matches!(node.kind, Kind::File(_) | Kind::Sparse(..)) {
            files.push(path.clone());
        }
        times.push((path, node.mtime));
    }
    // Deepest last made, first dated: a child changes its directory's time.
    for (path, (seconds, nanoseconds)) in times.into_iter().rev() {
        let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

#[derive(Debug, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Vec<u8>,
    xattr: Option<Vec<u8>>,
    /// The first path of the same file.
    same_as: PathBuf,
}

/// Everything below; `nanoseconds`: as exact as that.
fn look(root: &Path, nanoseconds: bool) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut all = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    for path in all {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let content = if meta.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else if meta.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let mut value = [0; 256];
        let xattr = rustix::fs::lgetxattr(&path, "user.test", &mut value).ok();
        let same_as = inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
        let seen = Seen {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), if nanoseconds { meta.mtime_nsec() } else { 0 }),
            content,
            xattr: xattr.map(|length| value[..length].to_vec()),
            same_as,
        };
        found.insert(name, seen);
    }
    found
}

const POSIX: &[&str] = &["--format=posix", "--xattrs", "--xattrs-include=*"];
const FORMATS: [&[&str]; 6] = [
    POSIX,
    &["--format=gnu"],
    &["--format=gnu", "--sparse"],
    &["--format=posix", "--sparse", "--sparse-version=0.0"],
    &["--format=posix", "--sparse", "--sparse-version=0.1"],
    &["--format=posix", "--sparse", "--sparse-version=1.0"],
];

fn pack(root: &Path, format: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(format)
        .args(["-c", "--sort=name", "-C"])
        .arg(root)
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Gzip), Just(Compression::Zstd)]
}

#[test]
fn what_tar_packs_is_what_is_unpacked() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let registry = FakeRegistry::good();
    let store_dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(store_dir.path(), config(&registry.address)).unwrap();
    let strategy = (nodes(), 0..FORMATS.len(), compression());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(96));
    runner
        .run(&strategy, |(nodes, format, compression)| {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path(), &nodes);
            let tar = pack(dir.path(), FORMATS[format]);
            registry.add("latest", &image(&[layer(tar, compression)]));
            let image = runtime
                .block_on(pull(&store, "app"))
                .map_err(|error| TestCaseError::fail(format!("{error}")))?;
            let exact = !FORMATS[format].contains(&"--format=gnu");
            let (mut expected, actual) = (look(dir.path(), exact), look(&image.layers[0], exact));
            if format != 0 {
                expected.values_mut().for_each(|seen| seen.xattr = None);
            }
            let names = |tree: &BTreeMap<PathBuf, Seen>| tree.keys().cloned().collect::<Vec<_>>();
            prop_assert_eq!(names(&expected), names(&actual));
            for (name, seen) in &expected {
                let found = &actual[name];
                prop_assert!(
                    found == seen,
                    "{}: {:?} became {:?}",
                    name.display(),
                    brief(seen),
                    brief(found)
                );
            }
            if FORMATS[format].contains(&"--sparse") {
                for name in expected.keys() {
                    let blocks = |root: &Path| root.join(name).symlink_metadata().unwrap().blocks();
                    let (before, after) = (blocks(dir.path()), blocks(&image.layers[0]));
                    prop_assert!(after <= before + 16, "{}: {before} blocks became {after}", name.display());
                }
            }
            let digest = image.manifest_digest.clone();
            drop(image);
            runtime.block_on(store.remove(&digest)).unwrap();
            Ok(())
        })
        .unwrap();
}

fn brief(seen: &Seen) -> String {
    let Seen { mode, owner, mtime, content, xattr, same_as } = seen;
    format!("{mode:o} {owner:?} {mtime:?} {} bytes {xattr:?} {}", content.len(), same_as.display())
}

/// The same tree by GNU tar's own hand, for the way back: attributes and modes survive being packed again.
#[test]
fn unpacked_and_packed_again_it_is_the_same_archive() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = FakeRegistry::good();
    let store_dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(store_dir.path(), config(&registry.address)).unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..8 {
        let tree = nodes().new_tree(&mut runner).unwrap();
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &proptest::strategy::ValueTree::current(&tree));
        // The image's root is ours: 0755 and new.
        let time = Timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, dir.path(), &times, AtFlags::empty()).unwrap();
        let flags = [POSIX, &["--pax-option=delete=atime,delete=ctime"]].concat();
        let tar = pack(dir.path(), &flags);
        registry.add("latest", &image(&[layer(tar.clone(), Compression::Gzip)]));
        let image = runtime.block_on(pull(&store, "app")).unwrap();
        assert!(pack(&image.layers[0], &flags) == tar);
    }
}
