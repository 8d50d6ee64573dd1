//! Who calls, what is called, and how one service calls another.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;

use crate::{ApiError, Value};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// `arn:aws:iam::123456789012:user/alice`, `arn:aws:sts::…:assumed-role/role/session`
    pub arn: String,
    pub account: String,
    /// `AIDA…`, `AROA…:session`, the account for root
    pub user_id: String,
    pub kind: PrincipalKind,
    /// `aws:PrincipalTag/…`
    pub tags: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PrincipalKind {
    Root,
    User {
        name: String,
    },
    AssumedRole {
        role_arn: String,
        session_name: String,
        /// Policies passed to AssumeRole, as JSON text.
        session_policies: Vec<String>,
    },
    /// An AWS service acting under its own name, `ecs.amazonaws.com`, within its service-linked role's rights.
    Service {
        name: String,
    },
}

/// What an operation knows about its call.
#[derive(Clone, Debug)]
pub struct Context {
    pub account: String,
    pub region: String,
    pub request_id: String,
    pub principal: Arc<Principal>,
    /// `None`: a call from inside the program.
    pub source_ip: Option<IpAddr>,
    /// The host and port the caller named, as the caller said it: good for what is told to that caller alone.
    /// `None`: a call from inside the program.
    pub host: Option<String>,
    pub user_agent: Option<String>,
    /// The access key the call was signed with.
    pub access_key_id: Option<String>,
    /// When the call arrived; operations read no other clock.
    pub now: Timestamp,
}

/// A right the caller must have for a call to go on. Every one of a call's demands has to be allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    /// `ecs:RunTask`
    pub action: String,
    /// An ARN, or `*`
    pub resource: String,
    /// Condition keys beyond the global ones, e.g. `ecs:cluster`.
    pub context: Vec<(String, Vec<String>)>,
    /// The resource's own policy, as JSON text.
    pub resource_policy: Option<String>,
}

impl Demand {
    pub fn new(action: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { action: action.into(), resource: resource.into(), ..Self::default() }
    }

    pub fn with(
        mut self,
        key: impl Into<String>,
        values: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.context.push((key.into(), values.into_iter().map(Into::into).collect()));
        self
    }
}

/// A service as the front sees it. The generated `Server` of each service implements it.
pub trait Handler: Send + Sync + 'static {
    /// The model's name: `ecs`, `ec2`, `logs`.
    fn service(&self) -> &'static str;

    /// What the caller must be allowed for this call. Called before `handle`, with a validated input.
    fn demands(&self, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand>;

    fn handle<'a>(
        &'a self,
        cx: &'a Context,
        operation: &'static str,
        input: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>>;
}

/// Under whose name a service calls another.
#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    /// The service itself, `ecs.amazonaws.com`, with the rights of its service-linked role.
    Service { name: &'static str, account: String },
    /// A role of the customer's that trusts `service`, assumed for this call: `ecs-tasks.amazonaws.com`
    /// for execution and task roles. Trust policy and role policies both apply.
    Role { role_arn: String, service: &'static str, session_name: String },
    /// On behalf of the caller of the present operation, with their rights and no more.
    Forward(Arc<Principal>),
    /// Somebody at a door, known by the token they brought, from where they are.
    Visitor { principal: Arc<Principal>, source_ip: IpAddr },
}

/// A call from inside the program; it is validated, authorized and recorded as one from outside.
#[derive(Clone, Debug)]
pub struct Call {
    pub caller: Caller,
    pub service: &'static str,
    pub operation: &'static str,
    pub region: String,
    pub input: Value,
}

/// The way from one service to another. The front implements it; the generated clients use it.
pub trait Invoke: Send + Sync + 'static {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>>;
}
