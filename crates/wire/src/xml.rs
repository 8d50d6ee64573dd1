//! XML: answers of query, ec2 and REST-XML; bodies of REST-XML.

mod decode;
mod encode;

pub(crate) use decode::decode;
pub(crate) use encode::{Dialect, Writer};
