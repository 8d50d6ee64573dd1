//! Policy documents: managed, inline, boundaries, versions, quotas; the simulator; rights that calls demand.

mod support;

use std::sync::Arc;

use ferrogate_api::iam::*;
use ferrogate_api::{Shape, Value};
use support::*;

const ADMINISTRATOR: &str = "arn:aws:iam::aws:policy/AdministratorAccess";

/// A valid document of at least so many characters.
fn long(characters: usize) -> String {
    statement("Allow", &format!("ecs:{}", "a".repeat(characters)))
}

#[tokio::test]
async fn quotas() {
    let iam = service();
    let cx = cx();
    user(&iam, "u").await;
    group(&iam, "g").await;
    role(&iam, "r").await;
    let put = |size| PutUserPolicyRequest {
        user_name: some("U"),
        policy_name: some("p"),
        policy_document: some(&long(size)),
    };
    Iam::put_user_policy(&iam, &cx, put(1900)).await.unwrap();
    is_refused(
        Iam::put_user_policy(&iam, &cx, put(2048)).await,
        "LimitExceeded",
        "Maximum policy size of 2048 bytes exceeded for user u",
    );
    let put = PutGroupPolicyRequest {
        group_name: some("g"),
        policy_name: some("p"),
        policy_document: some(&long(5120)),
    };
    is_refused(
        Iam::put_group_policy(&iam, &cx, put).await,
        "LimitExceeded",
        "Maximum policy size of 5120 bytes exceeded for group g",
    );
    let put = |name: &str, size| PutRolePolicyRequest {
        role_name: some("r"),
        policy_name: some(name),
        policy_document: some(&long(size)),
    };
    Iam::put_role_policy(&iam, &cx, put("a", 5000)).await.unwrap();
    Iam::put_role_policy(&iam, &cx, put("b", 5000)).await.unwrap();
    is_refused(
        Iam::put_role_policy(&iam, &cx, put("c", 500)).await,
        "LimitExceeded",
        "Maximum policy size of 10240 bytes exceeded for role r",
    );
    let create = CreatePolicyRequest {
        policy_name: some("p"),
        policy_document: some(&long(6144)),
        ..Default::default()
    };
    is_refused(
        Iam::create_policy(&iam, &cx, create).await,
        "LimitExceeded",
        "Cannot exceed quota for PolicySize: 6144",
    );
    let trust = TRUST.replace("2012-10-17\",", &format!("2012-10-17\",\"Id\":\"{}\",", "i".repeat(2048)));
    let update = UpdateAssumeRolePolicyRequest { role_name: some("r"), policy_document: some(&trust) };
    is_refused(
        Iam::update_assume_role_policy(&iam, &cx, update).await,
        "LimitExceeded",
        "Cannot exceed quota for ACLSizePerRole: 2048",
    );
    for n in 0..11 {
        let arn = policy(&iam, &format!("p{n}"), &statement("Allow", "ecs:*")).await;
        let attach = || AttachRolePolicyRequest { role_name: some("r"), policy_arn: some(&arn) };
        let attached = Iam::attach_role_policy(&iam, &cx, attach()).await;
        if n < 10 {
            attached.unwrap();
            Iam::attach_role_policy(&iam, &cx, attach()).await.unwrap();
        } else {
            is_refused(attached, "LimitExceeded", "Cannot exceed quota for PoliciesPerRole: 10");
        }
    }
}

#[tokio::test]
async fn malformed_documents() {
    let iam = service();
    role(&iam, "r").await;
    for document in ["", "{", "[]", "{}", r#"{"Version":"2012-10-17","Statement":[]}"#, TRUST] {
        let put = PutRolePolicyRequest {
            role_name: some("r"),
            policy_name: some("p"),
            policy_document: some(document),
        };
        assert_eq!(
            Iam::put_role_policy(&iam, &cx(), put).await.unwrap_err().code,
            "MalformedPolicyDocument",
            "{document}"
        );
    }
    let identity = statement("Allow", "sts:AssumeRole");
    let update = UpdateAssumeRolePolicyRequest { role_name: some("r"), policy_document: some(&identity) };
    assert_eq!(
        Iam::update_assume_role_policy(&iam, &cx(), update).await.unwrap_err().code,
        "MalformedPolicyDocument"
    );
}

