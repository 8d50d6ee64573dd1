//! What the images are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::layout::{Layer, digest};
use super::packages::{Catalog, Package};
use super::tree::Tree;

/// What is made of the packages: a change here makes the images anew.
const SOURCES: &[&str] = &[
    include_str!("recipes.rs"),
    include_str!("tree.rs"),
    include_str!("layout.rs"),
    include_str!("nginx.conf"),
    include_str!("default.conf"),
    include_str!("index.html"),
];

pub(super) struct Recipe {
    pub(super) name: &'static str,
    layers: &'static [LayerRecipe],
    /// The config section of the image config.
    pub(super) config: fn() -> Value,
    /// Commands that must succeed in the image.
    pub(super) check: &'static [&'static [&'static str]],
}

struct LayerRecipe {
    /// Layers of the same name over the same layers are the same.
    name: &'static str,
    /// With what they need and the layers below do not have.
    packages: &'static [&'static str],
    finish: fn(&mut Tree) -> Result<()>,
}

const SHELL: LayerRecipe = LayerRecipe { name: "shell", packages: &["busybox-static"], finish: shell };
const C_LIBRARY: LayerRecipe =
    LayerRecipe { name: "c-library", packages: &["libc6", "libcrypt1", "libssl3", "zlib1g"], finish: keep };

pub(super) const RECIPES: &[Recipe] = &[
    Recipe {
        name: "busybox",
        layers: &[SHELL],
        config: || json!({"Env": [PATH], "Cmd": ["sh"]}),
        check: &[&["busybox", "echo", "works"], &["sh", "-c", "echo shell works | grep -q works"]],
    },
    Recipe {
        name: "nginx",
        layers: &[
            SHELL,
            C_LIBRARY,
            LayerRecipe { name: "nginx", packages: &["nginx"], finish: nginx_program },
            LayerRecipe { name: "nginx-config", packages: &[], finish: nginx_config },
        ],
        config: || {
            json!({"Env": [PATH], "Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}},
                "StopSignal": "SIGQUIT"})
        },
        check: &[&["nginx", "-t"], &["nginx", "-v"]],
    },
    Recipe {
        name: "python3-boto3",
        layers: &[
            SHELL,
            C_LIBRARY,
            LayerRecipe { name: "python3", packages: &["python3", "ca-certificates"], finish: certificates },
            LayerRecipe { name: "boto3", packages: &["python3-boto3"], finish: keep },
        ],
        config: || json!({"Env": [PATH, "PYTHONUNBUFFERED=1"], "Cmd": ["python3"]}),
        check: &[
            &["python3", "-c", "import ssl, json, sqlite3, hashlib; print(ssl.OPENSSL_VERSION)"],
            &[
                "python3",
                "-c",
                "import boto3; boto3.client('ecs', region_name='us-east-1'); print(boto3.__version__)",
            ],
        ],
    },
];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A recipe with its packages found.
pub(super) struct Resolved {
    layers: Vec<ResolvedLayer>,
    /// All that decides the result.
    pub(super) inputs: String,
}

struct ResolvedLayer {
    recipe: &'static LayerRecipe,
    packages: Vec<Package>,
}

pub(super) fn resolve(recipe: &'static Recipe, catalog: &mut Catalog) -> Result<Resolved> {
    let mut given = BTreeSet::new();
    let mut layers = Vec::new();
    let mut inputs = format!("{} made by {}\n", recipe.name, digest(SOURCES.concat().as_bytes()));
    for layer in recipe.layers {
        let packages = catalog.closure(layer.packages, &given)?;
        given.extend(packages.iter().map(|package| package.name.clone()));
        inputs.push_str(&format!("layer {}\n", layer.name));
        inputs.extend(packages.iter().map(|package| format!("  {}\n", package.identity())));
        layers.push(ResolvedLayer { recipe: layer, packages });
    }
    Ok(Resolved { layers, inputs })
}

/// Layers that several images share are made once, and are the same blob.
#[derive(Default)]
pub(super) struct LayerCache(BTreeMap<String, Layer>);

