//! Which service, protocol and operation a request is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use ferrogate_api::ApiError;
use ferrogate_api::schema::{self, Model, Operation, Protocol};
use http::request::Parts;
use http::{Method, header};

use crate::fault::Fault;
use crate::names;
use crate::request;
use crate::template::{Fit, Template};

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub model: &'static Model,
    pub protocol: Protocol,
    pub operation: &'static Operation,
}

/// A request that names no operation. `model` and `protocol` say how the error is to be encoded.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct WireError {
    pub model: Option<&'static Model>,
    pub protocol: Protocol,
    pub error: ApiError,
}

/// The services requests may be for.
pub struct Catalog {
    models: Vec<&'static Model>,
    targets: HashMap<&'static str, &'static Model>,
    templates: Vec<Templates>,
}

/// Those of a service that speaks a REST protocol.
struct Templates {
    model: &'static Model,
    protocol: Protocol,
    of: Vec<(Template, &'static Operation)>,
    /// What AWS has and the table has not.
    others: Vec<(Template, &'static str)>,
}

/// [`Catalog::detect`] among the services the program ships.
///
/// # Errors
/// AWS's own for a request that names no operation there is: UnknownOperationException, InvalidAction, …;
/// NotImplementedException for one that AWS has and nobody serves here.
pub fn detect(parts: &Parts, body: &[u8], signing_name: Option<&str>) -> Result<Route, WireError> {
    static SHIPPED: OnceLock<Catalog> = OnceLock::new();
    SHIPPED
        .get_or_init(|| Catalog::new(schema::models().iter().filter_map(|name| schema::model(name))))
        .detect(parts, body, signing_name)
}

impl Catalog {
    pub fn new(models: impl IntoIterator<Item = &'static Model>) -> Self {
        let models: Vec<_> = models.into_iter().collect();
        let rest = |protocol: &Protocol| matches!(protocol, Protocol::RestJson | Protocol::RestXml);
        let templates = models.iter().filter_map(|model| {
            let protocol = *model.protocols.iter().find(|protocol| rest(protocol))?;
            let of = |operation: &'static Operation| (Template::new(model, operation), operation);
            let of = model.operations.iter().map(of).collect();
            Some(Templates { model, protocol, of, others: names::templates(model) })
        });
        Self {
            targets: models.iter().filter_map(|model| Some((model.target_prefix?, *model))).collect(),
            templates: templates.collect(),
            models,
        }
    }

    /// `signing_name` is the service the signature is for, where there is one: several services know the same
    /// Action, and S3's templates fit nearly every path.
    ///
    /// # Errors
    /// As [`detect`].
    pub fn detect(&self, parts: &Parts, body: &[u8], signing_name: Option<&str>) -> Result<Route, WireError> {
        if let Some(target) = parts.headers.get("x-amz-target") {
            return self.by_target(target.to_str().unwrap_or_default());
        }
        if parts.method == Method::POST
            && let Some((service, operation)) = rpc_path(parts.uri.path())
        {
            return self.by_rpc_path(service, operation);
        }
        let meant: Vec<&'static Model> = self
            .models
            .iter()
            .copied()
            .filter(|model| signing_name.is_none_or(|name| name == model.signing_name))
            .collect();
        if meant.is_empty() {
            return Err(no_service(parts, signing_name.unwrap_or_default()));
        }
        if let Some((model, protocol)) = speaking(&meant).next() {
            match Form::read(parts, body) {
                Ok(Some(form)) => return by_action(&meant, &form),
                Ok(None) => {}
                Err(fault) => {
                    let error = fault.into_error(model, protocol);
                    return Err(WireError { model: Some(model), protocol, error });
                }
            }
        }
        self.by_template(parts, &meant)
    }

    fn by_target(&self, target: &str) -> Result<Route, WireError> {
        let (prefix, name) = target.rsplit_once('.').unwrap_or(("", target));
        let Some(model) = self.targets.get(prefix).copied() else {
            let error = unknown_operation(format!("No service here has the target prefix '{prefix}'."));
            return Err(WireError { model: None, protocol: Protocol::Json11, error });
        };
        let json = |protocol: &Protocol| matches!(protocol, Protocol::Json10 | Protocol::Json11);
        let protocol = model.protocols.iter().copied().find(json).unwrap_or(Protocol::Json11);
        named(model, protocol, name)
    }

    fn by_rpc_path(&self, service: &str, operation: &str) -> Result<Route, WireError> {
        let model = self.targets.get(service).copied();
        match model.filter(|model| model.protocols.contains(&Protocol::RpcV2Cbor)) {
            Some(model) => named(model, Protocol::RpcV2Cbor, operation),
            None => {
                let error = unknown_operation(format!("No service '{service}' speaks RPC v2 CBOR here."));
                Err(WireError { model, protocol: Protocol::RpcV2Cbor, error })
            }
        }
    }

    fn by_template(&self, parts: &Parts, meant: &[&'static Model]) -> Result<Route, WireError> {
        let query: Vec<(Cow<'_, str>, Cow<'_, str>)> =
            form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).collect();
        let fit = |template: &Template| {
            template.fit(parts.method.as_str(), parts.uri.path(), &query, &parts.headers)
        };
        let mut best: Option<(Fit, Result<Route, WireError>)> = None;
        for Templates { model, protocol, of, others } in &self.templates {
            if !meant.iter().any(|meant| std::ptr::eq(*meant, *model)) {
                continue;
            }
            for (template, operation) in of {
                if let Some(fit) = fit(template)
                    && best.as_ref().is_none_or(|(found, _)| fit > *found)
                {
                    best = Some((fit, Ok(Route { model, protocol: *protocol, operation })));
                }
            }
            for (template, name) in others {
                if let Some(fit) = fit(template)
                    && best.as_ref().is_none_or(|(found, _)| fit > *found)
                {
                    best = Some((fit, Err(not_served(model, *protocol, name))));
                }
            }
        }
        best.map_or_else(|| Err(no_operation(parts, meant)), |(_, route)| route)
    }
}

/// An operation by its name.
fn named(model: &'static Model, protocol: Protocol, name: &str) -> Result<Route, WireError> {
    match model.operation(name) {
        Some(operation) => Ok(Route { model, protocol, operation }),
        None if names::is_known(model.service, name) => Err(not_served(model, protocol, name)),
        None => {
            let error =
                unknown_operation(format!("The service {} has no operation '{name}'.", model.service));
            Err(WireError { model: Some(model), protocol, error })
        }
    }
}

/// As the front answers for an operation of the table that its service does not have.
fn not_served(model: &'static Model, protocol: Protocol, name: &str) -> WireError {
    WireError { model: Some(model), protocol, error: ApiError::not_implemented(model.service, name) }
}

fn unknown_operation(message: String) -> ApiError {
    ApiError::new("UnknownOperationException", message).with_status(400)
}

/// `…/service/GraniteServiceVersion20100801/operation/PutMetricData`
fn rpc_path(path: &str) -> Option<(&str, &str)> {
    let mut segments = path.rsplit('/');
    let operation = segments.next()?;
    (segments.next()? == "operation").then_some(())?;
    let service = segments.next()?;
    (segments.next()? == "service").then_some((service, operation))
}

fn query_protocol(model: &Model) -> Option<Protocol> {
    model.protocols.iter().copied().find(|protocol| matches!(protocol, Protocol::Query | Protocol::Ec2))
}

/// Those that speak a query protocol, and which.
fn speaking(meant: &[&'static Model]) -> impl Iterator<Item = (&'static Model, Protocol)> {
    meant.iter().filter_map(|model| Some((*model, query_protocol(model)?)))
}

/// Action and Version of a query request, wherever they stand.
struct Form {
    action: Option<String>,
    version: Option<String>,
}

impl Form {
    /// `None`: the request is no form. The error: it is one, and cannot be read.
    fn read(parts: &Parts, body: &[u8]) -> Result<Option<Self>, Fault> {
        let typed = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_form = parts.method == Method::POST
            && typed.is_none_or(|typed| typed.starts_with("application/x-www-form-urlencoded"));
        let body =
            if is_form { request::inflated(parts, body, Protocol::Query)? } else { Cow::Borrowed(&[][..]) };
        let mut form = Self { action: None, version: None };
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        for (name, value) in form_urlencoded::parse(query).chain(form_urlencoded::parse(&body)) {
            match &*name {
                "Action" => form.action = Some(value.into_owned()),
                "Version" => form.version = Some(value.into_owned()),
                _ => continue,
            }
            if form.action.is_some() && form.version.is_some() {
                break;
            }
        }
        Ok((form.action.is_some() || (is_form && parts.uri.path() == "/")).then_some(form))
    }
}

fn by_action(meant: &[&'static Model], form: &Form) -> Result<Route, WireError> {
    let versioned =
        || speaking(meant).filter(|(model, _)| form.version.as_deref() == Some(model.api_version));
    let (model, protocol) = versioned()
        .next()
        .or_else(|| speaking(meant).next())
        .expect("asked before: one speaks a query protocol");
    let refuse = |code, message| {
        Err(WireError { model: Some(model), protocol, error: ApiError::new(code, message).with_status(400) })
    };
    let Some(action) = form.action.as_deref().filter(|action| !action.is_empty()) else {
        return refuse("MissingAction", "The request must contain the parameter Action.".to_owned());
    };
    for (model, protocol) in versioned() {
        if let Some(operation) = model.operation(action) {
            return Ok(Route { model, protocol, operation });
        }
    }
    if let Some((model, protocol)) = versioned().find(|(model, _)| names::is_known(model.service, action)) {
        return Err(not_served(model, protocol, action));
    }
    if protocol == Protocol::Ec2 {
        return refuse("InvalidAction", format!("The action {action} is not valid for this web service."));
    }
    let version = form.version.as_deref().unwrap_or("NO_VERSION_SPECIFIED");
    refuse("InvalidAction", format!("Could not find operation {action} for version {version}"))
}

fn no_operation(parts: &Parts, meant: &[&'static Model]) -> WireError {
    // Whose error it is, is only clear where one service was meant.
    let model = if let [model] = meant { Some(*model) } else { None };
    let protocol = model
        .map_or_else(|| guess(parts), |model| model.protocols.first().copied().unwrap_or(Protocol::Query));
    let error = match protocol {
        Protocol::Query | Protocol::Ec2 => {
            ApiError::new("MissingAction", "The request must contain the parameter Action.").with_status(400)
        }
        _ => unknown_operation(format!("No operation is at {} {}.", parts.method, parts.uri.path()))
            .with_status(404),
    };
    WireError { model, protocol, error }
}

fn no_service(parts: &Parts, signing_name: &str) -> WireError {
    let message = format!(
        "Ferrogate does not serve the service with the signing name '{signing_name}'. \
         docs/compatibility.md lists those it does."
    );
    let error = ApiError::new("NotImplementedException", message).with_status(501);
    WireError { model: None, protocol: guess(parts), error }
}

/// The protocol an error is best read in when no service is known.
fn guess(parts: &Parts) -> Protocol {
    let typed =
        parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if typed.starts_with("application/cbor") {
        Protocol::RpcV2Cbor
    } else if typed.contains("json") {
        Protocol::RestJson
    } else {
        Protocol::Query
    }
}
