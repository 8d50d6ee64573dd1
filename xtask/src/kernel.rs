//! `cargo xtask kernel` and `cargo xtask guest`: what a micro-VM boots.
//!
//! ```text
//! .cache/kernel/<name>/vmlinux        an ELF image with a PVH entry
//!                     /modules/*.ko   loaded in the order of their names; absent where everything is built in
//!                     /acpi           there if the kernel finds its devices by ACPI only
//! ```
//!
//! Packages come through apt, with apt's own verification, and are unpacked into the cache: nothing is installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

pub(crate) const USAGE: &str = "\
cargo xtask kernel            a minimal guest kernel from the distribution's source, in .cache/kernel/minimal
                              (minutes; needs scripts/deps kernel; cached by source version and crates/guest/kernel.config)
cargo xtask kernel --cloud    the distribution's cloud kernel in .cache/kernel/cloud: no build, a slower boot
cargo xtask guest             the guest's static program: target/debug/ferrogate-guest, and one for tests beside it
cargo xtask guest --release   the program alone, to be installed: target/release/ferrogate-guest
";

const SOURCE_PACKAGE: &str = "linux-source-6.1";
const SOURCE_ARCHIVE: &str = "usr/src/linux-source-6.1.tar.xz";
const CLOUD_PACKAGE: &str = "linux-image-cloud-amd64";
const CONFIG: &str = "crates/guest/kernel.config";
/// The same sources and configuration give the same image.
const BUILD_ENVIRONMENT: &[(&str, &str)] = &[
    ("KBUILD_BUILD_USER", "ferrogate"),
    ("KBUILD_BUILD_HOST", "ferrogate"),
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
    ("KBUILD_BUILD_VERSION", "1"),
];
/// What the cloud kernel needs beyond itself; what each of these depends on comes before it.
const CLOUD_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "virtio_net",
    "erofs",
    "overlay",
    "ext4",
    "dm-crypt",
    "xts",
    "aesni-intel",
];

pub(crate) fn run(args: &[String]) -> Result<()> {
    let _lock = alone()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => minimal(),
        ["--cloud"] => cloud(),
        other => bail!("unknown option '{}'\n{USAGE}", other.join(" ")),
    }
}

/// The guest's programs are linked statically, which an ordinary build of the workspace is not. What tests need beside the one
/// is never built where it could be installed.
pub(crate) fn guest(args: &[String]) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            build_guest("program", "ferrogate-guest", &[])?;
            build_guest("panics", "ferrogate-guest-panics", &[])
        }
        ["--release"] => {
            build_guest("program", "ferrogate-guest", &["--profile", "guest"])?;
            let installed = crate::root().join("target/release");
            fs::create_dir_all(&installed)?;
            // In one step: a machine may be booted from it this moment.
            let fresh = installed.join(".ferrogate-guest");
            fs::copy(crate::root().join("target/guest/ferrogate-guest"), &fresh)?;
            fs::rename(fresh, installed.join("ferrogate-guest"))?;
            install_kernel(&installed)
        }
        other => bail!("unknown option '{}'\n{USAGE}", other.join(" ")),
    }
}

/// What `ferrogate up` takes without being told: the kernel that boots faster, of those that are here.
fn install_kernel(installed: &Path) -> Result<()> {
    let Some(name) = ["minimal", "cloud"].into_iter().find(|name| cache().join(name).exists()) else {
        return Ok(());
    };
    let fresh = installed.join(".kernel");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => std::os::unix::fs::symlink(cache().join(name), &fresh)?,
    }
    Ok(fs::rename(fresh, installed.join("kernel"))?)
}

fn build_guest(feature: &str, program: &str, profile: &[&str]) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["rustc", "--package", "ferrogate-guest", "--features", feature, "--bin", program]);
    cargo.args(profile).args(["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
    succeed(cargo.current_dir(crate::root()))
}

fn key(text: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text);
    hex::encode(digest)[..16].to_owned()
}

