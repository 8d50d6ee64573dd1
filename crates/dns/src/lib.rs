//! DNS answers for the resolvers of VPCs: a pure function of the published names, the VPC and the packet.
//!
//! ```text
//!  Names ──► Index (once per value; zones that did not change are taken over)
//!                 │
//!  packet ──► answer(index, vpc, packet, transport, random) ──► Outcome: an answer, something to ask upstream, nothing
//! ```
//!
//! - A VPC sees the zones that are associated with it, and those for all. Of its own zones the longest that the name is
//!   in answers, whatever it holds or lacks; only outside of all of them a zone for all may (split horizon; "Considerations
//!   when working with a private hosted zone", Route 53 developer guide).
//! - A CNAME or alias is followed through these zones; where it leads out of them, the rest is asked upstream.
//! - Randomness is given in, so that the same question with the same number has the same answer.
//!
//! No I/O, no clock. `hickory-proto` reads and writes the packets.

mod answer;
mod index;
mod lookup;
mod name;
mod private;
mod random;
mod value;

pub use answer::{Outcome, Transport, UDP_BYTES_MAX, Unfinished, answer};
pub use index::Index;
pub use lookup::{Lookup, lookup};
pub use name::{NameError, normal};
pub use private::Vpc;
pub use value::{ValueError, check};
