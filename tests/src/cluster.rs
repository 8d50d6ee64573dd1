//! One Ferrogate of a test's own.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::boto::{Boto, Keys};
use crate::isolation::{in_machines, machines_wanted};
use crate::registry::{self, Registry};
use crate::wait::until;
use crate::world::World;
use crate::{leaks, places};

const LISTEN: &str = "127.0.0.1:4566";
const REGION: &str = "us-east-1";
/// What is done beside a task's machine comes from the task's address.
const AS_THE_GUEST: &str = r#"address=$(ip -4 route show dev guest0 | cut -d" " -f1)
nft "table ip ferrogate-test { chain from { type nat hook postrouting priority srcnat; \
    oifname eth0 ip saddr != $address snat to $address; }; }""#;
/// Of a log that a failed test shows.
const TOLD_BYTES_MAX: usize = 6_000;

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What a program that must succeed printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// … as JSON; null where nothing was printed.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        if text.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// What a test wants otherwise than usual.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// More for `ferrogate up`.
    pub arguments: Vec<String>,
    /// For every program of the cluster, its clients too.
    pub environment: Vec<(String, String)>,
    /// The data folder is a disk of its own, this large.
    pub data_bytes: Option<u64>,
}

/// `ferrogate up`, a registry, and clients.
#[derive(Debug)]
pub struct Cluster {
    arguments: Vec<String>,
    /// Its tasks are in machines, which begin from snapshots where [`Cluster::define`] named their size.
    pub(crate) restores: bool,
    boto: OnceCell<Boto>,
    ferrogate: Option<Child>,
    registry: Option<Registry>,
    world: World,
    /// `None` once it is kept.
    home: Option<TempDir>,
}

/// What is said of a machine that was to be restored, and took too long for it.
const LATE: &str = "a machine was not restored in time";

impl Cluster {
    /// Started and answering.
    pub fn start() -> Self {
        Self::start_with(Setup::default())
    }

    /// Started as the test wants it, and answering.
    pub fn start_with(setup: Setup) -> Self {
        let home = TempDir::with_prefix("ferrogate-test-").expect("a temporary folder");
        let data = home.path().join("data");
        let world = World::new(home.path(), &data, setup.environment);
        if let Some(bytes) = setup.data_bytes {
            std::fs::create_dir(&data).expect("a folder to mount on");
            let options = format!("size={bytes},mode=700");
            let mounted =
                world.command("mount").args(["-t", "tmpfs", "-o", &options, "disk"]).arg(&data).status();
            assert!(mounted.is_ok_and(|status| status.success()), "a tmpfs at {}", data.display());
        }
        let registry = Registry::start(&world, home.path());
        let (mut arguments, mut restores) = (setup.arguments, false);
        if !arguments.iter().any(|argument| argument == "--isolation") {
            if machines_wanted() {
                arguments.extend(in_machines());
                // None is made on a small disk.
                restores = setup.data_bytes.is_none();
            } else {
                arguments.extend(["--isolation", "container"].map(str::to_owned));
            }
        }
        let mut cluster = Self {
            arguments,
            restores,
            boto: OnceCell::new(),
            ferrogate: None,
            registry: Some(registry),
            world,
            home: Some(home),
        };
        cluster.up();
        cluster
    }

    fn home(&self) -> &Path {
        self.home.as_ref().expect("until it is dropped").path()
    }

    /// The data folder, as the programs of the cluster name it.
    pub fn data(&self) -> PathBuf {
        self.home().join("data")
    }

    /// The data folder, for the test itself, which does not share its mounts.
    pub fn data_seen(&self) -> PathBuf {
        self.world.seen(&self.data())
    }

    /// A folder for the test's own files, which every program of the cluster sees under the same name.
    pub fn folder(&self) -> &Path {
        self.home()
    }

