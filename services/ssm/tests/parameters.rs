//! Parameters as their callers see them.

use std::sync::Arc;

use ferrogate_api::ssm::*;
use ferrogate_api::{ApiError, Context, Principal, PrincipalKind, Value};
use ferrogate_ssm::SsmService;
use ferrogate_store::{MemoryStore, Sealer, Store};
use jiff::Timestamp;

const PLAIN: &str = "correct horse battery staple";

struct World {
    service: SsmService,
    store: Arc<dyn Store>,
    cx: Context,
}

impl World {
    fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let principal = Principal {
            arn: "arn:aws:iam::123456789012:root".into(),
            account: "123456789012".into(),
            user_id: "123456789012".into(),
            kind: PrincipalKind::Root,
            tags: Vec::new(),
        };
        let cx = Context {
            account: "123456789012".into(),
            region: "us-east-1".into(),
            request_id: "r".into(),
            principal: Arc::new(principal),
            source_ip: None,
            host: None,
            user_agent: None,
            access_key_id: None,
            now: Timestamp::from_second(1_795_000_000).unwrap(),
        };
        let service = SsmService::new(Arc::clone(&store), Arc::new(Sealer::ephemeral()));
        Self { service, store, cx }
    }

    async fn put(&self, input: PutParameterRequest) -> Result<i64, ApiError> {
        self.service.put_parameter(&self.cx, input).await.map(|answer| answer.version.unwrap())
    }

    async fn get(&self, name: &str, with_decryption: bool) -> Result<Parameter, ApiError> {
        let input = GetParameterRequest { name: Some(name.into()), with_decryption: Some(with_decryption) };
        self.service.get_parameter(&self.cx, input).await.map(|answer| answer.parameter.unwrap())
    }
}

fn put(name: &str, kind: &str, value: &str) -> PutParameterRequest {
    PutParameterRequest {
        name: Some(name.into()),
        r#type: Some(kind.into()),
        value: Some(value.into()),
        ..Default::default()
    }
}

fn over(name: &str, value: &str) -> PutParameterRequest {
    PutParameterRequest {
        name: Some(name.into()),
        value: Some(value.into()),
        overwrite: Some(true),
        ..Default::default()
    }
}

#[tokio::test]
async fn values_come_back_by_name_arn_version_and_label() {
    let world = World::new();
    assert_eq!(world.put(put("/app/db", "String", "one")).await.unwrap(), 1);
    let error = world.put(put("/app/db", "String", "x")).await.unwrap_err();
    let words = "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.";
    assert_eq!((error.code.as_str(), error.message.as_str()), ("ParameterAlreadyExists", words));
    assert_eq!(world.put(over("/app/db", "two")).await.unwrap(), 2);
    let label = LabelParameterVersionRequest {
        name: Some("/app/db".into()),
        parameter_version: Some(1),
        labels: Some(vec!["blue".into(), "aws-no".into()]),
    };
    let labeled = world.service.label_parameter_version(&world.cx, label).await.unwrap();
    assert_eq!(
        (labeled.invalid_labels.unwrap(), labeled.parameter_version),
        (vec!["aws-no".to_owned()], Some(1))
    );
    let arn = "arn:aws:ssm:us-east-1:123456789012:parameter/app/db";
    for (name, value, selector) in [
        ("/app/db", "two", None),
        ("/app/db:1", "one", Some(":1")),
        ("/app/db:blue", "one", Some(":blue")),
        (arn, "two", None),
        (&format!("{arn}:blue"), "one", Some(":blue")),
    ] {
        let parameter = world.get(name, false).await.unwrap();
        assert_eq!(
            (parameter.value.as_deref(), parameter.selector.as_deref()),
            (Some(value), selector),
            "{name}"
        );
        assert_eq!(parameter.arn.as_deref(), Some(arn));
    }
    for (name, code) in [
        ("/app/none", "ParameterNotFound"),
        ("/app/db:3", "ParameterVersionNotFound"),
        ("/app/db:green", "ParameterVersionNotFound"),
    ] {
        assert_eq!(world.get(name, false).await.unwrap_err().code, code, "{name}");
    }
    let names = ["/app/db", "/app/none", "/app/db:blue"].map(str::to_owned).to_vec();
    let many = GetParametersRequest { names: Some(names), with_decryption: None };
    let many = world.service.get_parameters(&world.cx, many).await.unwrap();
    assert_eq!(many.invalid_parameters.unwrap(), ["/app/none"]);
    assert_eq!(many.parameters.unwrap().len(), 2);
}

