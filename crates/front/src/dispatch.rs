//! Where the two roads join: validate → authorize → handle → trail.

use std::collections::HashMap;
use std::sync::Arc;

use ferrogate_api::schema::{self, Model, Operation};
use ferrogate_api::{ApiError, BoxFuture, Call, Caller, Context, Demand, Handler, Invoke, Principal, Value};
use ferrogate_model::{Clock, hex_id};
use ferrogate_sigv4::SigningKeyCache;
use tokio::sync::Semaphore;

use crate::authorize::{account_of, authorize, session_for_service};
use crate::door::Door;
use crate::identity::Identity;
use crate::listener::Limits;
use crate::service_roles;
use crate::trail::{Trail, TrailRecord, is_data_event};

/// Derived signing keys kept: one per access key, day, region and service.
const SIGNING_KEYS_MAX: usize = 4096;

/// All services behind one door.
pub struct Front {
    account: String,
    handlers: HashMap<&'static str, Arc<dyn Handler>>,
    pub(crate) identity: Arc<dyn Identity>,
    trail: Arc<dyn Trail>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    /// Bytes that bodies may still take.
    pub(crate) bodies: Arc<Semaphore>,
    pub(crate) signing_keys: SigningKeyCache,
    pub(crate) doors: Vec<Arc<dyn Door>>,
}

impl Front {
    pub fn new(
        account: impl Into<String>,
        handlers: impl IntoIterator<Item = Arc<dyn Handler>>,
        identity: Arc<dyn Identity>,
        trail: Arc<dyn Trail>,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Self {
        Self {
            account: account.into(),
            handlers: handlers.into_iter().map(|handler| (handler.service(), handler)).collect(),
            identity,
            trail,
            clock,
            limits,
            bodies: Arc::new(Semaphore::new(limits.bodies_bytes_max.min(Semaphore::MAX_PERMITS))),
            signing_keys: SigningKeyCache::new(SIGNING_KEYS_MAX),
            doors: Vec::new(),
        }
    }

    #[must_use]
    pub fn with_doors(mut self, doors: Vec<Arc<dyn Door>>) -> Self {
        self.doors = doors;
        self
    }

    /// The context of a call that arrives now.
    pub(crate) fn context(&self, principal: Arc<Principal>, region: &str) -> Context {
        Context {
            account: self.account.clone(),
            region: region.to_owned(),
            request_id: request_id(),
            principal,
            source_ip: None,
            host: None,
            user_agent: None,
            access_key_id: None,
            now: self.clock.now(),
        }
    }

    /// A decoded call of a known caller, to its end.
    pub(crate) async fn call(
        &self,
        cx: &Context,
        model: &'static Model,
        operation: &'static Operation,
        input: Value,
    ) -> Result<Value, ApiError> {
        let record = Record::begin(self, cx, model, operation, &input);
        let result = self.handle(cx, model, operation, input).await;
        record.end(result.as_ref().err());
        result
    }

    async fn handle(
        &self,
        cx: &Context,
        model: &'static Model,
        operation: &'static Operation,
        input: Value,
    ) -> Result<Value, ApiError> {
        let Some(handler) = self.handlers.get(model.service) else {
            // Who may not call it is not told more than on AWS.
            let demand = Demand::new(format!("{}:{}", model.signing_name, operation.name), "*");
            authorize(&*self.identity, cx, model, &[demand])?;
            return Err(ApiError::not_implemented(model.service, operation.name));
        };
        ferrogate_wire::validate(model, operation, &input)?;
        authorize(&*self.identity, cx, model, &handler.demands(cx, operation.name, &input))?;
        let handled = handler.handle(cx, operation.name, input);
        tokio::time::timeout(self.limits.call_timeout, handled).await.unwrap_or_else(|_| {
            tracing::error!(operation = operation.name, "a call took too long and was given up");
            Err(ApiError::internal())
        })
    }
}

/// The record of a call under way. A call that is given up or panics is recorded as well, for it may have changed
/// something: then as one that failed.
struct Record<'a> {
    front: &'a Front,
    cx: &'a Context,
    model: &'static Model,
    operation: &'static Operation,
    /// `None`: not to be recorded, or already done.
    parameters: Option<Value>,
}

