//! Parameters with their values.

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::range_json;

use crate::SsmService;
use crate::errors;
use crate::plan::filter::{self, Of};
use crate::plan::rules;
use crate::state::{self, Chosen, DATA_TYPE, ParameterRecord, choose, find, parameters_prefix};

const BY_PATH_MAX: usize = 10;
const HISTORY_MAX: usize = 50;

/// `None`: it has been deleted meanwhile.
fn shape(
    service: &SsmService,
    cx: &Context,
    chosen: &Chosen,
    decrypted: bool,
) -> Result<Option<Parameter>, ApiError> {
    let record = &chosen.record;
    let Some(value) = state::value(service, cx, record, chosen.version, decrypted)? else { return Ok(None) };
    Ok(Some(Parameter {
        name: Some(record.name.clone()),
        r#type: Some(record.kind.clone()),
        value: Some(value),
        version: Some(chosen.version),
        selector: chosen.selector.clone(),
        source_result: None,
        last_modified_date: record.versions.get(&chosen.version).map(|version| version.modified_at),
        arn: Some(record.arn(cx)),
        data_type: Some(DATA_TYPE.into()),
    }))
}

pub(crate) async fn one(
    service: &SsmService,
    cx: &Context,
    input: GetParameterRequest,
) -> Result<GetParameterResult, ApiError> {
    let chosen = choose(service, cx, input.name.as_deref().unwrap_or_default())?;
    let parameter = shape(service, cx, &chosen, input.with_decryption == Some(true))?;
    Ok(GetParameterResult { parameter: Some(parameter.ok_or_else(errors::no_parameter)?) })
}

pub(crate) async fn many(
    service: &SsmService,
    cx: &Context,
    input: GetParametersRequest,
) -> Result<GetParametersResult, ApiError> {
    let names = input.names.unwrap_or_default();
    let (mut parameters, mut invalid) = (Vec::new(), Vec::new());
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            continue;
        }
        let found = match choose(service, cx, name) {
            Ok(chosen) => shape(service, cx, &chosen, input.with_decryption == Some(true))?,
            Err(_) => None,
        };
        match found {
            Some(parameter) => parameters.push(parameter),
            None => invalid.push(name.clone()),
        }
    }
    Ok(GetParametersResult { parameters: Some(parameters), invalid_parameters: Some(invalid) })
}

pub(crate) async fn by_path(
    service: &SsmService,
    cx: &Context,
    input: GetParametersByPathRequest,
) -> Result<GetParametersByPathResult, ApiError> {
    let path = input.path.unwrap_or_default();
    rules::path(&path)?;
    let filters = input.parameter_filters.unwrap_or_default();
    filter::check(Of::ByPath, &filters)?;
    let recursive = input.recursive == Some(true);
    let found = range_json::<ParameterRecord>(&*service.store, &parameters_prefix(cx));
    let found = found.into_iter().map(|found| found.record);
    let fitting = found
        .filter(|record| filter::is_below(&record.name, &path, recursive) && filter::fits(record, &filters));
    let limit = input.max_results.map_or(BY_PATH_MAX, |limit| limit as usize).clamp(1, BY_PATH_MAX);
    let page = paginate(fitting, |record| &record.name, input.next_token.as_deref(), limit)
        .map_err(|_| errors::bad_token())?;
    let mut parameters = Vec::with_capacity(page.items.len());
    for record in page.items {
        let Some((version, _)) = record.newest() else { continue };
        let chosen = Chosen { record, version, selector: None };
        parameters.extend(shape(service, cx, &chosen, input.with_decryption == Some(true))?);
    }
    Ok(GetParametersByPathResult { parameters: Some(parameters), next_token: page.next_token })
}

pub(crate) async fn history(
    service: &SsmService,
    cx: &Context,
    input: GetParameterHistoryRequest,
) -> Result<GetParameterHistoryResult, ApiError> {
    let record =
        find(service, cx, input.name.as_deref().unwrap_or_default()).ok_or_else(errors::no_parameter)?.record;
    let decrypted = input.with_decryption == Some(true);
    let numbered: Vec<(String, i64)> =
        record.versions.keys().map(|number| (format!("{number:020}"), *number)).collect();
    let limit = input.max_results.map_or(HISTORY_MAX, |limit| limit as usize).clamp(1, HISTORY_MAX);
    let page = paginate(numbered, |(key, _)| key, input.next_token.as_deref(), limit)
        .map_err(|_| errors::bad_token())?;
    let mut parameters = Vec::with_capacity(page.items.len());
    for (_, number) in page.items {
        let Some(version) = record.versions.get(&number) else { continue };
        let Some(value) = state::value(service, cx, &record, number, decrypted)? else { continue };
        parameters.push(ParameterHistory {
            name: Some(record.name.clone()),
            r#type: Some(record.kind.clone()),
            key_id: record.key_id(),
            last_modified_date: Some(version.modified_at),
            last_modified_user: Some(version.modified_by.clone()),
            description: version.description.clone(),
            value: Some(value),
            allowed_pattern: version.allowed_pattern.clone(),
            version: Some(number),
            labels: Some(version.labels.iter().cloned().collect()),
            tier: Some(version.tier.clone()),
            policies: Some(Vec::new()),
            data_type: Some(DATA_TYPE.into()),
        });
    }
    Ok(GetParameterHistoryResult { parameters: Some(parameters), next_token: page.next_token })
}
