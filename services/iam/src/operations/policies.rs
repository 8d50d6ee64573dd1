//! Managed policies: AWS's, which are built in, and the customer's.

use std::collections::HashMap;

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::unique_id;
use ferrogate_policy::{DocumentKind, ManagedPolicy, managed, managed_policies, size_without_whitespace};
use ferrogate_store::{Json, Txn, get_json, range_json, update_json};
use jiff::Timestamp;

use super::{
    add_tags, check_document, conflict, encoded, exists, given, limit_exceeded, no_such, page, refused,
    remove_tags, store, tag_list, tag_map,
};
use crate::IamService;
use crate::state::{
    GroupRecord, Held, Holder, PolicyRecord, PolicyVersionRecord, RoleRecord, UserRecord, key, prefix,
};

pub(super) const DOCUMENT_CHARACTERS_MAX: usize = 6_144;
pub(super) const VERSIONS_MAX: usize = 5;
pub(super) const POLICIES_MAX: usize = 1_500;

/// How many users, groups and roles have a policy attached, and as their boundary; by its ARN.
pub(super) type Usage = HashMap<String, (i32, i32)>;

impl IamService {
    fn check_managed(document: &str) -> Result<(), ApiError> {
        check_document(document, DocumentKind::Identity)?;
        if size_without_whitespace(document) > DOCUMENT_CHARACTERS_MAX {
            return Err(limit_exceeded(format!(
                "Cannot exceed quota for PolicySize: {DOCUMENT_CHARACTERS_MAX}"
            )));
        }
        Ok(())
    }

    /// A policy of the customer's.
    pub(super) fn policy_record(&self, arn: &str) -> Result<Json<PolicyRecord>, ApiError> {
        let name = arn.rsplit('/').next().unwrap_or_default();
        get_json::<PolicyRecord>(store(self), &key(&self.account, "policy", name))
            .filter(|found| found.record.arn(&self.account) == arn)
            .ok_or_else(|| no_policy(arn))
    }

    async fn change_policy(
        &self,
        arn: &str,
        mut change: impl FnMut(&mut PolicyRecord) -> Result<(), ApiError>,
    ) -> Result<PolicyRecord, ApiError> {
        own(arn)?;
        let at = key(&self.account, "policy", arn.rsplit('/').next().unwrap_or_default());
        update_json(store(self), &at, |found: Option<PolicyRecord>| {
            let mut record =
                found.filter(|record| record.arn(&self.account) == arn).ok_or_else(|| no_policy(arn))?;
            change(&mut record)?;
            Ok(Some(record))
        })
        .await
        .map_err(refused)?
        .ok_or_else(ApiError::internal)
    }

    pub(crate) async fn create_policy(
        &self,
        cx: &Context,
        input: CreatePolicyRequest,
    ) -> Result<CreatePolicyResponse, ApiError> {
        let (name, document) = (given(input.policy_name), given(input.policy_document));
        Self::check_managed(&document)?;
        let record = PolicyRecord {
            name: name.clone(),
            path: input.path.unwrap_or_else(|| "/".into()),
            id: unique_id("ANPA"),
            created: cx.now,
            updated: cx.now,
            description: input.description,
            tags: tag_map(input.tags)?,
            versions: vec![PolicyVersionRecord { number: 1, document, default: true, created: cx.now }],
            last_version: 1,
        };
        let at = key(&self.account, "policy", &name);
        self.transact(|| {
            if self.store.get(&at).is_some() {
                return Err(exists(format!(
                    "A policy called {name} already exists. Duplicate names are not allowed."
                )));
            }
            self.within_quota("policy", "PoliciesPerAccount", POLICIES_MAX)?;
            Ok((Txn::new().when_absent(&at).put_json(&at, &record), ()))
        })
        .await?;
        Ok(CreatePolicyResponse {
            policy: Some(Policy { description: None, ..self.policy(&record, &Usage::new()) }),
        })
    }

    pub(crate) async fn get_policy(
        &self,
        _: &Context,
        input: GetPolicyRequest,
    ) -> Result<GetPolicyResponse, ApiError> {
        let arn = given(input.policy_arn);
        let policy = match managed(&arn) {
            Some(known) => aws_policy(known, &self.usage()),
            None => self.policy(&self.policy_record(&arn)?.record, &self.usage()),
        };
        Ok(GetPolicyResponse { policy: Some(policy) })
    }

