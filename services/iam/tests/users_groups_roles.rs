//! Users, groups, roles, access keys: names, limits, deletions, what is attached to whom.

mod support;

use std::sync::Arc;

use ferrogate_api::iam::*;
use ferrogate_api::{Principal, PrincipalKind};
use ferrogate_front::CredentialError;
use support::*;

#[tokio::test]
async fn names_are_one_without_case_and_shown_as_made() {
    let iam = service();
    user(&iam, "Alice").await;
    let again = CreateUserRequest { user_name: some("aLICE"), ..Default::default() };
    is_refused(
        Iam::create_user(&iam, &cx(), again).await,
        "EntityAlreadyExists",
        "User with name aLICE already exists.",
    );
    let found =
        Iam::get_user(&iam, &cx(), GetUserRequest { user_name: some("ALICE") }).await.unwrap().user.unwrap();
    assert_eq!(found.user_name.as_deref(), Some("Alice"));
    let get = GetUserRequest { user_name: some("bob") };
    is_refused(
        Iam::get_user(&iam, &cx(), get).await,
        "NoSuchEntity",
        "The user with name bob cannot be found.",
    );
}

#[tokio::test]
async fn a_new_name_takes_keys_and_groups_along() {
    let iam = service();
    user(&iam, "alice").await;
    user(&iam, "carol").await;
    group(&iam, "Ops").await;
    join(&iam, "ops", "alice").await.unwrap();
    let key = Iam::create_access_key(&iam, &cx(), CreateAccessKeyRequest { user_name: some("alice") })
        .await
        .unwrap();
    let key = key.access_key.unwrap();
    let rename = |new: &str| UpdateUserRequest {
        user_name: some("alice"),
        new_path: some("/a/"),
        new_user_name: some(new),
    };
    is_refused(
        Iam::update_user(&iam, &cx(), rename("Carol")).await,
        "EntityAlreadyExists",
        "User with name Carol already exists.",
    );
    Iam::update_user(&iam, &cx(), rename("Bob")).await.unwrap();
    let credential = iam.credential(key.access_key_id.as_deref().unwrap(), None).unwrap();
    assert_eq!(credential.principal.arn, "arn:aws:iam::123456789012:user/a/Bob");
    assert_eq!(credential.secret.expose(), key.secret_access_key.unwrap());
    let members =
        Iam::get_group(&iam, &cx(), GetGroupRequest { group_name: some("ops"), ..Default::default() })
            .await
            .unwrap();
    assert_eq!(members.users.unwrap()[0].user_name.as_deref(), Some("Bob"));
    let update = UpdateGroupRequest {
        group_name: some("ops"),
        new_path: some("/g/"),
        new_group_name: some("Operators"),
    };
    Iam::update_group(&iam, &cx(), update).await.unwrap();
    let of = ListGroupsForUserRequest { user_name: some("bob"), ..Default::default() };
    let groups = Iam::list_groups_for_user(&iam, &cx(), of).await.unwrap().groups.unwrap();
    assert_eq!(groups[0].arn.as_deref(), Some("arn:aws:iam::123456789012:group/g/Operators"));
}

