//! Policies on users and roles: inline, attached, boundaries. The same for both, written once.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_policy::{DocumentKind, size_without_whitespace};

use super::{check_document, encoded, given, limit_exceeded, no_such, page};
use crate::IamService;
use crate::state::{Holder, RoleRecord, UserRecord};

const ATTACHED_MAX: usize = 10;
const INLINE_CHARACTERS_USER_MAX: usize = 2_048;
const INLINE_CHARACTERS_ROLE_MAX: usize = 10_240;

impl IamService {
    /// A policy that can be attached, by its ARN.
    pub(super) fn attachable(&self, arn: String) -> Result<String, ApiError> {
        if !arn.starts_with("arn:aws:iam::") {
            return Err(ApiError::new("InvalidInput", format!("ARN {arn} is not valid.")));
        }
        if self.managed_document(&arn).is_none() {
            return Err(no_such(format!("Policy {arn} does not exist or is not attachable.")));
        }
        Ok(arn)
    }

    async fn attach<T: Holder>(&self, name: String, arn: String) -> Result<(), ApiError> {
        let arn = self.attachable(arn)?;
        self.change::<T>(&name, |holder| {
            let attached = &mut holder.held_mut().attached;
            attached.insert(arn.clone());
            if attached.len() > ATTACHED_MAX {
                return Err(limit_exceeded(format!(
                    "Cannot exceed quota for PoliciesPer{}: {ATTACHED_MAX}",
                    if T::KIND == "user" { "User" } else { "Role" }
                )));
            }
            Ok(())
        })
        .await
        .map(drop)
    }

    async fn detach<T: Holder>(&self, name: String, arn: String) -> Result<(), ApiError> {
        self.change::<T>(&name, |holder| {
            if holder.held_mut().attached.remove(&arn) { Ok(()) } else { Err(no_such(format!("Policy {arn} was not found."))) }
        })
        .await
        .map(drop)
    }

    async fn put_inline<T: Holder>(&self, name: String, policy: String, document: String) -> Result<(), ApiError> {
        check_document(&document, DocumentKind::Identity)?;
        let max = if T::KIND == "user" { INLINE_CHARACTERS_USER_MAX } else { INLINE_CHARACTERS_ROLE_MAX };
        self.change::<T>(&name, |holder| {
            let held = holder.held_mut();
            held.inline.insert(policy.clone(), document.clone());
            let size: usize = held.inline.values().map(|document| size_without_whitespace(document)).sum();
            if size > max {
                return Err(limit_exceeded(format!("Maximum policy size of {max} bytes exceeded for {} {name}", T::KIND)));
            }
            Ok(())
        })
        .await
        .map(drop)
    }

    async fn delete_inline<T: Holder>(&self, name: String, policy: String) -> Result<(), ApiError> {
        self.change::<T>(&name, |holder| {
            holder.held_mut().inline.remove(&policy).map(drop).ok_or_else(|| no_inline::<T>(&policy))
        })
        .await
        .map(drop)
    }

    fn inline<T: Holder>(&self, name: &str, policy: &str) -> Result<(String, String), ApiError> {
        let holder: T = self.find(name)?;
        let document = holder.held().inline.get(policy).ok_or_else(|| no_inline::<T>(policy))?;
        Ok((holder.held().name.clone(), encoded(document)))
    }

    async fn set_boundary<T: Holder>(&self, name: String, arn: Option<String>) -> Result<(), ApiError> {
        let arn = arn.map(|arn| self.attachable(arn)).transpose()?;
        self.change::<T>(&name, |holder| {
            let held = holder.held_mut();
            if arn.is_none() && held.boundary.is_none() {
                return Err(no_such(format!("{name} does not have a permission boundary policy")));
            }
            held.boundary.clone_from(&arn);
            Ok(())
        })
        .await
        .map(drop)
    }