    pub(crate) async fn list_policies(
        &self,
        _: &Context,
        input: ListPoliciesRequest,
    ) -> Result<ListPoliciesResponse, ApiError> {
        let scope = input.scope.as_deref().unwrap_or("All");
        let path = input.path_prefix.unwrap_or_else(|| "/".into());
        let usage = self.usage();
        let mut policies: Vec<Policy> = Vec::new();
        if scope != "AWS" {
            let own = range_json::<PolicyRecord>(store(self), &prefix(&self.account, "policy"));
            policies.extend(own.iter().map(|found| Policy {
                description: None,
                tags: None,
                ..self.policy(&found.record, &usage)
            }));
        }
        if scope != "Local" {
            policies.extend(managed_policies().iter().map(|known| aws_policy(known, &usage)));
        }
        let boundary = input.policy_usage_filter.as_deref() == Some("PermissionsBoundary");
        policies.retain(|policy| policy.path.as_ref().is_some_and(|of| of.starts_with(&path)));
        if input.only_attached == Some(true) || input.policy_usage_filter.is_some() {
            let count = |policy: &Policy| {
                if boundary { policy.permissions_boundary_usage_count } else { policy.attachment_count }
            };
            policies.retain(|policy| count(policy).unwrap_or_default() > 0);
        }
        let mut policies: Vec<(String, Policy)> =
            policies.into_iter().map(|policy| (policy.arn.clone().unwrap_or_default(), policy)).collect();
        policies.sort_by(|a, b| a.0.cmp(&b.0));
        let (policies, is_truncated, marker) =
            page(policies, |(arn, _)| arn, input.marker.as_deref(), input.max_items)?;
        let policies = policies.into_iter().map(|(_, policy)| policy).collect();
        Ok(ListPoliciesResponse { policies: Some(policies), is_truncated, marker })
    }

    pub(crate) async fn delete_policy(
        &self,
        _: &Context,
        input: DeletePolicyRequest,
    ) -> Result<DeletePolicyNoOutput, ApiError> {
        let arn = given(input.policy_arn);
        own(&arn)?;
        self.transact(|| {
            // The record first: an attachment after this changes its revision.
            let found = self.policy_record(&arn)?;
            if self.usage().contains_key(&arn) {
                return Err(conflict("Cannot delete a policy attached to entities."));
            }
            if found.record.versions.len() > 1 {
                return Err(conflict("This policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy."));
            }
            Ok((Txn::new().when_revision(&*found.key, found.mod_revision).delete(&*found.key), ()))
        })
        .await?;
        Ok(DeletePolicyNoOutput {})
    }

    pub(crate) async fn create_policy_version(
        &self,
        cx: &Context,
        input: CreatePolicyVersionRequest,
    ) -> Result<CreatePolicyVersionResponse, ApiError> {
        let document = given(input.policy_document);
        Self::check_managed(&document)?;
        let default = input.set_as_default == Some(true);
        let record = self
            .change_policy(&given(input.policy_arn), |record| {
                if record.versions.len() >= VERSIONS_MAX {
                    return Err(limit_exceeded("A managed policy can have up to 5 versions. Before you create a new version, you must delete an existing version."));
                }
                record.last_version += 1;
                record.updated = cx.now;
                if default {
                    record.versions.iter_mut().for_each(|version| version.default = false);
                }
                let version = PolicyVersionRecord { number: record.last_version, document: document.clone(), default, created: cx.now };
                record.versions.push(version);
                Ok(())
            })
            .await?;
        let made = record.versions.last().map(|of| PolicyVersion { document: None, ..version(of) });
        Ok(CreatePolicyVersionResponse { policy_version: made })
    }

    pub(crate) async fn get_policy_version(
        &self,
        _: &Context,
        input: GetPolicyVersionRequest,
    ) -> Result<GetPolicyVersionResponse, ApiError> {
        let (arn, id) = (given(input.policy_arn), given(input.version_id));
        let found = match managed(&arn) {
            Some(known) => (known.version_id == id).then(|| aws_version(known)),
            None => self
                .policy_record(&arn)?
                .record
                .versions
                .iter()
                .map(version)
                .find(|of| of.version_id.as_ref() == Some(&id)),
        };
        let found = found.ok_or_else(|| no_version(&arn, &id))?;
        Ok(GetPolicyVersionResponse { policy_version: Some(found) })
    }

