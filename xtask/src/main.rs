//! The project's own chores: `cargo xtask <chore>`.

mod codegen;
mod compatibility;
mod images;
mod kernel;
mod models;
mod refusals;
mod tidy;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask models            take the service models anew from botocore (pinned; needs python3 and pip)
cargo xtask codegen           write crates/api/src/generated from api/models
cargo xtask codegen --check   fail if that would change anything
cargo xtask compatibility     write docs/compatibility.md from the services' sources (--check: fail if that changes it)
cargo xtask tidy              the rules no compiler knows: see docs/architecture.md
cargo xtask images            OCI images from the distribution's packages, for tests and the demo (--help)
cargo xtask kernel            what a micro-VM boots: a minimal kernel, or with --cloud the distribution's own
cargo xtask guest             the program in it, linked statically
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["models"] => models::run(),
        ["codegen"] => codegen::write(),
        ["codegen", "--check"] => codegen::check(),
        [] | ["help" | "--help"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["compatibility"] => compatibility::write(),
        ["compatibility", "--check"] => compatibility::check(),
        ["tidy"] => tidy::run(),
        ["images", ..] => images::run(&args[1..]),
        ["kernel", "--help"] | ["guest", "--help"] => {
            print!("{}", kernel::USAGE);
            Ok(())
        }
        ["kernel", ..] => kernel::run(&args[1..]),
        ["guest", ..] => kernel::guest(&args[1..]),
        other => bail!("no chore '{}'\n{USAGE}", other.join(" ")),
    }
}

/// The workspace's root folder.
fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_owned()
}
