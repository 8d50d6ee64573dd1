//! The AWS API: generated from the service models, never written by hand.
//!
//! - [`Value`]: what every wire protocol decodes to and encodes from.
//! - [`schema`]: the models themselves, loaded on first use; the codecs and the validator read them.
//! - one module per service (generated): plain structs, the service's trait (an operation that is not
//!   written answers [`ApiError::not_implemented`]), the in-process client.
//! - [`Handler`]: a service as the front sees it. [`Invoke`]: the way from one service to another.

#[macro_use]
mod macros;
mod error;
mod generated;
mod handler;
pub mod schema;
mod shape;
mod value;

pub use error::ApiError;
pub use generated::*;
pub use handler::{BoxFuture, Call, Caller, Context, Demand, Handler, Invoke, Principal, PrincipalKind};
pub use shape::{Shape, ShapeError};
pub use value::Value;
