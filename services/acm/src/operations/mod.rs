//! The operations, one file per resource.

mod certificates;
mod tags;

use ferrogate_api::acm::*;
use ferrogate_api::{ApiError, Context, Demand, Value};
use ferrogate_store::get_json;

use crate::errors::{invalid_arn, not_found};
use crate::state::{self, CertificateRecord};
use crate::{AcmService, demands};

/// The key of a certificate of the caller's, in the region that was called.
fn key(cx: &Context, arn: &str) -> Result<String, ApiError> {
    let key = state::key_of(arn).ok_or_else(|| invalid_arn(arn))?;
    if key.starts_with(&state::prefix(&cx.account, &cx.region)) { Ok(key) } else { Err(not_found(arn)) }
}

impl AcmService {
    pub(crate) fn record(&self, cx: &Context, arn: &str) -> Result<CertificateRecord, ApiError> {
        let found = get_json(&*self.store, &key(cx, arn)?);
        found.map(|found| found.record).ok_or_else(|| not_found(arn))
    }
}

macro_rules! operations {
    ($($method:ident($input:ty) -> $output:ty = $module:ident :: $function:ident;)*) => {
        impl Acm for AcmService {
            fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
                demands::of(self, cx, operation, input)
            }

            $(async fn $method(&self, cx: &Context, input: $input) -> Result<$output, ApiError> {
                $module::$function(self, cx, input).await
            })*
        }
    };
}

operations! {
    add_tags_to_certificate(AddTagsToCertificateRequest) -> AddTagsToCertificateNoOutput = tags::add;
    delete_certificate(DeleteCertificateRequest) -> DeleteCertificateNoOutput = certificates::delete;
    describe_certificate(DescribeCertificateRequest) -> DescribeCertificateResponse = certificates::describe;
    get_certificate(GetCertificateRequest) -> GetCertificateResponse = certificates::get;
    import_certificate(ImportCertificateRequest) -> ImportCertificateResponse = certificates::import;
    list_certificates(ListCertificatesRequest) -> ListCertificatesResponse = certificates::list;
    list_tags_for_certificate(ListTagsForCertificateRequest) -> ListTagsForCertificateResponse = tags::list;
    remove_tags_from_certificate(RemoveTagsFromCertificateRequest) -> RemoveTagsFromCertificateNoOutput = tags::remove;
}
