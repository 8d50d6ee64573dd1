//! A file system in memory, and the one tar archive it is.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Where a merged /usr has what packages still ship at the top.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Not needed to run anything.
const LEFT_OUT: &[&str] = &[
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/share/i18n/",
    "usr/share/menu/",
    "usr/share/doc-base/",
    "usr/share/python3/",
    "usr/share/initramfs-tools/",
    "usr/share/vim/",
    "usr/share/apport/",
    "usr/share/gcc/",
    "etc/init.d/",
    "etc/logrotate.d/",
    "etc/ufw/",
    "usr/lib/systemd/",
    "var/lib/systemd/",
];
/// No file is newer than this; no clock is asked.
const MTIME_SECONDS: u64 = 1_700_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    /// To a path of the same tree.
    HardLink(String),
}

#[derive(Clone, Debug)]
struct Node {
    content: Content,
    mode: u32,
    uid: u64,
    gid: u64,
}

/// Paths without leading slash.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree(BTreeMap<String, Node>);

impl Tree {
    pub(super) fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.put(path, Content::Directory, mode)
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> &mut Self {
        self.put(path, Content::File(content.as_ref().to_vec()), mode)
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(path, Content::Symlink(target.to_owned()), 0o777)
    }

    pub(super) fn owner(&mut self, path: &str, id: u64) -> &mut Self {
        if let Some(node) = self.0.get_mut(path) {
            (node.uid, node.gid) = (id, id);
        }
        self
    }

    fn put(&mut self, path: &str, content: Content, mode: u32) -> &mut Self {
        self.0.insert(path.to_owned(), Node { content, mode, uid: 0, gid: 0 });
        self
    }

    /// A file, or a directory with all below.
    pub(super) fn remove(&mut self, path: &str) -> &mut Self {
        let below = format!("{path}/");
        self.0.retain(|name, _| name != path && !name.starts_with(&below));
        self
    }

    /// The content of a file, if it is one.
    pub(super) fn read(&self, path: &str) -> Option<&[u8]> {
        match &self.0.get(path)?.content {
            Content::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn paths_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.keys().map(String::as_str).filter(move |path| path.starts_with(prefix))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Adds a package's files, with /usr merged and documentation but the copyright left out.
    pub(super) fn add_package(&mut self, deb: &Path) -> Result<()> {
        let mut child = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(deb)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run dpkg-deb; the images are made from Debian packages and need dpkg")?;
        let output = child.stdout.take().context("dpkg-deb has no output")?;
        let mut archive = tar::Archive::new(output);
        for entry in archive.entries()? {
            self.add_entry(&mut entry?).with_context(|| format!("in {}", deb.display()))?;
        }
        std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
        ensure!(child.wait()?.success(), "dpkg-deb failed on {}", deb.display());
        Ok(())
    }

    fn add_entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<()> {
        let path = merged(&String::from_utf8(entry.path_bytes().into_owned())?);
        if path.is_empty() || MERGED.contains(&path.as_str()) || is_left_out(&path) {
            return Ok(());
        }
        let header = entry.header();
        let link = || -> Result<String> {
            Ok(String::from_utf8(entry.link_name_bytes().context("a link without target")?.into_owned())?)
        };
        let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
        let content = match header.entry_type() {
            tar::EntryType::Directory => Content::Directory,
            tar::EntryType::Symlink => Content::Symlink(link()?),
            tar::EntryType::Link => Content::HardLink(merged(&link()?)),
            tar::EntryType::Regular => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                Content::File(bytes)
            }
            other => bail!("{path}: unexpected kind of file {other:?}"),
        };
        self.0.insert(path, Node { content, mode, uid, gid });
        Ok(())
    }

    /// Sorted, one time for all, whatever machine made it.
    pub(super) fn to_tar(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        // Links after what they link to.
        let is_link = |node: &&Node| matches!(node.content, Content::HardLink(_));
        let (links, others): (Vec<_>, Vec<_>) = self.0.iter().partition(|(_, node)| is_link(node));
        for (path, node) in others.into_iter().chain(links) {
            let mut header = tar::Header::new_gnu();
            header.set_mode(node.mode);
            header.set_uid(node.uid);
            header.set_gid(node.gid);
            header.set_mtime(MTIME_SECONDS);
            header.set_size(0);
            match &node.content {
                Content::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Content::File(bytes) => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_size(bytes.len() as u64);
                    builder.append_data(&mut header, path, bytes.as_slice())?;
                }
                Content::Symlink(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    builder.append_link(&mut header, path, target)?;
                }
                Content::HardLink(target) => {
                    header.set_entry_type(tar::EntryType::Link);
                    builder.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(builder.into_inner()?)
    }
}

/// `./bin/busybox` → `usr/bin/busybox`.
fn merged(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    match path.split_once('/') {
        Some((first, _)) if MERGED.contains(&first) => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

fn is_left_out(path: &str) -> bool {
    let documentation = path.starts_with("usr/share/doc/") && path.split('/').count() > 5
        || path.starts_with("usr/share/doc/")
            && path.split('/').count() == 5
            && !path.ends_with("/copyright");
    let conversions = path.contains("/gconv/") || path.ends_with("/__pycache__");
    documentation || conversions || LEFT_OUT.iter().any(|prefix| format!("{path}/").starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usr_is_merged_and_documentation_left_out() {
        assert_eq!(merged("./lib/x86_64-linux-gnu/libc.so.6"), "usr/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(merged("./etc/passwd"), "etc/passwd");
        assert_eq!(merged("./lib/"), "lib");
        assert!(is_left_out("usr/share/doc/nginx/changelog.gz") && is_left_out("usr/share/man"));
        assert!(!is_left_out("usr/share/doc/nginx/copyright") && !is_left_out("usr/share/nginx/html"));
    }

    #[test]
    fn a_tree_is_the_same_archive_however_it_grew() {
        let (mut one, mut other) = (Tree::default(), Tree::default());
        one.dir("a", 0o755).file("a/b", 0o644, "x").symlink("c", "a/b");
        other.symlink("c", "a/b").file("a/b", 0o644, "x").dir("a", 0o755);
        assert_eq!(one.to_tar().unwrap(), other.to_tar().unwrap());
    }
}
