//! The whole system, by its real clients. What each test stands on is in the library of this crate.

mod boto3;
mod cli;
mod containers;
mod denied;
mod faults;
mod iam;
mod main_job;
mod many;
mod restart;
mod task_role;
