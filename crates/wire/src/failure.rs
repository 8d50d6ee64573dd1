//! An error → the response, in the protocol's form.

use ferrogate_api::schema::{Kind, Model, Protocol, ShapeModel, Structure};
use ferrogate_api::{ApiError, Value};
use http::{HeaderMap, Response, StatusCode};

use crate::{cbor, json, response, rest, xml};

/// The response of a call that failed. `model`: the service, where one is known. The status is the error's own,
/// else the model's, else 400.
pub fn encode_error(
    model: Option<&Model>,
    protocol: Protocol,
    error: &ApiError,
    request_id: &str,
) -> Response<Vec<u8>> {
    let known = model.and_then(|model| Known::find(model, &error.code));
    let status = error.status.or_else(|| known.as_ref()?.status()).unwrap_or(400);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let sender = !status.is_server_error();
    let mut headers = HeaderMap::new();
    // The protocols after query name an error by its shape, query by its code.
    let name = known.as_ref().map_or(error.code.as_str(), |known| known.shape.name);
    let code = known.as_ref().and_then(|known| known.structure.error.as_ref()?.code).unwrap_or(&error.code);
    if let (Some(model), Some(known)) = (model, &known) {
        let members = Value::Struct(error.members.clone());
        rest::encode_head(model, known.structure, &members, &mut StatusCode::default(), &mut headers);
    }
    if model.is_some_and(|model| model.query_compatible) {
        rest::put(
            &mut headers,
            "x-amzn-query-error",
            &format!("{code};{}", if sender { "Sender" } else { "Receiver" }),
        );
    }
    let s3 = model.is_some_and(|model| model.service == "s3");
    let body = match protocol {
        Protocol::Json10 | Protocol::Json11 => json_error(model, known.as_ref(), Some(name), error),
        Protocol::RestJson => {
            rest::put(&mut headers, "x-amzn-errortype", name);
            json_error(model, known.as_ref(), None, error)
        }
        Protocol::RpcV2Cbor => {
            let message = (known.as_ref().map_or("message", Known::message), error.message.as_str());
            let members = Value::Struct(error.members.clone());
            let more = known.as_ref().map(|known| (known.structure, &members));
            cbor::write_error(model, name, message, more)
        }
        Protocol::Query => xml_error(model, known.as_ref(), code, sender, error, request_id),
        Protocol::RestXml if s3 => s3_error(model, known.as_ref(), code, error, request_id),
        Protocol::RestXml => xml_error(model, known.as_ref(), name, sender, error, request_id),
        Protocol::Ec2 => ec2_error(error, request_id),
    };
    response::dress(s3, protocol, status, headers, body, request_id)
}

/// An error the model knows.
struct Known<'m> {
    shape: &'m ShapeModel,
    structure: &'m Structure,
}

impl<'m> Known<'m> {
    /// By the shape's name or by its wire code.
    fn find(model: &'m Model, code: &str) -> Option<Self> {
        let as_error = |shape: &'m ShapeModel| match &shape.kind {
            Kind::Structure(structure) if structure.error.is_some() => Some(Self { shape, structure }),
            _ => None,
        };
        let by_code =
            |known: &Self| known.structure.error.as_ref().and_then(|error| error.code) == Some(code);
        model
            .shape_named(code)
            .and_then(as_error)
            .or_else(|| model.shapes.iter().filter_map(as_error).find(by_code))
    }

    fn status(&self) -> Option<u16> {
        self.structure.error.as_ref()?.status
    }

    /// `message`, or `Message` where the model has it so.
    fn message(&self) -> &'static str {
        let named = |name: &'static str| self.structure.members.iter().any(|member| member.name == name);
        if named("Message") && !named("message") { "Message" } else { "message" }
    }
}

fn json_error(
    model: Option<&Model>,
    known: Option<&Known<'_>>,
    name: Option<&str>,
    error: &ApiError,
) -> Vec<u8> {
    let mut out = b"{".to_vec();
    if let Some(name) = name {
        out.extend_from_slice(b"\"__type\":");
        json::write_string(name, &mut out);
        out.push(b',');
    }
    json::write_string(known.map_or("message", Known::message), &mut out);
    out.push(b':');
    json::write_string(&error.message, &mut out);
    let members = Value::Struct(error.members.clone());
    if let (Some(model), Some(known)) = (model, known) {
        json::write_structure(model, known.structure, &members, false, &mut out);
    }
    out.push(b'}');
    out
}

fn xml_error(
    model: Option<&Model>,
    known: Option<&Known<'_>>,
    code: &str,
    sender: bool,
    error: &ApiError,
    request_id: &str,
) -> Vec<u8> {
    let mut xml = xml::Writer::new(xml::Dialect::Plain);
    xml.open_root("ErrorResponse", model.and_then(|model| model.xml_namespace));
    xml.open("Error");
    xml.leaf("Type", if sender { "Sender" } else { "Receiver" });
    xml.leaf("Code", code);
    xml.leaf("Message", &error.message);
    if let (Some(model), Some(known)) = (model, known) {
        xml.members(model, known.structure, &Value::Struct(error.members.clone()));
    }
    xml.close("Error");
    xml.leaf("RequestId", request_id);
    xml.close("ErrorResponse");
    xml.finish()
}

/// S3 has no element around it.
fn s3_error(
    model: Option<&Model>,
    known: Option<&Known<'_>>,
    code: &str,
    error: &ApiError,
    request_id: &str,
) -> Vec<u8> {
    let mut xml = xml::Writer::new(xml::Dialect::Plain);
    xml.open("Error");
    xml.leaf("Code", code);
    xml.leaf("Message", &error.message);
    if let (Some(model), Some(known)) = (model, known) {
        xml.members(model, known.structure, &Value::Struct(error.members.clone()));
    }
    xml.leaf("RequestId", request_id);
    xml.close("Error");
    xml.finish()
}

fn ec2_error(error: &ApiError, request_id: &str) -> Vec<u8> {
    let mut xml = xml::Writer::new(xml::Dialect::Ec2);
    xml.open("Response");
    xml.open("Errors");
    xml.open("Error");
    xml.leaf("Code", &error.code);
    xml.leaf("Message", &error.message);
    xml.close("Error");
    xml.close("Errors");
    xml.leaf("RequestID", request_id);
    xml.close("Response");
    xml.finish()
}
