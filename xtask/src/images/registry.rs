//! Debian's docker-registry with our images in it. Everything stays on 127.0.0.1.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{BuiltImage, layout};

const PROGRAM: &str = "/usr/bin/docker-registry";
/// Which manifests a storage directory holds; written last.
const FILLED: &str = "ferrogate-images.txt";
const REPOSITORY_PREFIX: &str = "library";

/// Makes `storage` a storage directory (`rootdirectory`) of docker-registry with all images, unless it is one.
pub(super) fn fill(storage: &Path, images: &[BuiltImage]) -> Result<()> {
    let mut wanted = String::new();
    for image in images {
        let digest = layout::read(&image.layout)?.manifest_digest;
        wanted.push_str(&format!("{REPOSITORY_PREFIX}/{}:latest {digest}\n", image.name));
    }
    let marker = storage.join(FILLED);
    if std::fs::read_to_string(&marker).is_ok_and(|had| had == wanted) {
        return Ok(());
    }
    std::fs::create_dir_all(storage).with_context(|| format!("cannot create {}", storage.display()))?;
    let registry = Registry::start(storage, 0)?;
    push_all(&registry.address, images)?;
    drop(registry);
    std::fs::write(&marker, wanted)?;
    println!("registry storage: {}", storage.display());
    Ok(())
}

/// Serves `storage` until this process is stopped or the registry ends.
pub(super) fn serve(storage: &Path, port: u16, images: &[BuiltImage]) -> Result<()> {
    let mut registry = Registry::start(storage, port)?;
    let names: Vec<String> =
        images.iter().map(|image| format!("{REPOSITORY_PREFIX}/{}", image.name)).collect();
    println!("ready: http://{} serves {}", registry.address, names.join(", "));
    std::io::stdout().flush()?;
    let status = registry.child.wait()?;
    bail!("docker-registry ended: {status}");
}

/// Pushes every image as `library/<name>:latest` to the registry at `127.0.0.1:PORT`.
pub(super) fn push_all(address: &str, images: &[BuiltImage]) -> Result<()> {
    for built in images {
        let image = layout::read(&built.layout)?;
        let repository = format!("{REPOSITORY_PREFIX}/{}", built.name);
        for (digest, blob) in &image.blobs {
            if send(address, "HEAD", &format!("/v2/{repository}/blobs/{digest}"), "", b"")?.0 == 200 {
                continue;
            }
            let (status, location) =
                send(address, "POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"")?;
            ensure!(status == 202, "the registry at {address} refuses uploads: status {status}");
            let path = location.strip_prefix(&format!("http://{address}")).unwrap_or(&location);
            let path = format!("{path}&digest={digest}");
            let (status, _) = send(address, "PUT", &path, "application/octet-stream", blob)?;
            ensure!(status == 201, "the registry at {address} refuses blob {digest}: status {status}");
        }
        let path = format!("/v2/{repository}/manifests/latest");
        let (status, _) = send(address, "PUT", &path, layout::MANIFEST_TYPE, &image.manifest)?;
        ensure!(status == 201, "the registry at {address} refuses {repository}: status {status}");
    }
    Ok(())
}

/// One request on a connection of its own: status and Location.
fn send(address: &str, method: &str, path: &str, content_type: &str, body: &[u8]) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("no registry at {address}"))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or("").trim();
    Ok((status.with_context(|| format!("{method} {path}: no HTTP answer"))?, location.to_owned()))
}

/// A running docker-registry, stopped with the value.
struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`
    address: String,
    _config: tempfile::NamedTempFile,
}

impl Registry {
    fn start(storage: &Path, port: u16) -> Result<Self> {
        ensure!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing; run `cargo xtask deps` or `apt-get install docker-registry`"
        );
        let mut config = tempfile::NamedTempFile::new()?;
        let root = serde_json::to_string(&storage.canonicalize()?)?;
        write!(
            config,
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        )?;
        // pdeathsig: gone when we are, however that happens.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", PROGRAM, "serve"])
            .arg(config.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run setpriv (util-linux)")?;
        let mut lines = BufReader::new(child.stderr.take().context("docker-registry has no stderr")?);
        let mut log = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                child.wait()?;
                bail!("docker-registry did not start on 127.0.0.1:{port}:\n{log}");
            }
            if let Some((_, rest)) = line.split_once("listening on ") {
                let address = rest
                    .chars()
                    .take_while(|character| character.is_ascii_digit() || ".:".contains(*character))
                    .collect();
                // Its log goes nowhere, but the pipe must not fill.
                std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
                return Ok(Registry { child, address, _config: config });
            }
            log.push_str(&line);
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