#[tokio::test]
async fn documents_come_back_as_they_went_in() {
    let iam = service();
    role(&iam, "r").await;
    let document = "{ \"Version\": \"2012-10-17\",\n \"Statement\": [{\"Effect\":\"Allow\",\"Action\":\"ecs:*\",\"Resource\":\"arn:aws:ecs:*:*:cluster/ä %20+\"}]}";
    let put = PutRolePolicyRequest {
        role_name: some("r"),
        policy_name: some("p"),
        policy_document: some(document),
    };
    Iam::put_role_policy(&iam, &cx(), put).await.unwrap();
    let got = Iam::get_role_policy(
        &iam,
        &cx(),
        GetRolePolicyRequest { role_name: some("R"), policy_name: some("p") },
    )
    .await
    .unwrap();
    let text = got.policy_document.unwrap();
    assert!(!text.contains(['{', ' ', '"']), "percent-encoded: {text}");
    assert_eq!(percent_encoding::percent_decode_str(&text).decode_utf8().unwrap(), document);
    assert_eq!(got.role_name.as_deref(), Some("r"));
    let missing = GetRolePolicyRequest { role_name: some("r"), policy_name: some("q") };
    is_refused(
        Iam::get_role_policy(&iam, &cx(), missing).await,
        "NoSuchEntity",
        "The role policy with name q cannot be found.",
    );
}

