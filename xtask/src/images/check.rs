//! Do the programs in an image really run?

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{BuiltImage, layout};

/// In namespaces of its own: what is mounted goes with the command.
const ENTER: &str = r#"mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && root="$1" && shift &&
    exec chroot "$root" "$@""#;

/// Unpacks the image and runs its check commands in it.
pub(super) fn run(built: &BuiltImage) -> Result<()> {
    let image = layout::read(&built.layout)?;
    let dir = tempfile::tempdir()?;
    let layers = image.blobs.split_last().context("an image without config")?.1;
    for (_, layer) in layers {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.as_slice()));
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(true);
        archive.set_overwrite(true);
        archive.unpack(dir.path())?;
    }
    let environment = image.config["Env"].as_array().cloned().unwrap_or_default();
    for command in built.check {
        let output = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--net", "sh", "-c", ENTER, "sh"])
            .arg(dir.path())
            .args(*command)
            .env_clear()
            .envs(environment.iter().filter_map(|text| text.as_str()?.split_once('=')))
            .output()
            .context("cannot run unshare (util-linux)")?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {command:?} failed ({}): {text}", built.name, output.status);
        println!("{}: {}: {}", built.name, command.join(" "), text.trim().replace('\n', " / "));
    }
    Ok(())
}
