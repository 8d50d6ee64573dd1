//! Cloud Map as its callers, Route 53 and nodes see it.

mod instances;
mod jobs;
mod world;