    pub(crate) async fn list_policy_versions(
        &self,
        _: &Context,
        input: ListPolicyVersionsRequest,
    ) -> Result<ListPolicyVersionsResponse, ApiError> {
        let arn = given(input.policy_arn);
        // The newest first: sorted by how far they are from the last.
        let mut versions: Vec<(String, PolicyVersion)> = match managed(&arn) {
            Some(known) => vec![(String::new(), aws_version(known))],
            None => {
                let record = self.policy_record(&arn)?.record;
                let place = |of: &PolicyVersionRecord| format!("{:010}", u32::MAX - of.number);
                record.versions.iter().rev().map(|of| (place(of), version(of))).collect()
            }
        };
        versions.iter_mut().for_each(|(_, of)| of.document = None);
        let (versions, is_truncated, marker) =
            page(versions, |(place, _)| place, input.marker.as_deref(), input.max_items)?;
        let versions = versions.into_iter().map(|(_, version)| version).collect();
        Ok(ListPolicyVersionsResponse { versions: Some(versions), is_truncated, marker })
    }

    pub(crate) async fn delete_policy_version(
        &self,
        _: &Context,
        input: DeletePolicyVersionRequest,
    ) -> Result<DeletePolicyVersionNoOutput, ApiError> {
        let (arn, id) = (given(input.policy_arn), given(input.version_id));
        self.change_policy(&arn, |record| {
            let at = position(record, &id).ok_or_else(|| no_version(&arn, &id))?;
            if record.versions[at].default {
                return Err(conflict("Cannot delete the default version of a policy."));
            }
            record.versions.remove(at);
            Ok(())
        })
        .await?;
        Ok(DeletePolicyVersionNoOutput {})
    }

    pub(crate) async fn set_default_policy_version(
        &self,
        cx: &Context,
        input: SetDefaultPolicyVersionRequest,
    ) -> Result<SetDefaultPolicyVersionNoOutput, ApiError> {
        let (arn, id) = (given(input.policy_arn), given(input.version_id));
        self.change_policy(&arn, |record| {
            let at = position(record, &id).ok_or_else(|| no_version(&arn, &id))?;
            for (index, version) in record.versions.iter_mut().enumerate() {
                version.default = index == at;
            }
            record.updated = cx.now;
            Ok(())
        })
        .await?;
        Ok(SetDefaultPolicyVersionNoOutput {})
    }

    pub(crate) async fn tag_policy(
        &self,
        _: &Context,
        input: TagPolicyRequest,
    ) -> Result<TagPolicyNoOutput, ApiError> {
        self.change_policy(&given(input.policy_arn), |record| add_tags(&mut record.tags, input.tags.clone()))
            .await?;
        Ok(TagPolicyNoOutput {})
    }

    pub(crate) async fn untag_policy(
        &self,
        _: &Context,
        input: UntagPolicyRequest,
    ) -> Result<UntagPolicyNoOutput, ApiError> {
        let keys = input.tag_keys.unwrap_or_default();
        self.change_policy(&given(input.policy_arn), |record| {
            remove_tags(&mut record.tags, &keys);
            Ok(())
        })
        .await?;
        Ok(UntagPolicyNoOutput {})
    }

    pub(crate) async fn list_policy_tags(
        &self,
        _: &Context,
        input: ListPolicyTagsRequest,
    ) -> Result<ListPolicyTagsResponse, ApiError> {
        let record = self.policy_record(&given(input.policy_arn))?.record;
        let (tags, is_truncated, marker) =
            page(record.tags, |(key, _)| key, input.marker.as_deref(), input.max_items)?;
        let tags = tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
        Ok(ListPolicyTagsResponse { tags: Some(tags), is_truncated, marker })
    }

    pub(crate) async fn list_entities_for_policy(
        &self,
        _: &Context,
        input: ListEntitiesForPolicyRequest,
    ) -> Result<ListEntitiesForPolicyResponse, ApiError> {
        let arn = given(input.policy_arn);
        if managed(&arn).is_none() {
            self.policy_record(&arn)?;
        }
        let boundary = input.policy_usage_filter.as_deref() == Some("PermissionsBoundary");
        let path = input.path_prefix.unwrap_or_else(|| "/".into());
        let uses = |held: &Held| {
            let used =
                if boundary { held.boundary.as_ref() == Some(&arn) } else { held.attached.contains(&arn) };
            used && held.path.starts_with(&path)
        };
        let filter = input.entity_filter.as_deref();
        let none = matches!(filter, Some("LocalManagedPolicy" | "AWSManagedPolicy"));
        let wanted = |kind: &str| !none && filter.is_none_or(|filter| filter == kind);
        // One page goes through groups, users and roles.
        let mut entities: Vec<(String, &str, Held)> = Vec::new();
        if wanted("Group") {
            entities.extend(self.all::<GroupRecord>().map(|(at, of)| (at, "group", of.held)));
        }
        if wanted("Role") {
            entities.extend(self.all::<RoleRecord>().map(|(at, of)| (at, "role", of.held)));
        }
        if wanted("User") {
            entities.extend(self.all::<UserRecord>().map(|(at, of)| (at, "user", of.held)));
        }
        entities.retain(|(_, _, held)| uses(held));
        let (entities, is_truncated, marker) =
            page(entities, |(at, ..)| at, input.marker.as_deref(), input.max_items)?;
        let (mut groups, mut users, mut roles) = (Vec::new(), Vec::new(), Vec::new());
        for (_, kind, held) in entities {
            let (name, id) = (Some(held.name), Some(held.id));
            match kind {
                "group" => groups.push(PolicyGroup { group_name: name, group_id: id }),
                "user" => users.push(PolicyUser { user_name: name, user_id: id }),
                _ => roles.push(PolicyRole { role_name: name, role_id: id }),
            }
        }
        Ok(ListEntitiesForPolicyResponse {
            policy_groups: Some(groups),
            policy_users: Some(users),
            policy_roles: Some(roles),
            is_truncated,
            marker,
        })
    }

