//! The IAM policy language: parse a document once, evaluate it on every call.
//!
//! Pure: no I/O, no clock, no store. The rules are those of the IAM User Guide, "IAM JSON policy reference" and
//! "Policy evaluation logic".
//!
//! ```text
//!  text ──Policy::parse──▶ Arc<Policy> ─┐
//!                                       ├─▶ evaluate ──▶ Decision ──message──▶ AWS's words
//!  who, what, on what, context ─Request─┘
//! ```
//!
//! Deliberately absent: resource control policies, VPC endpoint policies, and the validation that needs to know
//! every service's actions (IAM Access Analyzer's work).

mod condition;
mod context;
mod decision;
mod document;
mod error;
mod evaluate;
mod json;
mod managed;
mod parse;
mod pattern;
mod principal;

pub use context::Context;
pub use decision::{Decision, Match, Outcome, PolicyKind};
pub use document::{
    DocumentKind, MAX_DEPTH, MAX_DOCUMENT_BYTES, MAX_STATEMENTS, Policy, size_without_whitespace,
};
pub use error::MalformedPolicy;
pub use evaluate::{Named, Policies, Request, evaluate, evaluate_trust};
pub use managed::{ManagedPolicy, managed, managed_policies};
pub use principal::{Principal, PrincipalKind};
