//! Secrets as their callers see them.

use std::sync::{Arc, Mutex, Weak};

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{
    ApiError, BoxFuture, Call, Caller, Context, Handler, Invoke, Principal, PrincipalKind, Value,
};
use ferrogate_control::Controller;
use ferrogate_model::ManualClock;
use ferrogate_secrets::SecretsService;
use ferrogate_store::{MemoryStore, Sealer, Store};
use jiff::{SignedDuration, Timestamp};

const PLAIN: &str = "correct horse battery staple";

/// Calls the service as the front would, but for the judging: a name of `denied` stands for a refusal.
#[derive(Default)]
struct Loopback(Mutex<Weak<SecretsService>>);

impl Invoke for Loopback {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let service = self.0.lock().unwrap().upgrade().expect("the service lives");
            assert!(matches!(call.caller, Caller::Forward(_)));
            if call.input.get_str("SecretId").is_some_and(|id| id.contains("denied")) {
                return Err(ApiError::new("AccessDeniedException", "no"));
            }
            Server(service).handle(&context(), call.operation, call.input).await
        })
    }
}

fn context() -> Context {
    let arn = "arn:aws:iam::123456789012:root";
    Context {
        account: "123456789012".into(),
        region: "us-east-1".into(),
        request_id: "r".into(),
        principal: Arc::new(Principal {
            arn: arn.into(),
            account: "123456789012".into(),
            user_id: "123456789012".into(),
            kind: PrincipalKind::Root,
            tags: Vec::new(),
        }),
        source_ip: None,
        host: None,
        user_agent: None,
        access_key_id: None,
        now: Timestamp::from_second(1_795_000_000).unwrap(),
    }
}

struct World {
    service: Arc<SecretsService>,
    store: Arc<dyn Store>,
    cx: Context,
}

impl World {
    fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let loopback = Arc::new(Loopback::default());
        let invoke: Arc<dyn Invoke> = Arc::<Loopback>::clone(&loopback);
        let service =
            Arc::new(SecretsService::new(Arc::clone(&store), Arc::new(Sealer::ephemeral()), invoke));
        *loopback.0.lock().unwrap() = Arc::downgrade(&service);
        Self { service, store, cx: context() }
    }

    async fn create(&self, name: &str, value: &str) -> CreateSecretResponse {
        self.service.create_secret(&self.cx, create(name, value)).await.unwrap()
    }

    async fn get(&self, id: &str, stage: Option<&str>) -> Result<String, ApiError> {
        let input = GetSecretValueRequest {
            secret_id: Some(id.into()),
            version_stage: stage.map(str::to_owned),
            ..Default::default()
        };
        let value = self.service.get_secret_value(&self.cx, input).await?;
        Ok(value.secret_string.unwrap())
    }

    async fn put(
        &self,
        id: &str,
        value: &str,
        token: Option<&str>,
    ) -> Result<PutSecretValueResponse, ApiError> {
        let input = PutSecretValueRequest {
            secret_id: Some(id.into()),
            secret_string: Some(value.into()),
            client_request_token: token.map(str::to_owned),
            ..Default::default()
        };
        self.service.put_secret_value(&self.cx, input).await
    }

    async fn delete(
        &self,
        id: &str,
        days: Option<i64>,
        force: bool,
    ) -> Result<DeleteSecretResponse, ApiError> {
        let input = DeleteSecretRequest {
            secret_id: Some(id.into()),
            recovery_window_in_days: days,
            force_delete_without_recovery: force.then_some(true),
        };
        self.service.delete_secret(&self.cx, input).await
    }
}

fn create(name: &str, value: &str) -> CreateSecretRequest {
    CreateSecretRequest { name: Some(name.into()), secret_string: Some(value.into()), ..Default::default() }
}

fn said(error: &ApiError) -> (&str, &str) {
    (&error.code, &error.message)
}

