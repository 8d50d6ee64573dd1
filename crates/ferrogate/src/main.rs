//! The program: what a person types, and the composition of everything else.

mod client;
mod commands;
mod compose;
mod data;
mod plane;
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
    /// What a task runs in: auto takes a micro-VM where one can be had
    #[arg(long, default_value = "auto", value_parser = ["auto", "container", "microvm"])]
    isolation: String,
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
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferrogate: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
