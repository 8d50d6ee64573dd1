//! The operations, one file per resource.

mod access_keys;
mod account;
mod attachments;
mod groups;
mod policies;
mod roles;
mod server_certificates;
mod service_linked;
mod simulate;
mod users;

use std::collections::BTreeMap;

use ferrogate_api::iam::{self, Iam};
use ferrogate_api::{ApiError, Context, Demand, Value};
use ferrogate_model::paginate;
use ferrogate_policy::{DocumentKind, Policy};
use ferrogate_store::{Json, Store, Txn, UpdateError, get_json, update_json};

use crate::state::{Holder, key, prefix};
use crate::{IamService, demands};

const PAGE_DEFAULT: i32 = 100;
const TAGS_MAX: usize = 50;
/// Attempts of a change before it is given up: each one lost means that somebody else got through.
const ATTEMPTS_MAX: usize = 64;

pub(crate) fn no_such(message: impl Into<String>) -> ApiError {
    ApiError::new("NoSuchEntity", message)
}

pub(crate) fn exists(message: impl Into<String>) -> ApiError {
    ApiError::new("EntityAlreadyExists", message)
}

pub(crate) fn conflict(message: impl Into<String>) -> ApiError {
    ApiError::new("DeleteConflict", message)
}

pub(crate) fn limit_exceeded(message: impl Into<String>) -> ApiError {
    ApiError::new("LimitExceeded", message)
}

/// The store could not do it: said in the log, not to the caller.
pub(crate) fn failed(error: impl std::fmt::Display) -> ApiError {
    tracing::error!(%error, "IAM's store failed");
    ApiError::internal()
}

/// A required member: the validator has seen it.
pub(crate) fn given(member: Option<String>) -> String {
    member.unwrap_or_default()
}

pub(crate) fn check_document(text: &str, kind: DocumentKind) -> Result<(), ApiError> {
    Policy::parse(text, kind)
        .map(drop)
        .map_err(|error| ApiError::new("MalformedPolicyDocument", error.to_string()))
}

/// Documents leave percent-encoded (RFC 3986), as IAM's do.
pub(crate) fn encoded(document: &str) -> String {
    percent_encoding::utf8_percent_encode(document, percent_encoding::NON_ALPHANUMERIC).to_string()
}

pub(crate) fn tag_map(tags: Option<Vec<iam::Tag>>) -> Result<BTreeMap<String, String>, ApiError> {
    let mut map = BTreeMap::new();
    add_tags(&mut map, tags)?;
    Ok(map)
}

