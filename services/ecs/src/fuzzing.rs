//! The checks of a task definition, as `fuzz/` reaches them.

use ferrogate_api::{ApiError, ecs};

use crate::state::Scope;

/// The definition as it would be kept, or why it is refused.
pub fn checked(input: ecs::RegisterTaskDefinitionRequest) -> Result<ecs::TaskDefinition, ApiError> {
    crate::definition::checked(&Scope::new("123456789012", "us-east-1"), input)
}
