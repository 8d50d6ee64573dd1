//! How operations are coming along.

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::{get_json, range_json};

use super::{own_account, page_size, satisfies};
use crate::state::{OperationRecord, Scope, bare_id};
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
    let mut found: Vec<OperationRecord> = found.into_iter().map(|found| found.record).collect();
    for filter in input.filters.unwrap_or_default() {
        let values: Vec<String> =
            filter.values.unwrap_or_default().iter().map(|value| bare_id(value).to_owned()).collect();
        let mut kept = Vec::new();
        for record in found {
            let value = match filter.name.as_deref() {
                Some("NAMESPACE_ID") => record.targets.get("NAMESPACE").cloned().unwrap_or_default(),
                Some("SERVICE_ID") => record.targets.get("SERVICE").cloned().unwrap_or_default(),
                Some("STATUS") => record.status.clone(),
                Some("TYPE") => record.kind.clone(),
                Some("UPDATE_DATE") => return Err(errors::unsupported("the filter UPDATE_DATE")),
                _ => {
                    return Err(errors::invalid_input(
                        "A filter's Name is NAMESPACE_ID, SERVICE_ID, STATUS, TYPE or UPDATE_DATE.",
                    ));
                }
            };
            if satisfies(&value, &values, filter.condition.as_deref())? {
                kept.push(record);
            }
        }
        found = kept;
    }
    let page =
        paginate(found, |record| &record.id, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let summary =
        |record: OperationRecord| OperationSummary { id: Some(record.id), status: Some(record.status) };
    let operations = page.items.into_iter().map(summary).collect();
    Ok(ListOperationsResponse { operations: Some(operations), next_token: page.next_token })
}