#[tokio::test]
async fn versions() {
    let iam = service();
    let cx = cx();
    let arn = policy(&iam, "p", &statement("Allow", "a:*")).await;
    let create = |default| CreatePolicyVersionRequest {
        policy_arn: some(&arn),
        policy_document: some(&statement("Deny", "a:*")),
        set_as_default: Some(default),
    };
    for default in [false, true, false, false] {
        Iam::create_policy_version(&iam, &cx, create(default)).await.unwrap();
    }
    assert_eq!(Iam::create_policy_version(&iam, &cx, create(false)).await.unwrap_err().code, "LimitExceeded");
    let (mut ids, mut marker) = (Vec::new(), None);
    loop {
        let list = ListPolicyVersionsRequest { policy_arn: some(&arn), marker, max_items: Some(2) };
        let page = Iam::list_policy_versions(&iam, &cx, list).await.unwrap();
        ids.extend(page.versions.unwrap().into_iter().filter_map(|version| version.version_id));
        marker = page.marker;
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(ids, ["v5", "v4", "v3", "v2", "v1"]);
    let delete = |id: &str| DeletePolicyVersionRequest { policy_arn: some(&arn), version_id: some(id) };
    is_refused(
        Iam::delete_policy_version(&iam, &cx, delete("v3")).await,
        "DeleteConflict",
        "Cannot delete the default version of a policy.",
    );
    Iam::delete_policy_version(&iam, &cx, delete("v5")).await.unwrap();
    let made = Iam::create_policy_version(&iam, &cx, create(false)).await.unwrap().policy_version.unwrap();
    assert_eq!(made.version_id.as_deref(), Some("v6"), "numbers are not used twice");
    let set = SetDefaultPolicyVersionRequest { policy_arn: some(&arn), version_id: some("v1") };
    Iam::set_default_policy_version(&iam, &cx, set).await.unwrap();
    let got = Iam::get_policy(&iam, &cx, GetPolicyRequest { policy_arn: some(&arn) })
        .await
        .unwrap()
        .policy
        .unwrap();
    assert_eq!(got.default_version_id.as_deref(), Some("v1"));
    assert_eq!(
        Iam::delete_policy(&iam, &cx, DeletePolicyRequest { policy_arn: some(&arn) }).await.unwrap_err().code,
        "DeleteConflict"
    );
}

#[tokio::test]
async fn attached_policies_stay() {
    let iam = service();
    let cx = cx();
    user(&iam, "u").await;
    group(&iam, "g").await;
    let arn = policy(&iam, "p", &statement("Allow", "a:*")).await;
    let boundary =
        PutUserPermissionsBoundaryRequest { user_name: some("u"), permissions_boundary: some(&arn) };
    Iam::put_user_permissions_boundary(&iam, &cx, boundary).await.unwrap();
    let delete = || Iam::delete_policy(&iam, &cx, DeletePolicyRequest { policy_arn: some(&arn) });
    is_refused(delete().await, "DeleteConflict", "Cannot delete a policy attached to entities.");
    let none = || DeleteUserPermissionsBoundaryRequest { user_name: some("u") };
    Iam::delete_user_permissions_boundary(&iam, &cx, none()).await.unwrap();
    assert_eq!(
        Iam::delete_user_permissions_boundary(&iam, &cx, none()).await.unwrap_err().code,
        "NoSuchEntity"
    );
    Iam::attach_group_policy(
        &iam,
        &cx,
        AttachGroupPolicyRequest { group_name: some("g"), policy_arn: some(&arn) },
    )
    .await
    .unwrap();
    is_refused(delete().await, "DeleteConflict", "Cannot delete a policy attached to entities.");
    let entities = ListEntitiesForPolicyRequest { policy_arn: some(&arn), ..Default::default() };
    let entities = Iam::list_entities_for_policy(&iam, &cx, entities).await.unwrap();
    assert_eq!(entities.policy_groups.unwrap()[0].group_name.as_deref(), Some("g"));
    let detach = || DetachGroupPolicyRequest { group_name: some("g"), policy_arn: some(&arn) };
    Iam::detach_group_policy(&iam, &cx, detach()).await.unwrap();
    is_refused(
        Iam::detach_group_policy(&iam, &cx, detach()).await,
        "NoSuchEntity",
        &format!("Policy {arn} was not found."),
    );
    delete().await.unwrap();
    let attach = AttachUserPolicyRequest { user_name: some("u"), policy_arn: some(&arn) };
    is_refused(
        Iam::attach_user_policy(&iam, &cx, attach).await,
        "NoSuchEntity",
        &format!("Policy {arn} does not exist or is not attachable."),
    );
    let aws = DeletePolicyRequest { policy_arn: some(ADMINISTRATOR) };
    assert_eq!(Iam::delete_policy(&iam, &cx, aws).await.unwrap_err().code, "AccessDenied");
}

/// A policy that is deleted while it is attached elsewhere would come back to life with the next one of its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attaching_and_deleting_at_the_same_time() {
    let iam = Arc::new(service());
    user(&iam, "u").await;
    for _ in 0..100 {
        let arn = policy(&iam, "p", &statement("Allow", "a:*")).await;
        let attach = {
            let (iam, arn) = (Arc::clone(&iam), arn.clone());
            tokio::spawn(async move {
                let attach = AttachUserPolicyRequest { user_name: some("u"), policy_arn: some(&arn) };
                Iam::attach_user_policy(&*iam, &cx(), attach).await.is_ok()
            })
        };
        let delete = {
            let (iam, arn) = (Arc::clone(&iam), arn.clone());
            tokio::spawn(async move {
                Iam::delete_policy(&*iam, &cx(), DeletePolicyRequest { policy_arn: some(&arn) }).await.is_ok()
            })
        };
        let (attached, deleted) = (attach.await.unwrap(), delete.await.unwrap());
        assert!(attached != deleted, "attached: {attached}, deleted: {deleted}");
        if attached {
            let detach = DetachUserPolicyRequest { user_name: some("u"), policy_arn: some(&arn) };
            Iam::detach_user_policy(&*iam, &cx(), detach).await.unwrap();
            Iam::delete_policy(&*iam, &cx(), DeletePolicyRequest { policy_arn: some(&arn) }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn simulations() {
    let iam = service();
    let cx = cx();
    user(&iam, "u").await;
    group(&iam, "g").await;
    join(&iam, "g", "u").await.unwrap();
    let arn = policy(&iam, "managed", &statement("Allow", "ecs:List*")).await;
    Iam::attach_group_policy(
        &iam,
        &cx,
        AttachGroupPolicyRequest { group_name: some("g"), policy_arn: some(&arn) },
    )
    .await
    .unwrap();
    let conditional = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"ecs:*","Resource":"*","Condition":{"StringEquals":{"aws:RequestedRegion":"eu-west-1","aws:username":"u"}}}]}"#;
    let put = PutUserPolicyRequest {
        user_name: some("u"),
        policy_name: some("region"),
        policy_document: some(conditional),
    };
    Iam::put_user_policy(&iam, &cx, put).await.unwrap();
    let source = "arn:aws:iam::123456789012:user/u";
    let ask = |region: Option<&str>| SimulatePrincipalPolicyRequest {
        policy_source_arn: some(source),
        action_names: Some(vec!["ecs:ListClusters".into(), "ecs:RunTask".into()]),
        context_entries: region.map(|region| {
            vec![ContextEntry {
                context_key_name: some("aws:RequestedRegion"),
                context_key_values: Some(vec![region.into()]),
                context_key_type: some("string"),
            }]
        }),
        ..Default::default()
    };
    let results = |answer: SimulatePolicyResponse| answer.evaluation_results.unwrap();
    let told = |result: &EvaluationResult| {
        let by = result
            .matched_statements
            .as_ref()
            .unwrap()
            .first()
            .map(|of| (of.source_policy_id.clone().unwrap(), of.source_policy_type.clone().unwrap()));
        (result.eval_decision.clone().unwrap(), by)
    };
    let by = |id: &str, kind: &str| Some((id.to_owned(), kind.to_owned()));
    let answer = results(Iam::simulate_principal_policy(&iam, &cx, ask(None)).await.unwrap());
    assert_eq!(told(&answer[0]), ("allowed".into(), by("managed", "user-managed")));
    assert_eq!(told(&answer[1]), ("implicitDeny".into(), None));
    assert_eq!(answer[0].missing_context_values, Some(vec!["aws:RequestedRegion".into()]));
    assert_eq!(answer[0].eval_resource_name.as_deref(), Some("*"));
    let answer = results(Iam::simulate_principal_policy(&iam, &cx, ask(Some("eu-west-1"))).await.unwrap());
    assert_eq!(told(&answer[0]), ("explicitDeny".into(), by("region", "user")));
    assert_eq!(answer[0].missing_context_values, Some(Vec::new()));

    // A boundary of the simulation's own, more policies, pages.
    let mut more = ask(Some("us-east-1"));
    more.policy_input_list = Some(vec![statement("Allow", "ecs:Run*")]);
    more.permissions_boundary_policy_input_list = Some(vec![statement("Allow", "ecs:List*")]);
    more.resource_arns = Some(vec!["*".into(), "arn:aws:ecs:us-east-1:123456789012:cluster/c".into()]);
    more.max_items = Some(3);
    let page = Iam::simulate_principal_policy(&iam, &cx, more.clone()).await.unwrap();
    more.marker = page.marker.clone();
    let mut all = results(page);
    assert_eq!(all.len(), 3);
    all.extend(results(Iam::simulate_principal_policy(&iam, &cx, more).await.unwrap()));
    let decisions: Vec<_> = all
        .iter()
        .map(|result| {
            let boundary = result.permissions_boundary_decision_detail.as_ref().unwrap();
            (result.eval_decision.as_deref().unwrap(), boundary.allowed_by_permissions_boundary.unwrap())
        })
        .collect();
    assert_eq!(
        decisions,
        [("allowed", true), ("allowed", true), ("implicitDeny", false), ("implicitDeny", false)]
    );

    let custom = SimulateCustomPolicyRequest {
        policy_input_list: Some(vec![statement("Allow", "s3:Get*")]),
        action_names: Some(vec!["s3:GetObject".into()]),
        resource_policy: some(
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":{"AWS":"arn:aws:iam::123456789012:user/u"},"Action":"s3:*","Resource":"*"}]}"#,
        ),
        ..Default::default()
    };
    assert_eq!(
        Iam::simulate_custom_policy(&iam, &cx, custom.clone()).await.unwrap_err().code,
        "InvalidInput"
    );
    let called = SimulateCustomPolicyRequest { caller_arn: some(source), ..custom };
    let answer = results(Iam::simulate_custom_policy(&iam, &cx, called).await.unwrap());
    assert_eq!(told(&answer[0]), ("explicitDeny".into(), by("ResourcePolicy", "resource")));

    let mut wrong = ask(None);
    wrong.policy_source_arn = some("arn:aws:iam::123456789012:root");
    assert_eq!(Iam::simulate_principal_policy(&iam, &cx, wrong).await.unwrap_err().code, "InvalidInput");
    let mut wrong = ask(None);
    wrong.policy_source_arn = some("arn:aws:iam::123456789012:role/none");
    is_refused(
        Iam::simulate_principal_policy(&iam, &cx, wrong).await,
        "NoSuchEntity",
        "The role with name none cannot be found.",
    );
    let mut wrong = ask(None);
    wrong.action_names = Some(vec!["ecs:*".into()]);
    assert_eq!(Iam::simulate_principal_policy(&iam, &cx, wrong).await.unwrap_err().code, "InvalidInput");
    let keys =
        GetContextKeysForPrincipalPolicyRequest { policy_source_arn: some(source), policy_input_list: None };
    let keys =
        Iam::get_context_keys_for_principal_policy(&iam, &cx, keys).await.unwrap().context_key_names.unwrap();
    assert_eq!(keys, ["aws:RequestedRegion", "aws:username"]);
}

#[tokio::test]
async fn the_account_as_a_whole() {
    let iam = service();
    let cx = cx();
    user(&iam, "u").await;
    group(&iam, "g").await;
    role(&iam, "r").await;
    let arn = policy(&iam, "p", &statement("Allow", "a:*")).await;
    for arn in [arn.as_str(), ADMINISTRATOR] {
        Iam::attach_user_policy(
            &iam,
            &cx,
            AttachUserPolicyRequest { user_name: some("u"), policy_arn: some(arn) },
        )
        .await
        .unwrap();
    }
    let summary =
        Iam::get_account_summary(&iam, &cx, GetAccountSummaryNoInput {}).await.unwrap().summary_map.unwrap();
    let counts =
        ["Users", "Groups", "Roles", "Policies", "PolicyVersionsInUse", "UsersQuota"].map(|key| summary[key]);
    assert_eq!(counts, [1, 1, 1, 1, 1, 5000]);
    let (mut seen, mut marker) = (Vec::new(), None);
    loop {
        let ask = GetAccountAuthorizationDetailsRequest { filter: None, max_items: Some(2), marker };
        let page = Iam::get_account_authorization_details(&iam, &cx, ask).await.unwrap();
        seen.extend(page.policies.unwrap().into_iter().filter_map(|of| of.policy_name));
        seen.extend(page.group_detail_list.unwrap().into_iter().filter_map(|of| of.group_name));
        seen.extend(page.role_detail_list.unwrap().into_iter().filter_map(|of| of.role_name));
        seen.extend(page.user_detail_list.unwrap().into_iter().filter_map(|of| of.user_name));
        marker = page.marker;
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["AdministratorAccess", "g", "p", "r", "u"]);
    let ask =
        GetAccountAuthorizationDetailsRequest { filter: Some(vec!["Role".into()]), ..Default::default() };
    let only = Iam::get_account_authorization_details(&iam, &cx, ask).await.unwrap();
    assert_eq!((only.role_detail_list.unwrap().len(), only.user_detail_list.unwrap().len()), (1, 0));
}

#[tokio::test]
async fn what_calls_demand() {
    let iam = service();
    let cx = cx();
    let arn = policy(&iam, "limit", &statement("Allow", "a:*")).await;
    let create = CreateRoleRequest {
        role_name: some("Worker"),
        path: some("/team/"),
        assume_role_policy_document: some(TRUST),
        permissions_boundary: some(&arn),
        tags: Some(vec![Tag { key: some("team"), value: some("a") }]),
        ..Default::default()
    };
    let demands = |operation, input: Value| Iam::demands(&iam, &cx, operation, &input);
    let before = demands("CreateRole", create.to_value());
    assert_eq!(
        (before[0].action.as_str(), before[0].resource.as_str()),
        ("iam:CreateRole", "arn:aws:iam::123456789012:role/team/Worker")
    );
    let has = |of: &ferrogate_api::Demand, key: &str, value: &str| {
        of.context.iter().any(|(known, values)| known == key && values.iter().any(|of| of == value))
    };
    assert!(has(&before[0], "iam:PermissionsBoundary", &arn) && has(&before[0], "aws:RequestTag/team", "a"));
    Iam::create_role(&iam, &cx, create).await.unwrap();
    let attach = AttachRolePolicyRequest { role_name: some("worker"), policy_arn: some(ADMINISTRATOR) };
    let attach = demands("AttachRolePolicy", attach.to_value());
    assert_eq!(attach[0].resource, "arn:aws:iam::123456789012:role/team/Worker");
    for (key, value) in [
        ("iam:PolicyARN", ADMINISTRATOR),
        ("iam:PermissionsBoundary", arn.as_str()),
        ("aws:ResourceTag/team", "a"),
        ("iam:ResourceTag/team", "a"),
    ] {
        assert!(has(&attach[0], key, value), "{key}");
    }
    user(&iam, "u").await;
    let rename = UpdateUserRequest { user_name: some("u"), new_user_name: some("v"), new_path: None };
    let resources: Vec<String> =
        demands("UpdateUser", rename.to_value()).into_iter().map(|of| of.resource).collect();
    assert_eq!(resources, ["arn:aws:iam::123456789012:user/v", "arn:aws:iam::123456789012:user/u"]);
    assert_eq!(
        demands("ListRoles", Value::Struct(Vec::new()))[0].resource,
        "arn:aws:iam::123456789012:role/"
    );
    assert_eq!(demands("GetAccountSummary", Value::Struct(Vec::new()))[0].resource, "*");
}
