//! Managed policies: AWS's, which are built in, and the customer's.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::unique_id;
use ferrogate_policy::{DocumentKind, ManagedPolicy, managed, managed_policies, size_without_whitespace};
use ferrogate_store::{Txn, get_json, range_json, update_json};
use jiff::Timestamp;

use super::{add_tags, check_document, conflict, encoded, exists, failed, given, limit_exceeded, no_such, page, refused, store, tag_list, tag_map};
use crate::IamService;
use crate::state::{Held, PolicyRecord, PolicyVersionRecord, RoleRecord, UserRecord, key, prefix};

const DOCUMENT_CHARACTERS_MAX: usize = 6_144;
const VERSIONS_MAX: usize = 5;

impl IamService {
    fn check_managed(document: &str) -> Result<(), ApiError> {
        check_document(document, DocumentKind::Identity)?;
        if size_without_whitespace(document) > DOCUMENT_CHARACTERS_MAX {
            return Err(limit_exceeded(format!("Cannot exceed quota for PolicySize: {DOCUMENT_CHARACTERS_MAX}")));
        }
        Ok(())
    }

    fn policy_record(&self, arn: &str) -> Result<PolicyRecord, ApiError> {
        let name = arn.rsplit('/').next().unwrap_or_default();
        let found = get_json::<PolicyRecord>(store(self), &key(&self.account, "policy", name));
        found
            .map(|found| found.record)
            .filter(|record| record.arn(&self.account) == arn)
            .ok_or_else(|| no_policy(arn))
    }

    async fn change_policy(
        &self,
        arn: &str,
        mut change: impl FnMut(&mut PolicyRecord) -> Result<(), ApiError>,
    ) -> Result<PolicyRecord, ApiError> {
        if managed(arn).is_some() {
            return Err(ApiError::new("AccessDenied", format!("Policy {arn} is an AWS managed policy and cannot be changed.")).with_status(403));
        }
        let at = key(&self.account, "policy", arn.rsplit('/').next().unwrap_or_default());
        update_json(store(self), &at, |found: Option<PolicyRecord>| {
            let mut record = found.filter(|record| record.arn(&self.account) == arn).ok_or_else(|| no_policy(arn))?;
            change(&mut record)?;
            Ok(Some(record))
        })
        .await
        .map_err(refused)?
        .ok_or_else(ApiError::internal)
    }

    pub(crate) async fn create_policy(&self, cx: &Context, input: CreatePolicyRequest) -> Result<CreatePolicyResponse, ApiError> {
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
        let made = store(self).txn(Txn::new().when_absent(&at).put_json(&at, &record)).await.map_err(failed)?;
        if !made.succeeded {
            return Err(exists(format!("A policy called {name} already exists. Duplicate names are not allowed.")));
        }
        Ok(CreatePolicyResponse { policy: Some(Policy { description: None, ..self.policy(&record) }) })
    }

    pub(crate) async fn get_policy(&self, _: &Context, input: GetPolicyRequest) -> Result<GetPolicyResponse, ApiError> {
        let arn = given(input.policy_arn);
        let policy = match managed(&arn) {
            Some(known) => self.aws_policy(known),
            None => self.policy(&self.policy_record(&arn)?),
        };
        Ok(GetPolicyResponse { policy: Some(policy) })
    }

    pub(crate) async fn list_policies(&self, _: &Context, input: ListPoliciesRequest) -> Result<ListPoliciesResponse, ApiError> {
        let scope = input.scope.as_deref().unwrap_or("All");
        let path = input.path_prefix.unwrap_or_else(|| "/".into());
        let mut policies: Vec<Policy> = Vec::new();
        if scope != "AWS" {
            let own = range_json::<PolicyRecord>(store(self), &prefix(&self.account, "policy"));
            policies.extend(own.iter().map(|found| Policy { description: None, tags: None, ..self.policy(&found.record) }));
        }
        if scope != "Local" {
            policies.extend(managed_policies().iter().map(|known| self.aws_policy(known)));
        }
        let boundary = input.policy_usage_filter.as_deref() == Some("PermissionsBoundary");
        policies.retain(|policy| policy.path.as_ref().is_some_and(|of| of.starts_with(&path)));
        if input.only_attached == Some(true) || input.policy_usage_filter.is_some() {
            let count = |policy: &Policy| if boundary { policy.permissions_boundary_usage_count } else { policy.attachment_count };
            policies.retain(|policy| count(policy).unwrap_or_default() > 0);
        }
        let mut policies: Vec<(String, Policy)> =
            policies.into_iter().map(|policy| (policy.arn.clone().unwrap_or_default(), policy)).collect();
        policies.sort_by(|a, b| a.0.cmp(&b.0));
        let (policies, is_truncated, marker) = page(policies, |(arn, _)| arn, input.marker.as_deref(), input.max_items)?;
        let policies = policies.into_iter().map(|(_, policy)| policy).collect();
        Ok(ListPoliciesResponse { policies: Some(policies), is_truncated, marker })
    }