impl LayerCache {
    pub(super) fn layers(&mut self, image: &Resolved, packages_dir: &Path) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        let mut key = String::new();
        for layer in &image.layers {
            key.push_str(layer.recipe.name);
            key.push('/');
            if !self.0.contains_key(&key) {
                let mut tree = Tree::default();
                for package in &layer.packages {
                    tree.add_package(&package.fetch(packages_dir)?)?;
                }
                (layer.recipe.finish)(&mut tree)
                    .with_context(|| format!("cannot finish layer {}", layer.recipe.name))?;
                self.0.insert(key.clone(), Layer::new(&tree)?);
            }
            layers.push(self.0[&key].clone());
        }
        Ok(layers)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of the finishing steps")]
fn keep(_: &mut Tree) -> Result<()> {
    Ok(())
}

/// The bare bones of a system, and busybox under all its names.
fn shell(tree: &mut Tree) -> Result<()> {
    for directory in ["dev", "etc", "home", "mnt", "opt", "proc", "run", "srv", "sys", "usr", "var"] {
        tree.dir(directory, 0o755);
    }
    for directory in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "usr/local",
        "usr/local/bin",
        "var/lib",
        "var/log",
        "var/cache",
    ] {
        tree.dir(directory, 0o755);
    }
    tree.dir("root", 0o700).dir("tmp", 0o1777).dir("var/tmp", 0o1777).symlink("var/run", "/run");
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.symlink(name, &format!("usr/{name}"));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                  bin:x:2:2:bin:/bin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                  nginx:x:101:101:nginx:/nonexistent:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
    let group =
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\ntty:x:5:\nwww-data:x:33:\nnginx:x:101:\nnogroup:x:65534:\n";
    tree.file("etc/passwd", 0o644, passwd)
        .file("etc/group", 0o644, group)
        .file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n")
        .file("etc/shells", 0o644, "/bin/sh\n")
        .file(
            "etc/profile",
            0o644,
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
        )
        .file("etc/os-release", 0o644, "ID=debian\nNAME=\"Debian packages, minimal\"\n");
    for name in applets(tree)? {
        let path = format!("usr/bin/{name}");
        if !tree.has(&path) {
            tree.symlink(&path, "busybox");
        }
    }
    Ok(())
}

/// Asks busybox itself.
fn applets(tree: &Tree) -> Result<Vec<String>> {
    use std::os::unix::fs::PermissionsExt;
    let program = tree.read("usr/bin/busybox").context("the package busybox-static has no busybox")?;
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("busybox");
    std::fs::write(&path, program)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    let output = std::process::Command::new(&path).arg("--list").output().context("cannot run busybox")?;
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .map(str::to_owned)
        .filter(|name| name != "busybox")
        .collect())
}

/// Without Debian's sites: the next layer has one of its own.
fn nginx_program(tree: &mut Tree) -> Result<()> {
    tree.read("usr/sbin/nginx").context("the package nginx has no /usr/sbin/nginx")?;
    for path in ["etc/nginx/sites-available", "etc/nginx/sites-enabled", "etc/nginx/snippets", "var/www"] {
        tree.remove(path);
    }
    Ok(())
}

/// As the official image has it: one default site, logs to the container's output.
#[expect(clippy::unnecessary_wraps, reason = "one of the finishing steps")]
fn nginx_config(tree: &mut Tree) -> Result<()> {
    tree.file("etc/nginx/nginx.conf", 0o644, include_str!("nginx.conf"))
        .dir("etc/nginx/conf.d", 0o755)
        .file("etc/nginx/conf.d/default.conf", 0o644, include_str!("default.conf"))
        .dir("usr/share/nginx/html", 0o755)
        .file("usr/share/nginx/html/index.html", 0o644, include_str!("index.html"))
        .file("usr/share/nginx/html/50x.html", 0o644, "<!DOCTYPE html>\n<h1>An error occurred.</h1>\n")
        .dir("var/log/nginx", 0o755)
        .symlink("var/log/nginx/access.log", "/dev/stdout")
        .symlink("var/log/nginx/error.log", "/dev/stderr")
        .dir("var/lib/nginx", 0o755)
        .owner("var/lib/nginx", 101);
    Ok(())
}

/// What the package's own script would make on installation.
fn certificates(tree: &mut Tree) -> Result<()> {
    let paths: Vec<String> = tree
        .paths_below("usr/share/ca-certificates/")
        .filter(|path| path.ends_with(".crt"))
        .map(str::to_owned)
        .collect();
    let mut bundle = Vec::new();
    for path in &paths {
        bundle.extend_from_slice(tree.read(path).context("a certificate that is no file")?);
    }
    anyhow::ensure!(!bundle.is_empty(), "the package ca-certificates has no certificates");
    tree.dir("etc/ssl", 0o755).dir("etc/ssl/certs", 0o755).file(
        "etc/ssl/certs/ca-certificates.crt",
        0o644,
        bundle,
    );
    Ok(())
}