#[tokio::test]
async fn a_secret_is_found_by_name_and_by_both_kinds_of_arn() {
    let world = World::new();
    let made = world.create("app/db", PLAIN).await;
    let arn = made.arn.unwrap();
    let (partial, suffix) = arn.rsplit_once('-').unwrap();
    assert_eq!(partial, "arn:aws:secretsmanager:us-east-1:123456789012:secret:app/db");
    assert!(suffix.len() == 6 && suffix.chars().all(|c| c.is_ascii_alphanumeric()), "{arn}");
    for id in ["app/db", &arn, partial] {
        assert_eq!(world.get(id, None).await.unwrap(), PLAIN, "{id}");
    }
    let other = arn.replace(suffix, "zzzzzz");
    let elsewhere = arn.replace("us-east-1", "eu-west-1");
    for id in ["app", &other, &elsewhere, "arn:aws:secretsmanager"] {
        let error = world.get(id, None).await.unwrap_err();
        let words = "Secrets Manager can't find the specified secret.";
        assert_eq!(said(&error), ("ResourceNotFoundException", words), "{id}");
    }
}

#[tokio::test]
async fn no_value_is_readable_at_rest() {
    let world = World::new();
    world.create("app", PLAIN).await;
    world.put("app", &format!("{PLAIN} 2"), None).await.unwrap();
    let records = world.store.range("");
    assert_eq!(records.len(), 3);
    for kv in &records {
        assert!(!String::from_utf8_lossy(&kv.value).contains("horse"), "{}", kv.key);
    }
    // A value moved to another place does not open there.
    let values: Vec<_> = records.iter().filter(|kv| kv.key.contains("/value/")).collect();
    let swapped = ferrogate_store::Txn::new()
        .put(&*values[0].key, &values[1].value[..])
        .put(&*values[1].key, &values[0].value[..]);
    world.store.txn(swapped).await.unwrap();
    assert_eq!(world.get("app", None).await.unwrap_err().code, "DecryptionFailure");
}

#[tokio::test]
async fn creating_again_is_refused_unless_it_is_the_same_call() {
    let world = World::new();
    let token = "0123456789abcdef0123456789abcdef";
    let input = CreateSecretRequest { client_request_token: Some(token.into()), ..create("app", PLAIN) };
    let first = world.service.create_secret(&world.cx, input.clone()).await.unwrap();
    assert_eq!(first.version_id.as_deref(), Some(token));
    assert_eq!(world.service.create_secret(&world.cx, input).await.unwrap(), first);
    let error = world.service.create_secret(&world.cx, create("app", PLAIN)).await.unwrap_err();
    let words = "The operation failed because the secret app already exists.";
    assert_eq!(said(&error), ("ResourceExistsException", words));
    let other = CreateSecretRequest { client_request_token: Some(token.into()), ..create("app", "x") };
    let error = world.service.create_secret(&world.cx, other).await.unwrap_err();
    assert_eq!(error.code, "ResourceExistsException");
    assert!(!error.message.contains(PLAIN));
    let error = world.service.create_secret(&world.cx, create("a b", "x")).await.unwrap_err();
    assert_eq!(error.code, "ValidationException");
}

#[tokio::test]
async fn versions_and_their_stages() {
    let world = World::new();
    let (token2, token3) = ("22222222-2222-4222-a222-222222222222", "33333333-3333-4333-a333-333333333333");
    let first = world.create("app", "one").await.version_id.unwrap();
    world.put("app", "two", Some(token2)).await.unwrap();
    // The same once more changes nothing; another value under the same id is refused.
    let again = world.put("app", "two", Some(token2)).await.unwrap();
    assert_eq!(again.version_stages.unwrap(), ["AWSCURRENT"]);
    assert_eq!(world.put("app", "else", Some(token2)).await.unwrap_err().code, "ResourceExistsException");
    assert_eq!(world.get("app", Some("AWSPREVIOUS")).await.unwrap(), "one");

    let staged = PutSecretValueRequest {
        secret_id: Some("app".into()),
        secret_string: Some("three".into()),
        client_request_token: Some(token3.into()),
        version_stages: Some(vec!["blue".into()]),
        ..Default::default()
    };
    world.service.put_secret_value(&world.cx, staged).await.unwrap();
    assert_eq!(world.get("app", None).await.unwrap(), "two");
    assert_eq!(world.get("app", Some("blue")).await.unwrap(), "three");
    let error = world.get("app", Some("green")).await.unwrap_err();
    let words = "Secrets Manager can't find the specified secret value for staging label: green";
    assert_eq!(said(&error), ("ResourceNotFoundException", words));

    let promote = |from: Option<&str>, to: Option<&str>| UpdateSecretVersionStageRequest {
        secret_id: Some("app".into()),
        version_stage: Some("AWSCURRENT".into()),
        remove_from_version_id: from.map(str::to_owned),
        move_to_version_id: to.map(str::to_owned),
    };
    let error =
        world.service.update_secret_version_stage(&world.cx, promote(None, Some(token3))).await.unwrap_err();
    assert!(error.message.contains(&format!("currently attached to version {token2}")), "{error}");
    let error =
        world.service.update_secret_version_stage(&world.cx, promote(Some(token2), None)).await.unwrap_err();
    assert!(error.message.contains("can't be completely removed"), "{error}");
    world.service.update_secret_version_stage(&world.cx, promote(Some(token2), Some(token3))).await.unwrap();
    assert_eq!(world.get("app", None).await.unwrap(), "three");
    assert_eq!(world.get("app", Some("AWSPREVIOUS")).await.unwrap(), "two");

    let list = |all| ListSecretVersionIdsRequest {
        secret_id: Some("app".into()),
        include_deprecated: Some(all),
        ..Default::default()
    };
    let count = async |all| {
        let answer = world.service.list_secret_version_ids(&world.cx, list(all)).await.unwrap();
        answer.versions.unwrap().len()
    };
    assert_eq!((count(false).await, count(true).await), (2, 3));
    let described =
        world.service.describe_secret(&world.cx, DescribeSecretRequest { secret_id: Some("app".into()) });
    let stages = described.await.unwrap().version_ids_to_stages.unwrap();
    assert!(!stages.contains_key(&first), "{stages:?}");
    assert_eq!(stages[token3], ["AWSCURRENT", "blue"]);
}

