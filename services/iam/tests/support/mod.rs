//! IAM over a store in memory.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context, Principal, PrincipalKind};
use ferrogate_iam::IamService;
use ferrogate_store::{MemoryStore, Sealer, Store};
use jiff::Timestamp;

pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;

pub(crate) fn service() -> IamService {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    IamService::new(ACCOUNT, store, Arc::new(Sealer::ephemeral()))
}

pub(crate) fn cx() -> Context {
    context(PrincipalKind::Root, ACCOUNT)
}

pub(crate) fn context(kind: PrincipalKind, user_id: &str) -> Context {
    let principal = Principal {
        arn: format!("arn:aws:iam::{ACCOUNT}:root"),
        account: ACCOUNT.into(),
        user_id: user_id.into(),
        kind,
        tags: Vec::new(),
    };
    Context {
        account: ACCOUNT.into(),
        region: "us-east-1".into(),
        request_id: "r".into(),
        principal: Arc::new(principal),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now: Timestamp::from_second(1_795_000_000).unwrap(),
    }
}

pub(crate) fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

pub(crate) fn statement(effect: &str, action: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"{effect}","Action":"{action}","Resource":"*"}}]}}"#
    )
}

pub(crate) fn is_refused<T: std::fmt::Debug>(result: Result<T, ApiError>, code: &str, words: &str) {
    let error = result.expect_err(words);
    assert_eq!((error.code.as_str(), error.message.as_str()), (code, words));
}

pub(crate) async fn user(iam: &IamService, name: &str) -> User {
    let input = CreateUserRequest { user_name: some(name), ..Default::default() };
    Iam::create_user(iam, &cx(), input).await.unwrap().user.unwrap()
}

pub(crate) async fn role(iam: &IamService, name: &str) -> Role {
    let input = CreateRoleRequest {
        role_name: some(name),
        assume_role_policy_document: some(TRUST),
        ..Default::default()
    };
    Iam::create_role(iam, &cx(), input).await.unwrap().role.unwrap()
}

pub(crate) async fn group(iam: &IamService, name: &str) -> Group {
    let input = CreateGroupRequest { group_name: some(name), path: None };
    Iam::create_group(iam, &cx(), input).await.unwrap().group.unwrap()
}

/// A customer managed policy; its ARN.
pub(crate) async fn policy(iam: &IamService, name: &str, document: &str) -> String {
    let input = CreatePolicyRequest {
        policy_name: some(name),
        policy_document: some(document),
        ..Default::default()
    };
    Iam::create_policy(iam, &cx(), input).await.unwrap().policy.unwrap().arn.unwrap()
}

pub(crate) async fn join(iam: &IamService, group: &str, user: &str) -> Result<(), ApiError> {
    let input = AddUserToGroupRequest { group_name: some(group), user_name: some(user) };
    Iam::add_user_to_group(iam, &cx(), input).await.map(drop)
}
