//! The rights each call needs.

use ferrogate_api::{Context, Demand, Value};

use crate::EcsService;

pub(crate) fn demands(_service: &EcsService, _cx: &Context, operation: &'static str, _input: &Value) -> Vec<Demand> {
    vec![Demand::new(format!("ecs:{operation}"), "*")]
}
