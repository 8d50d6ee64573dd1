//! What the agent and a balancer's process say to each other, over one unix socket.
//!
//! ```text
//!   agent                                        ferrogate-edge
//!     │ ── Hello ───────────────────────────────▶ │   versions must be the same
//!     │ ◀─────────────────────────────── Hello ── │   which configuration is in force
//!     │ ── Configure ───────────────────────────▶ │   the whole of it, with certificates; as often as it changes
//!     │ ◀───────────────────── Report, Lines ──── │   one of each under way
//!     │ ── Answer ──────────────────────────────▶ │   what was not taken is sent again
//! ```
//!
//! A message is four bytes of length, big endian, and so many bytes of JSON. Neither side waits for the other without an
//! end: who does not read for [`SEND_PATIENCE`] or says what is no message loses the connection, and nothing
//! else. The newest connection is the agent's; an older one is closed. The socket's folder is root's alone.

mod confine;
mod frame;
mod link;
mod listeners;
mod log;
mod message;
mod process;
mod server;

pub use confine::{Arguments, ConfineError, confine};
pub use frame::{Decoder, FRAME_BYTES_MAX, FrameError, encode};
pub use link::{Link, LinkError, SEND_PATIENCE};
pub use log::Log;
pub use message::{Configuration, FromEdge, ToEdge, VERSION};
pub use process::Process;
pub use server::{Governed, serve};
