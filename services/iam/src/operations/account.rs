//! The account as a whole.

use std::collections::BTreeMap;

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_policy::managed_policies;

use super::attachments::{ATTACHED_MAX, attached_policy};
use super::policies::{
    DOCUMENT_CHARACTERS_MAX, POLICIES_MAX, VERSIONS_MAX, aws_policy, aws_version, version,
};
use super::users::boundary;
use super::{access_keys, encoded, groups, page, roles, tag_list, users};
use crate::IamService;
use crate::state::{GroupRecord, Held, Holder, PolicyRecord, RoleRecord, UserRecord, prefix};

/// One of all that GetAccountAuthorizationDetails lists.
enum Entity {
    User(UserRecord),
    Group(GroupRecord),
    Role(RoleRecord),
    Policy(ManagedPolicyDetail),
}

impl IamService {
    /// Counts and quotas. What IAM has and Ferrogate has not (passwords, MFA, certificates) is counted as none.
    pub(crate) async fn get_account_summary(
        &self,
        _: &Context,
        _: GetAccountSummaryNoInput,
    ) -> Result<GetAccountSummaryResponse, ApiError> {
        let count = |kind: &str| self.store.range(&prefix(&self.account, kind)).len();
        let versions = self.all_policies().map(|(_, policy)| policy.versions.len()).sum();
        let summary: [(&str, usize); 26] = [
            ("Users", count("user")),
            ("UsersQuota", users::USERS_MAX),
            ("Groups", count("group")),
            ("GroupsQuota", groups::GROUPS_MAX),
            ("Roles", count("role")),
            ("RolesQuota", roles::ROLES_MAX),
            ("Policies", count("policy")),
            ("PoliciesQuota", POLICIES_MAX),
            ("PolicyVersionsInUse", versions),
            ("PolicyVersionsInUseQuota", POLICIES_MAX * VERSIONS_MAX),
            ("PolicySizeQuota", DOCUMENT_CHARACTERS_MAX),
            ("VersionsPerPolicyQuota", VERSIONS_MAX),
            ("UserPolicySizeQuota", UserRecord::INLINE_CHARACTERS_MAX),
            ("GroupPolicySizeQuota", GroupRecord::INLINE_CHARACTERS_MAX),
            ("RolePolicySizeQuota", RoleRecord::INLINE_CHARACTERS_MAX),
            ("AssumeRolePolicySizeQuota", roles::TRUST_CHARACTERS_MAX),
            ("AttachedPoliciesPerUserQuota", ATTACHED_MAX),
            ("AttachedPoliciesPerGroupQuota", ATTACHED_MAX),
            ("AttachedPoliciesPerRoleQuota", ATTACHED_MAX),
            ("GroupsPerUserQuota", groups::GROUPS_PER_USER_MAX),
            ("AccessKeysPerUserQuota", access_keys::KEYS_PER_USER_MAX),
            // The root user has one, since Ferrogate made it.
            ("AccountAccessKeysPresent", 1),
            ("AccountMFAEnabled", 0),
            ("AccountPasswordPresent", 0),
            ("MFADevices", 0),
            ("MFADevicesInUse", 0),
        ];
        let of = |(key, value): (&str, usize)| (key.to_owned(), i32::try_from(value).unwrap_or(i32::MAX));
        let summary_map: BTreeMap<String, i32> = summary.into_iter().map(of).collect();
        Ok(GetAccountSummaryResponse { summary_map: Some(summary_map) })
    }

