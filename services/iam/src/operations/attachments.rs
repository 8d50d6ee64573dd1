//! Policies on users, groups and roles: inline, attached, boundaries. The same for all, written once.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_policy::{DocumentKind, managed, size_without_whitespace};
use ferrogate_store::Txn;

use super::{check_document, encoded, given, limit_exceeded, no_such, page, protect};
use crate::IamService;
use crate::state::{GroupRecord, Holder, RoleRecord, UserRecord, key};

pub(super) const ATTACHED_MAX: usize = 10;

impl IamService {
    /// A policy that can be attached, by its ARN.
    pub(super) fn attachable(&self, arn: String) -> Result<String, ApiError> {
        if !arn.starts_with("arn:aws:iam::") {
            return Err(ApiError::new("InvalidInput", format!("ARN {arn} is not valid.")));
        }
        if self.managed_document(&arn).is_none() {
            return Err(not_attachable(&arn));
        }
        Ok(arn)
    }

    /// The transaction, good only as long as the policy is there: its record is put as it is, so that a deletion at
    /// the same time finds it changed.
    pub(super) fn attaching(&self, txn: Txn, arn: &str) -> Result<Txn, ApiError> {
        if managed(arn).is_some() {
            return Ok(txn);
        }
        let found = self.policy_record(arn).map_err(|_| not_attachable(arn))?;
        let at = key(&self.account, "policy", &found.record.name);
        Ok(txn.when_revision(&at, found.mod_revision).put_json(&at, &found.record))
    }

    async fn attach<T: Holder>(&self, name: String, arn: String) -> Result<(), ApiError> {
        let arn = self.attachable(arn)?;
        self.transact(|| {
            let found = self.found::<T>(&name)?;
            let mut holder = found.record;
            protect(&holder)?;
            let attached = &mut holder.held_mut().attached;
            attached.insert(arn.clone());
            if attached.len() > ATTACHED_MAX {
                return Err(limit_exceeded(format!(
                    "Cannot exceed quota for {}: {ATTACHED_MAX}",
                    T::ATTACHED_QUOTA
                )));
            }
            let txn =
                Txn::new().when_revision(&*found.key, found.mod_revision).put_json(&*found.key, &holder);
            Ok((self.attaching(txn, &arn)?, ()))
        })
        .await
    }

    async fn detach<T: Holder>(&self, name: String, arn: String) -> Result<(), ApiError> {
        self.change::<T>(&name, |holder| {
            if holder.held_mut().attached.remove(&arn) {
                Ok(())
            } else {
                Err(no_such(format!("Policy {arn} was not found.")))
            }
        })
        .await
        .map(drop)
    }

