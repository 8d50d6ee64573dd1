//! A front on 127.0.0.1 with the real IAM and STS behind it, two small services beside them, and a signing client.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ferrogate_api::{
    ApiError, BoxFuture, Context, Demand, Handler, Principal, PrincipalKind, Value, iam, sts,
};
use ferrogate_front::{
    Credential, CredentialError, Door, Front, Identity, Limits, PrincipalPolicies, Role, Secret, Trail,
    TrailRecord,
};
use ferrogate_iam::IamService;
use ferrogate_model::Clock;
use ferrogate_sigv4::{Credentials, SignBody, presign, sign};
use ferrogate_store::{MemoryStore, Sealer, Store};
use ferrogate_sts::StsService;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const REGION: &str = "us-east-1";
const ROOT_KEY: &str = "AKIAROOTROOTROOTROOT";
const ROOT_SECRET: &str = "root/secret";

pub(crate) struct TestClock(Mutex<Timestamp>);

impl TestClock {
    pub(crate) fn advance(&self, by: SignedDuration) {
        let mut now = self.0.lock().unwrap();
        *now += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

#[derive(Default)]
pub(crate) struct MemoryTrail(Mutex<Vec<TrailRecord>>);

impl MemoryTrail {
    /// The records of an operation.
    pub(crate) fn of(&self, operation: &str) -> Vec<TrailRecord> {
        self.0.lock().unwrap().iter().filter(|record| record.event_name == operation).cloned().collect()
    }

    pub(crate) fn text(&self) -> String {
        serde_json::to_string(&*self.0.lock().unwrap()).unwrap()
    }
}

impl Trail for MemoryTrail {
    fn record(&self, record: TrailRecord) {
        self.0.lock().unwrap().push(record);
    }
}

pub(crate) struct Identities {
    pub(crate) iam: Arc<IamService>,
    sealer: Arc<Sealer>,
}

pub(crate) fn root() -> Principal {
    Principal {
        arn: format!("arn:aws:iam::{ACCOUNT}:root"),
        account: ACCOUNT.into(),
        user_id: ACCOUNT.into(),
        kind: PrincipalKind::Root,
        tags: Vec::new(),
    }
}

impl Identity for Identities {
    fn credential(
        &self,
        id: &str,
        token: Option<&str>,
        now: Timestamp,
    ) -> Result<Credential, CredentialError> {
        if id == ROOT_KEY {
            return Ok(Credential { secret: Secret::new(ROOT_SECRET), principal: Arc::new(root()) });
        }
        if id.starts_with("ASIA") {
            return ferrogate_sts::credential(&self.sealer, id, token, now);
        }
        self.iam.credential(id, token)
    }

    fn policies(&self, principal: &Principal) -> PrincipalPolicies {
        self.iam.policies(principal)
    }

    fn role(&self, role_arn: &str) -> Option<Role> {
        self.iam.role(role_arn)
    }
}

/// A service whose operations do what tests need; each call demands `<service>:<Operation>` on `*`.
pub(crate) struct Fake {
    service: &'static str,
    /// DescribeClusters waits for it.
    pub(crate) gate: Notify,
    /// How often DescribeClusters began, and came to its end.
    pub(crate) begun: AtomicUsize,
    pub(crate) ended: AtomicUsize,
}

impl Fake {
    fn new(service: &'static str) -> Arc<Self> {
        Arc::new(Self {
            service,
            gate: Notify::new(),
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
        })
    }
}

impl Handler for Fake {
    fn service(&self) -> &'static str {
        self.service
    }

    fn demands(&self, _: &Context, operation: &'static str, _: &Value) -> Vec<Demand> {
        vec![Demand::new(format!("{}:{operation}", self.service), "*")]
    }

    fn handle<'a>(
        &'a self,
        _: &'a Context,
        operation: &'static str,
        _: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move {
            match operation {
                "ListTasks" | "DescribeSubnets" => panic!("as the test wants it"),
                "DescribeClusters" => {
                    self.begun.fetch_add(1, Ordering::SeqCst);
                    self.gate.notified().await;
                    self.ended.fetch_add(1, Ordering::SeqCst);
                }
                _ => {}
            }
            Ok(Value::Struct(Vec::new()))
        })
    }
}