#[tokio::test]
async fn binary_values_and_sizes() {
    let world = World::new();
    let binary = CreateSecretRequest {
        name: Some("bin".into()),
        secret_binary: Some(vec![0, 159, 146, 150]),
        ..Default::default()
    };
    world.service.create_secret(&world.cx, binary).await.unwrap();
    let get = GetSecretValueRequest { secret_id: Some("bin".into()), ..Default::default() };
    let value = world.service.get_secret_value(&world.cx, get).await.unwrap();
    assert_eq!((value.secret_binary, value.secret_string), (Some(vec![0, 159, 146, 150]), None));

    world.create("large", &"x".repeat(65_536)).await;
    let error =
        world.service.create_secret(&world.cx, create("larger", &"é".repeat(32_769))).await.unwrap_err();
    assert_eq!(error.code, "InvalidParameterException");
    let both = CreateSecretRequest { secret_binary: Some(vec![1]), ..create("both", "x") };
    assert_eq!(
        world.service.create_secret(&world.cx, both).await.unwrap_err().code,
        "InvalidParameterException"
    );
    let none = CreateSecretRequest { name: Some("none".into()), ..Default::default() };
    assert_eq!(world.service.create_secret(&world.cx, none).await.unwrap().version_id, None);
    assert_eq!(
        world.get("none", None).await.unwrap_err().message,
        "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT"
    );
}

