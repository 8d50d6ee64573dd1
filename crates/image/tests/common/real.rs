//! Debian's docker-registry, for as long as a value lives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::Built;

pub struct RealRegistry {
    child: Child,
    pub address: String,
    _storage: tempfile::TempDir,
}

impl RealRegistry {
    pub fn start() -> Self {
        let storage = tempfile::tempdir().unwrap();
        let config = storage.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            storage.path().join("data").display()
        );
        std::fs::write(&config, text).unwrap();
        // pdeathsig: gone with the test, however that ends.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "/usr/bin/docker-registry", "serve"])
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("setpriv (util-linux) is missing; run `cargo xtask deps`");
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let address = loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                panic!("/usr/bin/docker-registry did not start; run `cargo xtask deps` to install it\n{log}");
            }
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
            }
            log.push_str(&line);
        };
        // Or it blocks when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        RealRegistry { child, address, _storage: storage }
    }

    /// As a client does: blobs, then the manifest under a tag or digest.
    pub fn push(&self, repository: &str, version: &str, image: &Built) {
        for (digest, bytes) in &image.blobs {
            let (status, location) = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
            assert_eq!(status, 202);
            let path =
                location.strip_prefix(&format!("http://{}", self.address)).unwrap_or(&location).to_owned();
            let (status, _) =
                self.send("PUT", &format!("{path}&digest={digest}"), "application/octet-stream", bytes);
            assert_eq!(status, 201);
        }
        let path = format!("/v2/{repository}/manifests/{version}");
        let (status, _) = self.send("PUT", &path, &image.media_type, &image.manifest);
        assert_eq!(status, 201);
    }

    /// Status and Location.
    fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or("").trim();
        (status, location.to_owned())
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
