//! Groups and who is in them.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::unique_id;
use ferrogate_store::Txn;

use super::users::deletable;
use super::{conflict, exists, given, limit_exceeded, no_such, page};
use crate::IamService;
use crate::state::{GroupRecord, Held, Holder, UserRecord, key};

pub(super) const GROUPS_MAX: usize = 300;
pub(super) const GROUPS_PER_USER_MAX: usize = 10;
/// A new name goes into the records of all members, in one transaction.
const RENAMED_MEMBERS_MAX: usize = 500;

impl IamService {
    pub(crate) async fn create_group(
        &self,
        cx: &Context,
        input: CreateGroupRequest,
    ) -> Result<CreateGroupResponse, ApiError> {
        let name = given(input.group_name);
        let record = GroupRecord {
            held: Held {
                name: name.clone(),
                path: input.path.unwrap_or_else(|| "/".into()),
                id: unique_id("AGPA"),
                created: cx.now,
                tags: Default::default(),
                inline: Default::default(),
                attached: Default::default(),
                boundary: None,
            },
            members: Default::default(),
        };
        let at = key(&self.account, "group", &name);
        self.transact(|| {
            if self.store.get(&at).is_some() {
                return Err(taken(&name));
            }
            self.within_quota("group", "GroupsPerAccount", GROUPS_MAX)?;
            Ok((Txn::new().when_absent(&at).put_json(&at, &record), ()))
        })
        .await?;
        Ok(CreateGroupResponse { group: Some(self.group(&record)) })
    }

    /// The group and its users.
    pub(crate) async fn get_group(
        &self,
        _: &Context,
        input: GetGroupRequest,
    ) -> Result<GetGroupResponse, ApiError> {
        let group: GroupRecord = self.find(&given(input.group_name))?;
        let shown = self.group(&group);
        let (names, is_truncated, marker) =
            page(group.members, |name| name, input.marker.as_deref(), input.max_items)?;
        let users = names.iter().filter_map(|name| self.holder::<UserRecord>(name));
        let users =
            users.map(|user| User { tags: None, permissions_boundary: None, ..self.user(&user) }).collect();
        Ok(GetGroupResponse { group: Some(shown), users: Some(users), is_truncated, marker })
    }

    pub(crate) async fn list_groups(
        &self,
        _: &Context,
        input: ListGroupsRequest,
    ) -> Result<ListGroupsResponse, ApiError> {
        let path = input.path_prefix.unwrap_or_else(|| "/".into());
        let groups = self.all::<GroupRecord>().filter(|(_, group)| group.held.path.starts_with(&path));
        let (groups, is_truncated, marker) =
            page(groups, |(at, _)| at, input.marker.as_deref(), input.max_items)?;
        let groups = groups.iter().map(|(_, group)| self.group(group)).collect();
        Ok(ListGroupsResponse { groups: Some(groups), is_truncated, marker })
    }

    pub(crate) async fn list_groups_for_user(
        &self,
        _: &Context,
        input: ListGroupsForUserRequest,
    ) -> Result<ListGroupsForUserResponse, ApiError> {
        let user: UserRecord = self.find(&given(input.user_name))?;
        let (names, is_truncated, marker) =
            page(user.groups, |name| name, input.marker.as_deref(), input.max_items)?;
        let groups = names.iter().filter_map(|name| self.holder::<GroupRecord>(name));
        Ok(ListGroupsForUserResponse {
            groups: Some(groups.map(|group| self.group(&group)).collect()),
            is_truncated,
            marker,
        })
    }

    pub(crate) async fn delete_group(
        &self,
        _: &Context,
        input: DeleteGroupRequest,
    ) -> Result<DeleteGroupNoOutput, ApiError> {
        let name = given(input.group_name);
        self.transact(|| {
            let found = self.found::<GroupRecord>(&name)?;
            if !found.record.members.is_empty() {
                return Err(conflict("Cannot delete entity, must remove users from group first."));
            }
            deletable(&found.record.held)?;
            Ok((Txn::new().when_revision(&*found.key, found.mod_revision).delete(&*found.key), ()))
        })
        .await?;
        Ok(DeleteGroupNoOutput {})
    }

