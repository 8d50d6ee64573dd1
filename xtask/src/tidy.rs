//! The rules of the house that no compiler knows (docs/architecture.md, "Invariants").

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

const LINES_MAX: usize = 620;
/// Crates that may hold `unsafe`, each block with a SAFETY comment (clippy sees to the comment).
const UNSAFE_IN: &[&str] = &["crates/sandbox", "crates/shim", "crates/guest", "crates/vpc"];
/// What a planner must not touch.
const IMPURE: &[&str] =
    &["async fn", ".await", "SystemTime", "Timestamp::now", "Instant::now", "dyn Store", "aws_lc_rs::rand"];
/// As in deny.toml, for machines without cargo-deny.
const BANNED: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls"];
/// Words that mean something is not done.
const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "FIXME", "XXX:"];

pub(crate) fn run() -> Result<()> {
    let root = crate::root();
    let mut faults: Vec<String> = Vec::new();
    for file in tracked(&root)? {
        let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
        let path = file.to_string_lossy();
        if path.ends_with(".rs") {
            rust(&path, &text, &mut faults);
        }
        if path.starts_with("services/") && path.ends_with("Cargo.toml") {
            service_manifest(&path, &text, &mut faults);
        }
    }
    faults.extend(missing_adr_index(&root)?);
    faults.extend(banned_crates(&root)?);
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{} places break a rule of the house:\n  {}", faults.len(), faults.join("\n  "))
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    Ok(String::from_utf8(out.stdout)?.lines().map(PathBuf::from).collect())
}

fn rust(path: &str, text: &str, faults: &mut Vec<String>) {
    if path.contains("/generated/") {
        return;
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!("{path}: {lines} lines; a file has at most about 600: find its seam"));
    }
    if !path.starts_with("xtask/") && !UNSAFE_IN.iter().any(|allowed| path.starts_with(allowed)) {
        each(text, &["unsafe {", "unsafe fn", "unsafe impl"], |line, what| {
            faults.push(format!("{path}:{line}: `{what}`: unsafe code lives in {}", UNSAFE_IN.join(", ")));
        });
    }
    if path.contains("/src/plan/") || path.ends_with("/src/plan.rs") {
        each(text, IMPURE, |line, what| faults.push(format!("{path}:{line}: `{what}`: a planner is pure")));
    }
    if !path.starts_with("xtask/") {
        each(text, UNFINISHED, |line, what| faults.push(format!("{path}:{line}: `{what}`")));
    }
}

fn each(text: &str, words: &[&str], mut found: impl FnMut(usize, &str)) {
    for (at, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(word) = words.iter().find(|word| code.contains(*word)) {
            found(at + 1, word);
        }
    }
}

/// A service knows others by their AWS API only.
fn service_manifest(path: &str, text: &str, faults: &mut Vec<String>) {
    const SERVICES: &[&str] =
        &["acm", "discovery", "ec2", "ecr", "ecs", "elb", "iam", "logs", "route53", "secrets", "ssm", "sts"];
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("ferrogate-").and_then(|rest| rest.split(['.', ' ']).next())
            && SERVICES.contains(&name)
        {
            faults.push(format!(
                "{path}: depends on ferrogate-{name}: services know each other only by their AWS API"
            ));
        }
    }
}

/// What is really built: the lock file also holds what optional features would bring.
fn banned_crates(root: &Path) -> Result<Vec<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--locked", "--prefix", "none", "--format", "{p}"])
        .current_dir(root)
        .output()?;
    let tree = String::from_utf8(out.stdout)?;
    let built = |name: &&&str| tree.lines().any(|line| line.split(' ').next() == Some(**name));
    let fault = |name: &&str| {
        format!("Cargo.toml: {name} is built: aws-lc-rs is the one crypto provider (deny.toml)")
    };
    Ok(BANNED.iter().filter(built).map(fault).collect())
}

fn missing_adr_index(root: &Path) -> Result<Vec<String>> {
    let mut numbers: Vec<String> = Vec::new();
    for entry in fs::read_dir(root.join("docs/adr"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "README.md" {
            numbers.push(name);
        }
    }
    numbers.sort();
    let gaps = numbers.iter().enumerate().filter(|(at, name)| !name.starts_with(&format!("{:04}-", at + 1)));
    Ok(gaps.map(|(_, name)| format!("docs/adr/{name}: decisions are numbered without gaps")).collect())
}
