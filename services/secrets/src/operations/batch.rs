//! BatchGetSecretValue: each secret by a GetSecretValue of the caller's own, judged and recorded like any other.

use std::sync::Arc;

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Caller, Context};
use ferrogate_model::paginate;

use crate::SecretsService;
use crate::errors;
use crate::operations::listing;

const PAGE_MAX: usize = 20;

pub(crate) async fn get(
    service: &SecretsService,
    cx: &Context,
    input: BatchGetSecretValueRequest,
) -> Result<BatchGetSecretValueResponse, ApiError> {
    let filters = input.filters.unwrap_or_default();
    let (ids, next_token) = match (input.secret_id_list, filters.is_empty()) {
        (Some(_), false) => {
            return Err(errors::invalid_parameter(
                "You must specify either Filters or SecretIdList, but not both.",
            ));
        }
        (None, true) => {
            return Err(errors::invalid_parameter("You must specify either Filters or SecretIdList."));
        }
        (Some(_), true) if input.max_results.is_some() || input.next_token.is_some() => {
            return Err(errors::invalid_parameter(
                "MaxResults and NextToken go with Filters, not with SecretIdList.",
            ));
        }
        (Some(ids), true) => (ids, None),
        (None, false) => {
            let mut found = listing::matching(service, cx, &filters, false)?;
            found.sort_by(|left, right| left.name.cmp(&right.name));
            let limit = input.max_results.map_or(PAGE_MAX, |limit| limit as usize).clamp(1, PAGE_MAX);
            let page = paginate(found, |record| &record.name, input.next_token.as_deref(), limit)
                .map_err(|_| errors::bad_token())?;
            (page.items.into_iter().map(|record| record.arn(cx)).collect(), page.next_token)
        }
    };
    let caller = Caller::Forward(Arc::clone(&cx.principal));
    let client = Client::new(Arc::clone(&service.invoke), caller, &cx.region);
    let (mut secret_values, mut failed) = (Vec::new(), Vec::new());
    for id in ids {
        let request = GetSecretValueRequest { secret_id: Some(id.clone()), ..Default::default() };
        match client.get_secret_value(request).await {
            Ok(value) => secret_values.push(SecretValueEntry {
                arn: value.arn,
                name: value.name,
                version_id: value.version_id,
                secret_binary: value.secret_binary,
                secret_string: value.secret_string,
                version_stages: value.version_stages,
                created_date: value.created_date,
            }),
            Err(error) => failed.push(APIErrorType {
                secret_id: Some(id),
                error_code: Some(error.code),
                message: Some(error.message),
            }),
        }
    }
    Ok(BatchGetSecretValueResponse { secret_values: Some(secret_values), errors: Some(failed), next_token })
}