#[tokio::test]
async fn a_secure_string_is_sealed_and_opened_only_when_asked() {
    let world = World::new();
    world.put(put("secure", "SecureString", PLAIN)).await.unwrap();
    world.put(put("open", "String", PLAIN)).await.unwrap();
    for kv in &world.store.range("") {
        assert!(!String::from_utf8_lossy(&kv.value).contains("horse"), "{}", kv.key);
    }
    assert_eq!(world.get("secure", true).await.unwrap().value.as_deref(), Some(PLAIN));
    assert!(!world.get("secure", false).await.unwrap().value.unwrap().contains("horse"));
    assert_eq!(world.get("open", false).await.unwrap().value.as_deref(), Some(PLAIN));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let world = World::new();
    world.put(put("there", "String", "x")).await.unwrap();
    let code = async |input| world.put(input).await.unwrap_err().code;
    let with = |change: &dyn Fn(&mut PutParameterRequest)| {
        let mut input = put("p", "String", "value");
        change(&mut input);
        input
    };
    let tag = || Some(vec![Tag { key: Some("k".into()), value: Some("v".into()) }]);
    assert_eq!(code(PutParameterRequest { tags: tag(), ..over("there", "y") }).await, "ValidationException");
    assert_eq!(
        code(PutParameterRequest { r#type: Some("StringList".into()), ..over("there", "y") }).await,
        "HierarchyTypeMismatchException"
    );
    assert_eq!(code(with(&|input| input.r#type = None)).await, "ValidationException");
    assert_eq!(code(with(&|input| input.name = Some("a/b".into()))).await, "ValidationException");
    assert_eq!(
        code(with(&|input| input.allowed_pattern = Some("[0-9]+".into()))).await,
        "ParameterPatternMismatchException"
    );
    assert_eq!(
        code(with(&|input| input.allowed_pattern = Some("[".into()))).await,
        "InvalidAllowedPatternException"
    );
    assert_eq!(code(with(&|input| input.value = Some("x".repeat(4097)))).await, "ValidationException");
    let by_name = async |input: PutParameterRequest, name: &str| {
        let error = world.put(input).await.unwrap_err();
        assert!(error.message.contains(name) && error.message.contains("Ferrogate"), "{error}");
    };
    by_name(with(&|input| input.policies = Some("[{\"Type\":\"Expiration\"}]".into())), "Policies").await;
    by_name(with(&|input| input.data_type = Some("aws:ec2:image".into())), "DataType").await;
    by_name(
        PutParameterRequest { key_id: Some("alias/mine".into()), ..put("p", "SecureString", "x") },
        "alias/mine",
    )
    .await;
    // With or without a type, a plain parameter has no key.
    let key_id = || Some("alias/aws/ssm".to_owned());
    for input in [
        PutParameterRequest { key_id: key_id(), ..put("p", "String", "x") },
        PutParameterRequest { key_id: key_id(), ..over("there", "y") },
    ] {
        let error = world.put(input).await.unwrap_err();
        let words = "KeyId is required for SecureString type parameter only.";
        assert_eq!((error.code.as_str(), error.message.as_str()), ("ValidationException", words));
    }
    // None of it left anything behind.
    assert_eq!(world.store.range("").len(), 2);
    world.put(put("secure", "SecureString", "x")).await.unwrap();
    world.put(PutParameterRequest { key_id: key_id(), ..over("secure", "y") }).await.unwrap();
}

#[tokio::test]
async fn the_pattern_that_is_shown_is_the_one_that_holds() {
    let world = World::new();
    let with = |pattern: &str, input: PutParameterRequest| PutParameterRequest {
        allowed_pattern: Some(pattern.into()),
        ..input
    };
    let shown = async || {
        let found = world.service.describe_parameters(&world.cx, Default::default()).await.unwrap();
        found.parameters.unwrap().remove(0).allowed_pattern
    };
    world.put(with("[0-9]+", put("p", "String", "1"))).await.unwrap();
    let mismatch = world.put(over("p", "two")).await.unwrap_err();
    assert_eq!(mismatch.code, "ParameterPatternMismatchException");
    world.put(over("p", "2")).await.unwrap();
    assert_eq!(shown().await.as_deref(), Some("[0-9]+"));
    // A new one takes its place, and none is none.
    world.put(with("[a-z]+", over("p", "two"))).await.unwrap();
    assert_eq!(shown().await.as_deref(), Some("[a-z]+"));
    world.put(with("", over("p", "3"))).await.unwrap();
    assert_eq!(shown().await, None);
    world.put(over("p", "anything else")).await.unwrap();
}

#[tokio::test]
async fn paths_filters_and_pages() {
    let world = World::new();
    for n in 0..12 {
        world.put(put(&format!("/app/list/{n:02}"), "String", "v")).await.unwrap();
    }
    world.put(put("/app/secure", "SecureString", "v")).await.unwrap();
    world.put(put("/application", "String", "v")).await.unwrap();
    let names = async |path: &str, recursive: bool, kind: Option<&str>| {
        let filters = kind.map(|kind| {
            vec![ParameterStringFilter {
                key: Some("Type".into()),
                option: None,
                values: Some(vec![kind.into()]),
            }]
        });
        let mut input = GetParametersByPathRequest {
            path: Some(path.into()),
            recursive: Some(recursive),
            parameter_filters: filters,
            ..Default::default()
        };
        let (mut names, mut pages) = (Vec::new(), 0);
        loop {
            let page = world.service.get_parameters_by_path(&world.cx, input.clone()).await.unwrap();
            pages += 1;
            names.extend(page.parameters.unwrap().into_iter().map(|parameter| parameter.name.unwrap()));
            input.next_token = page.next_token;
            if input.next_token.is_none() {
                return (names, pages);
            }
        }
    };
    assert_eq!(names("/app", false, None).await, (vec!["/app/secure".to_owned()], 1));
    let (all, pages) = names("/app", true, None).await;
    assert_eq!((all.len(), pages), (13, 2));
    assert_eq!(names("/app/", true, Some("SecureString")).await.0, ["/app/secure"]);

    let described = async |key: &str, option: &str, value: &str| {
        let filter = ParameterStringFilter {
            key: Some(key.into()),
            option: Some(option.into()),
            values: Some(vec![value.into()]),
        };
        let input = DescribeParametersRequest {
            parameter_filters: Some(vec![filter]),
            max_results: Some(50),
            ..Default::default()
        };
        world.service.describe_parameters(&world.cx, input).await.unwrap().parameters.unwrap().len()
    };
    assert_eq!(described("Name", "BeginsWith", "/app").await, 14);
    assert_eq!(described("Name", "Contains", "list/0").await, 10);
    assert_eq!(described("Path", "OneLevel", "/app").await, 1);
    assert_eq!(described("Type", "Equals", "SecureString").await, 1);
}

#[tokio::test]
async fn a_history_ends_at_its_hundredth_version() {
    let world = World::new();
    world.put(put("p", "String", "1")).await.unwrap();
    for n in 2..=101 {
        assert_eq!(world.put(over("p", &n.to_string())).await.unwrap(), n);
    }
    assert_eq!(world.get("p:1", false).await.unwrap_err().code, "ParameterVersionNotFound");
    assert_eq!(world.get("p:2", false).await.unwrap().value.as_deref(), Some("2"));
    assert_eq!(world.store.range("").len(), 101);
    let label = LabelParameterVersionRequest {
        name: Some("p".into()),
        parameter_version: Some(2),
        labels: Some(vec!["kept".into()]),
    };
    world.service.label_parameter_version(&world.cx, label).await.unwrap();
    assert_eq!(world.put(over("p", "x")).await.unwrap_err().code, "ParameterMaxVersionLimitExceeded");
    let unlabel = UnlabelParameterVersionRequest {
        name: Some("p".into()),
        parameter_version: Some(2),
        labels: Some(vec!["kept".into(), "other".into()]),
    };
    let unlabeled = world.service.unlabel_parameter_version(&world.cx, unlabel).await.unwrap();
    assert_eq!(
        (unlabeled.removed_labels.unwrap(), unlabeled.invalid_labels.unwrap()),
        (vec!["kept".to_owned()], vec!["other".to_owned()])
    );
    assert_eq!(world.put(over("p", "x")).await.unwrap(), 102);
    let history = GetParameterHistoryRequest { name: Some("p".into()), ..Default::default() };
    let history = world.service.get_parameter_history(&world.cx, history).await.unwrap();
    assert_eq!((history.parameters.unwrap().len(), history.next_token.is_some()), (50, true));

    let delete = DeleteParametersRequest { names: Some(vec!["p".into(), "q".into()]) };
    let deleted = world.service.delete_parameters(&world.cx, delete).await.unwrap();
    assert_eq!(
        (deleted.deleted_parameters.unwrap(), deleted.invalid_parameters.unwrap()),
        (vec!["p".to_owned()], vec!["q".to_owned()])
    );
    assert_eq!(world.store.range("").len(), 0);
}

#[tokio::test]
async fn demands_name_each_parameter_and_its_tags() {
    let world = World::new();
    let tags = Some(vec![Tag { key: Some("team".into()), value: Some("a".into()) }]);
    world.put(PutParameterRequest { tags, ..put("/app/db", "String", "x") }).await.unwrap();
    let names = ["/app/db:1", "plain"].map(|name| Value::String(name.into())).to_vec();
    let input = Value::Struct(vec![("Names", Value::List(names))]);
    let demands = world.service.demands(&world.cx, "GetParameters", &input);
    let resources: Vec<&str> = demands.iter().map(|demand| demand.resource.as_str()).collect();
    let prefix = "arn:aws:ssm:us-east-1:123456789012:parameter";
    assert_eq!(resources, [format!("{prefix}/app/db"), format!("{prefix}/plain")]);
    assert!(demands[0].context.contains(&("aws:ResourceTag/team".into(), vec!["a".into()])));
    assert!(demands.iter().all(|demand| demand.action == "ssm:GetParameters"));
    let list = ListTagsForResourceRequest {
        resource_type: Some("Parameter".into()),
        resource_id: Some("/app/db".into()),
    };
    let listed = world.service.list_tags_for_resource(&world.cx, list).await.unwrap().tag_list.unwrap();
    assert_eq!(listed, [Tag { key: Some("team".into()), value: Some("a".into()) }]);
}
