//! The whole system, by its real clients. What each test stands on is in the library of this crate.

mod bad_input;
mod boto3;
mod cli;
mod containers;
mod definitions;
mod denied;
mod ecr;
mod endpoints;
mod exec;
mod explain;
mod faults;
mod iam;
mod images;
mod lifecycle;
mod main_job;
mod many;
mod restart;
mod secrets;
mod task_role;
mod tasks_whole;