pub(crate) struct House {
    pub(crate) address: SocketAddr,
    pub(crate) front: Arc<Front>,
    pub(crate) iam: Arc<IamService>,
    pub(crate) ecs: Arc<Fake>,
    pub(crate) trail: Arc<MemoryTrail>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: Option<JoinHandle<()>>,
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::with(Limits { stop_timeout: Duration::from_secs(20), ..Limits::default() }).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::with_doors(limits, Vec::new()).await
    }

    pub(crate) async fn with_doors(limits: Limits, doors: Vec<Arc<dyn Door>>) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let sealer = Arc::new(Sealer::ephemeral());
        let iam = Arc::new(IamService::new(ACCOUNT, store, Arc::clone(&sealer)));
        let identity: Arc<dyn Identity> =
            Arc::new(Identities { iam: Arc::clone(&iam), sealer: Arc::clone(&sealer) });
        let sts = Arc::new(StsService::new(ACCOUNT, Arc::clone(&identity), sealer));
        let (ecs, trail) = (Fake::new("ecs"), Arc::new(MemoryTrail::default()));
        let clock = Arc::new(TestClock(Mutex::new(Timestamp::from_second(1_795_000_000).unwrap())));
        let handlers: Vec<Arc<dyn Handler>> = vec![
            Arc::new(iam::Server(Arc::clone(&iam))),
            Arc::new(sts::Server(sts)),
            Arc::<Fake>::clone(&ecs),
            Fake::new("ec2"),
        ];
        let front = Front::new(
            ACCOUNT,
            handlers,
            identity,
            Arc::<MemoryTrail>::clone(&trail),
            Arc::<TestClock>::clone(&clock),
            limits,
        );
        let front = Arc::new(front.with_doors(doors));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = Some(tokio::spawn(Arc::clone(&front).serve(listener, stopped)));
        Self { address, front, iam, ecs, trail, clock, stop, served }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn root(&self) -> Credentials {
        credentials(ROOT_KEY, ROOT_SECRET, None)
    }

    /// An operation of a query service as root, which must succeed.
    pub(crate) async fn query(&self, service: &'static str, form: &str) -> Answer {
        let answer = Call::query(service, form).by(&self.root()).send(self).await;
        assert_eq!(answer.status, 200, "{form}: {}", answer.body);
        answer
    }

    /// A new user with one access key.
    pub(crate) async fn user(&self, name: &str) -> Credentials {
        self.query("iam", &format!("Action=CreateUser&UserName={name}")).await;
        let key = self.query("iam", &format!("Action=CreateAccessKey&UserName={name}")).await;
        credentials(&key.element("AccessKeyId"), &key.element("SecretAccessKey"), None)
    }

    pub(crate) async fn allow(&self, user: &str, policy: &str) {
        let policy = encoded(policy);
        let form = format!("Action=PutUserPolicy&UserName={user}&PolicyName=p&PolicyDocument={policy}");
        self.query("iam", &form).await;
    }

    /// A role that the account trusts, with this inline policy.
    pub(crate) async fn role(&self, name: &str, policy: &str) {
        let trust = encoded(&format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"{ACCOUNT}"}},"Action":["sts:AssumeRole","sts:TagSession"]}}]}}"#
        ));
        self.query("iam", &format!("Action=CreateRole&RoleName={name}&AssumeRolePolicyDocument={trust}"))
            .await;
        let policy = encoded(policy);
        let form = format!("Action=PutRolePolicy&RoleName={name}&PolicyName=p&PolicyDocument={policy}");
        self.query("iam", &form).await;
    }

    /// A session of the role, assumed by a user; `more` goes into the form.
    pub(crate) async fn session(&self, by: &Credentials, role: &str, more: &str) -> Credentials {
        let form = format!(
            "Action=AssumeRole&RoleSessionName=test&RoleArn=arn:aws:iam::{ACCOUNT}:role/{role}{more}"
        );
        let answer = Call::query("sts", &form).by(by).send(self).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        credentials(
            &answer.element("AccessKeyId"),
            &answer.element("SecretAccessKey"),
            Some(answer.element("SessionToken")),
        )
    }

    pub(crate) async fn stop(&mut self) {
        // Gone already, if the test has said so itself.
        let _ = self.stop.send(true);
        if let Some(served) = self.served.take() {
            served.await.unwrap();
        }
    }
}

pub(crate) fn credentials(id: &str, secret: &str, token: Option<String>) -> Credentials {
    Credentials { access_key_id: id.into(), secret_access_key: secret.into(), session_token: token }
}

/// One statement on all resources.
pub(crate) fn statement(effect: &str, action: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"{effect}","Action":"{action}","Resource":"*"}}]}}"#
    )
}

