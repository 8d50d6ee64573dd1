//! A line for each request and each connection, when it is over: as Service Connect writes them ("Amazon ECS Service Connect
//! access logs" of the ECS developer guide), in Envoy's words. What is not there is `-`, in JSON `null`.

use std::io::Write as _;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use ferrogate_nodeapi::{AccessLogFormat, ConnectAccessLog};
use http::{HeaderMap, HeaderName, Request, Version, header};
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde_json::{Map, Value, json};

use crate::control::Log;

/// Of one field; what is longer is cut.
const FIELD_BYTES_MAX: usize = 4096;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

fn written(at: Timestamp) -> String {
    DateTimePrinter::new().precision(Some(3)).timestamp_to_string(&at)
}

/// What a client says cannot end a field, nor a line.
fn field(bytes: &[u8]) -> String {
    let kept = &bytes[..bytes.len().min(FIELD_BYTES_MAX)];
    let plain = |byte: &u8| match byte {
        b'"' => '\'',
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    };
    kept.iter().map(plain).collect()
}

fn say(mut line: String) {
    line.push('\n');
    // A log that cannot be written keeps no request.
    let _ = Log.write_all(line.as_bytes());
}

/// One request; its line is written when this is dropped.
pub(super) struct Entry {
    said: Said,
    began: Instant,
    received: Arc<AtomicU64>,
}

struct Said {
    format: AccessLogFormat,
    at: Timestamp,
    method: String,
    path: String,
    protocol: &'static str,
    forwarded_for: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    authority: Option<String>,
    sent: u64,
    /// 0: the client was gone before there was one.
    status: u16,
    upstream: Option<SocketAddrV4>,
    /// Until the instance's response began.
    upstream_millis: Option<u128>,
}

impl Entry {
    pub(super) fn of<B>(how: ConnectAccessLog, request: &Request<B>) -> Box<Self> {
        let uri = request.uri();
        let path = match uri.path_and_query() {
            Some(whole) if how.query => whole.as_str(),
            _ => uri.path(),
        };
        let header = |name: HeaderName| text(request.headers(), name);
        let said = Said {
            format: how.format,
            at: Timestamp::now(),
            method: field(request.method().as_str().as_bytes()),
            path: field(path.as_bytes()),
            protocol: if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            forwarded_for: header(FORWARDED_FOR),
            user_agent: header(header::USER_AGENT),
            request_id: header(REQUEST_ID),
            authority: uri
                .authority()
                .map(|authority| field(authority.as_str().as_bytes()))
                .or(header(header::HOST)),
            sent: 0,
            status: 0,
            upstream: None,
            upstream_millis: None,
        };
        Box::new(Self { said, began: Instant::now(), received: Arc::default() })
    }

    /// Grows by the bytes of the request's body.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.said.sent += bytes;
    }

    pub(super) fn answered(&mut self, status: u16, by: Option<SocketAddrV4>) {
        self.said.status = status;
        self.said.upstream = by;
        self.said.upstream_millis = by.map(|_| self.began.elapsed().as_millis());
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        say(self.said.line(self.received.load(Relaxed), self.began.elapsed().as_millis()));
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).map(|value| field(value.as_bytes()))
}

impl Said {
    fn line(&self, received: u64, millis: u128) -> String {
        let upstream = self.upstream.map(|at| at.to_string());
        if self.format == AccessLogFormat::Json {
            let line = json!({
                "start_time": written(self.at), "method": self.method, "path": self.path,
                "protocol": self.protocol, "response_code": self.status, "bytes_received": received,
                "bytes_sent": self.sent, "duration": number(millis),
                "upstream_service_time": self.upstream_millis.map(number),
                "forwarded_for": self.forwarded_for, "user_agent": self.user_agent,
                "request_id": self.request_id, "authority": self.authority, "upstream_host": upstream,
            });
            return line.to_string();
        }
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let service = self.upstream_millis.map_or_else(|| "-".to_owned(), |millis| millis.to_string());
        format!(
            "[{}] \"{} {} {}\" {} {received} {} {millis} {service} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\"",
            written(self.at),
            self.method,
            self.path,
            self.protocol,
            self.status,
            self.sent,
            or_none(&self.forwarded_for),
            or_none(&self.user_agent),
            or_none(&self.request_id),
            or_none(&self.authority),
            or_none(&upstream),
        )
    }
}

fn number(millis: u128) -> u64 {
    u64::try_from(millis).unwrap_or(u64::MAX)
}

