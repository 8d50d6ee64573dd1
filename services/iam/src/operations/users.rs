//! Users.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context, PrincipalKind};
use ferrogate_model::unique_id;
use ferrogate_store::{Txn, get_json, range_json};

use super::{add_tags, conflict, exists, given, page, remove_tags, store, tag_list, tag_map};
use crate::IamService;
use crate::state::{AccessKeyRecord, GroupRecord, Held, Holder, UserRecord, access_key_key, key, prefix};

pub(super) const USERS_MAX: usize = 5_000;

impl IamService {
    pub(crate) async fn create_user(
        &self,
        cx: &Context,
        input: CreateUserRequest,
    ) -> Result<CreateUserResponse, ApiError> {
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
            groups: Default::default(),
        };
        let at = key(&self.account, "user", &name);
        self.transact(|| {
            if self.store.get(&at).is_some() {
                return Err(taken(&name));
            }
            self.within_quota("user", "UsersPerAccount", USERS_MAX)?;
            let txn = Txn::new().when_absent(&at).put_json(&at, &record);
            Ok((if let Some(arn) = &record.held.boundary { self.attaching(txn, arn)? } else { txn }, ()))
        })
        .await?;
        Ok(CreateUserResponse { user: Some(self.user(&record)) })
    }

    /// Without a name: the caller.
    pub(crate) async fn get_user(
        &self,
        cx: &Context,
        input: GetUserRequest,
    ) -> Result<GetUserResponse, ApiError> {
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
                return Err(ApiError::new(
                    "ValidationError",
                    "Must specify userName when calling with non-User credentials",
                ));
            }
        };
        Ok(GetUserResponse { user: Some(self.user(&self.find(&name)?)) })
    }

    pub(crate) async fn list_users(
        &self,
        _cx: &Context,
        input: ListUsersRequest,
    ) -> Result<ListUsersResponse, ApiError> {
        let path = input.path_prefix.unwrap_or_else(|| "/".into());
        let users = range_json::<UserRecord>(store(self), &prefix(&self.account, "user"));
        let users = users.into_iter().filter(|user| user.record.held.path.starts_with(&path));
        let (users, is_truncated, marker) =
            page(users, |user| &user.key, input.marker.as_deref(), input.max_items)?;
        let users = users.iter().map(|user| User { tags: None, ..self.user(&user.record) }).collect();
        Ok(ListUsersResponse { users: Some(users), is_truncated, marker })
    }

    pub(crate) async fn delete_user(
        &self,
        _cx: &Context,
        input: DeleteUserRequest,
    ) -> Result<DeleteUserNoOutput, ApiError> {
        let name = given(input.user_name);
        self.transact(|| {
            let found = self.found::<UserRecord>(&name)?;
            let user = &found.record;
            if !user.access_keys.is_empty() {
                return Err(conflict("Cannot delete entity, must delete access keys first."));
            }
            if !user.groups.is_empty() {
                return Err(conflict("Cannot delete entity, must remove user from groups first."));
            }
            deletable(&user.held)?;
            Ok((Txn::new().when_revision(&*found.key, found.mod_revision).delete(&*found.key), ()))
        })
        .await?;
        Ok(DeleteUserNoOutput {})
    }

    /// A new name goes into the user's access keys and groups as well, in the same transaction.
    pub(crate) async fn update_user(
        &self,
        _cx: &Context,
        input: UpdateUserRequest,
    ) -> Result<UpdateUserNoOutput, ApiError> {
        let name = given(input.user_name);
        self.transact(|| {
            let found = self.found::<UserRecord>(&name)?;
            let mut user = found.record;
            let old = user.held.name.clone();
            if let Some(path) = &input.new_path {
                user.held.path.clone_from(path);
            }
            if let Some(name) = &input.new_user_name {
                user.held.name.clone_from(name);
            }
            let mut txn = Txn::new().when_revision(&*found.key, found.mod_revision);
            let at = key(&self.account, "user", &user.held.name);
            if *at != *found.key {
                if self.store.get(&at).is_some() {
                    return Err(taken(&user.held.name));
                }
                txn = txn.when_absent(&at).delete(&*found.key);
            }
            txn = txn.put_json(&at, &user);
            if old != user.held.name {
                for id in &user.access_keys {
                    let at = access_key_key(&self.account, id);
                    let Some(found) = get_json::<AccessKeyRecord>(store(self), &at) else { continue };
                    let record = AccessKeyRecord { user: user.held.name.clone(), ..found.record };
                    txn = txn.when_revision(&at, found.mod_revision).put_json(&at, &record);
                }
                for group in &user.groups {
                    let found = self.found::<GroupRecord>(group)?;
                    let mut group = found.record;
                    group.members.remove(&old.to_lowercase());
                    group.members.insert(user.held.name.to_lowercase());
                    txn = txn.when_revision(&*found.key, found.mod_revision).put_json(&*found.key, &group);
                }
            }
            Ok((txn, ()))
        })
        .await?;
        Ok(UpdateUserNoOutput {})
    }

    pub(crate) async fn tag_user(
        &self,
        _cx: &Context,
        input: TagUserRequest,
    ) -> Result<TagUserNoOutput, ApiError> {
        self.change::<UserRecord>(&given(input.user_name), |user| {
            add_tags(&mut user.held.tags, input.tags.clone())
        })
        .await?;
        Ok(TagUserNoOutput {})
    }

    pub(crate) async fn untag_user(
        &self,
        _cx: &Context,
        input: UntagUserRequest,
    ) -> Result<UntagUserNoOutput, ApiError> {
        let keys = input.tag_keys.unwrap_or_default();
        self.change::<UserRecord>(&given(input.user_name), |user| {
            remove_tags(&mut user.held.tags, &keys);
            Ok(())
        })
        .await?;
        Ok(UntagUserNoOutput {})
    }

    pub(crate) async fn list_user_tags(
        &self,
        _cx: &Context,
        input: ListUserTagsRequest,
    ) -> Result<ListUserTagsResponse, ApiError> {
        let user: UserRecord = self.find(&given(input.user_name))?;
        let tags = tag_list(&user.held.tags).unwrap_or_default();
        let name = |tag: &Tag| tag.key.clone().unwrap_or_default();
        let tags: Vec<(String, Tag)> = tags.into_iter().map(|tag| (name(&tag), tag)).collect();
        let (tags, is_truncated, marker) =
            page(tags, |(key, _)| key, input.marker.as_deref(), input.max_items)?;
        Ok(ListUserTagsResponse {
            tags: Some(tags.into_iter().map(|(_, tag)| tag).collect()),
            is_truncated,
            marker,
        })
    }

    pub(super) fn user(&self, record: &UserRecord) -> User {
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

fn taken(name: &str) -> ApiError {
    exists(format!("User with name {name} already exists."))
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
