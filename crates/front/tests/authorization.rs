//! What those who are let in may do: deny by default, and everything that is attached has its say.

mod support;

use std::sync::Arc;

use ferrogate_api::{Caller, Principal, PrincipalKind, ecs};
use support::{ACCOUNT, Answer, Call, House, encoded, root, statement};

fn denied(answer: &Answer, code: &str, status: u16, because: &str) {
    answer.is_refused(code, status);
    assert!(answer.body.contains(because), "{because}: {}", answer.body);
}

#[tokio::test]
async fn nothing_is_allowed_by_itself_and_each_family_says_so_in_its_way() {
    let house = House::new().await;
    let user = house.user("alice").await;
    let answer = Call::ecs("ListClusters", "{}").by(&user).send(&house).await;
    let words = "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: ecs:ListClusters on resource: * because no identity-based policy allows the ecs:ListClusters action";
    denied(&answer, "AccessDeniedException", 400, words);
    let answer = Call::query("iam", "Action=ListUsers").by(&user).send(&house).await;
    denied(
        &answer,
        "AccessDenied",
        403,
        "iam:ListUsers on resource: arn:aws:iam::123456789012:user/ because",
    );
    let answer = Call::query("ec2", "Action=DescribeVpcs").by(&user).send(&house).await;
    denied(&answer, "UnauthorizedOperation", 403, "You are not authorized to perform this operation. User: ");
    // What needs no permission.
    Call::query("sts", "Action=GetCallerIdentity").by(&user).send(&house).await.is_served();
    for operation in ["ListClusters", "ListUsers", "DescribeVpcs"] {
        let records = house.trail.of(operation);
        assert_eq!(records.len(), 1, "a refused call is recorded");
        assert!(records[0].error_code.is_some());
        assert_eq!(records[0].user_identity["userName"], "alice");
    }
}

#[tokio::test]
async fn users_groups_denials_and_boundaries() {
    let house = House::new().await;
    let user = house.user("alice").await;
    let list = || Call::ecs("ListClusters", "{}").by(&user);
    house.query("iam", "Action=CreateGroup&GroupName=Ops").await;
    let document = encoded(&statement("Allow", "ecs:List*"));
    house
        .query("iam", &format!("Action=PutGroupPolicy&GroupName=ops&PolicyName=p&PolicyDocument={document}"))
        .await;
    denied(&list().send(&house).await, "AccessDeniedException", 400, "no identity-based policy");
    house.query("iam", "Action=AddUserToGroup&GroupName=ops&UserName=alice").await;
    list().send(&house).await.is_served();

    house.allow("alice", &statement("Deny", "ecs:*")).await;
    denied(
        &list().send(&house).await,
        "AccessDeniedException",
        400,
        "with an explicit deny in an identity-based policy",
    );
    house.query("iam", "Action=DeleteUserPolicy&UserName=alice&PolicyName=p").await;

    let boundary = "arn:aws:iam::aws:policy/AmazonEC2ReadOnlyAccess";
    house
        .query(
            "iam",
            &format!("Action=PutUserPermissionsBoundary&UserName=alice&PermissionsBoundary={boundary}"),
        )
        .await;
    denied(&list().send(&house).await, "AccessDeniedException", 400, "no permissions boundary");
    let vpcs = Call::query("ec2", "Action=DescribeVpcs").by(&user).send(&house).await;
    denied(&vpcs, "UnauthorizedOperation", 403, "no identity-based policy");
    house.query("iam", "Action=DeleteUserPermissionsBoundary&UserName=alice").await;
    list().send(&house).await.is_served();

    house.query("iam", "Action=UpdateGroup&GroupName=ops&NewGroupName=Operators").await;
    list().send(&house).await.is_served();
    house.query("iam", "Action=RemoveUserFromGroup&GroupName=operators&UserName=alice").await;
    denied(&list().send(&house).await, "AccessDeniedException", 400, "no identity-based policy");
}

#[tokio::test]
async fn administrators_read_the_policies_of_aws() {
    let house = House::new().await;
    let user = house.user("admin").await;
    let arn = "arn:aws:iam::aws:policy/AdministratorAccess";
    house.query("iam", &format!("Action=AttachUserPolicy&UserName=admin&PolicyArn={arn}")).await;
    for credentials in [user, house.root()] {
        let answer = Call::query("iam", &format!("Action=GetPolicy&PolicyArn={arn}"))
            .by(&credentials)
            .send(&house)
            .await;
        answer.is_served();
        assert_eq!(answer.element("AttachmentCount"), "1");
    }
}

