//! Elastic Container Registry: repositories, images, layers; and the registry that OCI clients talk to.
//!
//! ```text
//!  AWS API ──► front ──► operations/ ──► store: which repository has what       blobs.rs: the bytes
//!  OCI client ─► door/ ─► Invoke (as the token's principal) ─┘                     ▲
//!                  └────────────── streams ────────────────────────────────────────┘
//! ```
//!
//! What a repository is and has is in the store (`state.rs`); layers, configs and manifests are files named by their
//! digest (`blobs.rs`). The door speaks the OCI distribution specification and does nothing by itself: each thing it
//! is asked for is a call of this service's API in the name of whoever the token was given to, so that IAM decides
//! and the trail has it. Images below a pull through cache rule's prefix come from the rule's upstream when they are
//! first asked for (`upstream/`). Two controllers: one expires images as lifecycle policies say, one removes
//! what no image names any more.
//!
//! Which names lead here: [`RegistryName`].
//!
//! Not here: scanning (nothing is ever said to have been scanned), replication, KMS keys, the archive storage
//! class, templates for repositories, other accounts' registries. They are refused.

mod blobs;
mod controllers;
mod demands;
mod door;
mod errors;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod manifest;
mod name;
mod operations;
mod plan;
mod state;
mod token;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_api::ecr::*;
use ferrogate_api::{ApiError, Context, Demand, Invoke, Value};
use ferrogate_control::Controller;
use ferrogate_front::Door;
use ferrogate_model::Clock;
use ferrogate_store::{Sealer, Store};
use tokio::sync::Semaphore;

pub use blobs::BlobsError;
pub use name::RegistryName;
pub use upstream::{Upstream, UpstreamsError};

use blobs::Blobs;
use upstream::Upstreams;

/// Layers that come from upstreams at the same time.
const FETCHES_MAX: usize = 8;

/// What the composition decides.
#[derive(Clone, Debug)]
pub struct EcrOptions {
    pub account: String,
    /// What registry names end in, for clients: `amazonaws.com`, or `localhost:4566`.
    pub domain: String,
    /// Where this program serves, `http://127.0.0.1:4566`: layer download URLs begin with it.
    pub endpoint: String,
    /// The region of `/v2/` requests to a host that names none.
    pub default_region: String,
    /// Where upstream registries are really had; those not named here are reached as they are.
    pub upstreams: Vec<Upstream>,
    /// A layer that no image names is kept this long, for a push that is still under way.
    pub layer_grace: Duration,
}

