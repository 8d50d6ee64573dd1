//! Certificates.

use ferrogate_api::acm::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::{Arn, paginate};
use ferrogate_store::{Txn, range_json, update_json};

use super::{key, tags};
use crate::AcmService;
use crate::errors::{failed, from_check, not_found, refused, unsupported, validation};
use crate::state::{self, CertificateRecord, in_use_by};

/// ACM user guide, "Quotas": imported certificates.
const CERTIFICATES_MAX: usize = 2500;
/// ACM API reference, ListCertificates.
const PAGE_MAX: usize = 1000;
const SUMMARY_NAMES_MAX: usize = 100;

/// A version 4 UUID, as ACM's ids are.
fn new_id() -> String {
    let hex = ferrogate_model::hex_id();
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

pub(super) async fn import(
    service: &AcmService,
    cx: &Context,
    input: ImportCertificateRequest,
) -> Result<ImportCertificateResponse, ApiError> {
    let again = input.certificate_arn.is_some();
    if again && input.tags.as_ref().is_some_and(|tags| !tags.is_empty()) {
        return Err(validation("Tagging is not permitted on re-import."));
    }
    let arn = match input.certificate_arn {
        Some(arn) => arn,
        None => Arn::new("acm", &cx.region, &cx.account, format!("certificate/{}", new_id())).to_string(),
    };
    let at = key(cx, &arn)?;
    let certificate = input.certificate.unwrap_or_default();
    let private_key = input.private_key.unwrap_or_default();
    let chain = input.certificate_chain.filter(|chain| !chain.is_empty());
    let facts = ferrogate_certificate::check(&certificate, chain.as_deref(), &private_key, cx.now)
        .map_err(|error| from_check(&error))?;
    let text =
        |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| validation("The certificate is not PEM."));
    let mut names = facts.names.clone();
    if names.is_empty() {
        names.push(facts.domain_name());
    }
    let mut record = CertificateRecord {
        private_key: service.sealer.seal(&private_key, &state::place(&arn)),
        certificate: text(certificate)?,
        chain: chain.map(text).transpose()?,
        created: cx.now,
        imported: cx.now,
        domain_name: facts.domain_name(),
        names,
        subject: facts.subject,
        issuer: facts.issuer,
        serial: facts.serial,
        not_before: facts.not_before,
        not_after: facts.not_after,
        key_algorithm: facts.key_algorithm,
        signature_algorithm: facts.signature_algorithm,
        key_usages: facts.key_usages.into_iter().map(str::to_owned).collect(),
        extended_key_usages: facts
            .extended_key_usages
            .into_iter()
            .map(|(name, oid)| (name.to_owned(), oid))
            .collect(),
        tags: Default::default(),
        arn,
    };
    tags::add_to(&mut record.tags, input.tags)?;
    if !again && service.store.range(&state::prefix(&cx.account, &cx.region)).len() >= CERTIFICATES_MAX {
        let message = format!("You have reached the maximum number of certificates: {CERTIFICATES_MAX}.");
        return Err(ApiError::new("LimitExceededException", message));
    }
    let written = update_json(&*service.store, &at, |found: Option<CertificateRecord>| {
        let mut record = record.clone();
        if let Some(before) = found {
            if before.key_algorithm != record.key_algorithm {
                return Err(validation(format!(
                    "The key algorithm of a certificate cannot be changed on re-import: it is {}.",
                    before.key_algorithm
                )));
            }
            record.created = before.created;
            record.tags = before.tags;
        } else if again {
            return Err(not_found(&record.arn));
        }
        Ok(Some(record))
    });
    written.await.map_err(refused)?;
    Ok(ImportCertificateResponse { certificate_arn: Some(record.arn) })
}

/// `EXPIRED` once it is.
fn status(cx: &Context, record: &CertificateRecord) -> &'static str {
    if record.not_after < cx.now { "EXPIRED" } else { "ISSUED" }
}

/// As ACM writes it in Describe: `EC_prime256v1`, `RSA-2048`.
fn key_algorithm(record: &CertificateRecord) -> String {
    record.key_algorithm.clone()
}

pub(super) async fn describe(
    service: &AcmService,
    cx: &Context,
    input: DescribeCertificateRequest,
) -> Result<DescribeCertificateResponse, ApiError> {
    let record = service.record(cx, &input.certificate_arn.unwrap_or_default())?;
    let usage = |name: &String| KeyUsage { name: Some(name.clone()) };
    let extended = |(name, oid): &(String, String)| ExtendedKeyUsage {
        name: Some(name.clone()),
        oid: Some(oid.clone()),
    };
    let detail = CertificateDetail {
        status: Some(status(cx, &record).into()),
        key_algorithm: Some(key_algorithm(&record)),
        in_use_by: Some(in_use_by(&*service.store, &record.arn)),
        key_usages: Some(record.key_usages.iter().map(usage).collect()),
        extended_key_usages: Some(record.extended_key_usages.iter().map(extended).collect()),
        certificate_arn: Some(record.arn),
        domain_name: Some(record.domain_name),
        subject_alternative_names: Some(record.names),
        serial: Some(record.serial),
        subject: Some(record.subject),
        issuer: Some(record.issuer),
        created_at: Some(record.created),
        imported_at: Some(record.imported),
        not_before: Some(record.not_before),
        not_after: Some(record.not_after),
        signature_algorithm: Some(record.signature_algorithm),
        r#type: Some("IMPORTED".into()),
        renewal_eligibility: Some("INELIGIBLE".into()),
        options: Some(CertificateOptions {
            certificate_transparency_logging_preference: Some("DISABLED".into()),
            export: Some("DISABLED".into()),
            ..CertificateOptions::default()
        }),
        ..CertificateDetail::default()
    };
    Ok(DescribeCertificateResponse { certificate: Some(detail) })
}

