//! The program: what a person types, and the composition of everything else.

mod balancer_door;
mod client;
mod commands;
mod compose;
mod data;
mod exec;
mod explain;
mod isolation;
mod machine_memory;
mod plane;
mod pre_pull;
mod preflight;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// AWS Fargate you run yourself.
#[derive(Parser)]
#[command(name = "ferrogate", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the whole of it on this machine: API, controllers, node and DNS in one program
    Up(Up),
    /// Stops every task and the program; nothing stays behind but the data
    Down(Place),
    /// Prints what points AWS tools at it: eval "$(ferrogate env)"
    Env(Place),
    /// Says whether it runs, and how it is
    Status(Status),
    /// Lists the tasks
    Ps(Ps),
    /// Prints what a task's containers wrote
    Logs(Logs),
    /// Says why a task did not start or does not answer, and what to do about it
    Explain(Explain),
    /// Runs a command in a container of a task: ECS Exec
    Exec(Exec),
}

/// Which Ferrogate of this machine is meant.
#[derive(Args, Clone)]
struct Place {
    /// Everything it keeps is in this folder
    #[arg(long, env = "FERROGATE_DATA_DIR", default_value = "/var/lib/ferrogate")]
    data_dir: PathBuf,
}

#[derive(Args, Clone)]
struct Up {
    #[command(flatten)]
    place: Place,
    /// Where the AWS API is served
    #[arg(long, env = "FERROGATE_LISTEN", default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// The account all of it belongs to: twelve digits
    #[arg(long, env = "FERROGATE_ACCOUNT", default_value = "123456789012", value_parser = account)]
    account: String,
    /// The region `ferrogate env` names; every region can be used
    #[arg(long, env = "FERROGATE_REGION", default_value = "us-east-1")]
    region: String,
    /// Take images whose name starts with PREFIX from another registry: docker.io/library/*=http://127.0.0.1:5000/library/*
    #[arg(
        long = "registry-mirror",
        env = "FERROGATE_REGISTRY_MIRROR",
        value_name = "PREFIX=URL",
        value_delimiter = ','
    )]
    registry_mirrors: Vec<String>,
    /// Keep no more unpacked images than this, 20g for example; without it, as many as the disk has room for
    #[arg(long, env = "FERROGATE_IMAGE_CACHE_MAX", value_name = "SIZE", value_parser = size)]
    image_cache_max: Option<u64>,
    /// Pull a public image as soon as a task definition names it
    #[arg(long, env = "FERROGATE_PRE_PULL")]
    pre_pull: bool,
    /// What a task runs in: auto takes a micro-VM where one can be had
    #[arg(long, env = "FERROGATE_ISOLATION", value_enum, default_value = "auto")]
    isolation: isolation::Choice,
    /// The kernel of micro-VMs: a folder with its vmlinux [default: kernel, beside this program]
    #[arg(long, env = "FERROGATE_GUEST_KERNEL", value_name = "DIR")]
    guest_kernel: Option<PathBuf>,
    /// Micro-VMs without KVM: they run everywhere, and slowly
    #[arg(long, env = "FERROGATE_EMULATE")]
    emulate: bool,
    /// Boot every micro-VM, instead of beginning from snapshots of booted ones
    #[arg(long, env = "FERROGATE_NO_SNAPSHOTS")]
    no_snapshots: bool,
    /// Stop all tasks and leave, instead of serving
    #[arg(long, hide = true)]
    then_down: bool,
}

#[derive(Args, Clone)]
struct Status {
    #[command(flatten)]
    place: Place,
    /// Show every controller and its last activation
    #[arg(long)]
    controllers: bool,
    /// text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

#[derive(Args, Clone)]
struct Ps {
    #[command(flatten)]
    place: Place,
    /// Only this cluster
    #[arg(long)]
    cluster: Option<String>,
    /// Stopped tasks too
    #[arg(long, short)]
    all: bool,
    /// What the start of a task spent its time on; of every task on this node where none is named
    #[arg(long, value_name = "TASK", num_args = 0..=1, default_missing_value = "")]
    timing: Option<String>,
    /// text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

#[derive(Args, Clone)]
struct Logs {
    #[command(flatten)]
    place: Place,
    /// A task's id, the beginning of it, or its ARN
    task: String,
    /// Only this container
    #[arg(long, short)]
    container: Option<String>,
    /// Go on as more is written
    #[arg(long, short)]
    follow: bool,
    /// Say when each line was written
    #[arg(long, short)]
    timestamps: bool,
}

#[derive(Args, Clone)]
struct Explain {
    #[command(flatten)]
    place: Place,
    /// A task's id, the beginning of it, or its ARN
    task: String,
    /// text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

#[derive(Args, Clone)]
struct Exec {
    #[command(flatten)]
    place: Place,
    /// A task's id, the beginning of it, or its ARN
    task: String,
    /// In this container; needed where the task has several
    #[arg(long, short)]
    container: Option<String>,
    /// With a terminal even where this is none; without one otherwise
    #[arg(long, short = 't')]
    terminal: bool,
    /// What to run, and what to tell it
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `500m`, `20g`, `1t`
fn size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let units = [("k", 10), ("m", 20), ("g", 30), ("t", 40)];
    let unit = units.iter().find_map(|(unit, shift)| Some((lower.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((&lower, 0));
    let number = number.parse::<u64>().ok().filter(|number| *number > 0);
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "a size is a number of bytes, or one with k, m, g or t behind it: 20g".into())
}

fn account(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err("an AWS account is twelve digits".into())
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Up(options) => commands::up::run(options),
        Command::Down(place) => commands::down::run(&place),
        Command::Env(place) => commands::env::run(&place),
        Command::Status(options) => commands::status::run(&options),
        Command::Ps(options) => commands::ps::run(&options),
        Command::Logs(options) => commands::logs::run(&options),
        Command::Explain(options) => commands::explain::run(&options),
        Command::Exec(options) => match commands::exec::run(&options) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferrogate: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