impl EcrOptions {
    /// `endpoint` is an URL without a path; names end in `localhost` and its port.
    pub fn new(account: &str, endpoint: &str, default_region: &str) -> Self {
        let port = endpoint.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
        Self {
            account: account.to_owned(),
            domain: port.map_or_else(|| "localhost".to_owned(), |port| format!("localhost:{port}")),
            endpoint: endpoint.to_owned(),
            default_region: default_region.to_owned(),
            upstreams: Vec::new(),
            layer_grace: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// The registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EcrError {
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error(transparent)]
    Upstreams(#[from] UpstreamsError),
}

/// The service of one account, all its regions.
pub struct EcrService {
    options: EcrOptions,
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    blobs: Blobs,
    upstreams: Upstreams,
    /// Layers coming from upstreams.
    fetching: Semaphore,
}

impl EcrService {
    /// `dir` belongs to this service alone and is made if it is not there (0700).
    ///
    /// # Errors
    /// The folder cannot be used, or an upstream of the options makes no sense.
    pub fn open(
        options: EcrOptions,
        store: Arc<dyn Store>,
        sealer: Arc<Sealer>,
        dir: PathBuf,
    ) -> Result<Self, EcrError> {
        let upstreams = Upstreams::new(&options.upstreams)?;
        Ok(Self {
            blobs: Blobs::open(dir)?,
            options,
            store,
            sealer,
            upstreams,
            fetching: Semaphore::new(FETCHES_MAX),
        })
    }

    /// To be run by a driver.
    pub fn controllers(self: &Arc<Self>, clock: &Arc<dyn Clock>) -> Vec<Arc<dyn Controller>> {
        vec![
            Arc::new(controllers::Lifecycle { service: Arc::clone(self), clock: Arc::clone(clock) }),
            Arc::new(controllers::Sweep { service: Arc::clone(self), clock: Arc::clone(clock) }),
        ]
    }

    /// The OCI distribution endpoint; it calls this service through `invoke`.
    pub fn door(self: &Arc<Self>, invoke: Arc<dyn Invoke>, clock: Arc<dyn Clock>) -> Arc<dyn Door> {
        Arc::new(door::RegistryDoor::new(Arc::clone(self), invoke, clock))
    }
}

macro_rules! operations {
    ($($method:ident($input:ty) -> $output:ty = $module:ident :: $function:ident;)*) => {$(
        async fn $method(&self, cx: &Context, input: $input) -> Result<$output, ApiError> {
            operations::$module::$function(self, cx, input).await
        }
    )*};
}

impl Ecr for EcrService {
    fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
        demands::of(self, cx, operation, input)
    }

    operations! {
        get_authorization_token(GetAuthorizationTokenRequest) -> GetAuthorizationTokenResponse = registry::authorization_token;
        describe_registry(DescribeRegistryRequest) -> DescribeRegistryResponse = registry::describe;
        put_replication_configuration(PutReplicationConfigurationRequest) -> PutReplicationConfigurationResponse = registry::put_replication;
        get_registry_policy(GetRegistryPolicyRequest) -> GetRegistryPolicyResponse = registry::get_policy;
        put_registry_policy(PutRegistryPolicyRequest) -> PutRegistryPolicyResponse = registry::put_policy;
        delete_registry_policy(DeleteRegistryPolicyRequest) -> DeleteRegistryPolicyResponse = registry::delete_policy;
        get_account_setting(GetAccountSettingRequest) -> GetAccountSettingResponse = registry::get_setting;
        put_account_setting(PutAccountSettingRequest) -> PutAccountSettingResponse = registry::put_setting;

        create_repository(CreateRepositoryRequest) -> CreateRepositoryResponse = repositories::create;
        describe_repositories(DescribeRepositoriesRequest) -> DescribeRepositoriesResponse = repositories::describe;
        delete_repository(DeleteRepositoryRequest) -> DeleteRepositoryResponse = repositories::delete;
        put_image_tag_mutability(PutImageTagMutabilityRequest) -> PutImageTagMutabilityResponse = repositories::put_mutability;
        get_repository_policy(GetRepositoryPolicyRequest) -> GetRepositoryPolicyResponse = repositories::get_policy;
        set_repository_policy(SetRepositoryPolicyRequest) -> SetRepositoryPolicyResponse = repositories::set_policy;
        delete_repository_policy(DeleteRepositoryPolicyRequest) -> DeleteRepositoryPolicyResponse = repositories::delete_policy;

        tag_resource(TagResourceRequest) -> TagResourceResponse = tags::tag;
        untag_resource(UntagResourceRequest) -> UntagResourceResponse = tags::untag;
        list_tags_for_resource(ListTagsForResourceRequest) -> ListTagsForResourceResponse = tags::list;

        put_image(PutImageRequest) -> PutImageResponse = images::put;
        batch_get_image(BatchGetImageRequest) -> BatchGetImageResponse = images::batch_get;
        batch_delete_image(BatchDeleteImageRequest) -> BatchDeleteImageResponse = images::batch_delete;
        list_images(ListImagesRequest) -> ListImagesResponse = listing::list;
        describe_images(DescribeImagesRequest) -> DescribeImagesResponse = listing::describe;

        initiate_layer_upload(InitiateLayerUploadRequest) -> InitiateLayerUploadResponse = layers::initiate;
        upload_layer_part(UploadLayerPartRequest) -> UploadLayerPartResponse = layers::upload_part;
        complete_layer_upload(CompleteLayerUploadRequest) -> CompleteLayerUploadResponse = layers::complete;
        batch_check_layer_availability(BatchCheckLayerAvailabilityRequest) -> BatchCheckLayerAvailabilityResponse = layers::check;
        get_download_url_for_layer(GetDownloadUrlForLayerRequest) -> GetDownloadUrlForLayerResponse = layers::download_url;

        get_lifecycle_policy(GetLifecyclePolicyRequest) -> GetLifecyclePolicyResponse = lifecycle::get;
        put_lifecycle_policy(PutLifecyclePolicyRequest) -> PutLifecyclePolicyResponse = lifecycle::put;
        delete_lifecycle_policy(DeleteLifecyclePolicyRequest) -> DeleteLifecyclePolicyResponse = lifecycle::delete;
        start_lifecycle_policy_preview(StartLifecyclePolicyPreviewRequest) -> StartLifecyclePolicyPreviewResponse = lifecycle::start_preview;
        get_lifecycle_policy_preview(GetLifecyclePolicyPreviewRequest) -> GetLifecyclePolicyPreviewResponse = lifecycle::get_preview;

        put_image_scanning_configuration(PutImageScanningConfigurationRequest) -> PutImageScanningConfigurationResponse = scanning::put;
        batch_get_repository_scanning_configuration(BatchGetRepositoryScanningConfigurationRequest) -> BatchGetRepositoryScanningConfigurationResponse = scanning::batch_get;
        get_registry_scanning_configuration(GetRegistryScanningConfigurationRequest) -> GetRegistryScanningConfigurationResponse = scanning::get_registry;
        put_registry_scanning_configuration(PutRegistryScanningConfigurationRequest) -> PutRegistryScanningConfigurationResponse = scanning::put_registry;
        start_image_scan(StartImageScanRequest) -> StartImageScanResponse = scanning::start;
        describe_image_scan_findings(DescribeImageScanFindingsRequest) -> DescribeImageScanFindingsResponse = scanning::findings;

        create_pull_through_cache_rule(CreatePullThroughCacheRuleRequest) -> CreatePullThroughCacheRuleResponse = cache_rules::create;
        describe_pull_through_cache_rules(DescribePullThroughCacheRulesRequest) -> DescribePullThroughCacheRulesResponse = cache_rules::describe;
        update_pull_through_cache_rule(UpdatePullThroughCacheRuleRequest) -> UpdatePullThroughCacheRuleResponse = cache_rules::update;
        delete_pull_through_cache_rule(DeletePullThroughCacheRuleRequest) -> DeletePullThroughCacheRuleResponse = cache_rules::delete;
        validate_pull_through_cache_rule(ValidatePullThroughCacheRuleRequest) -> ValidatePullThroughCacheRuleResponse = cache_rules::validate;
    }
}
