//! An operation's output → the response.

use ferrogate_api::Value;
use ferrogate_api::schema::{Kind, Model, Operation, Protocol, ShapeId, Structure};
use http::{HeaderMap, Response, StatusCode, header};

use crate::template::has_raw_payload;
use crate::{cbor, eventstream, json, rest, xml};

/// The response of a call that succeeded. Event streams (StartLiveTail) take their events as a list and come out
/// whole, frame after frame.
pub fn encode(
    model: &Model,
    protocol: Protocol,
    operation: &Operation,
    output: &Value,
    request_id: &str,
) -> Response<Vec<u8>> {
    let mut status =
        operation.response_status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or_default();
    let mut headers = HeaderMap::new();
    let structure = operation.output.and_then(|id| model.structure(id));
    if let Some(structure) = structure
        && matches!(protocol, Protocol::RestJson | Protocol::RestXml)
    {
        rest::encode_head(model, structure, output, &mut status, &mut headers);
    }
    let body = match (operation.output, structure) {
        (Some(shape), Some(structure)) => {
            match eventstream::encode(model, protocol, shape, structure, output) {
                Some(frames) => {
                    rest::put(&mut headers, "content-type", eventstream::CONTENT_TYPE);
                    frames
                }
                None => {
                    if has_raw_payload(model, structure) && !headers.contains_key(header::CONTENT_TYPE) {
                        let raw = if model.service == "s3" {
                            "binary/octet-stream"
                        } else {
                            "application/octet-stream"
                        };
                        rest::put(&mut headers, "content-type", raw);
                    }
                    body(model, protocol, operation, shape, structure, output, request_id)
                }
            }
        }
        _ => empty(model, protocol, operation, request_id),
    };
    let body = if status == StatusCode::NO_CONTENT { Vec::new() } else { body };
    finish(model, protocol, status, headers, body, request_id)
}

fn body(
    model: &Model,
    protocol: Protocol,
    operation: &Operation,
    shape: ShapeId,
    structure: &Structure,
    output: &Value,
    request_id: &str,
) -> Vec<u8> {
    match protocol {
        Protocol::Json10 | Protocol::Json11 => json_body(model, shape, output),
        Protocol::RpcV2Cbor => cbor::encode(model, shape, output),
        Protocol::Query => query_answer(model, operation, Some((structure, output)), request_id),
        Protocol::Ec2 => ec2_answer(model, operation, Some((structure, output)), request_id),
        Protocol::RestJson | Protocol::RestXml => match structure.payload {
            Some(name) => payload(model, protocol, structure, name, output),
            None if structure.members.iter().all(|member| member.location.is_some()) => Vec::new(),
            None if protocol == Protocol::RestJson => json_body(model, shape, output),
            None => xml_body(model, model.shape(shape).name, structure, output),
        },
    }
}

/// The answer of an operation without output.
fn empty(model: &Model, protocol: Protocol, operation: &Operation, request_id: &str) -> Vec<u8> {
    match protocol {
        Protocol::Query => query_answer(model, operation, None, request_id),
        Protocol::Ec2 => ec2_answer(model, operation, None, request_id),
        Protocol::Json10 | Protocol::Json11 => b"{}".to_vec(),
        Protocol::RestJson | Protocol::RestXml | Protocol::RpcV2Cbor => Vec::new(),
    }
}

pub(crate) fn json_body(model: &Model, shape: ShapeId, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    json::encode(model, shape, None, value, &mut out);
    // A handler that has nothing to say gives null: on the wire a structure is never that.
    if value.is_null() { b"{}".to_vec() } else { out }
}

fn query_answer(
    model: &Model,
    operation: &Operation,
    output: Option<(&Structure, &Value)>,
    request_id: &str,
) -> Vec<u8> {
    let root = format!("{}Response", operation.name);
    let mut xml = xml::Writer::new(xml::Dialect::Plain);
    xml.open_root(&root, model.xml_namespace);
    if let Some((structure, output)) = output {
        if let Some(wrapper) = operation.result_wrapper {
            xml.open(wrapper);
        }
        xml.members(model, structure, output);
        if let Some(wrapper) = operation.result_wrapper {
            xml.close(wrapper);
        }
    }
    xml.open("ResponseMetadata");
    xml.leaf("RequestId", request_id);
    xml.close("ResponseMetadata");
    xml.close(&root);
    xml.finish()
}

fn ec2_answer(
    model: &Model,
    operation: &Operation,
    output: Option<(&Structure, &Value)>,
    request_id: &str,
) -> Vec<u8> {
    let root = format!("{}Response", operation.name);
    let mut xml = xml::Writer::new(xml::Dialect::Ec2);
    // botocore has the namespace without its slash, the service answers with it.
    let namespace = format!("http://ec2.amazonaws.com/doc/{}/", model.api_version);
    xml.open_root(&root, Some(&namespace));
    xml.leaf("requestId", request_id);
    if let Some((structure, output)) = output {
        xml.members(model, structure, output);
    }
    xml.close(&root);
    xml.finish()
}

fn xml_body(model: &Model, root: &str, structure: &Structure, output: &Value) -> Vec<u8> {
    let mut xml = xml::Writer::new(xml::Dialect::Plain);
    xml.open_root(root, model.xml_namespace);
    xml.members(model, structure, output);
    xml.close(root);
    xml.finish()
}

/// A member that is the whole body.
fn payload(model: &Model, protocol: Protocol, structure: &Structure, name: &str, output: &Value) -> Vec<u8> {
    let Some(member) = structure.members.iter().find(|member| member.name == name) else { return Vec::new() };
    match (output.get(name), &model.shape(member.shape).kind) {
        (None, _) => Vec::new(),
        (Some(Value::Blob(bytes)), _) => bytes.clone(),
        (Some(Value::String(text)), Kind::Blob { .. } | Kind::String) => text.clone().into_bytes(),
        (Some(value), _) if protocol == Protocol::RestJson => json_body(model, member.shape, value),
        (Some(value), Kind::Structure(of)) => {
            let root = member.location_name.unwrap_or(model.shape(member.shape).name);
            xml_body(model, root, of, value)
        }
        (Some(value), _) => {
            let mut xml = xml::Writer::new(xml::Dialect::Plain);
            xml.member(model, member, value);
            xml.finish()
        }
    }
}

/// What every response has: type of content and request id, where the model gave no other.
pub(crate) fn finish(
    model: &Model,
    protocol: Protocol,
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    request_id: &str,
) -> Response<Vec<u8>> {
    dress(model.service == "s3", protocol, status, headers, body, request_id)
}

pub(crate) fn dress(
    s3: bool,
    protocol: Protocol,
    status: StatusCode,
    mut headers: HeaderMap,
    body: Vec<u8>,
    request_id: &str,
) -> Response<Vec<u8>> {
    if !body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
        rest::put(&mut headers, "content-type", content_type(protocol));
    }
    if protocol == Protocol::RpcV2Cbor {
        rest::put(&mut headers, "smithy-protocol", "rpc-v2-cbor");
    }
    rest::put(&mut headers, "x-amzn-requestid", request_id);
    if s3 {
        rest::put(&mut headers, "x-amz-request-id", request_id);
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn content_type(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Json10 => "application/x-amz-json-1.0",
        Protocol::Json11 => "application/x-amz-json-1.1",
        Protocol::Query => "text/xml",
        Protocol::Ec2 => "text/xml;charset=UTF-8",
        Protocol::RestJson => "application/json",
        Protocol::RestXml => "application/xml",
        Protocol::RpcV2Cbor => "application/cbor",
    }
}