    /// `ferrogate up` with the same data folder, until its API answers.
    pub fn up(&mut self) {
        assert!(self.ferrogate.is_none(), "it runs");
        let log = OpenOptions::new().create(true).append(true).open(self.log()).expect("ferrogate's log");
        let greeting = File::create(self.home().join("greeting.txt")).expect("the greeting");
        let mirror = format!("docker.io/library/*=http://{}/library/*", registry::ADDRESS);
        let child = self
            .world
            .command(places::program("ferrogate"))
            .args(["up", "--listen", LISTEN, "--region", REGION, "--registry-mirror", &mirror, "--data-dir"])
            .arg(self.data())
            .args(&self.arguments)
            .env("FERROGATE_LOG", "info")
            .env("RUST_BACKTRACE", "1")
            .stdout(greeting)
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("the ferrogate program");
        self.ferrogate = Some(child);
        until("the API answers", || {
            let ended = self.ferrogate.as_mut().expect("just set").try_wait().expect("its status");
            assert!(ended.is_none(), "ferrogate up ended: {ended:?}\n{}", self.told("ferrogate.log"));
            self.curl(&["--max-time", "5", &format!("http://{LISTEN}/")]).ok()
        });
    }

    /// Whether its tasks are in machines of their own.
    pub fn has_machines(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "microvm")
    }

    /// Process id of `ferrogate up`.
    pub fn pid(&self) -> u32 {
        self.ferrogate.as_ref().expect("it runs").id()
    }

    /// kill -9 of `ferrogate up`, and nothing else.
    pub fn kill(&mut self) {
        let mut child = self.ferrogate.take().expect("it runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    /// Where `ferrogate up` writes what it has to say.
    pub fn log(&self) -> PathBuf {
        self.home().join("ferrogate.log")
    }

    fn told(&self, name: &str) -> String {
        let text = std::fs::read(self.home().join(name)).unwrap_or_default();
        let from = text.len().saturating_sub(TOLD_BYTES_MAX);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }

    /// Any program, in the test's own network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.world.command(program)
    }

    #[track_caller]
    fn run(&self, command: &mut Command) -> Said {
        Said::of(&command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// The aws CLI with the profile that `ferrogate up` wrote.
    pub fn aws(&self, arguments: &[&str]) -> Said {
        self.run(self.aws_command().args(arguments))
    }

    /// The aws CLI with other credentials.
    pub fn aws_as(&self, keys: &Keys, arguments: &[&str]) -> Said {
        let mut command = self.aws_command();
        command
            .env("AWS_ACCESS_KEY_ID", &keys.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &keys.secret_access_key);
        if let Some(token) = &keys.session_token {
            command.env("AWS_SESSION_TOKEN", token);
        }
        self.run(command.args(arguments))
    }

    fn aws_command(&self) -> Command {
        let mut command = self.world.command(places::venv("aws"));
        command
            .env("AWS_CONFIG_FILE", self.data().join("aws/config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.data().join("aws/credentials"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_PAGER", "");
        command
    }

    /// The `ferrogate` program's other commands, with this data folder.
    pub fn ferrogate(&self, arguments: &[&str]) -> Said {
        self.run(&mut self.ferrogate_command(arguments))
    }

    /// Where the `ferrogate` program is, for a script that starts it; it finds the data folder by FERROGATE_DATA_DIR.
    pub fn ferrogate_program(&self) -> PathBuf {
        places::program("ferrogate")
    }

    pub fn ferrogate_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(places::program("ferrogate"));
        command.args(arguments).env("FERROGATE_DATA_DIR", self.data());
        command
    }

    /// A script of `tests/python` under boto3's own configuration: `ferrogate up`'s profile.
    pub fn python(&self, script: &str, arguments: &[&str]) -> Said {
        self.run(&mut self.python_command(script, arguments))
    }

    pub fn python_command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = self.world.command(places::venv("python"));
        command
            .arg(places::script(script))
            .args(arguments)
            .env("AWS_CONFIG_FILE", self.data().join("aws/config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.data().join("aws/credentials"));
        command
    }

    /// A script of `tests/python` in the network of a task, as if it ran there.
    pub fn python_in_task(&self, task_id: &str, script: &str) -> Command {
        let namespace = format!("/run/ferrogate/netns/{}.t.{task_id}", self.instance());
        if self.has_machines() {
            // The task's address is its guest's.
            let net = format!("--net={namespace}");
            self.run(self.world.command("nsenter").args([&net, "sh", "-c", AS_THE_GUEST])).ok();
        }
        let mut command = self.world.command("nsenter");
        command
            .arg(format!("--net={namespace}"))
            .arg("--")
            .arg(places::venv("python"))
            .arg(places::script(script));
        command
    }

    /// What was fetched, or curl's exit code.
    pub fn curl(&self, arguments: &[&str]) -> Result<String, i32> {
        let said = self.run(self.world.command("curl").arg("-s").args(arguments));
        match said.code {
            Some(0) => Ok(said.stdout),
            code => Err(code.unwrap_or(-1)),
        }
    }

    /// A second registry with the same images, for those that `htpasswd`, a line of such a file, lets in.
    pub fn private_registry(&self, address: &str, htpasswd: &str) -> Registry {
        Registry::start_private(&self.world, self.home(), address, htpasswd)
    }

    /// boto3 as the root user.
    pub fn boto(&self) -> &Boto {
        self.boto.get_or_init(|| {
            let text = std::fs::read(self.data_seen().join("root.json")).expect("the root key");
            let key: Value = serde_json::from_slice(&text).expect("the root key");
            let text = |name: &str| key[name].as_str().expect("a text").to_owned();
            self.boto_as(&Keys {
                access_key_id: text("access_key_id"),
                secret_access_key: text("secret_access_key"),
                session_token: None,
            })
        })
    }

    pub fn boto_as(&self, keys: &Keys) -> Boto {
        Boto::start(&self.world, &format!("http://{LISTEN}"), REGION, keys)
    }

    /// The name in this folder's cgroups and namespaces.
    pub fn instance(&self) -> String {
        std::fs::read_to_string(self.data_seen().join("instance"))
            .expect("an instance's name")
            .trim()
            .to_owned()
    }

    /// Processes of one task: its containers', or its machine, which ends with its shim alone; and its Service Connect proxy.
    pub fn task_processes(&self, task_id: &str) -> Vec<u32> {
        leaks::processes_in(&format!("/ferrogate/{}/{task_id}", self.instance()))
    }

    /// The task's shim.
    pub fn shims(&self) -> Vec<u32> {
        leaks::processes_in(&format!("/ferrogate/{}/.shims", self.instance()))
    }

    /// The shim of one task.
    pub fn shim_of(&self, task_id: &str) -> Option<u32> {
        self.shims().into_iter().find(|pid| leaks::command_line(*pid).contains(task_id))
    }

    /// The processes of load balancers.
    pub fn edges(&self) -> Vec<u32> {
        leaks::processes_in(&format!("/ferrogate/{}/.edges", self.instance()))
    }

    /// What stands of tasks, whatever the API says: processes, mounts, namespaces, cgroups, sandboxes' folders.
    pub fn left_of_tasks(&self) -> Vec<String> {
        let mut left = leaks::of_tasks(&self.world, &self.data(), &self.instance());
        left.sort();
        left
    }

    /// `ferrogate down`, and what is left then.
    pub fn down(&mut self) -> Vec<String> {
        self.restored();
        let said = self.ferrogate(&["down"]);
        if let Some(mut child) = self.ferrogate.take() {
            until("the program has ended", || child.try_wait().expect("it is ours"));
        }
        assert_eq!(said.code, Some(0), "ferrogate down: {} {}", said.stdout, said.stderr);
        let mut left = leaks::of_tasks(&self.world, &self.data(), &self.instance());
        left.extend(leaks::of_all(&self.world, &self.data(), &self.instance()));
        left
    }

    /// Machines began from snapshots, or a test of machines would be of booted ones alone, and not say so. On a busy host one may
    /// be late, and is booted.
    fn restored(&self) {
        if !self.restores || self.ferrogate.is_none() || self.told("ferrogate.log").contains(LATE) {
            return;
        }
        let all = self.ferrogate(&["ps", "--all", "--timing", "", "--output", "json"]).json();
        let begun = |task: &&Value| !task["restored"].is_null();
        let begun: Vec<&Value> = all.as_array().expect("tasks").iter().filter(begun).collect();
        let restored = begun.is_empty() || begun.iter().any(|task| task["restored"] == true);
        assert!(restored, "none was restored: {all:#}\n{}", self.told("ferrogate.log"));
    }

    fn keep(&mut self) {
        let Some(home) = self.home.take() else { return };
        let path = home.keep();
        eprintln!("kept: {}  (ferrogate.log, registry.log, data/)", path.display());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the end of ferrogate.log:\n{}", self.told("ferrogate.log"));
            self.world.close();
            self.keep();
            return;
        }
        let down = self.data_seen().join("endpoint.json").exists();
        let left = if down { self.down() } else { Vec::new() };
        self.registry = None;
        self.world.close();
        if !left.is_empty() {
            self.keep();
            panic!("ferrogate down left behind:\n  {}", left.join("\n  "));
        }
    }
}
