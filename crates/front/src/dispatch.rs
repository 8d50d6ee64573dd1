//! Where the two roads join: validate → authorize → trail → handle.

use std::collections::HashMap;
use std::sync::Arc;

use ferrogate_api::schema::{self, Model, Operation};
use ferrogate_api::{ApiError, BoxFuture, Call, Caller, Context, Handler, Invoke, Principal, Value};
use ferrogate_model::{Clock, hex_id};
use ferrogate_sigv4::SigningKeyCache;

use crate::authorize::{authorize, session_for_service};
use crate::http::Limits;
use crate::identity::Identity;
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
    pub(crate) signing_keys: SigningKeyCache,
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
            signing_keys: SigningKeyCache::new(SIGNING_KEYS_MAX),
        }
    }

    /// The context of a call that arrives now.
    pub(crate) fn context(&self, principal: Arc<Principal>, region: &str) -> Context {
        Context {
            account: self.account.clone(),
            region: region.to_owned(),
            request_id: request_id(),
            principal,
            source_ip: None,
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
        let handler = self.handlers.get(model.service).filter(|_| !operation.name.is_empty());
        let checked = match handler {
            None => Err(ApiError::not_implemented(model.service, operation.name)),
            Some(handler) => ferrogate_wire::validate(model, operation, &input).and_then(|()| {
                let demands = handler.demands(cx, operation.name, &input);
                authorize(&*self.identity, cx, model.signing_name, &demands).map(|()| handler)
            }),
        };
        let recorded = (!is_data_event(model.service, operation.name)).then(|| redacted(model, operation, &input));
        let result = match checked {
            Ok(handler) => handler.handle(cx, operation.name, input).await,
            Err(refused) => Err(refused),
        };
        if let Some(parameters) = recorded {
            let error = result.as_ref().err();
            self.trail.record(TrailRecord::new(cx, model.signing_name, operation.name, &parameters, error));
        }
        result
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
            let principal = match call.caller {
                Caller::Service { name, account } => Arc::new(service_roles::principal(name, &account)),
                Caller::Role { role_arn, service, session_name } => {
                    let now = self.clock.now();
                    Arc::new(session_for_service(&*self.identity, &role_arn, service, &session_name, now)?)
                }
                Caller::Forward(principal) => principal,
            };
            let cx = self.context(principal, &call.region);
            self.call(&cx, model, operation, call.input).await
        })
    }
}