/// One connection of TCP, from when it is taken.
pub(super) struct Connection {
    format: AccessLogFormat,
    at: Timestamp,
    began: Instant,
    id: u64,
    client: Option<SocketAddrV4>,
}

impl Connection {
    pub(super) fn of(how: ConnectAccessLog, client: Option<SocketAddrV4>) -> Self {
        let id = CONNECTIONS.fetch_add(1, Relaxed);
        Self { format: how.format, at: Timestamp::now(), began: Instant::now(), id, client }
    }

    /// It is over. `why`: where it was not ended by its two sides.
    pub(super) fn over(&self, received: u64, sent: u64, why: Option<&str>) {
        say(self.line(received, sent, self.began.elapsed().as_millis(), why));
    }

    fn line(&self, received: u64, sent: u64, millis: u128, why: Option<&str>) -> String {
        let address = self.client.map(|client| client.ip().to_string());
        let port = self.client.map(|client| client.port().to_string());
        let fields = [
            ("start_time", json!(written(self.at))),
            ("downstream_remote_address", json!(address)),
            ("downstream_remote_port", json!(port)),
            ("bytes_received", json!(received)),
            ("bytes_sent", json!(sent)),
            ("duration", json!(number(millis))),
            ("connection_termination_details", json!(why)),
            ("connection_id", json!(self.id)),
        ];
        if self.format == AccessLogFormat::Json {
            let fields: Map<String, Value> =
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            return Value::Object(fields).to_string();
        }
        let word = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.replace(' ', "_"),
            other => other.to_string(),
        };
        let words: Vec<String> = fields.iter().skip(1).map(|(_, value)| word(value)).collect();
        format!("[{}] {}", written(self.at), words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(format: AccessLogFormat, query: bool) -> Said {
        let request = Request::post("http://web/a?token=1")
            .header("user-agent", "curl/8 \"quoted\"\u{e9}")
            .header("x-request-id", "7")
            .body(())
            .unwrap();
        let mut entry = Entry::of(ConnectAccessLog { format, query }, &request);
        entry.sent(11);
        entry.answered(200, Some("10.0.0.1:80".parse().unwrap()));
        let none = Said {
            format,
            at: Timestamp::UNIX_EPOCH,
            method: String::new(),
            path: String::new(),
            protocol: "",
            forwarded_for: None,
            user_agent: None,
            request_id: None,
            authority: None,
            sent: 0,
            status: 0,
            upstream: None,
            upstream_millis: None,
        };
        let said = std::mem::replace(&mut entry.said, none);
        Said { at: Timestamp::UNIX_EPOCH, upstream_millis: Some(3), ..said }
    }

    #[test]
    fn a_line_of_text() {
        assert_eq!(
            said(AccessLogFormat::Text, false).line(5, 4),
            "[1970-01-01T00:00:00.000Z] \"POST /a HTTP/1.1\" 200 5 11 4 3 \"-\" \"curl/8 'quoted'??\" \"7\" \"web\" \
             \"10.0.0.1:80\""
        );
    }

    #[test]
    fn a_line_of_json() {
        let line: Value = serde_json::from_str(&said(AccessLogFormat::Json, true).line(5, 4)).unwrap();
        let expected = json!({
            "start_time": "1970-01-01T00:00:00.000Z", "method": "POST", "path": "/a?token=1",
            "protocol": "HTTP/1.1", "response_code": 200, "bytes_received": 5, "bytes_sent": 11, "duration": 4,
            "upstream_service_time": 3, "forwarded_for": null, "user_agent": "curl/8 'quoted'??",
            "request_id": "7", "authority": "web", "upstream_host": "10.0.0.1:80",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_connection() {
        let mut connection = Connection::of(
            ConnectAccessLog { format: AccessLogFormat::Text, query: false },
            Some("10.0.0.2:40000".parse().unwrap()),
        );
        (connection.at, connection.id) = (Timestamp::UNIX_EPOCH, 9);
        let line = connection.line(1, 2, 3, Some("idle for too long"));
        assert_eq!(line, "[1970-01-01T00:00:00.000Z] 10.0.0.2 40000 1 2 3 idle_for_too_long 9");
        connection.format = AccessLogFormat::Json;
        let line: Value = serde_json::from_str(&connection.line(1, 2, 3, None)).unwrap();
        assert_eq!((&line["bytes_sent"], &line["connection_termination_details"]), (&json!(2), &Value::Null));
    }
}