    fn attached_policies<T: Holder>(
        &self,
        name: &str,
        path_prefix: Option<String>,
        marker: Option<String>,
        max_items: Option<i32>,
    ) -> Result<(Vec<AttachedPolicy>, Option<bool>, Option<String>), ApiError> {
        let holder: T = self.find(name)?;
        let path = path_prefix.unwrap_or_else(|| "/".into());
        let below = |arn: &String| arn.split_once(":policy").is_some_and(|(_, resource)| resource.starts_with(&path));
        let arns = holder.held().attached.iter().filter(|arn| below(arn)).cloned();
        let (arns, truncated, marker) = page(arns, |arn| arn, marker.as_deref(), max_items)?;
        let policy = |arn: String| AttachedPolicy {
            policy_name: arn.rsplit('/').next().map(str::to_owned),
            policy_arn: Some(arn),
        };
        Ok((arns.into_iter().map(policy).collect(), truncated, marker))
    }

    pub(crate) async fn attach_user_policy(&self, _: &Context, input: AttachUserPolicyRequest) -> Result<AttachUserPolicyNoOutput, ApiError> {
        self.attach::<UserRecord>(given(input.user_name), given(input.policy_arn)).await?;
        Ok(AttachUserPolicyNoOutput {})
    }

    pub(crate) async fn attach_role_policy(&self, _: &Context, input: AttachRolePolicyRequest) -> Result<AttachRolePolicyNoOutput, ApiError> {
        self.attach::<RoleRecord>(given(input.role_name), given(input.policy_arn)).await?;
        Ok(AttachRolePolicyNoOutput {})
    }

    pub(crate) async fn detach_user_policy(&self, _: &Context, input: DetachUserPolicyRequest) -> Result<DetachUserPolicyNoOutput, ApiError> {
        self.detach::<UserRecord>(given(input.user_name), given(input.policy_arn)).await?;
        Ok(DetachUserPolicyNoOutput {})
    }

    pub(crate) async fn detach_role_policy(&self, _: &Context, input: DetachRolePolicyRequest) -> Result<DetachRolePolicyNoOutput, ApiError> {
        self.detach::<RoleRecord>(given(input.role_name), given(input.policy_arn)).await?;
        Ok(DetachRolePolicyNoOutput {})
    }

    pub(crate) async fn put_user_policy(&self, _: &Context, input: PutUserPolicyRequest) -> Result<PutUserPolicyNoOutput, ApiError> {
        self.put_inline::<UserRecord>(given(input.user_name), given(input.policy_name), given(input.policy_document)).await?;
        Ok(PutUserPolicyNoOutput {})
    }

    pub(crate) async fn put_role_policy(&self, _: &Context, input: PutRolePolicyRequest) -> Result<PutRolePolicyNoOutput, ApiError> {
        self.put_inline::<RoleRecord>(given(input.role_name), given(input.policy_name), given(input.policy_document)).await?;
        Ok(PutRolePolicyNoOutput {})
    }

    pub(crate) async fn delete_user_policy(&self, _: &Context, input: DeleteUserPolicyRequest) -> Result<DeleteUserPolicyNoOutput, ApiError> {
        self.delete_inline::<UserRecord>(given(input.user_name), given(input.policy_name)).await?;
        Ok(DeleteUserPolicyNoOutput {})
    }

    pub(crate) async fn delete_role_policy(&self, _: &Context, input: DeleteRolePolicyRequest) -> Result<DeleteRolePolicyNoOutput, ApiError> {
        self.delete_inline::<RoleRecord>(given(input.role_name), given(input.policy_name)).await?;
        Ok(DeleteRolePolicyNoOutput {})
    }

    pub(crate) async fn get_user_policy(&self, _: &Context, input: GetUserPolicyRequest) -> Result<GetUserPolicyResponse, ApiError> {
        let policy_name = given(input.policy_name);
        let (name, document) = self.inline::<UserRecord>(&given(input.user_name), &policy_name)?;
        Ok(GetUserPolicyResponse { user_name: Some(name), policy_name: Some(policy_name), policy_document: Some(document) })
    }