    async fn put_inline<T: Holder>(
        &self,
        name: String,
        policy: String,
        document: String,
    ) -> Result<(), ApiError> {
        check_document(&document, DocumentKind::Identity)?;
        self.change::<T>(&name, |holder| {
            let held = holder.held_mut();
            held.inline.insert(policy.clone(), document.clone());
            let size: usize = held.inline.values().map(|document| size_without_whitespace(document)).sum();
            if size > T::INLINE_CHARACTERS_MAX {
                return Err(limit_exceeded(format!(
                    "Maximum policy size of {} bytes exceeded for {} {}",
                    T::INLINE_CHARACTERS_MAX,
                    T::KIND,
                    held.name
                )));
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
        self.transact(|| {
            let found = self.found::<T>(&name)?;
            let mut holder = found.record;
            protect(&holder)?;
            let held = holder.held_mut();
            if arn.is_none() && held.boundary.is_none() {
                return Err(no_such(format!("{} does not have a permission boundary policy", held.name)));
            }
            held.boundary.clone_from(&arn);
            let txn =
                Txn::new().when_revision(&*found.key, found.mod_revision).put_json(&*found.key, &holder);
            Ok((if let Some(arn) = &arn { self.attaching(txn, arn)? } else { txn }, ()))
        })
        .await
    }

    fn attached_policies<T: Holder>(
        &self,
        name: &str,
        path_prefix: Option<String>,
        marker: Option<String>,
        max_items: Option<i32>,
    ) -> Result<super::Page<AttachedPolicy>, ApiError> {
        let holder: T = self.find(name)?;
        let path = path_prefix.unwrap_or_else(|| "/".into());
        let below =
            |arn: &String| arn.split_once(":policy").is_some_and(|(_, resource)| resource.starts_with(&path));
        let arns = holder.held().attached.iter().filter(|arn| below(arn)).cloned();
        let (arns, truncated, marker) = page(arns, |arn| arn, marker.as_deref(), max_items)?;
        Ok((arns.into_iter().map(attached_policy).collect(), truncated, marker))
    }

    pub(crate) async fn attach_user_policy(
        &self,
        _: &Context,
        input: AttachUserPolicyRequest,
    ) -> Result<AttachUserPolicyNoOutput, ApiError> {
        self.attach::<UserRecord>(given(input.user_name), given(input.policy_arn)).await?;
        Ok(AttachUserPolicyNoOutput {})
    }

    pub(crate) async fn attach_role_policy(
        &self,
        _: &Context,
        input: AttachRolePolicyRequest,
    ) -> Result<AttachRolePolicyNoOutput, ApiError> {
        self.attach::<RoleRecord>(given(input.role_name), given(input.policy_arn)).await?;
        Ok(AttachRolePolicyNoOutput {})
    }

    pub(crate) async fn detach_user_policy(
        &self,
        _: &Context,
        input: DetachUserPolicyRequest,
    ) -> Result<DetachUserPolicyNoOutput, ApiError> {
        self.detach::<UserRecord>(given(input.user_name), given(input.policy_arn)).await?;
        Ok(DetachUserPolicyNoOutput {})
    }

    pub(crate) async fn detach_role_policy(
        &self,
        _: &Context,
        input: DetachRolePolicyRequest,
    ) -> Result<DetachRolePolicyNoOutput, ApiError> {
        self.detach::<RoleRecord>(given(input.role_name), given(input.policy_arn)).await?;
        Ok(DetachRolePolicyNoOutput {})
    }

    pub(crate) async fn put_user_policy(
        &self,
        _: &Context,
        input: PutUserPolicyRequest,
    ) -> Result<PutUserPolicyNoOutput, ApiError> {
        self.put_inline::<UserRecord>(
            given(input.user_name),
            given(input.policy_name),
            given(input.policy_document),
        )
        .await?;
        Ok(PutUserPolicyNoOutput {})
    }

    pub(crate) async fn put_role_policy(
        &self,
        _: &Context,
        input: PutRolePolicyRequest,
    ) -> Result<PutRolePolicyNoOutput, ApiError> {
        self.put_inline::<RoleRecord>(
            given(input.role_name),
            given(input.policy_name),
            given(input.policy_document),
        )
        .await?;
        Ok(PutRolePolicyNoOutput {})
    }

    pub(crate) async fn delete_user_policy(
        &self,
        _: &Context,
        input: DeleteUserPolicyRequest,
    ) -> Result<DeleteUserPolicyNoOutput, ApiError> {
        self.delete_inline::<UserRecord>(given(input.user_name), given(input.policy_name)).await?;
        Ok(DeleteUserPolicyNoOutput {})
    }

    pub(crate) async fn delete_role_policy(
        &self,
        _: &Context,
        input: DeleteRolePolicyRequest,
    ) -> Result<DeleteRolePolicyNoOutput, ApiError> {
        self.delete_inline::<RoleRecord>(given(input.role_name), given(input.policy_name)).await?;
        Ok(DeleteRolePolicyNoOutput {})
    }

    pub(crate) async fn get_user_policy(
        &self,
        _: &Context,
        input: GetUserPolicyRequest,
    ) -> Result<GetUserPolicyResponse, ApiError> {
        let policy_name = given(input.policy_name);
        let (name, document) = self.inline::<UserRecord>(&given(input.user_name), &policy_name)?;
        Ok(GetUserPolicyResponse {
            user_name: Some(name),
            policy_name: Some(policy_name),
            policy_document: Some(document),
        })
    }

    pub(crate) async fn get_role_policy(
        &self,
        _: &Context,
        input: GetRolePolicyRequest,
    ) -> Result<GetRolePolicyResponse, ApiError> {
        let policy_name = given(input.policy_name);
        let (name, document) = self.inline::<RoleRecord>(&given(input.role_name), &policy_name)?;
        Ok(GetRolePolicyResponse {
            role_name: Some(name),
            policy_name: Some(policy_name),
            policy_document: Some(document),
        })
    }

    pub(crate) async fn list_user_policies(
        &self,
        _: &Context,
        input: ListUserPoliciesRequest,
    ) -> Result<ListUserPoliciesResponse, ApiError> {
        let user: UserRecord = self.find(&given(input.user_name))?;
        let (names, is_truncated, marker) =
            page(user.held.inline.into_keys(), |name| name, input.marker.as_deref(), input.max_items)?;
        Ok(ListUserPoliciesResponse { policy_names: Some(names), is_truncated, marker })
    }

    pub(crate) async fn list_role_policies(
        &self,
        _: &Context,
        input: ListRolePoliciesRequest,
    ) -> Result<ListRolePoliciesResponse, ApiError> {
        let role: RoleRecord = self.find(&given(input.role_name))?;
        let (names, is_truncated, marker) =
            page(role.held.inline.into_keys(), |name| name, input.marker.as_deref(), input.max_items)?;
        Ok(ListRolePoliciesResponse { policy_names: Some(names), is_truncated, marker })
    }

    pub(crate) async fn list_attached_user_policies(
        &self,
        _: &Context,
        input: ListAttachedUserPoliciesRequest,
    ) -> Result<ListAttachedUserPoliciesResponse, ApiError> {
        let (policies, is_truncated, marker) = self.attached_policies::<UserRecord>(
            &given(input.user_name),
            input.path_prefix,
            input.marker,
            input.max_items,
        )?;
        Ok(ListAttachedUserPoliciesResponse { attached_policies: Some(policies), is_truncated, marker })
    }

    pub(crate) async fn list_attached_role_policies(
        &self,
        _: &Context,
        input: ListAttachedRolePoliciesRequest,
    ) -> Result<ListAttachedRolePoliciesResponse, ApiError> {
        let (policies, is_truncated, marker) = self.attached_policies::<RoleRecord>(
            &given(input.role_name),
            input.path_prefix,
            input.marker,
            input.max_items,
        )?;
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

    pub(crate) async fn attach_group_policy(
        &self,
        _: &Context,
        input: AttachGroupPolicyRequest,
    ) -> Result<AttachGroupPolicyNoOutput, ApiError> {
        self.attach::<GroupRecord>(given(input.group_name), given(input.policy_arn)).await?;
        Ok(AttachGroupPolicyNoOutput {})
    }

    pub(crate) async fn detach_group_policy(
        &self,
        _: &Context,
        input: DetachGroupPolicyRequest,
    ) -> Result<DetachGroupPolicyNoOutput, ApiError> {
        self.detach::<GroupRecord>(given(input.group_name), given(input.policy_arn)).await?;
        Ok(DetachGroupPolicyNoOutput {})
    }

    pub(crate) async fn put_group_policy(
        &self,
        _: &Context,
        input: PutGroupPolicyRequest,
    ) -> Result<PutGroupPolicyNoOutput, ApiError> {
        self.put_inline::<GroupRecord>(
            given(input.group_name),
            given(input.policy_name),
            given(input.policy_document),
        )
        .await?;
        Ok(PutGroupPolicyNoOutput {})
    }

    pub(crate) async fn delete_group_policy(
        &self,
        _: &Context,
        input: DeleteGroupPolicyRequest,
    ) -> Result<DeleteGroupPolicyNoOutput, ApiError> {
        self.delete_inline::<GroupRecord>(given(input.group_name), given(input.policy_name)).await?;
        Ok(DeleteGroupPolicyNoOutput {})
    }

    pub(crate) async fn get_group_policy(
        &self,
        _: &Context,
        input: GetGroupPolicyRequest,
    ) -> Result<GetGroupPolicyResponse, ApiError> {
        let policy_name = given(input.policy_name);
        let (name, document) = self.inline::<GroupRecord>(&given(input.group_name), &policy_name)?;
        Ok(GetGroupPolicyResponse {
            group_name: Some(name),
            policy_name: Some(policy_name),
            policy_document: Some(document),
        })
    }

    pub(crate) async fn list_group_policies(
        &self,
        _: &Context,
        input: ListGroupPoliciesRequest,
    ) -> Result<ListGroupPoliciesResponse, ApiError> {
        let group: GroupRecord = self.find(&given(input.group_name))?;
        let (names, is_truncated, marker) =
            page(group.held.inline.into_keys(), |name| name, input.marker.as_deref(), input.max_items)?;
        Ok(ListGroupPoliciesResponse { policy_names: Some(names), is_truncated, marker })
    }

    pub(crate) async fn list_attached_group_policies(
        &self,
        _: &Context,
        input: ListAttachedGroupPoliciesRequest,
    ) -> Result<ListAttachedGroupPoliciesResponse, ApiError> {
        let (policies, is_truncated, marker) = self.attached_policies::<GroupRecord>(
            &given(input.group_name),
            input.path_prefix,
            input.marker,
            input.max_items,
        )?;
        Ok(ListAttachedGroupPoliciesResponse { attached_policies: Some(policies), is_truncated, marker })
    }
}

fn no_inline<T: Holder>(policy: &str) -> ApiError {
    no_such(format!("The {} policy with name {policy} cannot be found.", T::KIND))
}

fn not_attachable(arn: &str) -> ApiError {
    no_such(format!("Policy {arn} does not exist or is not attachable."))
}

pub(super) fn attached_policy(arn: String) -> AttachedPolicy {
    AttachedPolicy { policy_name: arn.rsplit('/').next().map(str::to_owned), policy_arn: Some(arn) }
}
