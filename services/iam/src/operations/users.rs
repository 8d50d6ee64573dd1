//! Users.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context, PrincipalKind};
use ferrogate_model::unique_id;
use ferrogate_store::{Txn, get_json, range_json};

use super::{add_tags, conflict, exists, failed, given, page, store, tag_list, tag_map};
use crate::IamService;
use crate::state::{Held, Holder, UserRecord, key, prefix};

impl IamService {
    pub(crate) async fn create_user(&self, cx: &Context, input: CreateUserRequest) -> Result<CreateUserResponse, ApiError> {
        let name = given(input.user_name);
        let boundary = input.permissions_boundary.map(|arn| self.attachable(arn)).transpose()?;
        let record = UserRecord {
            held: Held {
                name: name.clone(),
                path: input.path.unwrap_or_else(|| "/".into()),
                id: unique_id("AIDA"),
                created: cx.now,
                tags: tag_map(input.tags)?,
                inline: Default::default(),
                attached: Default::default(),
                boundary,
            },
            access_keys: Default::default(),
        };
        let at = key(&self.account, "user", &name);
        let made = store(self).txn(Txn::new().when_absent(&at).put_json(&at, &record)).await.map_err(failed)?;
        if !made.succeeded {
            return Err(exists(format!("User with name {name} already exists.")));
        }
        Ok(CreateUserResponse { user: Some(self.user(&record)) })
    }

    /// Without a name: the caller.
    pub(crate) async fn get_user(&self, cx: &Context, input: GetUserRequest) -> Result<GetUserResponse, ApiError> {
        let name = match (input.user_name, &cx.principal.kind) {
            (Some(name), _) => name,
            (None, PrincipalKind::User { name }) => name.clone(),
            (None, PrincipalKind::Root) => {
                let root = User {
                    path: Some("/".into()),
                    user_id: Some(self.account.clone()),
                    arn: Some(format!("arn:aws:iam::{}:root", self.account)),
                    ..User::default()
                };
                return Ok(GetUserResponse { user: Some(root) });
            }
            (None, _) => {
                return Err(ApiError::new("ValidationError", "Must specify userName when calling with non-User credentials"));
            }
        };
        Ok(GetUserResponse { user: Some(self.user(&self.find(&name)?)) })
    }

    pub(crate) async fn list_users(&self, _cx: &Context, input: ListUsersRequest) -> Result<ListUsersResponse, ApiError> {
        let path = input.path_prefix.unwrap_or_else(|| "/".into());
        let users = range_json::<UserRecord>(store(self), &prefix(&self.account, "user"));
        let users = users.into_iter().filter(|user| user.record.held.path.starts_with(&path));
        let (users, is_truncated, marker) = page(users, |user| &user.key, input.marker.as_deref(), input.max_items)?;
        let users = users.iter().map(|user| User { tags: None, ..self.user(&user.record) }).collect();
        Ok(ListUsersResponse { users: Some(users), is_truncated, marker })
    }

    pub(crate) async fn delete_user(&self, _cx: &Context, input: DeleteUserRequest) -> Result<DeleteUserNoOutput, ApiError> {
        let name = given(input.user_name);
        let at = key(&self.account, "user", &name);
        loop {
            let Some(found) = get_json::<UserRecord>(store(self), &at) else {
                self.find::<UserRecord>(&name)?;
                continue;
            };
            let user = found.record;
            if !user.access_keys.is_empty() {
                return Err(conflict("Cannot delete entity, must delete access keys first."));
            }
            deletable(&user.held)?;
            let txn = Txn::new().when_revision(&at, found.mod_revision).delete(&at);
            if store(self).txn(txn).await.map_err(failed)?.succeeded {
                return Ok(DeleteUserNoOutput {});
            }
        }
    }

    pub(crate) async fn tag_user(&self, _cx: &Context, input: TagUserRequest) -> Result<TagUserNoOutput, ApiError> {
        self.change::<UserRecord>(&given(input.user_name), |user| add_tags(&mut user.held.tags, input.tags.clone())).await?;
        Ok(TagUserNoOutput {})
    }

    pub(crate) async fn untag_user(&self, _cx: &Context, input: UntagUserRequest) -> Result<UntagUserNoOutput, ApiError> {
        let keys = input.tag_keys.unwrap_or_default();
        self.change::<UserRecord>(&given(input.user_name), |user| {
            user.held.tags.retain(|key, _| !keys.contains(key));
            Ok(())
        })
        .await?;
        Ok(UntagUserNoOutput {})
    }

    pub(crate) async fn list_user_tags(&self, _cx: &Context, input: ListUserTagsRequest) -> Result<ListUserTagsResponse, ApiError> {
        let user: UserRecord = self.find(&given(input.user_name))?;
        let tags = tag_list(&user.held.tags).unwrap_or_default();
        let name = |tag: &Tag| tag.key.clone().unwrap_or_default();
        let tags: Vec<(String, Tag)> = tags.into_iter().map(|tag| (name(&tag), tag)).collect();
        let (tags, is_truncated, marker) = page(tags, |(key, _)| key, input.marker.as_deref(), input.max_items)?;
        Ok(ListUserTagsResponse { tags: Some(tags.into_iter().map(|(_, tag)| tag).collect()), is_truncated, marker })
    }

    fn user(&self, record: &UserRecord) -> User {
        let held = &record.held;
        User {
            path: Some(held.path.clone()),
            user_name: Some(held.name.clone()),
            user_id: Some(held.id.clone()),
            arn: Some(record.arn(&self.account)),
            create_date: Some(held.created),
            password_last_used: None,
            permissions_boundary: boundary(held),
            tags: tag_list(&held.tags),
        }
    }
}

pub(super) fn boundary(held: &Held) -> Option<AttachedPermissionsBoundary> {
    held.boundary.clone().map(|arn| AttachedPermissionsBoundary {
        permissions_boundary_type: Some("PermissionsBoundaryPolicy".into()),
        permissions_boundary_arn: Some(arn),
    })
}

pub(super) fn deletable(held: &Held) -> Result<(), ApiError> {
    if !held.attached.is_empty() {
        return Err(conflict("Cannot delete entity, must detach all policies first."));
    }
    if !held.inline.is_empty() {
        return Err(conflict("Cannot delete entity, must delete policies first."));
    }
    Ok(())
}
