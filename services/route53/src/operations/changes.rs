//! GetChange: whether resolvers have it.

use ferrogate_api::route53::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::get_json;
use jiff::Timestamp;

use crate::state::{ChangeRecord, bare_id, change_key};
use crate::{Route53Service, errors};

pub(crate) async fn get(
    service: &Route53Service,
    cx: &Context,
    input: GetChangeRequest,
) -> Result<GetChangeResponse, ApiError> {
    let id = bare_id(input.id.as_deref().unwrap_or_default()).to_owned();
    let found = get_json::<ChangeRecord>(&*service.store, &change_key(&cx.account, &id))
        .ok_or_else(|| errors::no_change(&id))?;
    let in_sync = service.names.current().revision >= found.mod_revision;
    let info = shape(
        &id,
        if in_sync { "INSYNC" } else { "PENDING" },
        found.record.submitted_at,
        found.record.comment,
    );
    Ok(GetChangeResponse { change_info: Some(info) })
}

fn shape(id: &str, status: &str, submitted_at: Timestamp, comment: Option<String>) -> ChangeInfo {
    ChangeInfo {
        id: Some(format!("/change/{id}")),
        status: Some(status.to_owned()),
        submitted_at: Some(submitted_at),
        comment,
    }
}

/// Of a change that was committed just now.
pub(crate) fn submitted(cx: &Context, id: &str, comment: Option<String>) -> ChangeInfo {
    shape(id, "PENDING", cx.now, comment)
}
