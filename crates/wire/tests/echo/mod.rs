//! A small HTTP server that answers what it is told to, and tells what it understood.
//!
//! `POST /__control/model` adds a service, `/__control/next` says what to answer next, `/__control/last` gives what
//! the last call was understood as. Everything else is a call.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ferrogate_api::schema::{self, Kind, Model, ShapeId};
use ferrogate_api::{ApiError, Value};
use ferrogate_wire as wire;
use http::{Request, Response};
use serde_json::{Value as Json, json};

const BODY_BYTES_MAX: usize = 16 << 20;
const REQUEST_ID: &str = "the-request";

/// Listens on 127.0.0.1 until dropped.
pub(crate) struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

struct State {
    models: Vec<&'static Model>,
    catalog: Arc<wire::Catalog>,
    next: Json,
    last: Json,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let stopped = Arc::new(AtomicBool::new(false));
        let models: Vec<_> = schema::models().iter().filter_map(|name| schema::model(name)).collect();
        let catalog = Arc::new(wire::Catalog::new(models.iter().copied()));
        let state = Arc::new(Mutex::new(State { models, catalog, next: Json::Null, last: Json::Null }));
        let stop = Arc::clone(&stopped);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                std::thread::spawn(move || stream.map(|stream| serve(&stream, &state)));
            }
        });
        Self { address, stopped }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is to stop.
        drop(TcpStream::connect(self.address));
    }
}

