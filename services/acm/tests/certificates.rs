//! ACM through its API trait.

use std::sync::Arc;

use ferrogate_acm::AcmService;
use ferrogate_api::acm::*;
use ferrogate_api::{Context, Principal, PrincipalKind};
use ferrogate_store::{MemoryStore, Sealer, Store, Txn};

const LEAF: &[u8] = include_bytes!("../../../crates/certificate/testdata/leaf.pem");
const CA: &[u8] = include_bytes!("../../../crates/certificate/testdata/ca.pem");
const KEY: &[u8] = include_bytes!("../../../crates/certificate/testdata/leaf.key");
const RSA: &[u8] = include_bytes!("../../../crates/certificate/testdata/rsa.pem");
const RSA_KEY: &[u8] = include_bytes!("../../../crates/certificate/testdata/rsa.key");

fn cx() -> Context {
    Context {
        account: "123456789012".into(),
        region: "us-east-1".into(),
        request_id: "test".into(),
        principal: Arc::new(Principal {
            arn: "arn:aws:iam::123456789012:user/alice".into(),
            account: "123456789012".into(),
            user_id: "AIDAEXAMPLE".into(),
            kind: PrincipalKind::User { name: "alice".into() },
            tags: Vec::new(),
        }),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now: "2027-01-01T00:00:00Z".parse().unwrap(),
    }
}

fn service() -> (Arc<dyn Store>, AcmService) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    (Arc::clone(&store), AcmService::new(store, Arc::new(Sealer::ephemeral())))
}

fn import(certificate: &[u8], key: &[u8], chain: Option<&[u8]>) -> ImportCertificateRequest {
    ImportCertificateRequest {
        certificate: Some(certificate.to_vec()),
        private_key: Some(key.to_vec()),
        certificate_chain: chain.map(<[u8]>::to_vec),
        ..Default::default()
    }
}

#[tokio::test]
async fn imported_described_listed_deleted() {
    let (store, acm) = service();
    let arn = acm.import_certificate(&cx(), import(LEAF, KEY, Some(CA))).await.unwrap().certificate_arn;
    let describe = DescribeCertificateRequest { certificate_arn: arn.clone() };
    let detail = acm.describe_certificate(&cx(), describe.clone()).await.unwrap().certificate.unwrap();
    assert_eq!(detail.domain_name.as_deref(), Some("example.com"));
    assert_eq!(detail.status.as_deref(), Some("ISSUED"));
    assert_eq!(detail.in_use_by, Some(vec![]));
    let listed = acm.list_certificates(&cx(), Default::default()).await.unwrap();
    assert_eq!(listed.certificate_summary_list.unwrap()[0].certificate_arn, arn);
    // The key is sealed in the store, and is given out with the chain.
    let arn = arn.unwrap();
    for kv in store.range("/acm/").iter() {
        assert!(!String::from_utf8_lossy(&kv.value).contains("PRIVATE KEY"));
    }
    let whole = acm.certificate(&arn).unwrap();
    assert_eq!(whole.private_key_pem.as_bytes(), KEY);
    assert_eq!(whole.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);
    // In use, it stays.
    let used = format!("/certificate-use/{arn}/0123");
    store.txn(Txn::new().put(used.as_str(), *b"lb")).await.unwrap();
    let delete = DeleteCertificateRequest { certificate_arn: Some(arn.clone()) };
    assert_eq!(
        acm.delete_certificate(&cx(), delete.clone()).await.unwrap_err().code,
        "ResourceInUseException"
    );
    store.txn(Txn::new().delete(used)).await.unwrap();
    acm.delete_certificate(&cx(), delete).await.unwrap();
    let gone = acm.describe_certificate(&cx(), describe).await.unwrap_err();
    assert_eq!(gone.code, "ResourceNotFoundException");
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused() {
    let (_, acm) = service();
    for (request, says) in [
        (import(LEAF, RSA_KEY, None), "does not match"),
        (import(LEAF, KEY, Some(RSA)), "Could not validate the certificate with the certificate chain"),
        (import(b"x", KEY, None), "not in a valid PEM format"),
        (import(&[LEAF, CA].concat(), KEY, None), "more than one certificate"),
    ] {
        let error = acm.import_certificate(&cx(), request).await.unwrap_err();
        assert_eq!(error.code, "ValidationException");
        assert!(error.message.contains(says), "{}", error.message);
    }
}

#[tokio::test]
async fn nobody_here_issues_certificates() {
    let (_, acm) = service();
    let refused = acm.request_certificate(&cx(), Default::default()).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.status), ("NotImplementedException", Some(501)));
}

#[tokio::test]
async fn a_certificate_is_imported_again_under_its_arn() {
    let (_, acm) = service();
    let arn = acm.import_certificate(&cx(), import(RSA, RSA_KEY, None)).await.unwrap().certificate_arn;
    let again = |request| ImportCertificateRequest { certificate_arn: arn.clone(), ..request };
    assert_eq!(
        acm.import_certificate(&cx(), again(import(RSA, RSA_KEY, None))).await.unwrap().certificate_arn,
        arn
    );
    let other = acm.import_certificate(&cx(), again(import(LEAF, KEY, None))).await.unwrap_err();
    assert!(other.message.contains("key algorithm"), "{}", other.message);
    let unknown = Some("arn:aws:acm:us-east-1:123456789012:certificate/x".to_owned());
    let request = ImportCertificateRequest { certificate_arn: unknown, ..import(RSA, RSA_KEY, None) };
    assert_eq!(acm.import_certificate(&cx(), request).await.unwrap_err().code, "ResourceNotFoundException");
}
