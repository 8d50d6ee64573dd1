//! DescribeParameters: what there is, without values.

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::range_json;

use crate::SsmService;
use crate::errors;
use crate::plan::filter::{self, Of};
use crate::state::{DATA_TYPE, ParameterRecord, parameters_prefix};

const PAGE_DEFAULT: usize = 10;
const PAGE_MAX: usize = 50;

pub(crate) async fn describe(
    service: &SsmService,
    cx: &Context,
    input: DescribeParametersRequest,
) -> Result<DescribeParametersResult, ApiError> {
    if input.shared == Some(true) {
        return Err(errors::unsupported("Shared"));
    }
    let filters = input.parameter_filters.unwrap_or_default();
    if input.filters.as_ref().is_some_and(|filters| !filters.is_empty()) {
        return Err(errors::validation("Ferrogate does not support Filters yet; use ParameterFilters."));
    }
    filter::check(Of::Describe, &filters)?;
    let found = range_json::<ParameterRecord>(&*service.store, &parameters_prefix(cx));
    let fitting = found.into_iter().map(|found| found.record).filter(|record| filter::fits(record, &filters));
    let limit = input.max_results.map_or(PAGE_DEFAULT, |limit| limit as usize).clamp(1, PAGE_MAX);
    let page = paginate(fitting, |record| &record.name, input.next_token.as_deref(), limit)
        .map_err(|_| errors::bad_token())?;
    let parameters = page.items.into_iter().filter_map(|record| shape(cx, record)).collect();
    Ok(DescribeParametersResult { parameters: Some(parameters), next_token: page.next_token })
}

fn shape(cx: &Context, record: ParameterRecord) -> Option<ParameterMetadata> {
    let (number, version) = record.newest()?;
    Some(ParameterMetadata {
        arn: Some(record.arn(cx)),
        r#type: Some(record.kind.clone()),
        key_id: record.key_id(),
        last_modified_date: Some(version.modified_at),
        last_modified_user: Some(version.modified_by.clone()),
        description: version.description.clone(),
        allowed_pattern: version.allowed_pattern.clone(),
        version: Some(number),
        tier: Some(version.tier.clone()),
        policies: Some(Vec::new()),
        data_type: Some(DATA_TYPE.into()),
        name: Some(record.name),
    })
}
