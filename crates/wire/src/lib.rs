//! The AWS wire protocols: JSON 1.0 and 1.1, query, EC2 query, REST-JSON, REST-XML, RPC v2 CBOR.
//!
//! Nothing here knows an operation: the service models ([`ferrogate_api::schema`]) guide every codec. A request
//! goes [`detect`] → [`decode`] → [`validate`], its answer [`encode`] or [`encode_error`]. No I/O, no clock.
//!
//! | file | what it holds |
//! |---|---|
//! | `route`, `template` | which operation a request is |
//! | `request`, `response`, `failure` | decode, encode, encode_error: the protocol's frame around the codecs |
//! | `json`, `query`, `xml`, `cbor`, `rest` | one codec each, schema in hand |
//! | `validate`, `wording`, `pattern` | the model's constraints, in AWS's words |
//! | `fault`, `limits`, `scalar` | what all codecs share |

mod cbor;
mod eventstream;
mod failure;
mod fault;
mod json;
mod limits;
mod names;
mod pattern;
mod query;
mod request;
mod response;
mod rest;
mod route;
mod scalar;
mod template;
mod validate;
mod wording;
mod xml;

pub use failure::encode_error;
pub use request::decode;
pub use response::encode;
pub use route::{Catalog, Route, WireError, detect};
pub use validate::validate;