/// Two at a time would build in one folder.
fn alone() -> Result<fs::File> {
    fs::create_dir_all(cache())?;
    let lock = fs::File::create(cache().join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn cache() -> PathBuf {
    crate::root().join(".cache/kernel")
}

fn minimal() -> Result<()> {
    let version = candidate(SOURCE_PACKAGE)?;
    let config = crate::root().join(CONFIG);
    let text = fs::read(&config).with_context(|| format!("cannot read {}", config.display()))?;
    let name = format!("minimal-{}-{}", clean(&version), key(&text));
    let done = cache().join(&name);
    if !done.join("vmlinux").exists() {
        let source = source(&version)?;
        let began = Instant::now();
        println!("building linux {version} in {}", source.display());
        let mut configure = make(&source);
        configure.arg(format!("KCONFIG_ALLCONFIG={}", config.display())).arg("allnoconfig");
        succeed(&mut configure)?;
        refused_options(&source, &String::from_utf8_lossy(&text))?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        succeed(make(&source).arg(format!("-j{jobs}")).arg("vmlinux"))?;
        put(&done, |fresh| {
            succeed(Command::new("strip").arg("-o").arg(fresh.join("vmlinux")).arg(source.join("vmlinux")))
        })?;
        println!("built in {} s", began.elapsed().as_secs());
    }
    point("minimal", &name)
}

/// Below everything else on the machine: nobody waits for it but us.
fn make(source: &Path) -> Command {
    let mut command = Command::new("nice");
    command
        .args(["-n", "19", "make", "--silent"])
        .current_dir(source)
        .envs(BUILD_ENVIRONMENT.iter().copied());
    command
}

/// A line that the kernel's own rules undid would be missed in the guest only, and long after.
fn refused_options(source: &Path, wanted: &str) -> Result<()> {
    let made = fs::read_to_string(source.join(".config"))?;
    let refused: Vec<&str> = wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && line.ends_with("=y"))
        .filter(|line| !made.lines().any(|known| known == *line))
        .collect();
    if !refused.is_empty() {
        bail!("{CONFIG}: the kernel's configuration refuses {}", refused.join(", "));
    }
    Ok(())
}

fn source(version: &str) -> Result<PathBuf> {
    let source = cache().join(format!("source-{}", clean(version)));
    if source.join("Makefile").exists() {
        return Ok(source);
    }
    let package = download(SOURCE_PACKAGE, version)?;
    let unpacked = tempfile::tempdir_in(cache())?;
    unpack(&package, unpacked.path())?;
    fs::create_dir_all(&source)?;
    let mut tar = Command::new("tar");
    tar.arg("-xJf").arg(unpacked.path().join(SOURCE_ARCHIVE)).arg("-C").arg(&source);
    succeed(tar.arg("--strip-components=1"))?;
    Ok(source)
}

fn cloud() -> Result<()> {
    let version = candidate(CLOUD_PACKAGE)?;
    let name = format!("cloud-{}-{}", clean(&version), key(CLOUD_MODULES.join(" ").as_bytes()));
    let done = cache().join(&name);
    if !done.join("vmlinux").exists() {
        let image = dependency(CLOUD_PACKAGE)?;
        let package = download(&image, &candidate(&image)?)?;
        let unpacked = tempfile::tempdir_in(cache())?;
        unpack(&package, unpacked.path())?;
        let release = image.trim_start_matches("linux-image-");
        let bzimage = fs::read(unpacked.path().join(format!("boot/vmlinuz-{release}")))?;
        let modules = modules(&unpacked.path().join(format!("lib/modules/{release}")))?;
        put(&done, |fresh| {
            fs::write(fresh.join("vmlinux"), vmlinux(&bzimage)?)?;
            fs::write(fresh.join("acpi"), "")?;
            fs::create_dir(fresh.join("modules"))?;
            for (number, path) in modules.iter().enumerate() {
                let file = path.file_name().context("a module without a name")?.to_string_lossy();
                fs::copy(path, fresh.join("modules").join(format!("{number:03}-{file}")))?;
            }
            Ok(())
        })?;
    }
    point("cloud", &name)
}

/// The modules' files, each after those it depends on.
fn modules(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk(tree, &mut files)?;
    let named = |name: &str| {
        let wanted = name.replace('-', "_");
        files.iter().find(|path| stem(path).replace('-', "_") == wanted)
    };
    let mut ordered: Vec<PathBuf> = Vec::new();
    let mut wanted: Vec<(String, bool)> =
        CLOUD_MODULES.iter().rev().map(|name| ((*name).to_owned(), false)).collect();
    while let Some((name, after)) = wanted.pop() {
        // Built in.
        let Some(path) = named(&name) else { continue };
        if ordered.contains(path) {
            continue;
        }
        if after {
            ordered.push(path.clone());
            continue;
        }
        wanted.push((name, true));
        wanted.extend(depends(&fs::read(path)?).into_iter().map(|name| (name, false)));
    }
    Ok(ordered)
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "ko") {
            files.push(path);
        }
    }
    Ok(())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// `depends=a,b` and `softdep=pre: c` of a module's own information.
