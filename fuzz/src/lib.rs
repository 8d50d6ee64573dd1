//! What the fuzz targets share: turning a flat input into a request, and the table of operations.
//!
//! Inputs are text where they can be: a corpus stays meaningful when a model gains an operation, and a crash can be
//! read without a tool.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use ferrogate_api::schema::{self, Model, Operation, Protocol};
use ferrogate_wire::{decode, encode, validate};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};

type Entry = (&'static Model, &'static Operation);

static OPERATIONS: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let models = schema::models().iter().filter_map(|name| schema::model(name));
    models.flat_map(|model| model.operations.iter().map(move |operation| (model, operation))).collect()
});

/// `ecs.RunTask`; any other text stands for some operation too.
pub fn operation(name: &[u8]) -> Entry {
    let text = String::from_utf8_lossy(name);
    let named = text
        .split_once('.')
        .and_then(|(service, name)| schema::model(service).and_then(|m| Some((m, m.operation(name)?))));
    named.unwrap_or_else(|| {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        OPERATIONS[(hasher.finish() % OPERATIONS.len() as u64) as usize]
    })
}

/// The text up to the next newline, and what follows it.
pub fn line(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}

/// `METHOD URI`, headers, an empty line, the body: lines end with `\n` alone, so that a header may hold `\r`.
pub fn request(input: &[u8]) -> Option<(Parts, &[u8])> {
    let (first, mut rest) = line(input);
    let at = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(&first[..at]).ok()?;
    *request.uri_mut() = Uri::try_from(&first[at + 1..]).ok()?;
    loop {
        let (header, after) = line(rest);
        rest = after;
        if header.is_empty() {
            return Some((request.into_parts().0, rest));
        }
        let colon = header.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&header[..colon]).ok()?;
        let value = HeaderValue::from_bytes(header[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
}

/// An operation, a path with its query, and a body, each on a line of its own; decoded under each of `protocols`.
///
/// What decodes goes through the validator and the encoder too. What the encoder writes for the same shape is read
/// back by the decoder, and written the same again, where requests and answers have one form (JSON, CBOR).
pub fn body(input: &[u8], protocols: &[Protocol]) {
    let (name, rest) = line(input);
    let (uri, body) = line(rest);
    let (model, operation) = self::operation(name);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(operation.http_method.as_bytes()).expect("the model's method");
    *request.uri_mut() = Uri::try_from(uri).unwrap_or_else(|_| Uri::from_static("/"));
    let parts = request.into_parts().0;
    for protocol in protocols {
        let Ok(value) = decode(model, *protocol, operation, &parts, body) else { continue };
        let _ = validate(model, operation, &value);
        encode(model, *protocol, operation, &value, "id");
        if matches!(protocol, Protocol::Json10 | Protocol::Json11 | Protocol::RpcV2Cbor) {
            // A list whose items an encoder leaves out, or a number it rounds, changes once and then no more.
            let mirror = mirrored(operation);
            let first = encode(model, *protocol, &mirror, &value, "id").into_body();
            let again = decode(model, *protocol, &mirror, &parts, &first)
                .unwrap_or_else(|error| panic!("{protocol:?}: what was encoded is not taken: {error}"));
            let second = encode(model, *protocol, &mirror, &again, "id").into_body();
            assert_eq!(first, second, "{protocol:?}: encoded twice");
        }
    }
}

/// An operation that answers with what it was asked.
fn mirrored(of: &'static Operation) -> Operation {
    Operation {
        name: of.name,
        http_method: of.http_method,
        uri: of.uri,
        response_status: of.response_status,
        input: of.input,
        output: of.input,
        result_wrapper: of.result_wrapper,
        input_location_name: of.input_location_name,
        input_xml_namespace: of.input_xml_namespace,
        errors: Vec::new(),
        unsigned: of.unsigned,
        host_prefix: of.host_prefix,
    }
}
