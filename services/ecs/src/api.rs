//! The operations, each forwarded to its file.

use ferrogate_api::{Context, Demand, Value, ecs};

use crate::EcsService;

impl ecs::Ecs for EcsService {
    fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
        crate::demands::demands(self, cx, operation, input)
    }
}
