//! Where things are in the checkout.

use std::path::{Path, PathBuf};

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace")
}

/// A program of this workspace, built with the same profile as the test that runs.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    // target/<profile>/deps/real-…
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --bin ferrogate --bin ferrogate-shim --bin ferrogate-edge",
        path.display()
    );
    path
}

/// `aws`, `python`: of the environment that scripts/deps makes.
pub(crate) fn venv(name: &str) -> PathBuf {
    let path = root().join(".cache/venv/bin").join(name);
    assert!(path.exists(), "{} is missing: scripts/deps test", path.display());
    path
}

pub(crate) fn script(name: &str) -> PathBuf {
    root().join("tests/python").join(name)
}

pub(crate) fn registry_storage() -> PathBuf {
    let path = root().join(".cache/images/registry");
    let whole = path.join("ferrogate-images.txt");
    assert!(
        whole.exists(),
        "{} is missing: cargo xtask images --registry-storage .cache/images/registry",
        whole.display()
    );
    path
}

/// Of micro-VMs: the minimal one where it was built, as it boots faster, else the distribution's. FERROGATE_TEST_KERNEL=cloud
/// has that one anyway.
pub(crate) fn kernel() -> PathBuf {
    let kernels = root().join(".cache/kernel");
    let name = std::env::var("FERROGATE_TEST_KERNEL")
        .unwrap_or_else(|_| if kernels.join("minimal").exists() { "minimal".into() } else { "cloud".into() });
    let path = kernels.join(name);
    assert!(path.exists(), "{} is missing: cargo xtask kernel --cloud", path.display());
    path
}