pub(crate) fn add_tags(
    map: &mut BTreeMap<String, String>,
    tags: Option<Vec<iam::Tag>>,
) -> Result<(), ApiError> {
    let mut seen = std::collections::BTreeSet::new();
    for tag in tags.unwrap_or_default() {
        let (tag_key, value) = (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
        if !seen.insert(tag_key.to_lowercase()) {
            return Err(ApiError::new(
                "InvalidInput",
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.",
            ));
        }
        if tag_key.to_lowercase().starts_with("aws:") {
            return Err(ApiError::new("InvalidInput", "Tag keys beginning with aws: are reserved"));
        }
        // Keys are one without case; the newer spelling stays.
        map.retain(|known, _| !known.eq_ignore_ascii_case(&tag_key));
        map.insert(tag_key, value);
    }
    if map.len() > TAGS_MAX {
        return Err(limit_exceeded(format!(
            "The number of tags has reached the maximum limit. Max tags allowed is {TAGS_MAX}."
        )));
    }
    Ok(())
}

pub(crate) fn tag_list(tags: &BTreeMap<String, String>) -> Option<Vec<iam::Tag>> {
    let list =
        tags.iter().map(|(key, value)| iam::Tag { key: Some(key.clone()), value: Some(value.clone()) });
    (!tags.is_empty()).then(|| list.collect())
}

/// Takes tags away; keys are one without case.
pub(crate) fn remove_tags(map: &mut BTreeMap<String, String>, keys: &[String]) {
    map.retain(|known, _| !keys.iter().any(|key| key.eq_ignore_ascii_case(known)));
}

/// Items with IAM's `IsTruncated` and `Marker`.
pub(crate) type Page<T> = (Vec<T>, Option<bool>, Option<String>);

/// A page of sorted items.
pub(crate) fn page<T>(
    items: impl IntoIterator<Item = T>,
    name: impl Fn(&T) -> &str,
    marker: Option<&str>,
    max_items: Option<i32>,
) -> Result<Page<T>, ApiError> {
    let limit = usize::try_from(max_items.unwrap_or(PAGE_DEFAULT)).unwrap_or(1);
    let page =
        paginate(items, name, marker, limit).map_err(|_| ApiError::new("InvalidInput", "Invalid Marker."))?;
    Ok((page.items, Some(page.next_token.is_some()), page.next_token))
}

impl IamService {
    pub(crate) fn find<T: Holder>(&self, name: &str) -> Result<T, ApiError> {
        self.found(name).map(|found| found.record)
    }

    /// A user, group or role with its revision.
    pub(crate) fn found<T: Holder>(&self, name: &str) -> Result<Json<T>, ApiError> {
        get_json(&*self.store, &key(&self.account, T::KIND, name)).ok_or_else(|| not_found::<T>(name))
    }

    /// Changes a user, group or role that is there and may be changed.
    pub(crate) async fn change<T: Holder>(
        &self,
        name: &str,
        mut change: impl FnMut(&mut T) -> Result<(), ApiError>,
    ) -> Result<T, ApiError> {
        let at = key(&self.account, T::KIND, name);
        let changed = update_json(&*self.store, &at, |found: Option<T>| {
            let mut record = found.ok_or_else(|| not_found::<T>(name))?;
            protect(&record)?;
            change(&mut record)?;
            Ok(Some(record))
        });
        changed.await.map_err(refused)?.ok_or_else(ApiError::internal)
    }

    /// Commits what `step` makes of the records as they are; again, if somebody else was quicker.
    pub(crate) async fn transact<R>(
        &self,
        mut step: impl FnMut() -> Result<(Txn, R), ApiError>,
    ) -> Result<R, ApiError> {
        for _ in 0..ATTEMPTS_MAX {
            let (txn, result) = step()?;
            if self.store.txn(txn).await.map_err(failed)?.succeeded {
                return Ok(result);
            }
        }
        Err(contended())
    }

    /// Refuses when the account has as many records of this kind as it may.
    pub(crate) fn within_quota(&self, kind: &str, quota: &str, max: usize) -> Result<(), ApiError> {
        if self.store.range(&prefix(&self.account, kind)).len() < max {
            return Ok(());
        }
        Err(limit_exceeded(format!("Cannot exceed quota for {quota}: {max}")))
    }
}

/// Service-linked roles are their service's.
pub(crate) fn protect<T: Holder>(record: &T) -> Result<(), ApiError> {
    if !record.is_protected() {
        return Ok(());
    }
    Err(ApiError::new(
        "UnmodifiableEntity",
        format!(
            "Cannot perform the operation on the protected role '{}' - this role is only modifiable by AWS",
            record.held().name
        ),
    ))
}

fn contended() -> ApiError {
    ApiError::new(
        "ConcurrentModification",
        "The request was rejected because multiple requests to change this object were submitted simultaneously.",
    )
}

pub(crate) fn refused(error: UpdateError<ApiError>) -> ApiError {
    match error {
        UpdateError::Refused(error) => error,
        UpdateError::Contended { .. } => contended(),
        UpdateError::Store(error) => failed(error),
    }
}

fn not_found<T: Holder>(name: &str) -> ApiError {
    no_such(format!("The {} with name {name} cannot be found.", T::KIND))
}

pub(crate) fn store(service: &IamService) -> &dyn Store {
    &*service.store
}

/// Each operation in its file; here they are only listed.
macro_rules! forward {
    ($($method:ident: $input:ident => $output:ident;)*) => {
        impl Iam for IamService {
            fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
                demands::of(self, cx, operation, input)
            }

            $(async fn $method(&self, cx: &Context, input: iam::$input) -> Result<iam::$output, ApiError> {
                self.$method(cx, input).await
            })*
        }
    };
}