/// Form encoding of a value.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A request to be signed and sent. What is changed after signing is in `tamper`.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) service: &'static str,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) signed_ago: SignedDuration,
    pub(crate) expires_seconds: Option<u64>,
    pub(crate) http2: bool,
}

impl Call {
    /// `form`: `Action=…&…`; the version is added.
    pub(crate) fn query(service: &'static str, form: &str) -> Self {
        let version = match service {
            "iam" => "2010-05-08",
            "sts" => "2011-06-15",
            _ => "2016-11-15",
        };
        let mut call = Self::new(service, format!("{form}&Version={version}").into_bytes());
        call.set("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        call
    }

    pub(crate) fn ecs(operation: &str, body: &str) -> Self {
        let mut call = Self::new("ecs", body.as_bytes().to_vec());
        call.set("content-type", "application/x-amz-json-1.1");
        call.set("x-amz-target", &format!("AmazonEC2ContainerServiceV20141113.{operation}"));
        call
    }

    fn new(service: &'static str, body: Vec<u8>) -> Self {
        Self {
            method: "POST",
            path: "/".into(),
            query: String::new(),
            headers: HeaderMap::new(),
            body,
            service,
            credentials: None,
            signed_ago: SignedDuration::ZERO,
            expires_seconds: None,
            http2: false,
        }
    }

    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
    }

    pub(crate) fn by(mut self, credentials: &Credentials) -> Self {
        self.credentials = Some(credentials.clone());
        self
    }

    /// Signed as if that long ago.
    pub(crate) fn signed_ago(mut self, ago: SignedDuration) -> Self {
        self.signed_ago = ago;
        self
    }

    pub(crate) async fn send(self, house: &House) -> Answer {
        self.tampered(house, |_| {}).await
    }

    /// Signs, lets `tamper` change what was signed, and sends.
    pub(crate) async fn tampered(mut self, house: &House, tamper: impl FnOnce(&mut Self)) -> Answer {
        self.sign(house);
        tamper(&mut self);
        self.deliver(house).await
    }

    pub(crate) fn sign(&mut self, house: &House) {
        self.set("host", &house.address.to_string());
        let Some(credentials) = &self.credentials else { return };
        let at = house.now() - self.signed_ago;
        let request = ferrogate_sigv4::Request {
            method: self.method,
            path_raw: &self.path,
            query_raw: &self.query,
            headers: &self.headers,
        };
        let body = SignBody::Bytes(&self.body);
        match self.expires_seconds {
            Some(seconds) => {
                self.query = presign(&request, body, credentials, REGION, self.service, seconds, at).unwrap();
            }
            None => {
                let added = sign(&request, body, credentials, REGION, self.service, at).unwrap();
                self.headers.extend(added.into_iter().filter_map(|(name, value)| Some((name?, value))));
            }
        }
    }

    pub(crate) async fn deliver(self, house: &House) -> Answer {
        let query = if self.query.is_empty() { String::new() } else { format!("?{}", self.query) };
        let mut request = Request::builder()
            .method(self.method)
            .uri(format!("http://{}{}{query}", house.address, self.path))
            .body(Full::new(Bytes::from(self.body)))
            .unwrap();
        *request.headers_mut() = self.headers;
        if self.http2 {
            request.headers_mut().remove(header::HOST);
        }
        let client = Client::builder(TokioExecutor::new()).http2_only(self.http2).build_http();
        let response = client.request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The text of the first XML element of this name.
    pub(crate) fn element(&self, name: &str) -> String {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let found = self.body.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
        found.unwrap_or_else(|| panic!("no <{name}> in {}", self.body)).0.to_owned()
    }

    /// Code and status of an error, read as its protocol's clients do; the request id is in every answer.
    pub(crate) fn refusal(&self) -> (String, u16) {
        let id = self.headers["x-amzn-requestid"].to_str().unwrap();
        let code = match serde_json::from_str::<serde_json::Value>(&self.body) {
            Ok(json) => match json["__type"].as_str() {
                Some(code) => code.to_owned(),
                None => self.headers["x-amzn-errortype"].to_str().unwrap().to_owned(),
            },
            Err(_) => {
                assert!(self.body.contains(id), "{id} is not in {}", self.body);
                self.element("Code")
            }
        };
        (code, self.status.as_u16())
    }

    pub(crate) fn is_refused(&self, code: &str, status: u16) {
        assert_eq!(self.refusal(), (code.to_owned(), status), "{}", self.body);
    }

    pub(crate) fn is_served(&self) {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.headers.contains_key("x-amzn-requestid"));
    }
}