#[tokio::test]
async fn nothing_is_deleted_while_something_hangs_on_it() {
    let iam = service();
    user(&iam, "alice").await;
    group(&iam, "ops").await;
    join(&iam, "ops", "alice").await.unwrap();
    join(&iam, "ops", "alice").await.unwrap();
    let cx = cx();
    let delete_user = || Iam::delete_user(&iam, &cx, DeleteUserRequest { user_name: some("alice") });
    let delete_group = || Iam::delete_group(&iam, &cx, DeleteGroupRequest { group_name: some("ops") });
    is_refused(
        delete_user().await,
        "DeleteConflict",
        "Cannot delete entity, must remove user from groups first.",
    );
    is_refused(
        delete_group().await,
        "DeleteConflict",
        "Cannot delete entity, must remove users from group first.",
    );
    let leave = || RemoveUserFromGroupRequest { group_name: some("ops"), user_name: some("alice") };
    Iam::remove_user_from_group(&iam, &cx, leave()).await.unwrap();
    assert_eq!(Iam::remove_user_from_group(&iam, &cx, leave()).await.unwrap_err().code, "NoSuchEntity");

    let document = some(&statement("Allow", "ecs:*"));
    let put =
        PutGroupPolicyRequest { group_name: some("ops"), policy_name: some("p"), policy_document: document };
    Iam::put_group_policy(&iam, &cx, put).await.unwrap();
    is_refused(delete_group().await, "DeleteConflict", "Cannot delete entity, must delete policies first.");
    let no_more = DeleteGroupPolicyRequest { group_name: some("ops"), policy_name: some("p") };
    Iam::delete_group_policy(&iam, &cx, no_more).await.unwrap();
    delete_group().await.unwrap();

    let key =
        Iam::create_access_key(&iam, &cx, CreateAccessKeyRequest { user_name: some("alice") }).await.unwrap();
    let id = key.access_key.unwrap().access_key_id;
    is_refused(delete_user().await, "DeleteConflict", "Cannot delete entity, must delete access keys first.");
    let no_key = DeleteAccessKeyRequest { user_name: some("alice"), access_key_id: id.clone() };
    Iam::delete_access_key(&iam, &cx, no_key).await.unwrap();
    delete_user().await.unwrap();
    assert_eq!(iam.credential(&id.unwrap(), None).unwrap_err(), CredentialError::Unknown);
    is_refused(delete_user().await, "NoSuchEntity", "The user with name alice cannot be found.");
}

#[tokio::test]
async fn two_keys_at_most_whoever_asks_at_the_same_time() {
    let iam = Arc::new(service());
    user(&iam, "alice").await;
    let asks = (0..8).map(|_| {
        let iam = Arc::clone(&iam);
        let ask = CreateAccessKeyRequest { user_name: some("alice") };
        tokio::spawn(async move { Iam::create_access_key(&*iam, &cx(), ask).await.is_ok() })
    });
    let mut made = 0;
    for ask in asks.collect::<Vec<_>>() {
        made += usize::from(ask.await.unwrap());
    }
    assert_eq!(made, 2);
    let ask = CreateAccessKeyRequest { user_name: some("alice") };
    is_refused(
        Iam::create_access_key(&*iam, &cx(), ask).await,
        "LimitExceeded",
        "Cannot exceed quota for AccessKeysPerUser: 2",
    );
    let list = ListAccessKeysRequest { user_name: some("alice"), ..Default::default() };
    let listed = Iam::list_access_keys(&*iam, &cx(), list).await;
    assert_eq!(listed.unwrap().access_key_metadata.unwrap().len(), 2);
}