#[tokio::test]
async fn sessions_have_the_rights_of_their_role_as_it_is_and_of_their_own_policy() {
    let house = House::new().await;
    let user = house.user("alice").await;
    house.role("worker", &statement("Allow", "ecs:*")).await;
    let form = format!("Action=AssumeRole&RoleSessionName=ss&RoleArn=arn:aws:iam::{ACCOUNT}:role/worker");
    // The trust policy names the account: the caller's own policy has to allow as well.
    let answer = Call::query("sts", &form).by(&user).send(&house).await;
    denied(&answer, "AccessDenied", 403, "sts:AssumeRole on resource: arn:aws:iam::123456789012:role/worker");
    house.allow("alice", &statement("Allow", "sts:AssumeRole")).await;
    let session = house.session(&user, "worker", "").await;
    let list = |by| Call::ecs("ListClusters", "{}").by(by);
    list(&session).send(&house).await.is_served();
    denied(
        &Call::query("iam", "Action=ListUsers").by(&session).send(&house).await,
        "AccessDenied",
        403,
        "assumed-role/worker/test",
    );

    let narrow = format!("&Policy={}", encoded(&statement("Allow", "ecs:Describe*")));
    let narrow = house.session(&user, "worker", &narrow).await;
    denied(&list(&narrow).send(&house).await, "AccessDeniedException", 400, "no session policy");

    // Root's rights cannot be narrowed, so root assumes no role.
    let answer = Call::query("sts", &form).by(&house.root()).send(&house).await;
    denied(&answer, "AccessDenied", 403, "Roles may not be assumed by root accounts.");

    // Another trust policy ends no session; another role policy is felt at once.
    let trust = encoded(
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#,
    );
    house
        .query("iam", &format!("Action=UpdateAssumeRolePolicy&RoleName=worker&PolicyDocument={trust}"))
        .await;
    Call::query("sts", &form).by(&user).send(&house).await.is_refused("AccessDenied", 403);
    list(&session).send(&house).await.is_served();
    house.query("iam", "Action=DeleteRolePolicy&RoleName=worker&PolicyName=p").await;
    denied(&list(&session).send(&house).await, "AccessDeniedException", 400, "no identity-based policy");
}

#[tokio::test]
async fn roles_assumed_by_roles_last_an_hour_at_most() {
    let house = House::new().await;
    let user = house.user("alice").await;
    house.allow("alice", &statement("Allow", "sts:*")).await;
    house.role("one", &statement("Allow", "sts:*")).await;
    house.query("iam", "Action=UpdateRole&RoleName=one&MaxSessionDuration=43200").await;
    let first = house.session(&user, "one", "&DurationSeconds=43200").await;
    let form = |seconds: i32| {
        format!(
            "Action=AssumeRole&RoleSessionName=ss&RoleArn=arn:aws:iam::{ACCOUNT}:role/one&DurationSeconds={seconds}"
        )
    };
    Call::query("sts", &form(3600)).by(&first).send(&house).await.is_served();
    Call::query("sts", &form(3601)).by(&first).send(&house).await.is_refused("ValidationError", 400);
    Call::query("sts", &form(899)).by(&user).send(&house).await.is_refused("ValidationError", 400);
    let named = form(900).replace("RoleSessionName=ss", "RoleSessionName=a%2Fb");
    Call::query("sts", &named).by(&user).send(&house).await.is_refused("ValidationError", 400);
}

