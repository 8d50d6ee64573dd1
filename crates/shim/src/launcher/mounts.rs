//! The mounts of a container. Bind sources are taken as detached mounts while the host's tree is still there;
//! everything else happens after the root was changed, so that no symbolic link of an image can lead outside.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};

use super::{fill, sys};
use crate::cgroup::Cgroups;
use crate::protocol::{Failure, FailureKind};

/// Symbolic links followed in one path, as the kernel.
const LINKS_MAX: u32 = 40;
/// Kinds a container may have; anything else could bring kernel code in that nobody watches.
const KINDS: &[&str] = &["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "bind"];

pub(super) struct MountPlan {
    pub(super) target: PathBuf,
    pub(super) kind: Kind,
    flags: MountFlags,
    data: String,
}

pub(super) enum Kind {
    Bind { source: PathBuf, recursive: bool },
    Cgroup,
    Other { filesystem: String, source: String },
}

/// `(option, flag, whether it sets or clears)`
const OPTIONS: &[(&str, MountFlags, bool)] = &[
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
];

pub(super) fn plan(mount: &Mount) -> Result<MountPlan, Failure> {
    let target = mount.destination();
    let refuse = |kind, why: String| Err(Failure::new(kind, format!("mount at {}: {why}", target.display())));
    if !target.is_absolute() || target.components().any(|part| part == Component::ParentDir) {
        return refuse(FailureKind::Invalid, "the destination must be an absolute path without ..".into());
    }
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return refuse(FailureKind::Unsupported, "id-mapped mounts are not supported".into());
    }
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    let mut bind = mount.typ().as_deref() == Some("bind");
    let mut recursive = false;
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "bind" => bind = true,
            "rbind" => (bind, recursive) = (true, true),
            "defaults" | "private" | "rprivate" => {}
            "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" | "remount"
            | "idmap" | "ridmap" | "tmpcopyup" => {
                return refuse(FailureKind::Unsupported, format!("option {option:?} is not supported"));
            }
            option => match OPTIONS.iter().find(|(known, _, _)| *known == option) {
                Some((_, flag, true)) => flags |= *flag,
                Some((_, flag, false)) => flags -= *flag,
                None => data.push(option),
            },
        }
    }
    let source = mount.source().clone().unwrap_or_default();
    let kind = mount.typ().as_deref().unwrap_or("none");
    let kind = if bind {
        if !data.is_empty() {
            return refuse(FailureKind::Unsupported, format!("a bind mount has no option {:?}", data[0]));
        }
        if !source.is_absolute() {
            return refuse(
                FailureKind::Invalid,
                format!("the source {} must be an absolute path", source.display()),
            );
        }
        Kind::Bind { source, recursive }
    } else if !KINDS.contains(&kind) {
        return refuse(
            FailureKind::Unsupported,
            format!("type {kind:?} is not supported: {} are", KINDS.join(", ")),
        );
    } else if kind.starts_with("cgroup") {
        Kind::Cgroup
    } else {
        Kind::Other { filesystem: kind.to_owned(), source: source.to_string_lossy().into_owned() }
    };
    Ok(MountPlan { target: target.clone(), kind, flags, data: data.join(",") })
}

impl MountPlan {
    /// Whether it shows anything a volume could be filled from, or hides it.
    pub(super) fn shows_files(&self) -> bool {
        match &self.kind {
            Kind::Bind { .. } => true,
            Kind::Cgroup => false,
            Kind::Other { filesystem, .. } => filesystem == "tmpfs",
        }
    }
}

/// A bind source as a mount of its own, attached nowhere yet.
pub(super) fn take(plan: &MountPlan) -> io::Result<Option<OwnedFd>> {
    let Kind::Bind { source, recursive } = &plan.kind else { return Ok(None) };
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if *recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(Some(open_tree(rustix::fs::CWD, source, flags)?))
}

/// What `mount_setattr` has to set and to clear. Only restrictions are set: what the source already forbids stays
/// forbidden.
fn attributes(flags: MountFlags) -> (u64, u64) {
    let set = [
        (MountFlags::RDONLY, sys::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, sys::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, sys::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, sys::MOUNT_ATTR_NOEXEC),
        (MountFlags::NODIRATIME, sys::MOUNT_ATTR_NODIRATIME),
    ]
    .iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .fold(0, |all, (_, attribute)| all | attribute);
    let access_times = [
        (MountFlags::NOATIME, sys::MOUNT_ATTR_NOATIME),
        (MountFlags::STRICTATIME, sys::MOUNT_ATTR_STRICTATIME),
        (MountFlags::RELATIME, 0),
    ];
    match access_times.iter().find(|(flag, _)| flags.contains(*flag)) {
        Some((_, attribute)) => (set | attribute, sys::MOUNT_ATTR__ATIME),
        None => (set, 0),
    }
}

