//! What is known of one request when it is over: metrics, and its line of the access log (ELB user guide, "Access log
//! entries"). A record that is dropped writes itself, so a request that nobody waited for is counted as well.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferrogate_nodeapi::BalancerAttributes;
use http::{HeaderMap, HeaderValue, Request, Version, header};
use jiff::Timestamp;

use super::connection::Connection;
use super::head::Verdict;
use super::server::Arrival;
use super::workers::Current;
use crate::logs::LogKind;
use crate::metrics::{Counters, Metric};
use crate::state::{Live, Outstanding};

/// A user agent is cut here, as ELB does.
const USER_AGENT_BYTES_MAX: usize = 8 * 1024;
/// The client went away before there was an answer.
const CLIENT_CLOSED: u16 = 460;

pub(crate) struct Record {
    connection: Arc<Connection>,
    live: Current,
    began: Instant,
    head_bytes: u64,
    /// `None`: no body came.
    request_body_bytes: Option<Arc<AtomicU64>>,
    sent_bytes: u64,
    /// 0: nothing was answered.
    status: u16,
    target_status: u16,
    group: Option<Arc<Counters>>,
    outstanding: Option<Outstanding>,
    /// When the request left for its target, and when the response's head came.
    times: (Option<Instant>, Option<Instant>),
    pub(crate) verdict: Verdict,
    pub(crate) kind: Kind,
    log: Option<Box<Line>>,
}

/// The first field of the log, as far as the connection does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Grpc,
    WebSocket,
}

/// Fields that are only wanted when there is a log.
#[derive(Default)]
pub(crate) struct Line {
    request: String,
    user_agent: String,
    pub(crate) target_group_arn: String,
    target: String,
    pub(crate) trace_id: String,
    /// `None`: no rule was evaluated.
    pub(crate) priority: Option<u32>,
    pub(crate) actions: &'static str,
    pub(crate) redirect_url: String,
    pub(crate) transformed_host: String,
    pub(crate) transformed_uri: String,
    pub(crate) transform_status: &'static str,
}

