//! DeleteParameter and DeleteParameters.

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::Txn;

use crate::SsmService;
use crate::errors;
use crate::state::{find, values_prefix};

/// Whether it was there.
async fn delete(service: &SsmService, cx: &Context, name: &str) -> Result<bool, ApiError> {
    while let Some(found) = find(service, cx, name) {
        let txn = Txn::new()
            .when_revision(&*found.key, found.mod_revision)
            .delete(&*found.key)
            .delete_prefix(values_prefix(cx, &found.record));
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) async fn one(
    service: &SsmService,
    cx: &Context,
    input: DeleteParameterRequest,
) -> Result<DeleteParameterResult, ApiError> {
    if delete(service, cx, input.name.as_deref().unwrap_or_default()).await? {
        Ok(DeleteParameterResult::default())
    } else {
        Err(errors::no_parameter())
    }
}

pub(crate) async fn many(
    service: &SsmService,
    cx: &Context,
    input: DeleteParametersRequest,
) -> Result<DeleteParametersResult, ApiError> {
    let (mut deleted, mut invalid) = (Vec::new(), Vec::new());
    for name in input.names.unwrap_or_default() {
        if delete(service, cx, &name).await? {
            deleted.push(name);
        } else if !deleted.contains(&name) {
            invalid.push(name);
        }
    }
    Ok(DeleteParametersResult { deleted_parameters: Some(deleted), invalid_parameters: Some(invalid) })
}
