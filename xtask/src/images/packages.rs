//! Packages of the distribution: what a set of them needs, and their files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// Needed to install and configure a system, not to run one program in a container.
const NOT_NEEDED: &[&str] = &[
    "adduser",
    "awk",
    "cdebconf",
    "debconf",
    "debconf-2.0",
    "dpkg",
    "gawk",
    "init-system-helpers",
    "install-info",
    "iproute2",
    "lsb-base",
    "mailcap",
    "mawk",
    "media-types",
    "mime-support",
    "openssl",
    "original-awk",
    "perl",
    "perl-base",
    "sensible-utils",
    "tar",
];

/// As the package index has it now.
#[derive(Clone, Debug)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// Of the .deb file.
    sha256: String,
    depends: Vec<String>,
}

impl Package {
    /// Names the content: what an image is rebuilt for.
    pub(super) fn identity(&self) -> String {
        format!("{}={} sha256:{}", self.name, self.version, self.sha256)
    }

    fn to_json(&self) -> Value {
        json!({"name": self.name, "version": self.version, "sha256": self.sha256, "depends": self.depends})
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let depends = value["depends"].as_array()?.iter().filter_map(|name| name.as_str().map(str::to_owned));
        Some(Package {
            name: text("name")?,
            version: text("version")?,
            sha256: text("sha256")?,
            depends: depends.collect(),
        })
    }

    /// The .deb file, downloaded once. apt verifies it against the signed index.
    pub(super) fn fetch(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(format!("{}.deb", self.sha256));
        if path.exists() {
            return Ok(path);
        }
        std::fs::create_dir_all(dir)?;
        let scratch = tempfile::tempdir_in(dir)?;
        let output = Command::new("apt-get")
            // Its own unprivileged user cannot write here.
            .args(["download", "--quiet", "-o", "APT::Sandbox::User=root"])
            .arg(format!("{}={}", self.name, self.version))
            .current_dir(scratch.path())
            .output()
            .context("cannot run apt-get")?;
        ensure!(
            output.status.success(),
            "apt-get download {}={} failed; run `apt-get update` and try again\n{}",
            self.name,
            self.version,
            String::from_utf8_lossy(&output.stderr)
        );
        let file = std::fs::read_dir(scratch.path())?.next().context("apt-get downloaded nothing")??.path();
        let bytes = std::fs::read(&file)?;
        let sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes));
        ensure!(sha256 == self.sha256, "{} is not what the package index says", self.name);
        std::fs::rename(&file, &path)?;
        Ok(path)
    }
}

/// The package index, asked once per package; `None`: it has no such name.
pub(super) struct Catalog(BTreeMap<String, Option<Package>>);

/// Answers of the index, kept in a file: asking anew takes seconds.
const ANSWERS: &str = "answers.json";
/// Where apt keeps the index.
const APT_LISTS: &str = "/var/lib/apt/lists";

impl Catalog {
    /// With the answers kept in `dir`, if the index did not change since.
    pub(super) fn open(dir: &Path) -> Self {
        let kept = std::fs::read(dir.join(ANSWERS)).ok();
        let kept: Option<Value> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let fresh = kept.filter(|kept| kept["index"].as_str() == Some(&index_stamp()));
        let answers = fresh.as_ref().and_then(|kept| kept["packages"].as_object()).into_iter().flatten();
        Catalog(answers.map(|(name, answer)| (name.clone(), Package::from_json(answer))).collect())
    }