    pub(crate) async fn delete_policy(&self, _: &Context, input: DeletePolicyRequest) -> Result<DeletePolicyNoOutput, ApiError> {
        let arn = given(input.policy_arn);
        let record = self.policy_record(&arn)?;
        let (attached, bounds) = self.usage(&arn);
        if attached + bounds > 0 {
            return Err(conflict("Cannot delete a policy attached to entities."));
        }
        if record.versions.len() > 1 {
            return Err(conflict("This policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy."));
        }
        let at = key(&self.account, "policy", &record.name);
        store(self).txn(Txn::new().delete(at)).await.map_err(failed)?;
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

    pub(crate) async fn get_policy_version(&self, _: &Context, input: GetPolicyVersionRequest) -> Result<GetPolicyVersionResponse, ApiError> {
        let (arn, id) = (given(input.policy_arn), given(input.version_id));
        let found = match managed(&arn) {
            Some(known) => (known.version_id == id).then(|| aws_version(known)),
            None => self.policy_record(&arn)?.versions.iter().map(version).find(|of| of.version_id.as_ref() == Some(&id)),
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
        let mut versions: Vec<PolicyVersion> = match managed(&arn) {
            Some(known) => vec![aws_version(known)],
            None => self.policy_record(&arn)?.versions.iter().rev().map(version).collect(),
        };
        versions.iter_mut().for_each(|of| of.document = None);
        Ok(ListPolicyVersionsResponse { versions: Some(versions), is_truncated: Some(false), marker: None })
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

    pub(crate) async fn tag_policy(&self, _: &Context, input: TagPolicyRequest) -> Result<TagPolicyNoOutput, ApiError> {
        self.change_policy(&given(input.policy_arn), |record| add_tags(&mut record.tags, input.tags.clone())).await?;
        Ok(TagPolicyNoOutput {})
    }

    pub(crate) async fn untag_policy(&self, _: &Context, input: UntagPolicyRequest) -> Result<UntagPolicyNoOutput, ApiError> {
        let keys = input.tag_keys.unwrap_or_default();
        self.change_policy(&given(input.policy_arn), |record| {
            record.tags.retain(|key, _| !keys.contains(key));
            Ok(())
        })
        .await?;
        Ok(UntagPolicyNoOutput {})
    }

    pub(crate) async fn list_policy_tags(&self, _: &Context, input: ListPolicyTagsRequest) -> Result<ListPolicyTagsResponse, ApiError> {
        let record = self.policy_record(&given(input.policy_arn))?;
        let (tags, is_truncated, marker) = page(record.tags, |(key, _)| key, input.marker.as_deref(), input.max_items)?;
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
            let used = if boundary { held.boundary.as_ref() == Some(&arn) } else { held.attached.contains(&arn) };
            used && held.path.starts_with(&path)
        };
        let wanted = |kind: &str| input.entity_filter.as_deref().is_none_or(|filter| filter == kind);
        let users: Vec<PolicyUser> = range_json::<UserRecord>(store(self), &prefix(&self.account, "user"))
            .into_iter()
            .filter(|user| wanted("User") && uses(&user.record.held))
            .map(|user| PolicyUser { user_name: Some(user.record.held.name), user_id: Some(user.record.held.id) })
            .collect();
        let roles: Vec<PolicyRole> = range_json::<RoleRecord>(store(self), &prefix(&self.account, "role"))
            .into_iter()
            .filter(|role| wanted("Role") && uses(&role.record.held))
            .map(|role| PolicyRole { role_name: Some(role.record.held.name), role_id: Some(role.record.held.id) })
            .collect();
        Ok(ListEntitiesForPolicyResponse {
            policy_groups: Some(Vec::new()),
            policy_users: Some(users),
            policy_roles: Some(roles),
            is_truncated: Some(false),
            marker: None,
        })
    }

    /// How many users and roles have it attached, and as their boundary.
    fn usage(&self, arn: &str) -> (i32, i32) {
        let users = range_json::<UserRecord>(store(self), &prefix(&self.account, "user"));
        let roles = range_json::<RoleRecord>(store(self), &prefix(&self.account, "role"));
        let held = users.into_iter().map(|user| user.record.held).chain(roles.into_iter().map(|role| role.record.held));
        held.fold((0, 0), |(attached, bounds), held| {
            (
                attached + i32::from(held.attached.contains(arn)),
                bounds + i32::from(held.boundary.as_deref() == Some(arn)),
            )
        })
    }

    fn policy(&self, record: &PolicyRecord) -> Policy {
        let arn = record.arn(&self.account);
        let (attached, bounds) = self.usage(&arn);
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

    fn aws_policy(&self, known: &ManagedPolicy) -> Policy {
        let arn = known.arn();
        let (attached, bounds) = self.usage(&arn);
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
}

fn position(record: &PolicyRecord, id: &str) -> Option<usize> {
    record.versions.iter().position(|version| format!("v{}", version.number) == id)
}

fn version(record: &PolicyVersionRecord) -> PolicyVersion {
    PolicyVersion {
        document: Some(encoded(&record.document)),
        version_id: Some(format!("v{}", record.number)),
        is_default_version: Some(record.default),
        create_date: Some(record.created),
    }
}

fn aws_version(known: &ManagedPolicy) -> PolicyVersion {
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
