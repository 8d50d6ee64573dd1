//! The rights each call needs.
use ferrogate_api::{Demand, Value};
use crate::call::Call;
pub(crate) fn demands(_call: &Call<'_>, operation: &'static str, _input: &Value) -> Vec<Demand> {
    vec![Demand::new(format!("ec2:{operation}"), "*")]
}