    /// All users, groups or roles with their keys, sorted by them.
    pub(super) fn all<T: Holder>(&self) -> impl Iterator<Item = (String, T)> {
        let found = range_json::<T>(store(self), &prefix(&self.account, T::KIND));
        found.into_iter().map(|found| (found.key.to_string(), found.record))
    }

    pub(super) fn usage(&self) -> Usage {
        let users = self.all::<UserRecord>().map(|(_, user)| user.held);
        let groups = self.all::<GroupRecord>().map(|(_, group)| group.held);
        let roles = self.all::<RoleRecord>().map(|(_, role)| role.held);
        let mut usage = Usage::new();
        for held in users.chain(groups).chain(roles) {
            for arn in held.attached {
                usage.entry(arn).or_default().0 += 1;
            }
            if let Some(arn) = held.boundary {
                usage.entry(arn).or_default().1 += 1;
            }
        }
        usage
    }

    pub(super) fn policy(&self, record: &PolicyRecord, usage: &Usage) -> Policy {
        let arn = record.arn(&self.account);
        let (attached, bounds) = usage.get(&arn).copied().unwrap_or_default();
        Policy {
            policy_name: Some(record.name.clone()),
            policy_id: Some(record.id.clone()),
            arn: Some(arn),
            path: Some(record.path.clone()),
            default_version_id: Some(format!("v{}", record.default_version().number)),
            attachment_count: Some(attached),
            permissions_boundary_usage_count: Some(bounds),
            is_attachable: Some(true),
            description: record.description.clone(),
            create_date: Some(record.created),
            update_date: Some(record.updated),
            tags: tag_list(&record.tags),
        }
    }
}

pub(super) fn aws_policy(known: &ManagedPolicy, usage: &Usage) -> Policy {
    let arn = known.arn();
    let (attached, bounds) = usage.get(&arn).copied().unwrap_or_default();
    Policy {
        policy_name: Some(known.name.to_owned()),
        arn: Some(arn),
        path: Some(known.path.to_owned()),
        default_version_id: Some(known.version_id.to_owned()),
        attachment_count: Some(attached),
        permissions_boundary_usage_count: Some(bounds),
        is_attachable: Some(true),
        ..Policy::default()
    }
}

/// AWS's own policies are not the customer's to change.
fn own(arn: &str) -> Result<(), ApiError> {
    if managed(arn).is_none() {
        return Ok(());
    }
    let message = format!("Policy {arn} is an AWS managed policy and cannot be changed.");
    Err(ApiError::new("AccessDenied", message).with_status(403))
}

fn position(record: &PolicyRecord, id: &str) -> Option<usize> {
    record.versions.iter().position(|version| format!("v{}", version.number) == id)
}

pub(super) fn version(record: &PolicyVersionRecord) -> PolicyVersion {
    PolicyVersion {
        document: Some(encoded(&record.document)),
        version_id: Some(format!("v{}", record.number)),
        is_default_version: Some(record.default),
        create_date: Some(record.created),
    }
}

pub(super) fn aws_version(known: &ManagedPolicy) -> PolicyVersion {
    PolicyVersion {
        document: Some(encoded(known.document)),
        version_id: Some(known.version_id.to_owned()),
        is_default_version: Some(true),
        create_date: None::<Timestamp>,
    }
}

fn no_policy(arn: &str) -> ApiError {
    no_such(format!("Policy {arn} was not found."))
}

fn no_version(arn: &str, id: &str) -> ApiError {
    no_such(format!("Policy {arn} version {id} does not exist or is not attachable."))
}
