//! Labels: names of versions that stay with them until they are moved.

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_store::update_json;

use crate::SsmService;
use crate::errors;
use crate::plan::rules;
use crate::state::{ParameterRecord, find};

const LABELS_MAX: usize = 10;

async fn change<T>(
    service: &SsmService,
    cx: &Context,
    name: Option<String>,
    mut change: impl FnMut(&mut ParameterRecord) -> Result<T, ApiError>,
) -> Result<Option<T>, ApiError> {
    let key = find(service, cx, name.as_deref().unwrap_or_default()).ok_or_else(errors::no_parameter)?.key;
    let mut answer = None;
    let changed = update_json(&*service.store, &key, |record: Option<ParameterRecord>| {
        let mut record = record.ok_or_else(errors::no_parameter)?;
        answer = Some(change(&mut record)?);
        Ok(Some(record))
    });
    changed.await.map_err(errors::update)?;
    Ok(answer)
}

pub(crate) async fn label(
    service: &SsmService,
    cx: &Context,
    input: LabelParameterVersionRequest,
) -> Result<LabelParameterVersionResult, ApiError> {
    let (valid, invalid): (Vec<String>, Vec<String>) =
        input.labels.unwrap_or_default().into_iter().partition(|label| rules::is_label(label));
    let number = change(service, cx, input.name, |record| {
        let newest = record.newest().map(|(number, _)| number).ok_or_else(errors::no_parameter)?;
        let number = input.parameter_version.unwrap_or(newest);
        if !record.versions.contains_key(&number) {
            return Err(errors::no_version(&number.to_string(), &record.name));
        }
        for version in record.versions.values_mut() {
            version.labels.retain(|label| !valid.contains(label));
        }
        let version = record.versions.get_mut(&number).ok_or_else(errors::no_parameter)?;
        version.labels.extend(valid.iter().cloned());
        if version.labels.len() > LABELS_MAX {
            let words = format!(
                "A parameter version can have maximum {LABELS_MAX} labels. Move one or more labels to another version and try again."
            );
            return Err(ApiError::new("ParameterVersionLabelLimitExceeded", words));
        }
        Ok(number)
    })
    .await?;
    Ok(LabelParameterVersionResult { invalid_labels: Some(invalid), parameter_version: number })
}

pub(crate) async fn unlabel(
    service: &SsmService,
    cx: &Context,
    input: UnlabelParameterVersionRequest,
) -> Result<UnlabelParameterVersionResult, ApiError> {
    let labels = input.labels.unwrap_or_default();
    let number = input.parameter_version.unwrap_or_default();
    let parted = change(service, cx, input.name, |record| {
        let no_version = errors::no_version(&number.to_string(), &record.name);
        let version = record.versions.get_mut(&number).ok_or(no_version)?;
        Ok(labels.iter().cloned().partition::<Vec<String>, _>(|label| version.labels.remove(label)))
    })
    .await?;
    let (removed, invalid) = parted.unwrap_or_default();
    Ok(UnlabelParameterVersionResult { removed_labels: Some(removed), invalid_labels: Some(invalid) })
}
