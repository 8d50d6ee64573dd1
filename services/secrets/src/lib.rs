//! Secrets Manager: secrets, their versions and the stages that name versions.
//!
//! What a secret is, and which stages its versions have, is one record; the value of each version is another, sealed
//! at rest and bound to its place (`state.rs`). Stages move by `plan/stages.rs`, which is pure. One controller carries
//! deletions out when their recovery window is over.
//!
//! Not served yet: rotation and replication (they need Lambda and other regions' services), KMS keys other than
//! `aws/secretsmanager`, secrets of partners' types. They are refused by name.

mod controllers;
mod demands;
mod errors;
mod operations;
mod plan;
mod state;

use std::sync::Arc;

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Context, Demand, Invoke, Value};
use ferrogate_control::Controller;
use ferrogate_model::Clock;
use ferrogate_store::{Sealer, Store};

/// The service of all accounts and regions of one store.
pub struct SecretsService {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    invoke: Arc<dyn Invoke>,
}

impl SecretsService {
    /// `invoke`: BatchGetSecretValue gets each secret by a GetSecretValue of its caller's.
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>, invoke: Arc<dyn Invoke>) -> Self {
        Self { store, sealer, invoke }
    }

    /// To be run by a driver.
    pub fn controllers(&self, clock: Arc<dyn Clock>) -> Vec<Arc<dyn Controller>> {
        vec![Arc::new(controllers::Deletion { store: Arc::clone(&self.store), clock })]
    }
}

macro_rules! operations {
    ($($method:ident($input:ty) -> $output:ty = $module:ident :: $function:ident;)*) => {$(
        async fn $method(&self, cx: &Context, input: $input) -> Result<$output, ApiError> {
            operations::$module::$function(self, cx, input).await
        }
    )*};
}

impl Secretsmanager for SecretsService {
    fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
        demands::of(self, cx, operation, input)
    }

    operations! {
        create_secret(CreateSecretRequest) -> CreateSecretResponse = secrets::create;
        update_secret(UpdateSecretRequest) -> UpdateSecretResponse = secrets::update;
        describe_secret(DescribeSecretRequest) -> DescribeSecretResponse = secrets::describe;
        delete_secret(DeleteSecretRequest) -> DeleteSecretResponse = deletion::delete;
        restore_secret(RestoreSecretRequest) -> RestoreSecretResponse = deletion::restore;
        list_secrets(ListSecretsRequest) -> ListSecretsResponse = listing::secrets;
        list_secret_version_ids(ListSecretVersionIdsRequest) -> ListSecretVersionIdsResponse = listing::versions;

        get_secret_value(GetSecretValueRequest) -> GetSecretValueResponse = values::get;
        batch_get_secret_value(BatchGetSecretValueRequest) -> BatchGetSecretValueResponse = batch::get;
        put_secret_value(PutSecretValueRequest) -> PutSecretValueResponse = values::put;
        update_secret_version_stage(UpdateSecretVersionStageRequest) -> UpdateSecretVersionStageResponse = values::update_stage;
        get_random_password(GetRandomPasswordRequest) -> GetRandomPasswordResponse = password::get;

        get_resource_policy(GetResourcePolicyRequest) -> GetResourcePolicyResponse = policies::get;
        put_resource_policy(PutResourcePolicyRequest) -> PutResourcePolicyResponse = policies::put;
        delete_resource_policy(DeleteResourcePolicyRequest) -> DeleteResourcePolicyResponse = policies::delete;
        validate_resource_policy(ValidateResourcePolicyRequest) -> ValidateResourcePolicyResponse = policies::validate;

        tag_resource(TagResourceRequest) -> TagResourceNoOutput = tags::tag;
        untag_resource(UntagResourceRequest) -> UntagResourceNoOutput = tags::untag;
    }
}
