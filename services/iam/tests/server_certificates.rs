//! Server certificates.

mod support;

use std::sync::Arc;

use ferrogate_api::iam::*;
use ferrogate_iam::IamService;
use ferrogate_store::{MemoryStore, Sealer, Store, Txn};
use support::{ACCOUNT, cx, some};

const LEAF: &str = include_str!("../../../crates/certificate/testdata/leaf.pem");
const CA: &str = include_str!("../../../crates/certificate/testdata/ca.pem");
const KEY: &str = include_str!("../../../crates/certificate/testdata/leaf.key");
const OTHER_KEY: &str = include_str!("../../../crates/certificate/testdata/rsa.key");

fn upload(name: &str, key: &str) -> UploadServerCertificateRequest {
    UploadServerCertificateRequest {
        server_certificate_name: some(name),
        certificate_body: some(LEAF),
        private_key: some(key),
        certificate_chain: some(CA),
        ..Default::default()
    }
}

#[tokio::test]
async fn uploaded_listed_renamed_deleted() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let iam = IamService::new(ACCOUNT, Arc::clone(&store), Arc::new(Sealer::ephemeral()));
    // The leaf is valid from the day it was made.
    let cx = ferrogate_api::Context { now: "2027-01-01T00:00:00Z".parse().unwrap(), ..cx() };
    let made = iam.upload_server_certificate(&cx, upload("web", KEY)).await.unwrap();
    let arn = made.server_certificate_metadata.unwrap().arn.unwrap();
    assert_eq!(arn, format!("arn:aws:iam::{ACCOUNT}:server-certificate/web"));
    let again = iam.upload_server_certificate(&cx, upload("Web", KEY)).await.unwrap_err();
    assert_eq!(again.code, "EntityAlreadyExists");
    let mismatch = iam.upload_server_certificate(&cx, upload("x", OTHER_KEY)).await.unwrap_err();
    assert_eq!(mismatch.code, "KeyPairMismatch");
    assert_eq!(iam.server_certificate(&arn).unwrap().private_key_pem, KEY);
    let list = iam.list_server_certificates(&cx, Default::default()).await.unwrap();
    assert_eq!(list.server_certificate_metadata_list.unwrap().len(), 1);

    let used = format!("/certificate-use/{arn}/0123");
    store.txn(Txn::new().put(used.as_str(), *b"lb")).await.unwrap();
    let delete = |name: &str| DeleteServerCertificateRequest { server_certificate_name: some(name) };
    assert_eq!(iam.delete_server_certificate(&cx, delete("web")).await.unwrap_err().code, "DeleteConflict");
    store.txn(Txn::new().delete(used)).await.unwrap();

    let rename = UpdateServerCertificateRequest {
        server_certificate_name: some("web"),
        new_path: some("/prod/"),
        new_server_certificate_name: some("shop"),
    };
    iam.update_server_certificate(&cx, rename).await.unwrap();
    assert!(iam.server_certificate(&arn).is_none());
    let renamed = format!("arn:aws:iam::{ACCOUNT}:server-certificate/prod/shop");
    assert_eq!(iam.server_certificate(&renamed).unwrap().private_key_pem, KEY);
    iam.delete_server_certificate(&cx, delete("shop")).await.unwrap();
    assert_eq!(iam.delete_server_certificate(&cx, delete("shop")).await.unwrap_err().code, "NoSuchEntity");
}