    pub(crate) async fn get_account_authorization_details(
        &self,
        _: &Context,
        input: GetAccountAuthorizationDetailsRequest,
    ) -> Result<GetAccountAuthorizationDetailsResponse, ApiError> {
        let filter = input.filter.unwrap_or_default();
        let wanted = |kind: &str| filter.is_empty() || filter.iter().any(|of| of == kind);
        // The keys in the store sort by kind: group, policy, role, user. AWS's policies come first.
        let mut entities: Vec<(String, Entity)> = Vec::new();
        let usage = self.usage();
        if wanted("AWSManagedPolicy") {
            // Those in use, as AWS lists them.
            let used = managed_policies().iter().filter(|known| usage.contains_key(&known.arn()));
            entities.extend(used.map(|known| {
                (known.arn(), Entity::Policy(detail(aws_policy(known, &usage), vec![aws_version(known)])))
            }));
            entities.sort_by(|(a, _), (b, _)| a.cmp(b));
            entities.iter_mut().for_each(|(at, _)| at.insert(0, '!'));
        }
        if wanted("Group") {
            entities.extend(self.all().map(|(at, group)| (at, Entity::Group(group))));
        }
        if wanted("LocalManagedPolicy") {
            entities.extend(self.all_policies().map(|(at, policy)| {
                let versions = policy.versions.iter().map(version).collect();
                (at, Entity::Policy(detail(self.policy(&policy, &usage), versions)))
            }));
        }
        if wanted("Role") {
            entities.extend(self.all().map(|(at, role)| (at, Entity::Role(role))));
        }
        if wanted("User") {
            entities.extend(self.all().map(|(at, user)| (at, Entity::User(user))));
        }
        let (entities, is_truncated, marker) =
            page(entities, |(at, _)| at, input.marker.as_deref(), input.max_items)?;
        let (mut users, mut groups, mut roles, mut policies) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (_, entity) in entities {
            match entity {
                Entity::User(user) => users.push(self.user_detail(user)),
                Entity::Group(group) => groups.push(self.group_detail(&group)),
                Entity::Role(role) => roles.push(self.role_detail(&role)),
                Entity::Policy(policy) => policies.push(policy),
            }
        }
        Ok(GetAccountAuthorizationDetailsResponse {
            user_detail_list: Some(users),
            group_detail_list: Some(groups),
            role_detail_list: Some(roles),
            policies: Some(policies),
            is_truncated,
            marker,
        })
    }

    fn all_policies(&self) -> impl Iterator<Item = (String, PolicyRecord)> {
        let found = ferrogate_store::range_json(&*self.store, &prefix(&self.account, "policy"));
        found.into_iter().map(|found| (found.key.to_string(), found.record))
    }

    fn user_detail(&self, user: UserRecord) -> UserDetail {
        let groups = user.groups.iter().filter_map(|name| self.holder::<GroupRecord>(name));
        let groups = groups.map(|group| group.held.name).collect();
        let arn = user.arn(&self.account);
        let held = user.held;
        UserDetail {
            arn: Some(arn),
            group_list: Some(groups),
            user_policy_list: Some(inline(&held)),
            attached_managed_policies: Some(attached(&held)),
            permissions_boundary: boundary(&held),
            tags: tag_list(&held.tags),
            path: Some(held.path),
            user_name: Some(held.name),
            user_id: Some(held.id),
            create_date: Some(held.created),
        }
    }

    fn group_detail(&self, group: &GroupRecord) -> GroupDetail {
        let shown = self.group(group);
        GroupDetail {
            path: shown.path,
            group_name: shown.group_name,
            group_id: shown.group_id,
            arn: shown.arn,
            create_date: shown.create_date,
            group_policy_list: Some(inline(&group.held)),
            attached_managed_policies: Some(attached(&group.held)),
        }
    }

    fn role_detail(&self, role: &RoleRecord) -> RoleDetail {
        let shown = self.role_of(role);
        RoleDetail {
            path: shown.path,
            role_name: shown.role_name,
            role_id: shown.role_id,
            arn: shown.arn,
            create_date: shown.create_date,
            assume_role_policy_document: shown.assume_role_policy_document,
            instance_profile_list: Some(Vec::new()),
            role_policy_list: Some(inline(&role.held)),
            attached_managed_policies: Some(attached(&role.held)),
            permissions_boundary: shown.permissions_boundary,
            tags: shown.tags,
            role_last_used: Some(RoleLastUsed::default()),
        }
    }
}

fn inline(held: &Held) -> Vec<PolicyDetail> {
    let detail = |(name, document): (&String, &String)| PolicyDetail {
        policy_name: Some(name.clone()),
        policy_document: Some(encoded(document)),
    };
    held.inline.iter().map(detail).collect()
}

fn attached(held: &Held) -> Vec<AttachedPolicy> {
    held.attached.iter().cloned().map(attached_policy).collect()
}

fn detail(policy: Policy, versions: Vec<PolicyVersion>) -> ManagedPolicyDetail {
    ManagedPolicyDetail {
        policy_name: policy.policy_name,
        policy_id: policy.policy_id,
        arn: policy.arn,
        path: policy.path,
        default_version_id: policy.default_version_id,
        attachment_count: policy.attachment_count,
        permissions_boundary_usage_count: policy.permissions_boundary_usage_count,
        is_attachable: policy.is_attachable,
        description: policy.description,
        create_date: policy.create_date,
        update_date: policy.update_date,
        policy_version_list: Some(versions),
    }
}
