//! Roles.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::unique_id;
use ferrogate_policy::DocumentKind;
use ferrogate_store::{Txn, get_json, range_json};

use super::users::{boundary, deletable};
use super::{add_tags, check_document, encoded, exists, failed, given, page, store, tag_list, tag_map};
use crate::IamService;
use crate::state::{Held, Holder, RoleRecord, key, prefix};

const SESSION_SECONDS_DEFAULT: i32 = 3600;

impl IamService {
    pub(crate) async fn create_role(&self, cx: &Context, input: CreateRoleRequest) -> Result<CreateRoleResponse, ApiError> {
        let name = given(input.role_name);
        let trust = given(input.assume_role_policy_document);
        check_document(&trust, DocumentKind::Trust)?;
        let boundary = input.permissions_boundary.map(|arn| self.attachable(arn)).transpose()?;
        let record = RoleRecord {
            held: Held {
                name: name.clone(),
                path: input.path.unwrap_or_else(|| "/".into()),
                id: unique_id("AROA"),
                created: cx.now,
                tags: tag_map(input.tags)?,
                inline: Default::default(),
                attached: Default::default(),
                boundary,
            },
            trust,
            description: input.description,
            max_session_seconds: input.max_session_duration.unwrap_or(SESSION_SECONDS_DEFAULT),
        };
        let at = key(&self.account, "role", &name);
        let made = store(self).txn(Txn::new().when_absent(&at).put_json(&at, &record)).await.map_err(failed)?;
        if !made.succeeded {
            return Err(exists(format!("Role with name {name} already exists.")));
        }
        Ok(CreateRoleResponse { role: Some(self.role_of(&record)) })
    }

    pub(crate) async fn get_role(&self, _cx: &Context, input: GetRoleRequest) -> Result<GetRoleResponse, ApiError> {
        let role = self.role_of(&self.find(&given(input.role_name))?);
        Ok(GetRoleResponse { role: Some(Role { role_last_used: Some(RoleLastUsed::default()), ..role }) })
    }

    pub(crate) async fn list_roles(&self, _cx: &Context, input: ListRolesRequest) -> Result<ListRolesResponse, ApiError> {
        let path = input.path_prefix.unwrap_or_else(|| "/".into());
        let roles = range_json::<RoleRecord>(store(self), &prefix(&self.account, "role"));
        let roles = roles.into_iter().filter(|role| role.record.held.path.starts_with(&path));
        let (roles, is_truncated, marker) = page(roles, |role| &role.key, input.marker.as_deref(), input.max_items)?;
        let roles = roles
            .iter()
            .map(|role| Role { tags: None, permissions_boundary: None, ..self.role_of(&role.record) })
            .collect();
        Ok(ListRolesResponse { roles: Some(roles), is_truncated, marker })
    }

    pub(crate) async fn delete_role(&self, _cx: &Context, input: DeleteRoleRequest) -> Result<DeleteRoleNoOutput, ApiError> {
        let name = given(input.role_name);
        let at = key(&self.account, "role", &name);
        loop {
            let Some(found) = get_json::<RoleRecord>(store(self), &at) else {
                self.find::<RoleRecord>(&name)?;
                continue;
            };
            deletable(&found.record.held)?;
            let txn = Txn::new().when_revision(&at, found.mod_revision).delete(&at);
            if store(self).txn(txn).await.map_err(failed)?.succeeded {
                return Ok(DeleteRoleNoOutput {});
            }
        }
    }

    pub(crate) async fn update_role(&self, _cx: &Context, input: UpdateRoleRequest) -> Result<UpdateRoleResponse, ApiError> {
        self.change::<RoleRecord>(&given(input.role_name), |role| {
            // AWS: a member that is left out is set to its default.
            role.max_session_seconds = input.max_session_duration.unwrap_or(SESSION_SECONDS_DEFAULT);
            if input.description.is_some() {
                role.description.clone_from(&input.description);
            }
            Ok(())
        })
        .await?;
        Ok(UpdateRoleResponse {})
    }

    pub(crate) async fn update_role_description(
        &self,
        _cx: &Context,
        input: UpdateRoleDescriptionRequest,
    ) -> Result<UpdateRoleDescriptionResponse, ApiError> {
        let role = self
            .change::<RoleRecord>(&given(input.role_name), |role| {
                role.description.clone_from(&input.description);
                Ok(())
            })
            .await?;
        Ok(UpdateRoleDescriptionResponse { role: Some(self.role_of(&role)) })
    }

    pub(crate) async fn update_assume_role_policy(
        &self,
        _cx: &Context,
        input: UpdateAssumeRolePolicyRequest,
    ) -> Result<UpdateAssumeRolePolicyNoOutput, ApiError> {
        let trust = given(input.policy_document);
        check_document(&trust, DocumentKind::Trust)?;
        self.change::<RoleRecord>(&given(input.role_name), |role| {
            role.trust.clone_from(&trust);
            Ok(())
        })
        .await?;
        Ok(UpdateAssumeRolePolicyNoOutput {})
    }

    pub(crate) async fn tag_role(&self, _cx: &Context, input: TagRoleRequest) -> Result<TagRoleNoOutput, ApiError> {
        self.change::<RoleRecord>(&given(input.role_name), |role| add_tags(&mut role.held.tags, input.tags.clone())).await?;
        Ok(TagRoleNoOutput {})
    }

    pub(crate) async fn untag_role(&self, _cx: &Context, input: UntagRoleRequest) -> Result<UntagRoleNoOutput, ApiError> {
        let keys = input.tag_keys.unwrap_or_default();
        self.change::<RoleRecord>(&given(input.role_name), |role| {
            role.held.tags.retain(|key, _| !keys.contains(key));
            Ok(())
        })
        .await?;
        Ok(UntagRoleNoOutput {})
    }

    pub(crate) async fn list_role_tags(&self, _cx: &Context, input: ListRoleTagsRequest) -> Result<ListRoleTagsResponse, ApiError> {
        let role: RoleRecord = self.find(&given(input.role_name))?;
        let tags: Vec<(String, String)> = role.held.tags.into_iter().collect();
        let (tags, is_truncated, marker) = page(tags, |(key, _)| key, input.marker.as_deref(), input.max_items)?;
        let tags = tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
        Ok(ListRoleTagsResponse { tags: Some(tags), is_truncated, marker })
    }

    fn role_of(&self, record: &RoleRecord) -> Role {
        let held = &record.held;
        Role {
            path: Some(held.path.clone()),
            role_name: Some(held.name.clone()),
            role_id: Some(held.id.clone()),
            arn: Some(record.arn(&self.account)),
            create_date: Some(held.created),
            assume_role_policy_document: Some(encoded(&record.trust)),
            description: record.description.clone(),
            max_session_duration: Some(record.max_session_seconds),
            permissions_boundary: boundary(held),
            tags: tag_list(&held.tags),
            ..Role::default()
        }
    }
}