/// One connection, to its end.
fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let head = request.method() == http::Method::HEAD;
        let response = match request.uri().path().strip_prefix("/__control/") {
            Some(command) => control(command, request.body(), state),
            None => call(&request, state),
        };
        if write(stream, &response, head).is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request<Vec<u8>>> {
    let line = read_line(reader)?;
    let mut words = line.split(' ');
    let mut request = Request::builder().method(words.next()?).uri(words.next()?);
    let mut length = 0;
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        request = request.header(name, value.trim());
    }
    assert!(length <= BODY_BYTES_MAX, "a body of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(request.body(body).expect("botocore sends HTTP"))
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    (reader.read_line(&mut line).ok()? > 0).then_some(())?;
    Some(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn write(mut stream: &TcpStream, response: &Response<Vec<u8>>, head: bool) -> std::io::Result<()> {
    let mut out = format!("HTTP/1.1 {} x\r\n", response.status().as_u16()).into_bytes();
    for (name, value) in response.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !response.headers().contains_key("content-length") && response.status() != 204 {
        out.extend_from_slice(format!("content-length: {}\r\n", response.body().len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if !head {
        out.extend_from_slice(response.body());
    }
    stream.write_all(&out)
}

fn control(command: &str, body: &[u8], state: &Mutex<State>) -> Response<Vec<u8>> {
    let told: Json = serde_json::from_slice(body).expect("the Python side sends JSON");
    let mut state = state.lock().expect("no call panics while it holds the state");
    let answer = match command {
        "model" => {
            let service = told["service"].as_str().expect("a service");
            let bytes = serde_json::to_vec(&told["model"]).expect("JSON");
            match Model::parse(service, &bytes) {
                Ok(model) => {
                    state.models.push(Box::leak(Box::new(model)));
                    state.catalog = Arc::new(wire::Catalog::new(state.models.iter().copied()));
                    json!({})
                }
                Err(error) => {
                    return Response::builder().status(400).body(error.to_string().into_bytes()).unwrap();
                }
            }
        }
        "next" => {
            state.next = told;
            state.last = json!({ "refused": "nothing was called" });
            json!({})
        }
        "last" => state.last.take(),
        other => panic!("no command {other}"),
    };
    Response::new(answer.to_string().into_bytes())
}

fn call(request: &Request<Vec<u8>>, state: &Mutex<State>) -> Response<Vec<u8>> {
    let (catalog, next) = {
        let mut state = state.lock().expect("no call panics while it holds the state");
        (Arc::clone(&state.catalog), state.next.take())
    };
    let (last, response) = answer(&catalog, request, &next);
    state.lock().expect("no call panics while it holds the state").last = last;
    response
}

fn answer(catalog: &wire::Catalog, request: &Request<Vec<u8>>, next: &Json) -> (Json, Response<Vec<u8>>) {
    let (parts, body) = request.clone().into_parts();
    let signing = parts.headers.get("x-roundtrip-signing").and_then(|name| name.to_str().ok());
    let refused = |error: &ApiError| json!({ "refused": error.to_string() });
    let route = match catalog.detect(&parts, &body, signing) {
        Ok(route) => route,
        Err(error) => {
            let response = wire::encode_error(error.model, error.protocol, &error.error, REQUEST_ID);
            return (refused(&error.error), response);
        }
    };
    let wire::Route { model, protocol, operation } = route;
    let input = match wire::decode(model, protocol, operation, &parts, &body) {
        Ok(input) => input,
        Err(error) => {
            return (refused(&error), wire::encode_error(Some(model), protocol, &error, REQUEST_ID));
        }
    };
    let invalid = wire::validate(model, operation, &input).err().map(|error| error.to_string());
    let last = json!({
        "service": model.service,
        "operation": operation.name,
        "input": canonical(&input),
        "invalid": invalid,
    });
    let response = match next.get("error") {
        Some(error) => {
            let error = failure(model, error);
            wire::encode_error(Some(model), protocol, &error, REQUEST_ID)
        }
        None => {
            let output = operation.output.map_or(Value::Null, |shape| value(model, shape, &next["output"]));
            wire::encode(model, protocol, operation, &output, REQUEST_ID)
        }
    };
    (last, response)
}

fn failure(model: &Model, told: &Json) -> ApiError {
    let text = |key: &str| told[key].as_str().expect("text").to_owned();
    let mut error = ApiError::new(text("code"), text("message"));
    let coded = |id: &ShapeId| {
        let found = model.structure(*id).and_then(|of| of.error.as_ref());
        found.is_some_and(|found| found.code == Some(&error.code))
    };
    let id = (0..model.shapes.len())
        .find(|id| model.shape(*id).name == error.code && model.structure(*id).is_some())
        .or_else(|| (0..model.shapes.len()).find(coded));
    if let Some(id) = id
        && let Value::Struct(members) = value(model, id, &told["members"])
    {
        error.members = members;
    }
    error
}

/// JSON as the Python side writes it → a value of `shape`.
fn value(model: &Model, shape: ShapeId, told: &Json) -> Value {
    match (&model.shape(shape).kind, told) {
        (Kind::Structure(of), Json::Object(_)) if of.document => {
            serde_json::from_value(told.clone()).expect("JSON")
        }
        // The events of a stream.
        (Kind::Structure(of), Json::Array(events)) if of.eventstream => {
            Value::List(events.iter().map(|event| value(model, shape, event)).collect())
        }
        (Kind::Structure(of), Json::Object(fields)) => Value::Struct(
            fields
                .iter()
                .map(|(name, told)| {
                    let member = of.members.iter().find(|member| member.name == name);
                    let member =
                        member.unwrap_or_else(|| panic!("{} has no {name}", model.shape(shape).name));
                    (member.name, value(model, member.shape, told))
                })
                .collect(),
        ),
        (Kind::List { member, .. }, Json::Array(items)) => {
            Value::List(items.iter().map(|item| value(model, member.shape, item)).collect())
        }
        (Kind::Map { value: inside, .. }, Json::Object(entries)) => Value::Map(
            entries.iter().map(|(key, told)| (key.clone(), value(model, inside.shape, told))).collect(),
        ),
        (Kind::String, Json::String(text)) => Value::String(text.clone()),
        (Kind::Boolean, Json::Bool(told)) => Value::Bool(*told),
        (Kind::Integer | Kind::Long, Json::Number(number)) => {
            Value::Int(number.as_i64().expect("an integer"))
        }
        (Kind::Float | Kind::Double, Json::Number(number)) => {
            Value::Float(number.as_f64().expect("a number"))
        }
        (Kind::Float | Kind::Double, Json::String(text)) => Value::Float(text.parse().expect("a number")),
        (Kind::Blob { .. }, Json::String(text)) => {
            use base64::Engine;
            Value::Blob(base64::engine::general_purpose::STANDARD.decode(text).expect("base64"))
        }
        (Kind::Timestamp { .. }, Json::Number(number)) => {
            let millis = (number.as_f64().expect("a number") * 1e3).round();
            Value::Timestamp(jiff::Timestamp::from_millisecond(millis as i64).expect("a time"))
        }
        (kind, told) => panic!("{kind:?} can not be {told}"),
    }
}

/// A value as the Python side reads it. JSON has no NaN.
fn canonical(value: &Value) -> Json {
    match value {
        Value::Float(number) if number.is_nan() => json!("NaN"),
        Value::Float(number) if number.is_infinite() => {
            json!(if *number > 0.0 { "Infinity" } else { "-Infinity" })
        }
        Value::List(items) => Json::Array(items.iter().map(canonical).collect()),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, value)| (key.clone(), canonical(value))).collect())
        }
        Value::Struct(members) => {
            Json::Object(members.iter().map(|(key, value)| ((*key).to_owned(), canonical(value))).collect())
        }
        other => serde_json::to_value(other).expect("scalars are JSON"),
    }
}
