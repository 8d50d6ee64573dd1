//! `cargo xtask images`: OCI images from the distribution's packages, and a registry that serves them.
//!
//! No container registry is needed: packages come through apt with apt's own verification, file systems are put
//! together in memory from the packages' tar streams, so that the same packages always give the same digests.

mod check;
mod layout;
mod packages;
mod recipes;
mod registry;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub(crate) const USAGE: &str = "\
cargo xtask images [--out DIR] [--force]     make OCI images of nginx, busybox and python3-boto3 in .cache/images
cargo xtask images --check                   … and run a program of each in a chroot
cargo xtask images --registry-storage DIR    … and make DIR a storage directory for docker-registry with all of them
cargo xtask images --serve PORT [--storage DIR]
                                             … and serve them at 127.0.0.1:PORT as library/nginx, … until stopped
";

#[derive(Default)]
struct Options {
    out: Option<PathBuf>,
    force: bool,
    check: bool,
    registry_storage: Option<PathBuf>,
    serve: Option<u16>,
    storage: Option<PathBuf>,
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let out = options.out.clone().unwrap_or_else(|| crate::root().join(".cache/images"));
    let images = build_all(&out, options.force)?;
    if options.check {
        for image in &images {
            check::run(image)?;
        }
    }
    if let Some(storage) = &options.registry_storage {
        registry::fill(storage, &images)?;
    }
    if let Some(port) = options.serve {
        let storage = options.storage.unwrap_or_else(|| out.join("registry"));
        registry::fill(&storage, &images)?;
        registry::serve(&storage, port, &images)?;
    }
    Ok(())
}

/// One finished image.
pub(crate) struct BuiltImage {
    pub(crate) name: &'static str,
    /// An OCI image layout with one manifest, tagged `latest`.
    pub(crate) layout: PathBuf,
    pub(crate) check: &'static [&'static [&'static str]],
}

fn build_all(out: &Path, force: bool) -> Result<Vec<BuiltImage>> {
    let packages_dir = out.join("packages");
    let mut catalog = packages::Catalog::open(&packages_dir);
    let mut cache = recipes::LayerCache::default();
    let mut built = Vec::new();
    for recipe in recipes::RECIPES {
        let layout = out.join(recipe.name);
        let image = recipes::resolve(recipe, &mut catalog)?;
        if !force && layout::has_inputs(&layout, &image.inputs) {
            println!("{}: up to date", recipe.name);
        } else {
            let layers = cache.layers(&image, &packages_dir)?;
            let bytes = layout::write(&layout, recipe, &layers, &image.inputs)
                .with_context(|| format!("cannot write {}", layout.display()))?;
            println!(
                "{}: {} layers, {:.1} MB, {}",
                recipe.name,
                layers.len(),
                bytes as f64 / 1e6,
                layout.display()
            );
        }
        built.push(BuiltImage { name: recipe.name, layout, check: recipe.check });
    }
    catalog.save(&packages_dir)?;
    Ok(built)
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--force" => options.force = true,
                "--check" => options.check = true,
                "--out" => options.out = Some(value()?.into()),
                "--registry-storage" => options.registry_storage = Some(value()?.into()),
                "--storage" => options.storage = Some(value()?.into()),
                "--serve" => {
                    let port = value()?;
                    options.serve =
                        Some(port.parse().with_context(|| format!("'{port}' is no port (0: any free one)"))?);
                }
                other => bail!("unknown option '{other}'\n{USAGE}"),
            }
        }
        if options.storage.is_some() && options.serve.is_none() {
            bail!("--storage goes with --serve; to make one alone use --registry-storage\n{USAGE}");
        }
        Ok(options)
    }
}
