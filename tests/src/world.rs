//! A network namespace and a mount namespace, held by a process that cleans up whatever happens to the test.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::places;

/// Holds the namespaces until its input ends: with the test, however that ends. What still runs then is ended.
const HOLDER: &str = r#"
trap '' TERM INT HUP
ferrogate=$1 data=$2
mkdir -p /run
mount -t tmpfs -o mode=755 ferrogate-test /run
ip link set lo up
echo ready
exec >&2
read -r _
[ -e "$data/endpoint.json" ] || exit 0
timeout 200 "$ferrogate" down --data-dir "$data" && exit 0
kill -9 "$(cat "$data/lock")"
exec timeout 200 "$ferrogate" down --data-dir "$data"
"#;

#[derive(Debug)]
pub(crate) struct World {
    holder: Child,
    home: PathBuf,
    environment: Vec<(String, String)>,
}

impl World {
    /// `home`: the working directory and HOME of everything that runs in it.
    pub(crate) fn new(home: &Path, data: &Path, environment: Vec<(String, String)>) -> Self {
        let log = std::fs::File::create(home.join("holder.log")).expect("the holder's log");
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", HOLDER, "holder"])
            .arg(places::program("ferrogate"))
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Not ended with the test's own group: it has to clean up after it.
            .process_group(0)
            .spawn()
            .expect("unshare of util-linux");
        let mut ready = String::new();
        let stdout = holder.stdout.take().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("the holder's first line");
        assert_eq!(
            ready.trim(),
            "ready",
            "no namespaces: these tests need root; see {}/holder.log",
            home.display()
        );
        Self { holder, home: home.to_owned(), environment }
    }

    /// A program in the namespaces, with a clean environment. The child's pid is the program's own.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--"])
            .arg(program)
            .current_dir(&self.home)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// A path of the namespaces, for the test itself.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        let mut seen = format!("/proc/{}/root", self.holder.id());
        seen.push_str(&path.to_string_lossy());
        seen.into()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Ends it; what still ran is ended first.
    pub(crate) fn close(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.close();
    }
}
