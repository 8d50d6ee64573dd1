//! Names of files and links. Everything that stands in the run directory is found by them.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Longest instance and namespace names: a file name holds both and is at most 255 bytes.
const INSTANCE_CHARACTERS_MAX: usize = 32;
const NETNS_CHARACTERS_MAX: usize = 128;
/// A link's name has at most 15 characters, one of which says what it is.
const LINK_TAIL_CHARACTERS: usize = 14;

/// The link to an internet gateway, in a VPC's namespace.
pub(crate) const GATEWAY_LINK: &str = "igw";
/// The one link of a task, in the task's namespace (AWS Fargate: `eth0`... is what images expect).
pub(crate) const TASK_LINK: &str = "eth0";

/// `<run_dir>/netns`, the files of one instance in it, and what each file is.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    dir: PathBuf,
    instance: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Vpc(String),
    Task(String),
    Uplink,
    Lock,
}

impl Names {
    pub(crate) fn new(run_dir: &Path, instance: &str) -> Result<Self> {
        check("instance", instance, INSTANCE_CHARACTERS_MAX)?;
        Ok(Self { dir: run_dir.join("netns"), instance: instance.to_owned() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn vpc(&self, vpc_id: &str) -> Result<PathBuf> {
        check("VPC", vpc_id, NETNS_CHARACTERS_MAX)?;
        Ok(self.dir.join(format!("{}.v.{vpc_id}", self.instance)))
    }

    pub(crate) fn task(&self, name: &str) -> Result<PathBuf> {
        check("network namespace", name, NETNS_CHARACTERS_MAX)?;
        Ok(self.dir.join(format!("{}.t.{name}", self.instance)))
    }

    pub(crate) fn uplink(&self) -> PathBuf {
        self.dir.join(format!("{}.uplink", self.instance))
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join(format!("{}.lock", self.instance))
    }

    /// Everything of this instance that has a name.
    pub(crate) fn list(&self) -> Result<Vec<(PathBuf, Named)>> {
        Ok(list(&self.dir)?
            .into_iter()
            .filter(|(i, ..)| *i == self.instance)
            .map(|(_, p, n)| (p, n))
            .collect())
    }

    /// Other instances that left something in the same directory.
    pub(crate) fn others(&self) -> Result<Vec<Self>> {
        let mut others: Vec<String> = list(&self.dir)?.into_iter().map(|(instance, ..)| instance).collect();
        others.sort();
        others.dedup();
        others.retain(|instance| *instance != self.instance);
        Ok(others.into_iter().map(|instance| Self { dir: self.dir.clone(), instance }).collect())
    }
}

fn list(dir: &Path) -> Result<Vec<(String, PathBuf, Named)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("reading {}", dir.display()))(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(format!("reading {}", dir.display())))?;
        let Ok(file_name) = entry.file_name().into_string() else { continue };
        let Some((instance, rest)) = file_name.split_once('.') else { continue };
        let named = match rest.split_once('.') {
            Some(("v", vpc_id)) => Named::Vpc(vpc_id.to_owned()),
            Some(("t", name)) => Named::Task(name.to_owned()),
            None if rest == "uplink" => Named::Uplink,
            None if rest == "lock" => Named::Lock,
            _ => continue,
        };
        found.push((instance.to_owned(), entry.path(), named));
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(found)
}

fn check(what: &'static str, name: &str, max: usize) -> Result<()> {
    let usable = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > max || !name.chars().all(usable) {
        return Err(Error::BadName { what, name: name.to_owned(), max });
    }
    Ok(())
}

/// The VPC's end of an interface's link.
pub(crate) fn eni_link(eni_id: &str) -> String {
    link('e', eni_id)
}

/// The uplink's end of a VPC's internet gateway link.
pub(crate) fn vpc_link(vpc_id: &str) -> String {
    link('u', vpc_id)
}

/// The tail of an id (hexadecimal digits, random): 56 bits of it are enough to be unique, and the planner
/// checks that they are.
fn link(kind: char, id: &str) -> String {
    let tail = id.split_once('-').map_or(id, |(_, tail)| tail);
    let start = tail.len().saturating_sub(LINK_TAIL_CHARACTERS);
    format!("{kind}{}", &tail[start..])
}

/// FNV-1a: the same number in every build, so that a new version of the program finds what an old one made.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernel_and_keep_the_tail_of_the_id() {
        assert_eq!(eni_link("eni-0123456789abcdef0"), "e3456789abcdef0");
        assert_eq!(eni_link("eni-0123456789abcdef0").len(), 15);
        assert_eq!(vpc_link("vpc-12"), "u12");
    }

    #[test]
    fn names_of_files_are_found_again_and_instances_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Names::new(dir.path(), "one").unwrap(), Names::new(dir.path(), "two").unwrap());
        std::fs::create_dir(one.dir()).unwrap();
        for path in [one.vpc("vpc-1").unwrap(), one.task("t-1").unwrap(), one.uplink(), two.lock()] {
            std::fs::write(path, "").unwrap();
        }
        let kinds: Vec<_> = one.list().unwrap().into_iter().map(|(_, named)| named).collect();
        assert_eq!(kinds, [Named::Task("t-1".into()), Named::Uplink, Named::Vpc("vpc-1".into())]);
        assert_eq!(two.list().unwrap().len(), 1);
        assert_eq!(one.others().unwrap().len(), 1);
        assert!(Names::new(dir.path(), "a.b").is_err());
        assert!(one.task("../x").is_err());
    }
}
