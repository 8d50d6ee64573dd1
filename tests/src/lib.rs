//! What tests of the whole system stand on: the real binary, real containers, real packets, driven by the aws CLI
//! and boto3, in a network namespace and a mount namespace of the test's own.
//!
//! ```text
//!  test ─► Cluster ─► World: unshare -n -m; loopback only, its own /run
//!                       ├─ docker-registry  127.0.0.1:5000   images of `cargo xtask images`
//!                       ├─ ferrogate up     127.0.0.1:4566   data folder in a temporary directory
//!                       └─ aws, python, curl, ferrogate …    whatever the test runs
//! ```
//!
//! Nothing can leave: there is no interface but loopback. A test that fails keeps its data folder with every log
//! and says where. A test that passes ends with `ferrogate down` and a look for anything left behind.

mod boto;
mod clock;
mod cluster;
mod inside;
mod isolation;
mod leaks;
mod places;
mod registry;
mod tasks;
mod wait;
mod world;

pub use boto::{AwsError, Boto, Keys};
pub use clock::WallClock;
pub use cluster::{Cluster, Said, Setup};
pub use isolation::{in_machines, machines_wanted, with_machines};
pub use registry::Registry;
pub use tasks::{Network, TaskRun};
pub use wait::{eventually, until};
