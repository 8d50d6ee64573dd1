//! Certificates of listeners. Whether one exists, ACM or IAM says.

use std::sync::Arc;

use ferrogate_api::elbv2::*;
use ferrogate_api::{ApiError, acm, iam};
use ferrogate_store::Txn;

use super::{listeners, page};
use crate::ElbService;
use crate::call::{Call, given};
use crate::errors::{configuration, invalid, refuse};

/// ELB user guides, "Quotas": certificates per balancer, the default ones not counted.
const CERTIFICATES_MAX: usize = 25;
/// IAM's own region.
const IAM_REGION: &str = "us-east-1";

/// Refuses what neither ACM nor IAM has.
pub(crate) async fn check_exists(call: &Call<'_>, arn: &str) -> Result<(), ApiError> {
    let missing = || ApiError::new("CertificateNotFound", format!("Certificate '{arn}' not found"));
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let &[_, _, service, region, account, resource] = parts.as_slice() else {
        return Err(ApiError::new("ValidationError", format!("Certificate ARN '{arn}' is not valid")));
    };
    if account != call.scope.account {
        return Err(missing());
    }
    let invoke = Arc::clone(&call.service.invoke);
    let caller = ElbService::caller(&call.scope);
    let found = match (service, region) {
        ("acm", region) if region == call.scope.region => {
            let request = acm::DescribeCertificateRequest { certificate_arn: Some(arn.to_owned()) };
            acm::Client::new(invoke, caller, region).describe_certificate(request).await.map(drop)
        }
        ("iam", "") => {
            let name = resource.rsplit('/').next().map(str::to_owned);
            let request = iam::GetServerCertificateRequest { server_certificate_name: name };
            iam::Client::new(invoke, caller, IAM_REGION).get_server_certificate(request).await.map(drop)
        }
        _ => return Err(missing()),
    };
    found.map_err(|error| match error.code.as_str() {
        "ResourceNotFoundException"
        | "NoSuchEntity"
        | "InvalidArnException"
        | "ValidationException"
        | "ValidationError" => missing(),
        _ => error,
    })
}

fn arns(given: Option<Vec<Certificate>>) -> Result<Vec<String>, ApiError> {
    let given = given.unwrap_or_default();
    refuse(&[("IsDefault", given.iter().any(|one| one.is_default.is_some()))])?;
    let arns: Vec<String> = given.into_iter().filter_map(|one| one.certificate_arn).collect();
    if arns.is_empty() {
        return Err(invalid("At least one certificate must be specified"));
    }
    Ok(arns)
}

pub(crate) async fn add(
    call: &Call<'_>,
    input: AddListenerCertificatesInput,
) -> Result<AddListenerCertificatesOutput, ApiError> {
    let arn = given(input.listener_arn);
    let wanted = arns(input.certificates)?;
    call.listener(&arn)?;
    for certificate in &wanted {
        check_exists(call, certificate).await?;
    }
    call.decide(|| {
        let mut record = call.listener(&arn)?;
        if !record.is_secure() {
            return Err(configuration(format!(
                "Certificates cannot be specified for a listener with protocol '{}'",
                record.protocol
            )));
        }
        let before = record.certificates.clone();
        for certificate in &wanted {
            if !record.certificates.contains(certificate) {
                record.certificates.push(certificate.clone());
            }
        }
        let of_balancer: usize = call
            .listeners(&record.balancer_id)
            .iter()
            .filter(|other| other.id != record.id)
            .map(|other| other.certificates.len().saturating_sub(1))
            .sum();
        if of_balancer + record.certificates.len() - 1 > CERTIFICATES_MAX {
            let message = format!("A load balancer can have at most '{CERTIFICATES_MAX}' certificates");
            return Err(ApiError::new("TooManyCertificates", message));
        }
        Ok((listeners::put(Txn::new(), &record, &before), ()))
    })
    .await?;
    let shape = |arn: String| Certificate { certificate_arn: Some(arn), is_default: Some(false) };
    Ok(AddListenerCertificatesOutput { certificates: Some(wanted.into_iter().map(shape).collect()) })
}

pub(crate) async fn remove(
    call: &Call<'_>,
    input: RemoveListenerCertificatesInput,
) -> Result<RemoveListenerCertificatesOutput, ApiError> {
    let arn = given(input.listener_arn);
    let gone = arns(input.certificates)?;
    call.decide(|| {
        let mut record = call.listener(&arn)?;
        let before = record.certificates.clone();
        if before.first().is_some_and(|default| gone.contains(default)) {
            return Err(ApiError::new(
                "OperationNotPermitted",
                "The default certificate cannot be removed; replace it with ModifyListener",
            ));
        }
        record.certificates.retain(|certificate| !gone.contains(certificate));
        Ok((listeners::put(Txn::new(), &record, &before), ()))
    })
    .await?;
    Ok(RemoveListenerCertificatesOutput {})
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeListenerCertificatesInput,
) -> Result<DescribeListenerCertificatesOutput, ApiError> {
    let record = call.listener(&given(input.listener_arn))?;
    let default = record.certificates.first().cloned();
    let mut all = record.certificates;
    all.sort();
    let (found, next_marker) = page(all, |arn| arn, input.marker.as_deref(), input.page_size)?;
    let shape = |arn: String| {
        let is_default = Some(Some(&arn) == default.as_ref());
        Certificate { certificate_arn: Some(arn), is_default }
    };
    Ok(DescribeListenerCertificatesOutput {
        certificates: Some(found.into_iter().map(shape).collect()),
        next_marker,
    })
}
