//! How operations are coming along.

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::{get_json, range_json};

use super::{filtered, filters, own_account, page_size};
use crate::state::{OperationRecord, Scope};
use crate::{DiscoveryService, errors};

pub(crate) async fn get(
    service: &DiscoveryService,
    cx: &Context,
    input: GetOperationRequest,
) -> Result<GetOperationResponse, ApiError> {
    own_account(cx, input.owner_account.as_deref())?;
    let id = input.operation_id.unwrap_or_default();
    let record = get_json::<OperationRecord>(service.store(), &Scope::of(cx).operation(&id))
        .ok_or_else(|| errors::no_operation(&id))?
        .record;
    let operation = Operation {
        id: Some(record.id),
        owner_account: Some(cx.account.clone()),
        r#type: Some(record.kind),
        status: Some(record.status),
        error_message: record.error_message,
        error_code: record.error_code,
        create_date: Some(record.created_at),
        update_date: Some(record.updated_at),
        targets: Some(record.targets),
    };
    Ok(GetOperationResponse { operation: Some(operation) })
}

pub(crate) async fn list(
    service: &DiscoveryService,
    cx: &Context,
    input: ListOperationsRequest,
) -> Result<ListOperationsResponse, ApiError> {
    let scope = Scope::of(cx);
    let found = range_json::<OperationRecord>(service.store(), &scope.operations());
    let found = found.into_iter().map(|found| found.record).collect();
    let found = filtered(found, filters!(input), |record: &OperationRecord, name| {
        let target = |kind: &str| record.targets.get(kind).cloned().unwrap_or_default();
        Some(match name {
            "NAMESPACE_ID" => target("NAMESPACE"),
            "SERVICE_ID" => target("SERVICE"),
            "STATUS" => record.status.clone(),
            "TYPE" => record.kind.clone(),
            "UPDATE_DATE" => record.updated_at.as_duration().as_secs_f64().to_string(),
            _ => return None,
        })
    })?;
    let page =
        paginate(found, |record| &record.id, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let summary =
        |record: OperationRecord| OperationSummary { id: Some(record.id), status: Some(record.status) };
    let operations = page.items.into_iter().map(summary).collect();
    Ok(ListOperationsResponse { operations: Some(operations), next_token: page.next_token })
}