impl Record {
    pub(crate) fn begin<B>(
        connection: &Arc<Connection>,
        live: &Current,
        request: &Request<B>,
        arrival: Option<&Arrival>,
    ) -> Box<Record> {
        let logged = logs(&live.assignment.attributes);
        let line = logged.then(|| Box::new(Line::begin(connection, live, request, arrival)));
        Box::new(Record {
            connection: connection.clone(),
            live: live.clone(),
            began: arrival.map_or_else(Instant::now, |arrival| arrival.began),
            head_bytes: arrival.map_or_else(|| head_bytes(request.headers()), |arrival| arrival.head_bytes),
            request_body_bytes: None,
            sent_bytes: 0,
            status: 0,
            target_status: 0,
            group: None,
            outstanding: None,
            times: (None, None),
            verdict: arrival.map_or(Verdict::COMPLIANT, |arrival| arrival.verdict),
            kind: Kind::Http,
            log: line,
        })
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.live.assignment.attributes.idle_timeout_seconds.max(1)))
    }

    /// What came of the request's body is counted here.
    pub(crate) fn body_counter(&mut self) -> Arc<AtomicU64> {
        self.request_body_bytes.get_or_insert_default().clone()
    }

    pub(crate) fn is_logged(&self) -> bool {
        self.log.is_some()
    }

    pub(crate) fn line(&mut self) -> Option<&mut Line> {
        self.log.as_deref_mut()
    }

    fn balancer(&self) -> &Arc<Counters> {
        &self.connection.worker.edge.metrics.balancer
    }

    /// Counts for the balancer, and for the target group once there is one.
    pub(crate) fn count(&self, metric: Metric) {
        self.balancer().add(metric, 1);
        if let Some(group) = &self.group {
            group.add(metric, 1);
        }
    }

    /// A target was chosen: from here on the request counts.
    pub(crate) fn target_chosen(&mut self, group: &Arc<Counters>, outstanding: Outstanding) {
        self.group = Some(group.clone());
        if let Some(line) = &mut self.log {
            let address = outstanding.target().address();
            line.target = address.to_string();
            line.target_group_arn = outstanding.target().key.target_group_arn.clone();
        }
        self.outstanding = Some(outstanding);
        self.count(Metric::RequestCount);
        if self.kind == Kind::Grpc {
            self.count(Metric::GrpcRequests);
        }
    }

    pub(crate) fn request_left(&mut self) {
        self.times.0 = Some(Instant::now());
    }

    /// `head_bytes` as [`head_bytes`] has it, if it is [logged](Self::is_logged).
    pub(crate) fn target_answered(&mut self, status: u16, head_bytes: u64) {
        let now = Instant::now();
        self.times.1 = Some(now);
        self.status = status;
        self.target_status = status;
        let class = match status {
            200..300 => Some(Metric::Target2xx),
            300..400 => Some(Metric::Target3xx),
            400..500 => Some(Metric::Target4xx),
            500..600 => Some(Metric::Target5xx),
            _ => None,
        };
        if let Some(class) = class {
            self.count(class);
        }
        if let Some(outstanding) = &self.outstanding {
            outstanding.target().answered(status >= 500);
        }
        let took = now - self.times.0.unwrap_or(now);
        self.balancer().target_response_time(took);
        if let Some(group) = &self.group {
            group.target_response_time(took);
        }
        self.sent_bytes += head_bytes;
    }

    /// The balancer itself answers.
    pub(crate) fn answered_here(&mut self, status: u16) {
        self.status = status;
        let (class, exact) = match status {
            300..400 => (Some(Metric::Elb3xx), None),
            400..500 => (Some(Metric::Elb4xx), None),
            500 => (Some(Metric::Elb5xx), Some(Metric::Elb500)),
            502 => (Some(Metric::Elb5xx), Some(Metric::Elb502)),
            503 => (Some(Metric::Elb5xx), Some(Metric::Elb503)),
            504 => (Some(Metric::Elb5xx), Some(Metric::Elb504)),
            501..600 => (Some(Metric::Elb5xx), None),
            _ => (None, None),
        };
        class.into_iter().chain(exact).for_each(|metric| self.count(metric));
        if let Some(outstanding) = self.outstanding.take() {
            outstanding.target().answered(true);
        }
    }

    pub(crate) fn head_sent(&mut self, headers: &HeaderMap) {
        if self.log.is_some() {
            self.sent_bytes += head_bytes(headers);
        }
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// The response is over, or nobody takes the rest of it.
    pub(crate) fn body_over(&mut self, whole: bool) {
        if !whole && let Some(outstanding) = &self.outstanding {
            tracing::debug!(target = %outstanding.target().address(), "a response was not sent to its end");
        }
        self.outstanding = None;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.status == 0 {
            self.status = CLIENT_CLOSED;
            self.count(Metric::Elb4xx);
        }
        self.connection.wire.end();
        self.outstanding = None;
        if let Some(line) = self.log.take() {
            let text = self.text(&line);
            self.connection.worker.edge.logs.push(LogKind::Access, text);
        }
    }
}

pub(crate) fn logs(attributes: &BalancerAttributes) -> bool {
    attributes.access_logs.is_some()
}

fn head_bytes(headers: &HeaderMap) -> u64 {
    bytes_of(headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
}

/// Of a head with these fields.
pub(crate) fn bytes_of<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> u64 {
    let bytes: usize = fields.map(|(name, value)| name.len() + value.len() + 4).sum();
    bytes as u64 + 19
}

impl Line {
    fn begin<B>(
        connection: &Connection,
        live: &Live,
        request: &Request<B>,
        arrival: Option<&Arrival>,
    ) -> Line {
        let agent = request.headers().get(header::USER_AGENT);
        let mut line = Line {
            user_agent: agent
                .map_or_else(|| "-".to_owned(), |agent| quoted(agent.as_bytes(), USER_AGENT_BYTES_MAX)),
            actions: "-",
            transform_status: "-",
            ..Line::default()
        };
        line.request = match arrival.and_then(|arrival| arrival.fault.as_ref()) {
            // What came is no request: ELB writes what it could not read as a dash.
            Some(_) => {
                let address = live.assignment.network.private_ip;
                format!("- {}://{address}:{}- -", connection.scheme(), connection.port)
            }
            None => {
                let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
                let host = request.uri().host().or(host).unwrap_or("-");
                let host = super::headers::split_port(host).0;
                let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                let url = format!("{}://{host}:{}{path}", connection.scheme(), connection.port);
                let version = match request.version() {
                    Version::HTTP_10 => "HTTP/1.0",
                    Version::HTTP_2 => "HTTP/2.0",
                    _ => "HTTP/1.1",
                };
                format!("{} {} {version}", request.method(), quoted(url.as_bytes(), usize::MAX))
            }
        };
        line
    }
}

/// No quote and no control character of a stranger gets into a line.
fn quoted(text: &[u8], bytes_max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bytes_max));
    for &byte in text.iter().take(bytes_max) {
        if byte == b'"' || byte == b'\\' || !(b' '..0x7f).contains(&byte) {
            // Writing to a String does not fail.
            write!(out, "\\x{byte:02X}").ok();
        } else {
            out.push(char::from(byte));
        }
    }
    out
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

