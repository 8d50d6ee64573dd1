use proptest::prelude::*;

use super::*;

const ACCOUNT: &str = "123456789012";
const OTHER: &str = "210987654321";
const ALICE: &str = "arn:aws:iam::123456789012:user/alice";
const ROLE: &str = "arn:aws:iam::123456789012:role/deploy";
const SESSION: &str = "arn:aws:sts::123456789012:assumed-role/deploy/ci";
const REPO: &str = "arn:aws:ecr:eu-west-1:123456789012:repository/app";

fn named(kind: DocumentKind, statement: &str) -> Named {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#);
    Named { name: "p".into(), policy: Policy::parse(&text, kind).unwrap() }
}

fn identity(statement: &str) -> Named {
    named(DocumentKind::Identity, statement)
}

fn on_resource(effect: &str, principal: &str) -> Named {
    named(
        DocumentKind::Resource,
        &format!(r#"{{"Sid":"r","Effect":"{effect}","Principal":{principal},"Action":"ecr:*"}}"#),
    )
}

fn allow_all() -> Named {
    identity(r#"{"Effect":"Allow","Action":"*","Resource":"*"}"#)
}

fn allow_s3() -> Named {
    identity(r#"{"Effect":"Allow","Action":"s3:*","Resource":"*"}"#)
}

fn alice() -> Principal<'static> {
    Principal {
        arn: ALICE,
        account: ACCOUNT,
        kind: PrincipalKind::User { name: "alice" },
        id: "AIDAALICE",
        tags: &[],
    }
}

fn session() -> Principal<'static> {
    Principal {
        arn: SESSION,
        account: ACCOUNT,
        kind: PrincipalKind::AssumedRole { role_arn: ROLE },
        id: "AROADEPLOY:ci",
        tags: &[],
    }
}

fn root(account: &'static str) -> Principal<'static> {
    Principal {
        arn: "arn:aws:iam::123456789012:root",
        account,
        kind: PrincipalKind::Root,
        id: account,
        tags: &[],
    }
}

fn service(name: &'static str) -> Principal<'static> {
    Principal { arn: name, account: "", kind: PrincipalKind::Service { name }, id: "", tags: &[] }
}

fn pull<'a>(principal: Principal<'a>, resource_account: &'a str, context: &'a Context) -> Request<'a> {
    Request { principal, action: "ecr:BatchGetImage", resource: REPO, resource_account, context }
}

fn outcome(
    principal: Principal<'_>,
    account: &str,
    policies: &Policies<'_>,
) -> (Outcome, Option<PolicyKind>) {
    let decision = evaluate(&pull(principal, account, &Context::new()), policies);
    (decision.outcome, decision.missing.or(decision.matched.map(|matched| matched.kind)))
}

use Outcome::{Allow, ExplicitDeny, ImplicitDeny};
use PolicyKind::{Boundary, Identity, Resource, ServiceControl, Session, Trust};

#[test]
fn nothing_allows_nothing() {
    assert_eq!(outcome(alice(), ACCOUNT, &Policies::default()), (ImplicitDeny, Some(Identity)));
    assert_eq!(outcome(session(), ACCOUNT, &Policies::default()), (ImplicitDeny, Some(Identity)));
    assert_eq!(
        outcome(service("ecs-tasks.amazonaws.com"), ACCOUNT, &Policies::default()),
        (ImplicitDeny, Some(Resource))
    );
}

#[test]
fn identity_boundary_and_session_all_have_to_allow() {
    let (all, s3) = ([allow_all()], [allow_s3()]);
    let base = Policies { identity: &all, ..Policies::default() };
    assert_eq!(outcome(alice(), ACCOUNT, &base), (Allow, Some(Identity)));
    assert_eq!(
        outcome(alice(), ACCOUNT, &Policies { identity: &s3, ..base }),
        (ImplicitDeny, Some(Identity))
    );
    assert_eq!(
        outcome(alice(), ACCOUNT, &Policies { boundary: Some(&all[0]), ..base }),
        (Allow, Some(Identity))
    );
    assert_eq!(
        outcome(alice(), ACCOUNT, &Policies { boundary: Some(&s3[0]), ..base }),
        (ImplicitDeny, Some(Boundary))
    );
    assert_eq!(
        outcome(session(), ACCOUNT, &Policies { session: Some(&all), ..base }),
        (Allow, Some(Identity))
    );
    assert_eq!(
        outcome(session(), ACCOUNT, &Policies { session: Some(&s3), ..base }),
        (ImplicitDeny, Some(Session))
    );
    assert_eq!(
        outcome(session(), ACCOUNT, &Policies { session: Some(&[]), ..base }),
        (ImplicitDeny, Some(Session))
    );
    // A boundary grants nothing by itself.
    assert_eq!(
        outcome(alice(), ACCOUNT, &Policies { boundary: Some(&all[0]), ..Policies::default() }),
        (ImplicitDeny, Some(Identity))
    );
}

#[test]
fn every_level_of_service_control_has_to_allow() {
    let all = [allow_all()];
    let levels = [vec![allow_all()], vec![allow_s3()]];
    let policies = Policies { identity: &all, service_control: &levels, ..Policies::default() };
    assert_eq!(outcome(alice(), ACCOUNT, &policies), (ImplicitDeny, Some(ServiceControl)));
    assert_eq!(outcome(root(ACCOUNT), ACCOUNT, &policies), (ImplicitDeny, Some(ServiceControl)));
    let levels = [vec![allow_s3(), allow_all()], vec![allow_all()]];
    assert_eq!(
        outcome(alice(), ACCOUNT, &Policies { service_control: &levels, ..policies }),
        (Allow, Some(Identity))
    );
}

#[test]
fn how_a_resource_policy_names_the_caller_decides_what_else_must_allow() {
    let s3 = [allow_s3()];
    let arn = |arn: &str| on_resource("Allow", &format!(r#"{{"AWS":"{arn}"}}"#));
    let base = Policies { boundary: Some(&s3[0]), session: Some(&s3), ..Policies::default() };
    let with = |resource: &Named, limits: bool, principal| {
        let base = if limits { base } else { Policies::default() };
        outcome(principal, ACCOUNT, &Policies { resource: Some(resource), ..base })
    };
    // This very user, this very session: final.
    assert_eq!(with(&arn(ALICE), true, alice()), (Allow, Some(Resource)));
    assert_eq!(with(&arn(SESSION), true, session()), (Allow, Some(Resource)));
    assert_eq!(with(&arn("AIDAALICE"), true, alice()), (Allow, Some(Resource)));
    // The role, or everybody: instead of an identity policy, but within boundary and session policy.
    for resource in [arn(ROLE), arn("AROADEPLOY"), arn("*")] {
        assert_eq!(with(&resource, false, session()), (Allow, Some(Resource)));
        assert_eq!(with(&resource, true, session()), (ImplicitDeny, Some(Boundary)));
    }
    // The account: a delegation to identity policies.
    for resource in [arn(ACCOUNT), arn("arn:aws:iam::123456789012:root")] {
        assert_eq!(with(&resource, false, alice()), (ImplicitDeny, Some(Identity)));
    }
    // Somebody else.
    assert_eq!(
        with(&arn("arn:aws:iam::123456789012:user/bob"), false, alice()),
        (ImplicitDeny, Some(Identity))
    );
    assert_eq!(
        with(&arn("arn:aws:iam::123456789012:user/Alice"), false, alice()),
        (ImplicitDeny, Some(Identity))
    );
}

#[test]
fn another_account_needs_both_sides() {
    let all = [allow_all()];
    let both = on_resource("Allow", &format!(r#"{{"AWS":"{ACCOUNT}"}}"#));
    let user = on_resource("Allow", &format!(r#"{{"AWS":"{ALICE}"}}"#));
    let none = Policies::default();
    assert_eq!(outcome(alice(), OTHER, &Policies { identity: &all, ..none }), (ImplicitDeny, Some(Resource)));
    for resource in [&both, &user] {
        let resource = Some(resource);
        assert_eq!(outcome(alice(), OTHER, &Policies { resource, ..none }), (ImplicitDeny, Some(Identity)));
        assert_eq!(
            outcome(alice(), OTHER, &Policies { resource, identity: &all, ..none }),
            (Allow, Some(Identity))
        );
        let boundary = allow_s3();
        assert_eq!(
            outcome(
                alice(),
                OTHER,
                &Policies { resource, identity: &all, boundary: Some(&boundary), ..none }
            ),
            (ImplicitDeny, Some(Boundary))
        );
    }
    assert_eq!(outcome(root(ACCOUNT), OTHER, &none), (ImplicitDeny, Some(Resource)));
    assert_eq!(
        outcome(root(ACCOUNT), OTHER, &Policies { resource: Some(&both), ..none }),
        (Allow, Some(Resource))
    );
}

#[test]
fn root_services_and_nobody() {
    assert_eq!(outcome(root(ACCOUNT), ACCOUNT, &Policies::default()), (Allow, None));
    let deny = on_resource("Deny", r#""*""#);
    assert_eq!(
        outcome(root(ACCOUNT), ACCOUNT, &Policies { resource: Some(&deny), ..Policies::default() }),
        (ExplicitDeny, Some(Resource))
    );
    let tasks = on_resource("Allow", r#"{"Service":"ecs-tasks.amazonaws.com"}"#);
    let policies = Policies { resource: Some(&tasks), ..Policies::default() };
    assert_eq!(outcome(service("ecs-tasks.amazonaws.com"), ACCOUNT, &policies), (Allow, Some(Resource)));
    assert_eq!(outcome(service("ec2.amazonaws.com"), ACCOUNT, &policies), (ImplicitDeny, Some(Resource)));
    assert_eq!(outcome(alice(), ACCOUNT, &policies), (ImplicitDeny, Some(Identity)));

    let anonymous =
        Principal { arn: "anonymous", account: "", kind: PrincipalKind::Anonymous, id: "", tags: &[] };
    for everybody in [r#""*""#, r#"{"AWS":"*"}"#] {
        let public = on_resource("Allow", everybody);
        let policies = Policies { resource: Some(&public), ..Policies::default() };
        assert_eq!(outcome(anonymous, ACCOUNT, &policies), (Allow, Some(Resource)));
    }
    let account = on_resource("Allow", &format!(r#"{{"AWS":"{ACCOUNT}"}}"#));
    let policies = Policies { resource: Some(&account), ..Policies::default() };
    assert_eq!(outcome(anonymous, "", &policies), (ImplicitDeny, Some(Resource)));
    assert_eq!(outcome(anonymous, "", &Policies::default()), (ImplicitDeny, Some(Resource)));
}

#[test]
fn a_deny_for_all_is_for_services_too() {
    for everybody in [r#""*""#, r#"{"AWS":"*"}"#] {
        let deny = on_resource("Deny", everybody);
        let policies = Policies { resource: Some(&deny), ..Policies::default() };
        for principal in [alice(), session(), root(ACCOUNT), service("ecs-tasks.amazonaws.com")] {
            assert_eq!(outcome(principal, ACCOUNT, &policies), (ExplicitDeny, Some(Resource)));
        }
    }
}

#[test]
fn not_principal_spares_whom_it_names() {
    let all = [allow_all()];
    let deny = named(
        DocumentKind::Resource,
        &format!(r#"{{"Effect":"Deny","NotPrincipal":{{"AWS":"{ROLE}"}},"Action":"*","Resource":"*"}}"#),
    );
    let policies = Policies { identity: &all, resource: Some(&deny), ..Policies::default() };
    assert_eq!(outcome(session(), ACCOUNT, &policies), (Allow, Some(Identity)));
    assert_eq!(outcome(alice(), ACCOUNT, &policies), (ExplicitDeny, Some(Resource)));
}

#[test]
fn trust_policies() {
    let trust = |principal: &str| {
        named(
            DocumentKind::Trust,
            &format!(r#"{{"Effect":"Allow","Principal":{principal},"Action":"sts:AssumeRole"}}"#),
        )
    };
    let assume = |principal: Principal<'_>, policy: &Named, identity: &[Named]| {
        let context = Context::new();
        let request = Request {
            principal,
            action: "sts:AssumeRole",
            resource: ROLE,
            resource_account: ACCOUNT,
            context: &context,
        };
        let policies = Policies { identity, resource: Some(policy), ..Policies::default() };
        let decision = evaluate_trust(&request, &policies);
        (decision.outcome, decision.missing.or(decision.matched.map(|matched| matched.kind)))
    };
    let all = [allow_all()];
    let tasks = trust(r#"{"Service":"ecs-tasks.amazonaws.com"}"#);
    assert_eq!(assume(service("ecs-tasks.amazonaws.com"), &tasks, &[]), (Allow, Some(Trust)));
    assert_eq!(assume(service("lambda.amazonaws.com"), &tasks, &[]), (ImplicitDeny, Some(Trust)));
    // Identity policies alone never open a role, in the same account either.
    assert_eq!(assume(alice(), &tasks, &all), (ImplicitDeny, Some(Trust)));
    let account = trust(&format!(r#"{{"AWS":"{ACCOUNT}"}}"#));
    assert_eq!(assume(alice(), &account, &[]), (ImplicitDeny, Some(Identity)));
    assert_eq!(assume(alice(), &account, &all), (Allow, Some(Identity)));
    assert_eq!(assume(alice(), &trust(&format!(r#"{{"AWS":"{ALICE}"}}"#)), &[]), (Allow, Some(Trust)));
    let web = Principal {
        arn: "arn:aws:sts::123456789012:assumed-role/x/y",
        account: "",
        kind: PrincipalKind::WebIdentity { provider: "accounts.google.com" },
        id: "",
        tags: &[],
    };
    assert_eq!(assume(web, &trust(r#"{"Federated":"accounts.google.com"}"#), &[]), (Allow, Some(Trust)));
    assert_eq!(assume(web, &trust(r#"{"Federated":"cognito"}"#), &[]), (ImplicitDeny, Some(Trust)));
}

#[test]
fn not_action_and_not_resource() {
    let check = |statement: &str, action: &str, resource: &str, tags: &[(String, String)]| {
        let context = Context::new();
        let principal = Principal { tags, ..alice() };
        let policies = [allow_all(), identity(statement)];
        let request = Request { principal, action, resource, resource_account: ACCOUNT, context: &context };
        evaluate(&request, &Policies { identity: &policies, ..Policies::default() }).outcome
    };
    let deny = r#"{"Effect":"Deny","NotAction":["ecs:*","ECR:Get*"],"Resource":"*"}"#;
    assert_eq!(check(deny, "ecs:RunTask", "*", &[]), Allow);
    assert_eq!(check(deny, "ecr:GetAuthorizationToken", "*", &[]), Allow);
    assert_eq!(check(deny, "iam:CreateUser", "*", &[]), ExplicitDeny);
    let deny =
        r#"{"Effect":"Deny","Action":"s3:*","NotResource":"arn:aws:s3:::${aws:PrincipalTag/bucket}/*"}"#;
    let tags = [("Bucket".to_owned(), "mine".to_owned())];
    assert_eq!(check(deny, "s3:GetObject", "arn:aws:s3:::mine/k", &tags), Allow);
    assert_eq!(check(deny, "s3:GetObject", "arn:aws:s3:::yours/k", &tags), ExplicitDeny);
    assert_eq!(check(deny, "s3:GetObject", "arn:aws:s3:::mine/k", &[]), ExplicitDeny);
}

#[test]
fn an_allow_on_not_resource_needs_its_variable() {
    let only =
        [identity(r#"{"Effect":"Allow","Action":"*","NotResource":"arn:aws:s3:::${aws:PrincipalTag/b}/*"}"#)];
    assert_eq!(
        outcome(alice(), ACCOUNT, &Policies { identity: &only, ..Policies::default() }).0,
        ImplicitDeny
    );
}

#[test]
fn a_deny_on_an_absent_tag_denies() {
    let policies = [
        allow_all(),
        identity(
            r#"{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringNotEquals":{"aws:ResourceTag/env":"dev"}}}"#,
        ),
    ];
    assert_eq!(
        outcome(alice(), ACCOUNT, &Policies { identity: &policies, ..Policies::default() }).0,
        ExplicitDeny
    );
}

#[test]
fn a_user_named_star_is_no_wildcard() {
    let home =
        [identity(r#"{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::home/${aws:username}/*"}"#)];
    let principal = Principal { kind: PrincipalKind::User { name: "*" }, ..alice() };
    let context = Context::new();
    let get = |resource| {
        let request = Request {
            principal,
            action: "s3:GetObject",
            resource,
            resource_account: ACCOUNT,
            context: &context,
        };
        evaluate(&request, &Policies { identity: &home, ..Policies::default() }).outcome
    };
    assert_eq!(get("arn:aws:s3:::home/bob/k"), ImplicitDeny);
    assert_eq!(get("arn:aws:s3:::home/*/k"), Allow);
}

#[test]
fn keys_that_follow_from_the_principal_cannot_be_set() {
    let gate = [identity(
        r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/admin":"yes"}}}"#,
    )];
    let mut context = Context::new();
    context.set("aws:PrincipalTag/admin", "yes").set("aws:username", "admin");
    let policies = Policies { identity: &gate, ..Policies::default() };
    assert_eq!(evaluate(&pull(alice(), ACCOUNT, &context), &policies).outcome, ImplicitDeny);
    let tags = [("admin".to_owned(), "yes".to_owned())];
    let tagged = Principal { tags: &tags, ..alice() };
    assert_eq!(evaluate(&pull(tagged, ACCOUNT, &Context::new()), &policies).outcome, Allow);
}

#[test]
fn an_identity_policy_on_a_resource_grants_nothing() {
    let misplaced = allow_all();
    let policies = Policies { resource: Some(&misplaced), ..Policies::default() };
    assert_eq!(outcome(alice(), ACCOUNT, &policies), (ImplicitDeny, Some(Identity)));
    assert_eq!(outcome(service("ec2.amazonaws.com"), ACCOUNT, &policies), (ImplicitDeny, Some(Resource)));
}

#[test]
fn messages_are_aws_own() {
    let context = Context::new();
    let request = Request {
        principal: session(),
        action: "ecs:RunTask",
        resource: "arn:aws:ecs:eu-west-1:123456789012:task-definition/web:1",
        resource_account: ACCOUNT,
        context: &context,
    };
    let start = "User: arn:aws:sts::123456789012:assumed-role/deploy/ci is not authorized to perform: ecs:RunTask on resource: arn:aws:ecs:eu-west-1:123456789012:task-definition/web:1 ";
    let message = |policies: &Policies<'_>| evaluate(&request, policies).message(&request);
    let (all, s3) = ([allow_all()], [allow_s3()]);
    let deny = [allow_all(), identity(r#"{"Sid":"No","Effect":"Deny","Action":"ecs:*","Resource":"*"}"#)];
    let none = Policies::default();
    let allowed = Policies { identity: &all, ..none };
    for (policies, end) in [
        (none, "because no identity-based policy allows the ecs:RunTask action"),
        (
            Policies { boundary: Some(&s3[0]), ..allowed },
            "because no permissions boundary allows the ecs:RunTask action",
        ),
        (
            Policies { session: Some(&s3), ..allowed },
            "because no session policy allows the ecs:RunTask action",
        ),
        (Policies { identity: &deny, ..none }, "with an explicit deny in an identity-based policy"),
        (Policies { boundary: Some(&deny[1]), ..allowed }, "with an explicit deny in a permissions boundary"),
        (Policies { session: Some(&deny), ..allowed }, "with an explicit deny in a session policy"),
    ] {
        assert_eq!(message(&policies), format!("{start}{end}"));
    }
    let matched = evaluate(&request, &Policies { identity: &deny, ..none }).matched.unwrap();
    assert_eq!((matched.statement, matched.sid.as_deref(), &*matched.policy), (0, Some("No"), "p"));
}

/// A small world of statements, in which everything overlaps.
fn statement() -> impl Strategy<Value = String> {
    let pick = |items: &[&'static str]| prop::sample::select(items.to_vec());
    (
        pick(&["Allow", "Deny", "Allow", "Allow"]),
        pick(&["Action", "NotAction", "Action"]),
        pick(&["*", "ecr:*", "ecr:Batch*", "s3:*", "ECR:batchgetimage"]),
        pick(&["Resource", "NotResource", "Resource"]),
        pick(&["*", REPO, "arn:aws:ecr:*:*:repository/*", "arn:aws:s3:::${aws:username}"]),
        pick(&[
            "{}",
            r#"{"StringEquals":{"aws:username":"alice"}}"#,
            r#"{"StringNotEquals":{"aws:PrincipalTag/x":"y"}}"#,
            r#"{"Bool":{"aws:SecureTransport":"true"}}"#,
            r#"{"ForAllValues:StringLike":{"aws:TagKeys":"a*"}}"#,
        ]),
    )
        .prop_map(|(effect, actions, action, resources, resource, condition)| {
            format!(
                r#"{{"Effect":"{effect}","{actions}":"{action}","{resources}":"{resource}","Condition":{condition}}}"#
            )
        })
}

fn list(statements: &[String]) -> Named {
    identity(&format!("[{}]", statements.join(",")))
}

proptest! {
    #[test]
    fn an_explicit_deny_always_wins(
        statements in prop::collection::vec(statement(), 1..5),
        place in 0..5usize,
        kind in 0..4usize,
    ) {
        let deny_statement = r#"{"Effect":"Deny","Action":"ecr:*","Resource":"*"}"#.to_owned();
        let mut with_deny = statements.clone();
        with_deny.insert(place.min(statements.len()), deny_statement);
        let (plain, deny) = ([list(&statements)], [list(&with_deny)]);
        let public = on_resource("Deny", r#""*""#);
        let base = Policies { identity: &plain, ..Policies::default() };
        let levels = [vec![list(&with_deny)]];
        let policies = match kind {
            0 => Policies { identity: &deny, ..base },
            1 => Policies { boundary: Some(&deny[0]), ..base },
            2 => Policies { resource: Some(&public), ..base },
            _ => Policies { service_control: &levels, session: Some(&deny), ..base },
        };
        for principal in [alice(), session(), root(ACCOUNT)] {
            prop_assert_eq!(outcome(principal, ACCOUNT, &policies).0, ExplicitDeny);
        }
    }

    #[test]
    fn one_allow_more_never_takes_access_away(statements in prop::collection::vec(statement(), 1..5), more in statement()) {
        prop_assume!(more.contains(r#""Effect":"Allow""#));
        let before = [list(&statements)];
        let after = [list(&statements), list(&[more])];
        for principal in [alice(), session()] {
            let old = outcome(principal, ACCOUNT, &Policies { identity: &before, ..Policies::default() }).0;
            let new = outcome(principal, ACCOUNT, &Policies { identity: &after, ..Policies::default() }).0;
            prop_assert!(old == new || (old == ImplicitDeny && new == Allow));
        }
    }

    #[test]
    fn order_does_not_matter(
        (statements, shuffled) in prop::collection::vec(statement(), 1..6)
            .prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle()))
    ) {
        let whole = [list(&statements)];
        let shuffled: Vec<Named> = shuffled.iter().map(|one| list(std::slice::from_ref(one))).collect();
        for principal in [alice(), session()] {
            let old = outcome(principal, ACCOUNT, &Policies { identity: &whole, ..Policies::default() }).0;
            let new = outcome(principal, ACCOUNT, &Policies { identity: &shuffled, ..Policies::default() }).0;
            prop_assert_eq!(old, new);
        }
    }

    #[test]
    fn a_limit_never_grants(statements in prop::collection::vec(statement(), 1..5), limit in statement()) {
        let policies = [list(&statements)];
        let limit = list(&[limit]);
        let open = Policies { identity: &policies, ..Policies::default() };
        let old = outcome(alice(), ACCOUNT, &open).0;
        let bounded = outcome(alice(), ACCOUNT, &Policies { boundary: Some(&limit), ..open }).0;
        let controlled = outcome(alice(), ACCOUNT, &Policies { service_control: &[vec![limit.clone()]], ..open }).0;
        prop_assert!(old == Allow || (bounded != Allow && controlled != Allow));
    }
}