#[tokio::test]
async fn a_deletion_waits_can_be_taken_back_and_comes() {
    let world = World::new();
    let arn = world.create("app", PLAIN).await.arn.unwrap();
    assert_eq!(world.delete("app", Some(6), false).await.unwrap_err().code, "InvalidParameterException");
    assert_eq!(world.delete("app", Some(7), true).await.unwrap_err().code, "InvalidParameterException");
    let deleted = world.delete("app", Some(7), false).await.unwrap();
    assert_eq!(deleted.deletion_date, Some(world.cx.now + SignedDuration::from_hours(7 * 24)));
    let marked = "You can't perform this operation on the secret because it was marked for deletion.";
    assert_eq!(said(&world.get(&arn, None).await.unwrap_err()), ("InvalidRequestException", marked));
    assert_eq!(said(&world.put("app", "x", None).await.unwrap_err()), ("InvalidRequestException", marked));
    let error = world.service.create_secret(&world.cx, create("app", "x")).await.unwrap_err();
    assert!(error.message.contains("already scheduled for deletion"), "{error}");
    let list = async || {
        let answer = world.service.list_secrets(&world.cx, ListSecretsRequest::default()).await.unwrap();
        answer.secret_list.unwrap().len()
    };
    assert_eq!(list().await, 0);
    let restore = RestoreSecretRequest { secret_id: Some("app".into()) };
    world.service.restore_secret(&world.cx, restore).await.unwrap();
    assert_eq!((world.get("app", None).await.unwrap().as_str(), list().await), (PLAIN, 1));

    world.delete("app", Some(7), false).await.unwrap();
    let clock = Arc::new(ManualClock::new(world.cx.now + SignedDuration::from_hours(7 * 24 - 1)));
    let controllers = world.service.controllers(Arc::<ManualClock>::clone(&clock));
    let deletion: &Arc<dyn Controller> = &controllers[0];
    assert_eq!(deletion.activate().await.detail["deleted"], 0);
    assert_eq!(world.store.range("").len(), 2);
    clock.advance(SignedDuration::from_hours(1));
    assert_eq!(deletion.activate().await.detail["deleted"], 1);
    assert_eq!(world.store.range("").len(), 0);

    let anew = world.create("app", "new").await.arn.unwrap();
    assert_ne!(anew, arn);
    world.delete("app", None, true).await.unwrap();
    assert_eq!(world.store.range("").len(), 0);
    world.delete("never-was", None, true).await.unwrap();
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let mut world = World::new();
    for n in 0..5 {
        world.cx.now += SignedDuration::from_secs(1);
        let tags = Some(vec![Tag { key: Some("team".into()), value: Some(format!("t{n}")) }]);
        let input = CreateSecretRequest {
            tags,
            description: Some(format!("Number {n}")),
            ..create(&format!("app/{n}"), "x")
        };
        world.service.create_secret(&world.cx, input).await.unwrap();
    }
    let names = async |input: ListSecretsRequest| {
        let (mut names, mut input) = (Vec::new(), input);
        loop {
            let page = world.service.list_secrets(&world.cx, input.clone()).await.unwrap();
            names.extend(page.secret_list.unwrap().into_iter().map(|secret| secret.name.unwrap()));
            input.next_token = page.next_token;
            if input.next_token.is_none() {
                return names;
            }
        }
    };
    let paged = |order: &str| ListSecretsRequest {
        max_results: Some(2),
        sort_order: Some(order.into()),
        ..Default::default()
    };
    assert_eq!(names(paged("asc")).await, ["app/0", "app/1", "app/2", "app/3", "app/4"]);
    assert_eq!(names(paged("desc")).await, ["app/4", "app/3", "app/2", "app/1", "app/0"]);
    let filtered = |key: &str, value: &str| ListSecretsRequest {
        filters: Some(vec![Filter { key: Some(key.into()), values: Some(vec![value.into()]) }]),
        ..Default::default()
    };
    assert_eq!(names(filtered("name", "app/3")).await, ["app/3"]);
    assert_eq!(names(filtered("name", "!app/3")).await.len(), 4);
    assert_eq!(names(filtered("description", "number 2")).await, ["app/2"]);
    assert_eq!(names(filtered("tag-value", "t1")).await, ["app/1"]);
    assert_eq!(names(filtered("all", "4 app")).await, ["app/4"]);
    assert_eq!(names(filtered("owning-service", "rds")).await.len(), 0);
    let bad = ListSecretsRequest { next_token: Some("x".into()), ..Default::default() };
    assert_eq!(
        world.service.list_secrets(&world.cx, bad).await.unwrap_err().code,
        "InvalidNextTokenException"
    );
}

#[tokio::test]
async fn a_batch_says_which_secrets_could_not_be_had() {
    let world = World::new();
    world.create("one", "1").await;
    world.create("denied", "2").await;
    let ids = ["one", "denied", "none"].map(str::to_owned).to_vec();
    let input = BatchGetSecretValueRequest { secret_id_list: Some(ids), ..Default::default() };
    let answer = world.service.batch_get_secret_value(&world.cx, input).await.unwrap();
    let values = answer.secret_values.unwrap();
    assert_eq!((values.len(), values[0].secret_string.as_deref()), (1, Some("1")));
    let codes: Vec<_> = answer.errors.unwrap().into_iter().map(|error| error.error_code.unwrap()).collect();
    assert_eq!(codes, ["AccessDeniedException", "ResourceNotFoundException"]);
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let world = World::new();
    let key = CreateSecretRequest { kms_key_id: Some("alias/mine".into()), ..create("a", "x") };
    let replicas = CreateSecretRequest {
        add_replica_regions: Some(vec![ReplicaRegionType::default()]),
        ..create("a", "x")
    };
    for (input, name) in [(key, "alias/mine"), (replicas, "AddReplicaRegions")] {
        let error = world.service.create_secret(&world.cx, input).await.unwrap_err();
        assert_eq!(error.code, "InvalidParameterException");
        assert!(error.message.contains(name), "{error}");
    }
    let fine =
        CreateSecretRequest { kms_key_id: Some("alias/aws/secretsmanager".into()), ..create("a", "x") };
    world.service.create_secret(&world.cx, fine).await.unwrap();
    let rotate = RotateSecretRequest { secret_id: Some("a".into()), ..Default::default() };
    let error = world.service.rotate_secret(&world.cx, rotate).await.unwrap_err();
    assert!(error.message.contains("RotateSecret"), "{error}");
}