/// Attaches one mount below the calling process's root. `taken` is its bind source, if it is one; some are to be filled
/// first with what is there.
pub(super) fn attach(
    plan: &MountPlan,
    taken: Option<OwnedFd>,
    cgroups: &Cgroups,
    filling: Option<&mut fill::Filling<'_>>,
) -> io::Result<()> {
    let target = resolve(&plan.target)?;
    match (&plan.kind, taken) {
        (Kind::Bind { recursive, source }, Some(tree)) => {
            refuse_kernel_files(&target)?;
            let directory = sys::is_directory(&tree)?;
            make_target(&target, directory)?;
            if directory
                && let Some(filling) = filling
                && filling.sources.contains(source)
            {
                let inside =
                    openat(&tree, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                filling.fill(fill::open_directory(&target)?.as_fd(), inside.as_fd())?;
            }
            let (set, clear) = attributes(plan.flags);
            sys::set_mount_attributes(&tree, set, clear, *recursive)?;
            move_mount(&tree, "", rustix::fs::CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            Ok(())
        }
        (Kind::Bind { .. }, None) => Err(io::Error::other("its source was not taken")),
        (Kind::Cgroup, _) => {
            make_target(&target, true)?;
            attach_cgroups(&target, plan.flags, cgroups)
        }
        (Kind::Other { filesystem, source }, _) => {
            // What follows trusts these to be what they are called.
            let watched = matches!(filesystem.as_str(), "proc" | "sysfs");
            if watched && target != plan.target {
                return Err(io::Error::other("the image has a symbolic link there"));
            }
            make_target(&target, true)?;
            let data = CString::new(plan.data.as_str())?;
            mount(source.as_str(), &target, filesystem.as_str(), plan.flags, data.as_c_str())?;
            Ok(())
        }
    }
}

/// Statfs magic numbers (`linux/magic.h`) of file systems that show the kernel.
const KERNEL_FILES: &[(u64, &str)] = &[
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0x6265_6570, "configfs"),
    (0xcafe_4a11, "bpf"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4249_4e4d, "binfmt_misc"),
];

/// A volume there would hide what masks hide or take its contents, read with our rights, as the image's own.
fn refuse_kernel_files(target: &Path) -> io::Result<()> {
    // What is not there yet would be made in the nearest directory that is.
    let Some(there) = target.ancestors().find(|path| path.symlink_metadata().is_ok()) else { return Ok(()) };
    let kind = rustix::fs::fstatfs(sys::open_path(there)?)?.f_type as u64 & 0xffff_ffff;
    match KERNEL_FILES.iter().find(|(magic, _)| *magic == kind) {
        Some((_, name)) => Err(io::Error::other(format!(
            "{} is in the container's {name} file system, where nothing can be mounted: choose another path",
            target.display()
        ))),
        None => Ok(()),
    }
}

/// The container's own cgroup, as its cgroup namespace shows it.
fn attach_cgroups(target: &Path, flags: MountFlags, cgroups: &Cgroups) -> io::Result<()> {
    if cgroups.is_v2() {
        mount("cgroup", target, "cgroup2", flags, c"")?;
        return Ok(());
    }
    mount("tmpfs", target, "tmpfs", flags - MountFlags::RDONLY, c"mode=755")?;
    for (_, controllers) in cgroups.v1_views() {
        let name = controllers.join(",");
        let place = target.join(&name);
        fs::create_dir(&place)?;
        mount("cgroup", &place, "cgroup", flags, CString::new(name.as_str())?.as_c_str())?;
        if controllers.len() > 1 {
            for controller in controllers {
                std::os::unix::fs::symlink(&name, target.join(controller))?;
            }
        }
    }
    if flags.contains(MountFlags::RDONLY) {
        set_readonly(target)?;
    }
    Ok(())
}

/// Makes a mount point read-only as it stands.
pub(super) fn set_readonly(target: &Path) -> io::Result<()> {
    let path = sys::open_path(target)?;
    sys::set_mount_attributes(&path, sys::MOUNT_ATTR_RDONLY, 0, false)
}

/// Hides a path: a file behind `/dev/null`, a directory behind an empty one. Absent is hidden enough.
pub(super) fn mask(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(kind) => kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if kind.is_dir() {
        mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, c"size=0")?;
        return Ok(());
    }
    let null = open_tree(
        rustix::fs::CWD,
        "/dev/null",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    if !sys::is_null_device(&null)? {
        return Err(io::Error::other("/dev/null of the container is not the null device"));
    }
    move_mount(&null, "", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// Puts a read-only view of a path over itself. Absent needs none.
pub(super) fn freeze(path: &Path) -> io::Result<()> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = match open_tree(rustix::fs::CWD, path, flags) {
        Ok(tree) => tree,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    sys::set_mount_attributes(&tree, sys::MOUNT_ATTR_RDONLY, 0, true)?;
    move_mount(&tree, "", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// Follows the symbolic links of a path; what does not exist yet is taken as it is written.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut pending: Vec<PathBuf> = components(path);
    let mut resolved = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == Path::new("..") {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        match fs::read_link(&next) {
            Ok(link) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if link.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                pending.extend(components(&link));
            }
            Err(_) => resolved = next,
        }
    }
    Ok(resolved)
}

/// Last first.
fn components(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            _ => None,
        })
        .collect()
}

fn make_target(target: &Path, directory: bool) -> io::Result<()> {
    if directory {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::File::options().write(true).create_new(true).open(target) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The overlay of a container, mounted at `target`. Layers are named by descriptor: their paths may hold the
/// characters overlayfs splits at, may be long, and are nobody's business in the container's mount table.
pub(super) fn overlay(layers: &[PathBuf], writable: &Path, target: &Path) -> io::Result<()> {
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    for path in [&upper, &work] {
        fs::create_dir_all(path)?;
    }
    // Left by an earlier start of this container; without its removal a volatile overlay refuses to mount again.
    match fs::remove_dir_all(work.join("work/incompat")) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let open = |path: &PathBuf| {
        sys::open_path(path)
            .map_err(|error| io::Error::new(error.kind(), format!("layer {}: {error}", path.display())))
    };
    let lower: Vec<OwnedFd> = layers.iter().map(open).collect::<io::Result<_>>()?;
    let (upper, work) = (sys::open_path(&upper)?, sys::open_path(&work)?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.iter().map(name).collect::<Vec<_>>().join(":"),
        name(&upper),
        name(&work)
    );
    // Volatile: no fsync on behalf of files that do not outlive the task.
    let volatile = CString::new(format!("{data},volatile"))?;
    match mount("overlay", target, "overlay", MountFlags::empty(), volatile.as_c_str()) {
        Err(rustix::io::Errno::INVAL) => {
            mount("overlay", target, "overlay", MountFlags::empty(), CString::new(data)?.as_c_str())?;
            Ok(())
        }
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn of(kind: &str, options: &[&str]) -> Result<MountPlan, Failure> {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        plan(
            &MountBuilder::default()
                .destination("/x")
                .typ(kind)
                .source("/s")
                .options(options)
                .build()
                .unwrap(),
        )
    }

    #[test]
    fn nothing_is_bound_over_kernel_files() {
        for path in ["/proc", "/proc/absent/deeper", "/proc/sys/kernel", "/sys/kernel"] {
            let error = refuse_kernel_files(Path::new(path)).unwrap_err();
            assert!(error.to_string().starts_with(path), "{error}");
        }
        refuse_kernel_files(&std::env::temp_dir().join("absent")).unwrap();
    }

    #[test]
    fn options_become_flags_and_data() {
        let tmpfs = of("tmpfs", &["nosuid", "suid", "nodev", "ro", "mode=755", "size=1k"]).unwrap();
        assert_eq!(tmpfs.flags, MountFlags::NODEV | MountFlags::RDONLY);
        assert_eq!(tmpfs.data, "mode=755,size=1k");
        let bind = of("bind", &["rbind", "ro"]).unwrap();
        assert!(matches!(bind.kind, Kind::Bind { recursive: true, .. }));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (kind, options) in
            [("ext4", &[][..]), ("bind", &["size=1"]), ("tmpfs", &["rshared"]), ("overlay", &[])]
        {
            assert!(of(kind, options).is_err(), "{kind} {options:?}");
        }
    }

    #[test]
    fn links_are_followed_to_what_does_not_exist_yet() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink("../target/file", base.join("link")).unwrap();
        fs::create_dir(base.join("sub")).unwrap();
        std::os::unix::fs::symlink(base.join("link"), base.join("sub/again")).unwrap();
        let parent = base.parent().unwrap();
        assert_eq!(resolve(&base.join("sub/again")).unwrap(), parent.join("target/file"));
        std::os::unix::fs::symlink("loop", base.join("loop")).unwrap();
        assert_eq!(resolve(&base.join("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }
}