fn depends(module: &[u8]) -> Vec<String> {
    module
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok())
        .filter_map(|entry| entry.strip_prefix("depends=").or_else(|| entry.strip_prefix("softdep=pre: ")))
        .flat_map(|list| list.split([',', ' ']))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The ELF image inside a bzImage: compressed, somewhere behind the set-up code.
fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>> {
    const XZ: &[u8] = b"\xfd7zXZ\0";
    const LZ4: &[u8] = b"\x02\x21\x4c\x18";
    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
    const GZIP: &[u8] = b"\x1f\x8b\x08";
    for (magic, program) in [(XZ, "xz"), (ZSTD, "zstd"), (GZIP, "gzip"), (LZ4, "lz4")] {
        let starts = bzimage.windows(magic.len()).enumerate().filter(|(_, window)| *window == magic);
        for (start, _) in starts {
            let file = tempfile::NamedTempFile::new()?;
            fs::write(file.path(), &bzimage[start..])?;
            let input = fs::File::open(file.path())?;
            // What follows the image is no part of it, and the program says so.
            let output = Command::new(program).arg("-dcq").stdin(input).output();
            if let Ok(output) = output
                && output.stdout.starts_with(b"\x7fELF")
            {
                return Ok(output.stdout);
            }
        }
    }
    bail!("no ELF image was found in the kernel: is xz installed?")
}

fn candidate(package: &str) -> Result<String> {
    let output =
        Command::new("apt-cache").args(["policy", package]).output().context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    match version {
        Some(version) if version != "(none)" => Ok(version.to_owned()),
        _ => bail!("apt knows no package {package}: run apt-get update"),
    }
}

fn dependency(package: &str) -> Result<String> {
    let output =
        Command::new("apt-cache").args(["depends", package]).output().context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    found.map(|name| format!("linux-image-{name}")).with_context(|| format!("{package} depends on no kernel"))
}

fn download(package: &str, version: &str) -> Result<PathBuf> {
    let packages = cache().join("packages");
    fs::create_dir_all(&packages)?;
    let file = packages.join(format!("{package}_{}_amd64.deb", clean(version)));
    if !file.exists() {
        println!("downloading {package} {version}");
        let fresh = tempfile::tempdir_in(&packages)?;
        let mut apt = Command::new("apt-get");
        apt.args(["download", "-qq", "-o", "APT::Sandbox::User=root", &format!("{package}={version}")])
            .current_dir(fresh.path());
        succeed(&mut apt)?;
        let got = fs::read_dir(fresh.path())?.next().context("apt-get downloaded nothing")??;
        fs::rename(got.path(), &file)?;
    }
    Ok(file)
}

fn unpack(package: &Path, into: &Path) -> Result<()> {
    succeed(Command::new("dpkg-deb").arg("--extract").arg(package).arg(into))
}

/// A version without what a file's name should not have.
fn clean(version: &str) -> String {
    version.replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.' && letter != '-', "_")
}

/// Whole or not at all.
fn put(done: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let fresh = tempfile::tempdir_in(cache())?;
    make(fresh.path())?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o755))?;
    fs::rename(fresh.keep(), done)?;
    Ok(())
}

fn point(name: &str, target: &str) -> Result<()> {
    let link = cache().join(name);
    let fresh = cache().join(format!("{name}.new"));
    let _ = fs::remove_file(&fresh);
    symlink(target, &fresh)?;
    fs::rename(&fresh, &link)?;
    println!("{}", link.join("vmlinux").display());
    Ok(())
}

fn succeed(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}");
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}