#[tokio::test]
async fn calls_from_inside_are_judged_and_recorded_like_those_from_outside() {
    let house = House::new().await;
    let as_caller =
        |caller| ecs::Client::new(Arc::<ferrogate_front::Front>::clone(&house.front), caller, "us-east-1");
    let list = |caller| {
        let client = as_caller(caller);
        async move { client.list_clusters(ecs::ListClustersRequest::default()).await }
    };
    list(Caller::Forward(Arc::new(root()))).await.unwrap();
    // The service's own role says nothing of ecs:ListClusters.
    let service = Caller::Service { name: "ecs.amazonaws.com", account: ACCOUNT.into() };
    assert_eq!(list(service).await.unwrap_err().code, "AccessDeniedException");
    let role = |name: &str| Caller::Role {
        role_arn: format!("arn:aws:iam::{ACCOUNT}:role/{name}"),
        service: "ecs-tasks.amazonaws.com",
        session_name: "task".into(),
    };
    assert_eq!(list(role("absent")).await.unwrap_err().code, "AccessDenied");
    house.role("untrusting", &statement("Allow", "*")).await;
    assert_eq!(list(role("untrusting")).await.unwrap_err().code, "AccessDenied");
    let trust = encoded(
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ecs-tasks.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#,
    );
    house
        .query("iam", &format!("Action=UpdateAssumeRolePolicy&RoleName=untrusting&PolicyDocument={trust}"))
        .await;
    list(role("untrusting")).await.unwrap();

    let records = house.trail.of("ListClusters");
    let refused = records.iter().filter(|record| record.error_code.is_some()).count();
    assert_eq!((records.len(), refused), (5, 3));
    assert_eq!(records[2].user_identity["invokedBy"], "ecs-tasks.amazonaws.com");
    assert_eq!(records[4].user_identity["type"], "AssumedRole");
}

#[tokio::test]
async fn a_visitor_of_a_door_comes_from_somewhere() {
    let house = House::new().await;
    house.user("alice").await;
    let condition =
        r#""Condition":{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"},"Bool":{"aws:ViaAWSService":"false"}}"#;
    let policy = statement("Allow", "*").replace(r#""Effect""#, &format!(r#"{condition},"Effect""#));
    house.allow("alice", &policy).await;
    let user_id = house.query("iam", "Action=GetUser&UserName=alice").await.element("UserId");
    let principal = Arc::new(Principal {
        arn: format!("arn:aws:iam::{ACCOUNT}:user/alice"),
        account: ACCOUNT.into(),
        user_id,
        kind: PrincipalKind::User { name: "alice".into() },
        tags: Vec::new(),
    });
    let list = |caller| {
        let invoke = Arc::<ferrogate_front::Front>::clone(&house.front);
        let client = ecs::Client::new(invoke, caller, "us-east-1");
        async move { client.list_clusters(ecs::ListClustersRequest::default()).await }
    };
    let visitor = |address: &str| Caller::Visitor {
        principal: Arc::clone(&principal),
        source_ip: address.parse().unwrap(),
    };
    list(visitor("192.0.2.7")).await.unwrap();
    assert_eq!(list(visitor("198.51.100.7")).await.unwrap_err().code, "AccessDeniedException");
    // Who calls on somebody's behalf from inside is nowhere.
    assert_eq!(list(Caller::Forward(principal)).await.unwrap_err().code, "AccessDeniedException");
    assert_eq!(house.trail.of("ListClusters")[0].source_ip_address, "192.0.2.7");
}

#[tokio::test]
async fn the_trail_holds_no_secrets() {
    let house = House::new().await;
    let user = house.user("alice").await;
    house.allow("alice", &statement("Allow", "*")).await;
    house.role("worker", &statement("Allow", "*")).await;
    let session = house.session(&user, "worker", "").await;
    let definition = r#"{"family":"f","containerDefinitions":[{"name":"c","image":"i","environment":[{"name":"PASSWORD","value":"hunter2"}]}]}"#;
    Call::ecs("RegisterTaskDefinition", definition).by(&session).send(&house).await.is_served();
    let text = house.trail.text();
    for secret in [
        "hunter2",
        &user.secret_access_key,
        &session.secret_access_key,
        session.session_token.as_ref().unwrap(),
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
    let record = &house.trail.of("RegisterTaskDefinition")[0];
    let parameters = record.request_parameters.as_ref().unwrap();
    assert_eq!(parameters["containerDefinitions"][0]["environment"], "HIDDEN_DUE_TO_SECURITY_REASONS");
    assert_eq!(
        record.user_identity["sessionContext"]["sessionIssuer"]["arn"],
        "arn:aws:iam::123456789012:role/worker"
    );
    assert_eq!(record.source_ip_address, "127.0.0.1");
    assert_ne!(record.event_id, record.request_id);
    assert!(house.trail.of("AssumeRole")[0].read_only && !record.read_only);
}
