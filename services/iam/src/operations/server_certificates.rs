//! Server certificates, for the listeners of load balancers.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_certificate::CertificateError;
use ferrogate_model::unique_id;
use ferrogate_nodeapi::Certificate;
use ferrogate_store::{Txn, get_json, range_json};

use super::{conflict, exists, given, no_such, page, store, tag_list, tag_map};
use crate::IamService;
use crate::state::{ServerCertificateRecord, key, prefix};

const KIND: &str = "server-certificate";
/// IAM user guide, "IAM and AWS STS quotas".
const CERTIFICATES_MAX: usize = 20;

fn no_certificate(name: &str) -> ApiError {
    no_such(format!("The Server Certificate with name {name} cannot be found."))
}

/// What a private key is sealed for: a new name or path changes nothing about it.
fn place(id: &str) -> String {
    format!("server-certificate/{id}")
}

fn refused(error: &CertificateError) -> ApiError {
    match error {
        CertificateError::KeyMismatch | CertificateError::KeyNotPem | CertificateError::KeyUnsupported => {
            ApiError::new("KeyPairMismatch", format!("Invalid Private Key: {error}."))
        }
        CertificateError::ChainBroken(_)
        | CertificateError::ChainTooLong { .. }
        | CertificateError::ChainNotPem => ApiError::new(
            "MalformedCertificate",
            format!(
                "Unable to validate certificate chain. The certificate chain must start with the immediate signing \
                     certificate, followed by any intermediaries in order: {error}."
            ),
        ),
        _ => ApiError::new(
            "MalformedCertificate",
            format!(
                "Unable to parse certificate. Please ensure the certificate is in PEM format and valid: {error}."
            ),
        ),
    }
}

impl IamService {
    fn certificate_record(&self, name: &str) -> Result<ServerCertificateRecord, ApiError> {
        let found = get_json(store(self), &key(&self.account, KIND, name));
        found.map(|found| found.record).ok_or_else(|| no_certificate(name))
    }

    /// A server certificate with its chain and key, in PEM; `None`: there is none of that ARN.
    pub fn server_certificate(&self, arn: &str) -> Option<Certificate> {
        let record = self.certificate_record(arn.rsplit('/').next()?).ok()?;
        if record.arn(&self.account) != arn {
            return None;
        }
        let sealed = self.sealer.unseal(&record.private_key, &place(&record.id));
        let opened =
            sealed.inspect_err(|error| tracing::error!(%error, arn, "a private key cannot be opened"));
        let chain = record.chain.unwrap_or_default();
        Some(Certificate {
            chain_pem: format!("{}\n{chain}", record.certificate.trim_end()),
            private_key_pem: String::from_utf8(opened.ok()?).ok()?,
        })
    }

    /// Listeners that use it say so below this prefix (`services/elb`, state.rs).
    fn check_unused(&self, record: &ServerCertificateRecord) -> Result<(), ApiError> {
        let uses =
            store(self).range_from(&format!("/certificate-use/{}/", record.arn(&self.account)), None, 1);
        let Some(first) = uses.first() else { return Ok(()) };
        let balancer = String::from_utf8_lossy(&first.value);
        Err(conflict(format!(
            "Certificate: {} is currently in use by {balancer}. Please remove it first before deleting it from IAM.",
            record.id
        )))
    }

    pub(crate) async fn upload_server_certificate(
        &self,
        cx: &Context,
        input: UploadServerCertificateRequest,
    ) -> Result<UploadServerCertificateResponse, ApiError> {
        let name = given(input.server_certificate_name);
        let (certificate, private_key) = (given(input.certificate_body), given(input.private_key));
        let chain = input.certificate_chain.filter(|chain| !chain.is_empty());
        let bytes = chain.as_deref().map(str::as_bytes);
        let facts =
            ferrogate_certificate::check(certificate.as_bytes(), bytes, private_key.as_bytes(), cx.now)
                .map_err(|error| refused(&error))?;
        let id = unique_id("ASCA");
        let record = ServerCertificateRecord {
            name: name.clone(),
            path: input.path.unwrap_or_else(|| "/".into()),
            private_key: self.sealer.seal(private_key.as_bytes(), &place(&id)),
            id,
            certificate,
            chain,
            uploaded: cx.now,
            expires: facts.not_after,
            tags: tag_map(input.tags)?,
        };
        let at = key(&self.account, KIND, &name);
        self.transact(|| {
            if self.certificate_record(&name).is_ok() {
                return Err(exists(format!("The Server Certificate with name {name} already exists.")));
            }
            self.within_quota(KIND, "ServerCertificatesPerAccount", CERTIFICATES_MAX)?;
            Ok((Txn::new().when_absent(at.as_str()).put_json(at.as_str(), &record), ()))
        })
        .await?;
        Ok(UploadServerCertificateResponse {
            tags: tag_list(&record.tags),
            server_certificate_metadata: Some(metadata(&self.account, &record)),
        })
    }