struct Seconds(Option<Duration>);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(time) => write!(f, "{:.3}", time.as_secs_f64()),
            None => f.write_str("-1"),
        }
    }
}

pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

impl Record {
    fn kind(&self) -> &'static str {
        let connection = &self.connection;
        match (self.kind, connection.is_http2(), connection.tls.is_some()) {
            (Kind::WebSocket, _, false) => "ws",
            (Kind::WebSocket, _, true) => "wss",
            (Kind::Grpc, _, true) => "grpcs",
            (_, true, _) => "h2",
            (_, false, true) => "https",
            (_, false, false) => "http",
        }
    }

    fn text(&self, line: &Line) -> String {
        let (left, answered) = self.times;
        let now = Instant::now();
        let request_time = left.map(|left| left - self.began);
        let target_time = left.zip(answered).map(|(left, answered)| answered - left);
        let response_time = answered.map(|answered| now - answered);
        let created = Timestamp::now() - jiff::SignedDuration::try_from(now - self.began).unwrap_or_default();
        let status = |status: u16| if status == 0 { "-".to_owned() } else { status.to_string() };
        let tls = self.connection.tls.as_ref();
        let target = or_dash(&line.target);
        let target_status = status(self.target_status);
        let transform = |text: &str| quoted(or_dash(text).as_bytes(), usize::MAX);
        let class = self.verdict.reason.map_or_else(|| "-".to_owned(), |_| self.verdict.class.to_string());
        let reason = self.verdict.reason.map_or_else(|| "-".to_owned(), |reason| reason.to_string());
        format!(
            "{} {} {} {} {target} {} {} {} {} {target_status} {} {} \"{}\" \"{}\" {} {} {} \"{}\" \"{}\" \"{}\" {} {} \
             \"{}\" \"{}\" \"-\" \"{target}\" \"{target_status}\" \"{class}\" \"{reason}\" {} \"{}\" \"{}\" \"{}\"",
            self.kind(),
            time(Timestamp::now()),
            self.live.http.log_name,
            self.connection.peer,
            Seconds(request_time),
            Seconds(target_time),
            Seconds(response_time),
            status(self.status),
            self.head_bytes + self.request_body_bytes.as_ref().map_or(0, |bytes| bytes.load(Relaxed)),
            self.sent_bytes,
            line.request,
            line.user_agent,
            tls.map_or("-", |tls| tls.cipher),
            tls.map_or("-", |tls| tls.version),
            or_dash(&line.target_group_arn),
            or_dash(&line.trace_id),
            tls.and_then(|tls| tls.sni.as_deref()).unwrap_or("-"),
            tls.map_or("-", |tls| &tls.certificate_arn),
            line.priority.map_or_else(|| "-1".to_owned(), |priority| priority.to_string()),
            time(created),
            line.actions,
            quoted(or_dash(&line.redirect_url).as_bytes(), usize::MAX),
            self.connection.trace_id,
            transform(&line.transformed_host),
            transform(&line.transformed_uri),
            line.transform_status,
        )
    }
}

/// The trace as the log has it.
pub(crate) fn trace_text(trace: &HeaderValue) -> String {
    quoted(trace.as_bytes(), usize::MAX)
}