    pub(crate) async fn update_group(
        &self,
        _: &Context,
        input: UpdateGroupRequest,
    ) -> Result<UpdateGroupNoOutput, ApiError> {
        let name = given(input.group_name);
        self.transact(|| {
            let found = self.found::<GroupRecord>(&name)?;
            let mut group = found.record;
            if let Some(path) = &input.new_path {
                group.held.path.clone_from(path);
            }
            let old = group.held.name.to_lowercase();
            if let Some(name) = &input.new_group_name {
                group.held.name.clone_from(name);
            }
            let new = group.held.name.to_lowercase();
            let at = key(&self.account, "group", &new);
            let mut txn = Txn::new().when_revision(&*found.key, found.mod_revision);
            if old != new {
                if self.store.get(&at).is_some() {
                    return Err(taken(&group.held.name));
                }
                if group.members.len() > RENAMED_MEMBERS_MAX {
                    return Err(limit_exceeded(format!(
                        "The group has {} users; one with more than {RENAMED_MEMBERS_MAX} cannot be given another name.",
                        group.members.len()
                    )));
                }
                txn = txn.when_absent(&at).delete(&*found.key);
                for member in &group.members {
                    let found = self.found::<UserRecord>(member)?;
                    let mut user = found.record;
                    user.groups.remove(&old);
                    user.groups.insert(new.clone());
                    txn = txn.when_revision(&*found.key, found.mod_revision).put_json(&*found.key, &user);
                }
            }
            Ok((txn.put_json(&at, &group), ()))
        })
        .await?;
        Ok(UpdateGroupNoOutput {})
    }

    pub(crate) async fn add_user_to_group(
        &self,
        _: &Context,
        input: AddUserToGroupRequest,
    ) -> Result<AddUserToGroupNoOutput, ApiError> {
        self.member(&given(input.group_name), &given(input.user_name), |group, user| {
            group.members.insert(user.held.name.to_lowercase());
            user.groups.insert(group.held.name.to_lowercase());
            if user.groups.len() > GROUPS_PER_USER_MAX {
                return Err(limit_exceeded(format!(
                    "Cannot exceed quota for GroupsPerUser: {GROUPS_PER_USER_MAX}"
                )));
            }
            Ok(())
        })
        .await?;
        Ok(AddUserToGroupNoOutput {})
    }

    pub(crate) async fn remove_user_from_group(
        &self,
        _: &Context,
        input: RemoveUserFromGroupRequest,
    ) -> Result<RemoveUserFromGroupNoOutput, ApiError> {
        self.member(&given(input.group_name), &given(input.user_name), |group, user| {
            group.members.remove(&user.held.name.to_lowercase());
            if !user.groups.remove(&group.held.name.to_lowercase()) {
                let (user, group) = (&user.held.name, &group.held.name);
                return Err(no_such(format!("The user with name {user} is not in the group {group}.")));
            }
            Ok(())
        })
        .await?;
        Ok(RemoveUserFromGroupNoOutput {})
    }

    /// Changes a group and a user together.
    async fn member(
        &self,
        group: &str,
        user: &str,
        change: impl Fn(&mut GroupRecord, &mut UserRecord) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        self.transact(|| {
            let (group, user) = (self.found::<GroupRecord>(group)?, self.found::<UserRecord>(user)?);
            let (mut changed_group, mut changed_user) = (group.record, user.record);
            change(&mut changed_group, &mut changed_user)?;
            let txn = Txn::new()
                .when_revision(&*group.key, group.mod_revision)
                .when_revision(&*user.key, user.mod_revision)
                .put_json(&*group.key, &changed_group)
                .put_json(&*user.key, &changed_user);
            Ok((txn, ()))
        })
        .await
    }

    pub(super) fn group(&self, record: &GroupRecord) -> Group {
        let held = &record.held;
        Group {
            path: Some(held.path.clone()),
            group_name: Some(held.name.clone()),
            group_id: Some(held.id.clone()),
            arn: Some(record.arn(&self.account)),
            create_date: Some(held.created),
        }
    }
}

fn taken(name: &str) -> ApiError {
    exists(format!("Group with name {name} already exists."))
}