    /// Keeps the answers for the next time.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        let packages: serde_json::Map<String, Value> = self
            .0
            .iter()
            .map(|(name, package)| (name.clone(), package.as_ref().map_or(Value::Null, Package::to_json)))
            .collect();
        std::fs::create_dir_all(dir)?;
        let kept = json!({"index": index_stamp(), "packages": packages});
        Ok(std::fs::write(dir.join(ANSWERS), serde_json::to_vec_pretty(&kept)?)?)
    }

    /// The packages and all they need, without `given`, by name.
    pub(super) fn closure(&mut self, names: &[&str], given: &BTreeSet<String>) -> Result<Vec<Package>> {
        let mut found: BTreeMap<String, Package> = BTreeMap::new();
        let mut open: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        while !open.is_empty() {
            self.load(&open)?;
            let mut next = Vec::new();
            for wanted in open {
                let Some(Some(package)) = self.0.get(&wanted) else {
                    bail!("no package provides '{wanted}'; run `apt-get update` and try again");
                };
                if !given.contains(&package.name) && !found.contains_key(&package.name) {
                    next.extend(package.depends.iter().cloned());
                    found.insert(package.name.clone(), package.clone());
                }
            }
            open = next;
        }
        Ok(found.into_values().collect())
    }

    /// Asks for all that is not known yet at once: each question costs apt half a second.
    fn load(&mut self, names: &[String]) -> Result<()> {
        let unknown: BTreeSet<&String> = names.iter().filter(|name| !self.0.contains_key(*name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut packages = show(unknown.iter().map(|name| name.as_str()))?;
        for name in unknown {
            let package = match packages.remove(name) {
                Some(package) => Some(package),
                None => match provider(name)? {
                    Some(real) => show([real.as_str()])?.remove(&real),
                    None => None,
                },
            };
            self.0.insert(name.clone(), package);
        }
        Ok(())
    }
}

fn show<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<BTreeMap<String, Package>> {
    let args: Vec<&str> = ["show", "--no-all-versions"].into_iter().chain(names).collect();
    let text = apt_cache(&args)?;
    let packages = text.split("\n\n").filter(|stanza| stanza.starts_with("Package: ")).map(parse);
    packages.map(|package| package.map(|package| (package.name.clone(), package))).collect()
}

fn parse(stanza: &str) -> Result<Package> {
    let field = |key: &str| stanza.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let mut depends = Vec::new();
    for group in
        [field("Pre-Depends"), field("Depends")].into_iter().flatten().flat_map(|line| line.split(", "))
    {
        let alternatives: Vec<&str> = group.split(" | ").map(package_name).collect();
        // One that is not needed stands for its whole group.
        if !alternatives.iter().any(|name| NOT_NEEDED.contains(name)) {
            depends.extend(alternatives.first().map(|name| (*name).to_owned()));
        }
    }
    let name = field("Package").context("a package without a name")?.to_owned();
    let sha256 = field("SHA256")
        .with_context(|| format!("{name} is not in the package index; run `apt-get update`"))?;
    let version = field("Version").with_context(|| format!("{name} has no version"))?.to_owned();
    Ok(Package { sha256: sha256.to_owned(), name, version, depends })
}

/// `libssl3 (>= 3.0.0)`, `python3:any` → the name.
fn package_name(text: &str) -> &str {
    text.trim().split([' ', ':']).next().unwrap_or(text)
}

/// A package that provides a virtual one.
fn provider(name: &str) -> Result<Option<String>> {
    let text = apt_cache(&["showpkg", name])?;
    let (_, providers) = text.split_once("Reverse Provides:").unwrap_or(("", ""));
    let mut names: Vec<&str> = providers.lines().filter_map(|line| line.split(' ').next()).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    Ok(names.first().map(|name| (*name).to_owned()))
}

/// Changes whenever `apt-get update` brought something, or this list of what is not needed changed.
fn index_stamp() -> String {
    let mut stamp = format!("without {}\n", NOT_NEEDED.join(" "));
    let mut files: Vec<String> = std::fs::read_dir(APT_LISTS)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| {
            let data = file.metadata().ok()?;
            let time = data.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(format!("{} {} {}\n", file.file_name().to_string_lossy(), data.len(), time.as_nanos()))
        })
        .collect();
    files.sort();
    stamp.extend(files);
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, stamp.as_bytes()))
}

fn apt_cache(args: &[&str]) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(args)
        .output()
        .context("cannot run apt-cache; the images are made from Debian packages and need apt")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
