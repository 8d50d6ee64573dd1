//! Roles.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::unique_id;
use ferrogate_policy::{DocumentKind, size_without_whitespace};
use ferrogate_store::{Txn, range_json};

use super::users::{boundary, deletable};
use super::{
    add_tags, check_document, encoded, exists, given, limit_exceeded, page, protect, remove_tags, store,
    tag_list, tag_map,
};
use crate::IamService;
use crate::state::{Held, Holder, RoleRecord, SERVICE_ROLE_PATH, key, prefix};

pub(super) const ROLES_MAX: usize = 1_000;
pub(super) const TRUST_CHARACTERS_MAX: usize = 2_048;
pub(super) const SESSION_SECONDS_DEFAULT: i32 = 3600;

impl IamService {
    pub(crate) async fn create_role(
        &self,
        cx: &Context,
        input: CreateRoleRequest,
    ) -> Result<CreateRoleResponse, ApiError> {
        let name = given(input.role_name);
        let trust = given(input.assume_role_policy_document);
        check_trust(&trust)?;
        if input.path.as_ref().is_some_and(|path| path.starts_with(SERVICE_ROLE_PATH)) {
            return Err(ApiError::new(
                "InvalidInput",
                format!(
                    "The path {SERVICE_ROLE_PATH} is only for service-linked roles: use CreateServiceLinkedRole."
                ),
            ));
        }
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
        self.make_role(&record, || exists(format!("Role with name {name} already exists."))).await?;
        Ok(CreateRoleResponse { role: Some(self.role_of(&record)) })
    }

    pub(super) async fn make_role(
        &self,
        record: &RoleRecord,
        taken: impl Fn() -> ApiError,
    ) -> Result<(), ApiError> {
        let at = key(&self.account, "role", &record.held.name);
        self.transact(|| {
            if self.store.get(&at).is_some() {
                return Err(taken());
            }
            self.within_quota("role", "RolesPerAccount", ROLES_MAX)?;
            let txn = Txn::new().when_absent(&at).put_json(&at, record);
            Ok((if let Some(arn) = &record.held.boundary { self.attaching(txn, arn)? } else { txn }, ()))
        })
        .await
    }

    pub(crate) async fn get_role(
        &self,
        _cx: &Context,
        input: GetRoleRequest,
    ) -> Result<GetRoleResponse, ApiError> {
        let role = self.role_of(&self.find(&given(input.role_name))?);
        Ok(GetRoleResponse { role: Some(Role { role_last_used: Some(RoleLastUsed::default()), ..role }) })
    }

    pub(crate) async fn list_roles(
        &self,
        _cx: &Context,
        input: ListRolesRequest,
    ) -> Result<ListRolesResponse, ApiError> {
        let path = input.path_prefix.unwrap_or_else(|| "/".into());
        let roles = range_json::<RoleRecord>(store(self), &prefix(&self.account, "role"));
        let roles = roles.into_iter().filter(|role| role.record.held.path.starts_with(&path));
        let (roles, is_truncated, marker) =
            page(roles, |role| &role.key, input.marker.as_deref(), input.max_items)?;
        let roles = roles
            .iter()
            .map(|role| Role { tags: None, permissions_boundary: None, ..self.role_of(&role.record) })
            .collect();
        Ok(ListRolesResponse { roles: Some(roles), is_truncated, marker })
    }

    pub(crate) async fn delete_role(
        &self,
        _cx: &Context,
        input: DeleteRoleRequest,
    ) -> Result<DeleteRoleNoOutput, ApiError> {
        let name = given(input.role_name);
        self.transact(|| {
            let found = self.found::<RoleRecord>(&name)?;
            protect(&found.record)?;
            deletable(&found.record.held)?;
            Ok((Txn::new().when_revision(&*found.key, found.mod_revision).delete(&*found.key), ()))
        })
        .await?;
        Ok(DeleteRoleNoOutput {})
    }

    pub(crate) async fn update_role(
        &self,
        _cx: &Context,
        input: UpdateRoleRequest,
    ) -> Result<UpdateRoleResponse, ApiError> {
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
        check_trust(&trust)?;
        self.change::<RoleRecord>(&given(input.role_name), |role| {
            role.trust.clone_from(&trust);
            Ok(())
        })
        .await?;
        Ok(UpdateAssumeRolePolicyNoOutput {})
    }

    pub(crate) async fn tag_role(
        &self,
        _cx: &Context,
        input: TagRoleRequest,
    ) -> Result<TagRoleNoOutput, ApiError> {
        self.change::<RoleRecord>(&given(input.role_name), |role| {
            add_tags(&mut role.held.tags, input.tags.clone())
        })
        .await?;
        Ok(TagRoleNoOutput {})
    }

    pub(crate) async fn untag_role(
        &self,
        _cx: &Context,
        input: UntagRoleRequest,
    ) -> Result<UntagRoleNoOutput, ApiError> {
        let keys = input.tag_keys.unwrap_or_default();
        self.change::<RoleRecord>(&given(input.role_name), |role| {
            remove_tags(&mut role.held.tags, &keys);
            Ok(())
        })
        .await?;
        Ok(UntagRoleNoOutput {})
    }

    pub(crate) async fn list_role_tags(
        &self,
        _cx: &Context,
        input: ListRoleTagsRequest,
    ) -> Result<ListRoleTagsResponse, ApiError> {
        let role: RoleRecord = self.find(&given(input.role_name))?;
        let tags: Vec<(String, String)> = role.held.tags.into_iter().collect();
        let (tags, is_truncated, marker) =
            page(tags, |(key, _)| key, input.marker.as_deref(), input.max_items)?;
        let tags = tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
        Ok(ListRoleTagsResponse { tags: Some(tags), is_truncated, marker })
    }

    pub(super) fn role_of(&self, record: &RoleRecord) -> Role {
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

fn check_trust(document: &str) -> Result<(), ApiError> {
    check_document(document, DocumentKind::Trust)?;
    if size_without_whitespace(document) > TRUST_CHARACTERS_MAX {
        return Err(limit_exceeded(format!(
            "Cannot exceed quota for ACLSizePerRole: {TRUST_CHARACTERS_MAX}"
        )));
    }
    Ok(())
}
