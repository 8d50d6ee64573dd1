//! The checks of a task definition and the plans for a service, as `fuzz/` reaches them.

mod service_plan;

use ferrogate_api::{ApiError, ecs};

use crate::state::Scope;

pub use service_plan::service_plan;

/// The definition as it would be kept, or why it is refused.
pub fn checked(input: ecs::RegisterTaskDefinitionRequest) -> Result<ecs::TaskDefinition, ApiError> {
    crate::definition::checked(&Scope::new("123456789012", "us-east-1"), input)
}