#[tokio::test]
async fn ten_groups_at_most() {
    let iam = service();
    user(&iam, "alice").await;
    for n in 0..11 {
        group(&iam, &format!("g{n}")).await;
    }
    for n in 0..10 {
        join(&iam, &format!("g{n}"), "alice").await.unwrap();
    }
    is_refused(
        join(&iam, "g10", "alice").await,
        "LimitExceeded",
        "Cannot exceed quota for GroupsPerUser: 10",
    );
    is_refused(join(&iam, "g10", "bob").await, "NoSuchEntity", "The user with name bob cannot be found.");
    is_refused(join(&iam, "x", "alice").await, "NoSuchEntity", "The group with name x cannot be found.");
    let list = |marker| ListGroupsRequest { max_items: Some(4), marker, path_prefix: None };
    let (mut names, mut marker) = (Vec::new(), None);
    loop {
        let page = Iam::list_groups(&iam, &cx(), list(marker)).await.unwrap();
        names.extend(page.groups.unwrap().into_iter().filter_map(|group| group.group_name));
        assert_eq!(page.is_truncated, Some(page.marker.is_some()));
        marker = page.marker;
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(names.len(), 11);
    assert_eq!(Iam::list_groups(&iam, &cx(), list(some("?"))).await.unwrap_err().code, "InvalidInput");
}

#[tokio::test]
async fn policies_of_user_group_and_role() {
    let iam = service();
    let alice = user(&iam, "alice").await;
    group(&iam, "ops").await;
    join(&iam, "ops", "alice").await.unwrap();
    let worker = role(&iam, "worker").await;
    let arn = policy(&iam, "shared", &statement("Allow", "logs:*")).await;
    let cx = cx();
    Iam::attach_group_policy(
        &iam,
        &cx,
        AttachGroupPolicyRequest { group_name: some("ops"), policy_arn: some(&arn) },
    )
    .await
    .unwrap();
    Iam::attach_role_policy(
        &iam,
        &cx,
        AttachRolePolicyRequest { role_name: some("worker"), policy_arn: some(&arn) },
    )
    .await
    .unwrap();
    let document = some(&statement("Allow", "ecs:*"));
    let put = PutUserPolicyRequest {
        user_name: some("alice"),
        policy_name: some("own"),
        policy_document: document,
    };
    Iam::put_user_policy(&iam, &cx, put).await.unwrap();

    let principal = |id: &str, kind| Principal {
        arn: "arn".into(),
        account: ACCOUNT.into(),
        user_id: id.into(),
        kind,
        tags: Vec::new(),
    };
    let names = |principal: &Principal| -> Vec<String> {
        iam.policies(principal).identity.iter().map(|named| named.name.to_string()).collect()
    };
    let kind = || PrincipalKind::User { name: "alice".into() };
    assert_eq!(names(&principal(alice.user_id.as_deref().unwrap(), kind())), ["own", arn.as_str()]);
    assert!(names(&principal("AIDASOMEBODYELSE", kind())).is_empty(), "a user of the same name is another");
    let session = |id: &str| {
        principal(
            &format!("{id}:session"),
            PrincipalKind::AssumedRole {
                role_arn: "arn:aws:iam::123456789012:role/worker".into(),
                session_name: "session".into(),
                session_policies: Vec::new(),
            },
        )
    };
    let id = worker.role_id.unwrap();
    assert_eq!(names(&session(&id)), [arn.as_str()]);
    Iam::detach_role_policy(
        &iam,
        &cx,
        DetachRolePolicyRequest { role_name: some("worker"), policy_arn: some(&arn) },
    )
    .await
    .unwrap();
    Iam::delete_role(&iam, &cx, DeleteRoleRequest { role_name: some("worker") }).await.unwrap();
    role(&iam, "worker").await;
    assert!(names(&session(&id)).is_empty());
    assert!(iam.role("arn:aws:iam::123456789012:role/worker").is_some_and(|role| role.role_id != id));
    assert!(iam.role("arn:aws:iam::123456789012:role/x/worker").is_none(), "the path is part of the name");
}

#[tokio::test]
async fn tags_are_one_without_case() {
    let iam = service();
    user(&iam, "alice").await;
    let tag = |key: &str, value: &str| Tag { key: some(key), value: some(value) };
    let put = |tags| TagUserRequest { user_name: some("alice"), tags: Some(tags) };
    Iam::tag_user(&iam, &cx(), put(vec![tag("Team", "a")])).await.unwrap();
    Iam::tag_user(&iam, &cx(), put(vec![tag("team", "b")])).await.unwrap();
    let list = || ListUserTagsRequest { user_name: some("alice"), ..Default::default() };
    assert_eq!(Iam::list_user_tags(&iam, &cx(), list()).await.unwrap().tags.unwrap(), [tag("team", "b")]);
    let twice = put(vec![tag("x", "1"), tag("X", "2")]);
    assert_eq!(Iam::tag_user(&iam, &cx(), twice).await.unwrap_err().code, "InvalidInput");
    assert_eq!(
        Iam::tag_user(&iam, &cx(), put(vec![tag("aws:x", "1")])).await.unwrap_err().code,
        "InvalidInput"
    );
    let untag = UntagUserRequest { user_name: some("alice"), tag_keys: Some(vec!["TEAM".into()]) };
    Iam::untag_user(&iam, &cx(), untag).await.unwrap();
    assert_eq!(Iam::list_user_tags(&iam, &cx(), list()).await.unwrap().tags, Some(Vec::new()));
}

#[tokio::test]
async fn the_service_linked_role_of_ecs() {
    let iam = service();
    let create = |service: &str| CreateServiceLinkedRoleRequest {
        aws_service_name: some(service),
        ..Default::default()
    };
    let made = Iam::create_service_linked_role(&iam, &cx(), create("ecs.amazonaws.com"))
        .await
        .unwrap()
        .role
        .unwrap();
    assert_eq!(
        made.arn.as_deref(),
        Some("arn:aws:iam::123456789012:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS")
    );
    is_refused(
        Iam::create_service_linked_role(&iam, &cx(), create("ecs.amazonaws.com")).await,
        "InvalidInput",
        "Service role name AWSServiceRoleForECS has been taken in this account, please try a different suffix.",
    );
    let other = Iam::create_service_linked_role(&iam, &cx(), create("spot.amazonaws.com")).await;
    assert_eq!(other.unwrap_err().code, "InvalidInput");
    let name = || some("AWSServiceRoleForECS");
    is_refused(
        Iam::delete_role(&iam, &cx(), DeleteRoleRequest { role_name: name() }).await,
        "UnmodifiableEntity",
        "Cannot perform the operation on the protected role 'AWSServiceRoleForECS' - this role is only modifiable by AWS",
    );
    let attach = AttachRolePolicyRequest {
        role_name: name(),
        policy_arn: some("arn:aws:iam::aws:policy/AdministratorAccess"),
    };
    assert_eq!(Iam::attach_role_policy(&iam, &cx(), attach).await.unwrap_err().code, "UnmodifiableEntity");
    let put = PutRolePolicyRequest {
        role_name: name(),
        policy_name: some("p"),
        policy_document: some(&statement("Allow", "*")),
    };
    assert_eq!(Iam::put_role_policy(&iam, &cx(), put).await.unwrap_err().code, "UnmodifiableEntity");

    let delete = DeleteServiceLinkedRoleRequest { role_name: name() };
    let task = Iam::delete_service_linked_role(&iam, &cx(), delete).await.unwrap().deletion_task_id;
    let status = |id| GetServiceLinkedRoleDeletionStatusRequest { deletion_task_id: id };
    let done = Iam::get_service_linked_role_deletion_status(&iam, &cx(), status(task.clone())).await.unwrap();
    assert_eq!(done.status.as_deref(), Some("SUCCEEDED"));
    let forged = some("task/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS/x");
    let forged = Iam::get_service_linked_role_deletion_status(&iam, &cx(), status(forged)).await;
    assert_eq!(forged.unwrap_err().code, "NoSuchEntity");
    assert_eq!(
        Iam::get_role(&iam, &cx(), GetRoleRequest { role_name: name() }).await.unwrap_err().code,
        "NoSuchEntity"
    );
    role(&iam, "plain").await;
    let plain = DeleteServiceLinkedRoleRequest { role_name: some("plain") };
    assert_eq!(Iam::delete_service_linked_role(&iam, &cx(), plain).await.unwrap_err().code, "InvalidInput");
    let squat = CreateRoleRequest {
        role_name: some("x"),
        path: some("/aws-service-role/"),
        assume_role_policy_document: some(TRUST),
        ..Default::default()
    };
    assert_eq!(Iam::create_role(&iam, &cx(), squat).await.unwrap_err().code, "InvalidInput");
}