    pub(crate) async fn get_role_policy(&self, _: &Context, input: GetRolePolicyRequest) -> Result<GetRolePolicyResponse, ApiError> {
        let policy_name = given(input.policy_name);
        let (name, document) = self.inline::<RoleRecord>(&given(input.role_name), &policy_name)?;
        Ok(GetRolePolicyResponse { role_name: Some(name), policy_name: Some(policy_name), policy_document: Some(document) })
    }

    pub(crate) async fn list_user_policies(&self, _: &Context, input: ListUserPoliciesRequest) -> Result<ListUserPoliciesResponse, ApiError> {
        let user: UserRecord = self.find(&given(input.user_name))?;
        let (names, is_truncated, marker) = page(user.held.inline.into_keys(), |name| name, input.marker.as_deref(), input.max_items)?;
        Ok(ListUserPoliciesResponse { policy_names: Some(names), is_truncated, marker })
    }

    pub(crate) async fn list_role_policies(&self, _: &Context, input: ListRolePoliciesRequest) -> Result<ListRolePoliciesResponse, ApiError> {
        let role: RoleRecord = self.find(&given(input.role_name))?;
        let (names, is_truncated, marker) = page(role.held.inline.into_keys(), |name| name, input.marker.as_deref(), input.max_items)?;
        Ok(ListRolePoliciesResponse { policy_names: Some(names), is_truncated, marker })
    }

    pub(crate) async fn list_attached_user_policies(
        &self,
        _: &Context,
        input: ListAttachedUserPoliciesRequest,
    ) -> Result<ListAttachedUserPoliciesResponse, ApiError> {
        let (policies, is_truncated, marker) =
            self.attached_policies::<UserRecord>(&given(input.user_name), input.path_prefix, input.marker, input.max_items)?;
        Ok(ListAttachedUserPoliciesResponse { attached_policies: Some(policies), is_truncated, marker })
    }

    pub(crate) async fn list_attached_role_policies(
        &self,
        _: &Context,
        input: ListAttachedRolePoliciesRequest,
    ) -> Result<ListAttachedRolePoliciesResponse, ApiError> {
        let (policies, is_truncated, marker) =
            self.attached_policies::<RoleRecord>(&given(input.role_name), input.path_prefix, input.marker, input.max_items)?;
        Ok(ListAttachedRolePoliciesResponse { attached_policies: Some(policies), is_truncated, marker })
    }

    pub(crate) async fn put_user_permissions_boundary(
        &self,
        _: &Context,
        input: PutUserPermissionsBoundaryRequest,
    ) -> Result<PutUserPermissionsBoundaryNoOutput, ApiError> {
        self.set_boundary::<UserRecord>(given(input.user_name), input.permissions_boundary).await?;
        Ok(PutUserPermissionsBoundaryNoOutput {})
    }

    pub(crate) async fn put_role_permissions_boundary(
        &self,
        _: &Context,
        input: PutRolePermissionsBoundaryRequest,
    ) -> Result<PutRolePermissionsBoundaryNoOutput, ApiError> {
        self.set_boundary::<RoleRecord>(given(input.role_name), input.permissions_boundary).await?;
        Ok(PutRolePermissionsBoundaryNoOutput {})
    }

    pub(crate) async fn delete_user_permissions_boundary(
        &self,
        _: &Context,
        input: DeleteUserPermissionsBoundaryRequest,
    ) -> Result<DeleteUserPermissionsBoundaryNoOutput, ApiError> {
        self.set_boundary::<UserRecord>(given(input.user_name), None).await?;
        Ok(DeleteUserPermissionsBoundaryNoOutput {})
    }

    pub(crate) async fn delete_role_permissions_boundary(
        &self,
        _: &Context,
        input: DeleteRolePermissionsBoundaryRequest,
    ) -> Result<DeleteRolePermissionsBoundaryNoOutput, ApiError> {
        self.set_boundary::<RoleRecord>(given(input.role_name), None).await?;
        Ok(DeleteRolePermissionsBoundaryNoOutput {})
    }
}

fn no_inline<T: Holder>(policy: &str) -> ApiError {
    no_such(format!("The {} policy with name {policy} cannot be found.", T::KIND))
}