#[tokio::test]
async fn demands_name_the_secret_its_policy_tags_and_stage() {
    let world = World::new();
    let tags = Some(vec![Tag { key: Some("team".into()), value: Some("a".into()) }]);
    let made =
        world.service.create_secret(&world.cx, CreateSecretRequest { tags, ..create("app", "x") }).await;
    let arn = made.unwrap().arn.unwrap();
    let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Principal":"*","Action":"secretsmanager:*","Resource":"*"}}"#;
    let put = PutResourcePolicyRequest {
        secret_id: Some("app".into()),
        resource_policy: Some(policy.into()),
        ..Default::default()
    };
    world.service.put_resource_policy(&world.cx, put.clone()).await.unwrap();
    let wrong = PutResourcePolicyRequest { resource_policy: Some("{".into()), ..put };
    let error = world.service.put_resource_policy(&world.cx, wrong).await.unwrap_err();
    assert_eq!(error.code, "MalformedPolicyDocumentException");

    let of = |operation, id: &str| {
        let input = Value::Struct(vec![("SecretId", Value::String(id.into()))]);
        world.service.demands(&world.cx, operation, &input)
    };
    let [demand] = &of("GetSecretValue", "app")[..] else { panic!("one demand") };
    assert_eq!(
        (demand.action.as_str(), demand.resource.as_str()),
        ("secretsmanager:GetSecretValue", arn.as_str())
    );
    assert_eq!(demand.resource_policy.as_deref(), Some(policy));
    let has = |key: &str, value: &str| {
        demand.context.iter().any(|(name, values)| name == key && values == &[value])
    };
    assert!(has("aws:ResourceTag/team", "a") && has("secretsmanager:ResourceTag/team", "a"));
    assert!(has("secretsmanager:VersionStage", "AWSCURRENT") && has("secretsmanager:SecretId", &arn));
    let unknown = &of("GetSecretValue", "other")[0];
    assert_eq!(unknown.resource, "arn:aws:secretsmanager:us-east-1:123456789012:secret:other-??????");
}

#[tokio::test]
async fn passwords() {
    let world = World::new();
    let input = GetRandomPasswordRequest { exclude_punctuation: Some(true), ..Default::default() };
    let one = world.service.get_random_password(&world.cx, input.clone()).await.unwrap();
    let other = world.service.get_random_password(&world.cx, input).await.unwrap();
    let password = one.random_password.clone().unwrap();
    assert!(password.len() == 32 && password.chars().all(|c| c.is_ascii_alphanumeric()), "{password}");
    assert_ne!(one, other);
    let short = GetRandomPasswordRequest { password_length: Some(3), ..Default::default() };
    assert_eq!(
        world.service.get_random_password(&world.cx, short).await.unwrap_err().code,
        "InvalidParameterException"
    );
}

#[tokio::test]
async fn racing_puts_all_get_in() {
    let world = World::new();
    world.create("app", "0").await;
    let puts = (0..20).map(|n| {
        let (service, cx) = (Arc::clone(&world.service), world.cx.clone());
        tokio::spawn(async move {
            let input = PutSecretValueRequest {
                secret_id: Some("app".into()),
                secret_string: Some(n.to_string()),
                ..Default::default()
            };
            service.put_secret_value(&cx, input).await.unwrap();
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    let all = ListSecretVersionIdsRequest {
        secret_id: Some("app".into()),
        include_deprecated: Some(true),
        ..Default::default()
    };
    let versions = world.service.list_secret_version_ids(&world.cx, all).await.unwrap().versions.unwrap();
    assert_eq!(versions.len(), 21);
    let current = versions
        .iter()
        .filter(|version| version.version_stages.as_ref().is_some_and(|s| s.contains(&"AWSCURRENT".into())));
    assert_eq!(current.count(), 1);
}
