//! What every AWS service shares: ids, ARNs, pages, wildcards, the clock. No I/O.

mod arn;
mod clock;
mod id;
mod page;
mod wildcard;

pub use arn::{Arn, ArnError};
pub use clock::{Clock, ManualClock, SystemClock};
pub use id::{digits, hex_id, mac_address, resource_id, unique_id};
pub use page::{BadToken, Page, paginate};
pub use wildcard::wildcard_match;