impl<'a> Record<'a> {
    fn begin(
        front: &'a Front,
        cx: &'a Context,
        model: &'static Model,
        operation: &'static Operation,
        input: &Value,
    ) -> Self {
        let recorded = !is_data_event(model.service, operation.name);
        let parameters = recorded.then(|| redacted(model, operation, input));
        Self { front, cx, model, operation, parameters }
    }

    fn end(mut self, error: Option<&ApiError>) {
        self.write(error);
    }

    fn write(&mut self, error: Option<&ApiError>) {
        let Some(parameters) = self.parameters.take() else { return };
        let record =
            TrailRecord::new(self.cx, self.model.signing_name, self.operation.name, &parameters, error);
        self.front.trail.record(record);
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.write(Some(&ApiError::internal()));
    }
}

/// A version 4 UUID, as AWS's request ids are.
pub(crate) fn request_id() -> String {
    let hex = hex_id();
    let variant = ["8", "9", "a", "b"][usize::from(hex.as_bytes()[16] % 4)];
    format!("{}-{}-4{}-{variant}{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// The input without what the model calls sensitive.
fn redacted(model: &Model, operation: &Operation, input: &Value) -> Value {
    match operation.input {
        Some(shape) => redact(model, shape, input),
        None => Value::Null,
    }
}

fn redact(model: &Model, shape: schema::ShapeId, value: &Value) -> Value {
    let of = model.shape(shape);
    if of.sensitive {
        return Value::String("HIDDEN_DUE_TO_SECURITY_REASONS".into());
    }
    match (&of.kind, value) {
        (schema::Kind::Structure(structure), Value::Struct(members)) => Value::Struct(
            members
                .iter()
                .filter_map(|(name, value)| {
                    let member = structure.members.iter().find(|member| member.name == *name)?;
                    Some((*name, redact(model, member.shape, value)))
                })
                .collect(),
        ),
        (schema::Kind::List { member, .. }, Value::List(items)) => {
            Value::List(items.iter().map(|item| redact(model, member.shape, item)).collect())
        }
        (schema::Kind::Map { value: member, .. }, Value::Map(entries)) => Value::Map(
            entries.iter().map(|(key, value)| (key.clone(), redact(model, member.shape, value))).collect(),
        ),
        (schema::Kind::Blob { .. }, Value::Blob(_)) => Value::Null,
        _ => value.clone(),
    }
}

impl Invoke for Front {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let model = schema::model(call.service).ok_or_else(ApiError::internal)?;
            let operation = model.operation(call.operation).ok_or_else(ApiError::internal)?;
            let mut source_ip = None;
            let principal = match call.caller {
                Caller::Service { name, account } => Arc::new(service_roles::principal(name, &account)),
                Caller::Forward(principal) => principal,
                Caller::Visitor { principal, source_ip: from } => {
                    source_ip = Some(from);
                    principal
                }
                Caller::Role { role_arn, service, session_name } => {
                    let now = self.clock.now();
                    match session_for_service(&*self.identity, &role_arn, service, &session_name, now) {
                        Ok(session) => Arc::new(session),
                        Err(refused) => {
                            let service = service_roles::principal(service, account_of(&role_arn));
                            let cx = self.context(Arc::new(service), &call.region);
                            Record::begin(self, &cx, model, operation, &call.input).end(Some(&refused));
                            return Err(refused);
                        }
                    }
                }
            };
            let cx = Context { source_ip, ..self.context(principal, &call.region) };
            self.call(&cx, model, operation, call.input).await
        })
    }
}