    pub(crate) async fn get_server_certificate(
        &self,
        _: &Context,
        input: GetServerCertificateRequest,
    ) -> Result<GetServerCertificateResponse, ApiError> {
        let record = self.certificate_record(&given(input.server_certificate_name))?;
        let certificate = ServerCertificate {
            server_certificate_metadata: Some(metadata(&self.account, &record)),
            certificate_body: Some(record.certificate),
            certificate_chain: record.chain,
            tags: tag_list(&record.tags),
        };
        Ok(GetServerCertificateResponse { server_certificate: Some(certificate) })
    }

    pub(crate) async fn list_server_certificates(
        &self,
        _: &Context,
        input: ListServerCertificatesRequest,
    ) -> Result<ListServerCertificatesResponse, ApiError> {
        let below = input.path_prefix.unwrap_or_else(|| "/".into());
        let all = range_json::<ServerCertificateRecord>(store(self), &prefix(&self.account, KIND));
        let all = all.into_iter().filter(|found| found.record.path.starts_with(&below));
        let (found, is_truncated, marker) =
            page(all, |found| &*found.key, input.marker.as_deref(), input.max_items)?;
        let list = found.iter().map(|found| metadata(&self.account, &found.record)).collect();
        Ok(ListServerCertificatesResponse {
            server_certificate_metadata_list: Some(list),
            is_truncated,
            marker,
        })
    }

    /// A new name or path is a new ARN: what a listener uses keeps its own.
    pub(crate) async fn update_server_certificate(
        &self,
        _: &Context,
        input: UpdateServerCertificateRequest,
    ) -> Result<UpdateServerCertificateNoOutput, ApiError> {
        let name = given(input.server_certificate_name);
        let old = key(&self.account, KIND, &name);
        self.transact(|| {
            let found = get_json::<ServerCertificateRecord>(store(self), &old)
                .ok_or_else(|| no_certificate(&name))?;
            let mut record = found.record;
            self.check_unused(&record)?;
            record.path = input.new_path.clone().unwrap_or(record.path);
            record.name = input.new_server_certificate_name.clone().unwrap_or(record.name);
            let new = key(&self.account, KIND, &record.name);
            let mut txn = Txn::new().when_revision(old.as_str(), found.mod_revision);
            if new != old {
                if self.certificate_record(&record.name).is_ok() {
                    let message = format!("The Server Certificate with name {} already exists.", record.name);
                    return Err(exists(message));
                }
                txn = txn.when_absent(new.as_str()).delete(old.as_str());
            }
            Ok((txn.put_json(new, &record), ()))
        })
        .await?;
        Ok(UpdateServerCertificateNoOutput {})
    }

    pub(crate) async fn delete_server_certificate(
        &self,
        _: &Context,
        input: DeleteServerCertificateRequest,
    ) -> Result<DeleteServerCertificateNoOutput, ApiError> {
        let name = given(input.server_certificate_name);
        self.transact(|| {
            let record = self.certificate_record(&name)?;
            self.check_unused(&record)?;
            Ok((Txn::new().delete(key(&self.account, KIND, &name)), ()))
        })
        .await?;
        Ok(DeleteServerCertificateNoOutput {})
    }
}

fn metadata(account: &str, record: &ServerCertificateRecord) -> ServerCertificateMetadata {
    ServerCertificateMetadata {
        path: Some(record.path.clone()),
        server_certificate_name: Some(record.name.clone()),
        server_certificate_id: Some(record.id.clone()),
        arn: Some(record.arn(account)),
        upload_date: Some(record.uploaded),
        expiration: Some(record.expires),
    }
}