forward! {
    add_user_to_group: AddUserToGroupRequest => AddUserToGroupNoOutput;
    attach_group_policy: AttachGroupPolicyRequest => AttachGroupPolicyNoOutput;
    attach_role_policy: AttachRolePolicyRequest => AttachRolePolicyNoOutput;
    attach_user_policy: AttachUserPolicyRequest => AttachUserPolicyNoOutput;
    create_access_key: CreateAccessKeyRequest => CreateAccessKeyResponse;
    create_group: CreateGroupRequest => CreateGroupResponse;
    create_policy: CreatePolicyRequest => CreatePolicyResponse;
    create_policy_version: CreatePolicyVersionRequest => CreatePolicyVersionResponse;
    create_role: CreateRoleRequest => CreateRoleResponse;
    create_service_linked_role: CreateServiceLinkedRoleRequest => CreateServiceLinkedRoleResponse;
    create_user: CreateUserRequest => CreateUserResponse;
    delete_access_key: DeleteAccessKeyRequest => DeleteAccessKeyNoOutput;
    delete_group: DeleteGroupRequest => DeleteGroupNoOutput;
    delete_group_policy: DeleteGroupPolicyRequest => DeleteGroupPolicyNoOutput;
    delete_policy: DeletePolicyRequest => DeletePolicyNoOutput;
    delete_policy_version: DeletePolicyVersionRequest => DeletePolicyVersionNoOutput;
    delete_role: DeleteRoleRequest => DeleteRoleNoOutput;
    delete_role_permissions_boundary: DeleteRolePermissionsBoundaryRequest => DeleteRolePermissionsBoundaryNoOutput;
    delete_role_policy: DeleteRolePolicyRequest => DeleteRolePolicyNoOutput;
    delete_server_certificate: DeleteServerCertificateRequest => DeleteServerCertificateNoOutput;
    delete_service_linked_role: DeleteServiceLinkedRoleRequest => DeleteServiceLinkedRoleResponse;
    delete_user: DeleteUserRequest => DeleteUserNoOutput;
    delete_user_permissions_boundary: DeleteUserPermissionsBoundaryRequest => DeleteUserPermissionsBoundaryNoOutput;
    delete_user_policy: DeleteUserPolicyRequest => DeleteUserPolicyNoOutput;
    detach_group_policy: DetachGroupPolicyRequest => DetachGroupPolicyNoOutput;
    detach_role_policy: DetachRolePolicyRequest => DetachRolePolicyNoOutput;
    detach_user_policy: DetachUserPolicyRequest => DetachUserPolicyNoOutput;
    get_account_authorization_details: GetAccountAuthorizationDetailsRequest => GetAccountAuthorizationDetailsResponse;
    get_account_summary: GetAccountSummaryNoInput => GetAccountSummaryResponse;
    get_context_keys_for_custom_policy: GetContextKeysForCustomPolicyRequest => GetContextKeysForPolicyResponse;
    get_context_keys_for_principal_policy: GetContextKeysForPrincipalPolicyRequest => GetContextKeysForPolicyResponse;
    get_group: GetGroupRequest => GetGroupResponse;
    get_group_policy: GetGroupPolicyRequest => GetGroupPolicyResponse;
    get_policy: GetPolicyRequest => GetPolicyResponse;
    get_policy_version: GetPolicyVersionRequest => GetPolicyVersionResponse;
    get_role: GetRoleRequest => GetRoleResponse;
    get_role_policy: GetRolePolicyRequest => GetRolePolicyResponse;
    get_server_certificate: GetServerCertificateRequest => GetServerCertificateResponse;
    get_service_linked_role_deletion_status: GetServiceLinkedRoleDeletionStatusRequest => GetServiceLinkedRoleDeletionStatusResponse;
    get_user: GetUserRequest => GetUserResponse;
    get_user_policy: GetUserPolicyRequest => GetUserPolicyResponse;
    list_access_keys: ListAccessKeysRequest => ListAccessKeysResponse;
    list_attached_group_policies: ListAttachedGroupPoliciesRequest => ListAttachedGroupPoliciesResponse;
    list_attached_role_policies: ListAttachedRolePoliciesRequest => ListAttachedRolePoliciesResponse;
    list_attached_user_policies: ListAttachedUserPoliciesRequest => ListAttachedUserPoliciesResponse;
    list_entities_for_policy: ListEntitiesForPolicyRequest => ListEntitiesForPolicyResponse;
    list_group_policies: ListGroupPoliciesRequest => ListGroupPoliciesResponse;
    list_groups: ListGroupsRequest => ListGroupsResponse;
    list_groups_for_user: ListGroupsForUserRequest => ListGroupsForUserResponse;
    list_policies: ListPoliciesRequest => ListPoliciesResponse;
    list_policy_tags: ListPolicyTagsRequest => ListPolicyTagsResponse;
    list_policy_versions: ListPolicyVersionsRequest => ListPolicyVersionsResponse;
    list_role_policies: ListRolePoliciesRequest => ListRolePoliciesResponse;
    list_role_tags: ListRoleTagsRequest => ListRoleTagsResponse;
    list_roles: ListRolesRequest => ListRolesResponse;
    list_server_certificates: ListServerCertificatesRequest => ListServerCertificatesResponse;
    list_user_policies: ListUserPoliciesRequest => ListUserPoliciesResponse;
    list_user_tags: ListUserTagsRequest => ListUserTagsResponse;
    list_users: ListUsersRequest => ListUsersResponse;
    put_group_policy: PutGroupPolicyRequest => PutGroupPolicyNoOutput;
    put_role_permissions_boundary: PutRolePermissionsBoundaryRequest => PutRolePermissionsBoundaryNoOutput;
    put_role_policy: PutRolePolicyRequest => PutRolePolicyNoOutput;
    put_user_permissions_boundary: PutUserPermissionsBoundaryRequest => PutUserPermissionsBoundaryNoOutput;
    put_user_policy: PutUserPolicyRequest => PutUserPolicyNoOutput;
    remove_user_from_group: RemoveUserFromGroupRequest => RemoveUserFromGroupNoOutput;
    set_default_policy_version: SetDefaultPolicyVersionRequest => SetDefaultPolicyVersionNoOutput;
    simulate_custom_policy: SimulateCustomPolicyRequest => SimulatePolicyResponse;
    simulate_principal_policy: SimulatePrincipalPolicyRequest => SimulatePolicyResponse;
    tag_policy: TagPolicyRequest => TagPolicyNoOutput;
    tag_role: TagRoleRequest => TagRoleNoOutput;
    tag_user: TagUserRequest => TagUserNoOutput;
    untag_policy: UntagPolicyRequest => UntagPolicyNoOutput;
    untag_role: UntagRoleRequest => UntagRoleNoOutput;
    untag_user: UntagUserRequest => UntagUserNoOutput;
    update_access_key: UpdateAccessKeyRequest => UpdateAccessKeyNoOutput;
    update_assume_role_policy: UpdateAssumeRolePolicyRequest => UpdateAssumeRolePolicyNoOutput;
    update_group: UpdateGroupRequest => UpdateGroupNoOutput;
    update_role: UpdateRoleRequest => UpdateRoleResponse;
    update_role_description: UpdateRoleDescriptionRequest => UpdateRoleDescriptionResponse;
    update_server_certificate: UpdateServerCertificateRequest => UpdateServerCertificateNoOutput;
    update_user: UpdateUserRequest => UpdateUserNoOutput;
    upload_server_certificate: UploadServerCertificateRequest => UploadServerCertificateResponse;
}