pub(super) async fn get(
    service: &AcmService,
    cx: &Context,
    input: GetCertificateRequest,
) -> Result<GetCertificateResponse, ApiError> {
    let record = service.record(cx, &input.certificate_arn.unwrap_or_default())?;
    Ok(GetCertificateResponse { certificate: Some(record.certificate), certificate_chain: record.chain })
}

pub(super) async fn list(
    service: &AcmService,
    cx: &Context,
    input: ListCertificatesRequest,
) -> Result<ListCertificatesResponse, ApiError> {
    if input.certificate_key_pair_origins.is_some() {
        return Err(unsupported("the parameter CertificateKeyPairOrigins"));
    }
    let filters = input.includes.unwrap_or_default();
    if filters.export_option.is_some() || filters.managed_by.is_some() {
        return Err(unsupported("the filters exportOption and managedBy"));
    }
    let prefix = state::prefix(&cx.account, &cx.region);
    let mut records: Vec<CertificateRecord> = range_json::<CertificateRecord>(&*service.store, &prefix)
        .into_iter()
        .map(|found| found.record)
        .collect();
    let fits = |wanted: &Option<Vec<String>>, has: &dyn Fn(&str) -> bool| {
        wanted.as_ref().is_none_or(|wanted| wanted.is_empty() || wanted.iter().any(|one| has(one)))
    };
    records.retain(|record| {
        fits(&input.certificate_statuses, &|one| status(cx, record) == one)
            && fits(&filters.key_usage, &|one| one == "ANY" || record.key_usages.iter().any(|own| own == one))
            && fits(&filters.extended_key_usage, &|one| {
                record.extended_key_usages.iter().any(|(own, _)| own == one)
            })
            && fits(&filters.key_types, &|one| one.replace('_', "-") == record.key_algorithm)
    });
    // By ARN, unless by time: a page goes on after a key, so time is its beginning.
    let by_time = input.sort_by.is_some();
    let key = |record: &CertificateRecord| match by_time {
        true => format!("{:020}/{}", record.created.as_microsecond(), record.arn),
        false => record.arn.clone(),
    };
    let mut keyed: Vec<(String, CertificateRecord)> =
        records.into_iter().map(|record| (key(&record), record)).collect();
    if input.sort_order.as_deref() == Some("DESCENDING") {
        let flip = |key: &str| key.bytes().map(|byte| char::from(0x7f - (byte & 0x7f))).collect::<String>();
        keyed.iter_mut().for_each(|(key, _)| *key = flip(key));
    }
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    let limit = usize::try_from(input.max_items.unwrap_or(PAGE_MAX as i32)).unwrap_or(1).clamp(1, PAGE_MAX);
    let page = paginate(keyed, |(key, _)| key, input.next_token.as_deref(), limit)
        .map_err(|_| ApiError::new("InvalidArgsException", "The next token is not valid."))?;
    let summaries = page.items.into_iter().map(|(_, record)| summary(service, cx, record)).collect();
    Ok(ListCertificatesResponse { next_token: page.next_token, certificate_summary_list: Some(summaries) })
}

fn summary(service: &AcmService, cx: &Context, record: CertificateRecord) -> CertificateSummary {
    CertificateSummary {
        status: Some(status(cx, &record).into()),
        key_algorithm: Some(key_algorithm(&record)),
        in_use: Some(!in_use_by(&*service.store, &record.arn).is_empty()),
        has_additional_subject_alternative_names: Some(record.names.len() > SUMMARY_NAMES_MAX),
        subject_alternative_name_summaries: Some(record.names.into_iter().take(SUMMARY_NAMES_MAX).collect()),
        certificate_arn: Some(record.arn),
        domain_name: Some(record.domain_name),
        r#type: Some("IMPORTED".into()),
        key_usages: Some(record.key_usages),
        extended_key_usages: Some(record.extended_key_usages.into_iter().map(|(name, _)| name).collect()),
        export_option: Some("DISABLED".into()),
        exported: Some(false),
        renewal_eligibility: Some("INELIGIBLE".into()),
        not_before: Some(record.not_before),
        not_after: Some(record.not_after),
        created_at: Some(record.created),
        imported_at: Some(record.imported),
        ..CertificateSummary::default()
    }
}

pub(super) async fn delete(
    service: &AcmService,
    cx: &Context,
    input: DeleteCertificateRequest,
) -> Result<DeleteCertificateNoOutput, ApiError> {
    let record = service.record(cx, &input.certificate_arn.unwrap_or_default())?;
    if !in_use_by(&*service.store, &record.arn).is_empty() {
        let message = format!("Certificate {} in account {} is in use.", record.arn, cx.account);
        return Err(ApiError::new("ResourceInUseException", message));
    }
    service.store.txn(Txn::new().delete(key(cx, &record.arn)?)).await.map_err(failed)?;
    Ok(DeleteCertificateNoOutput {})
}
