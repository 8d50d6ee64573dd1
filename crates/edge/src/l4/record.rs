//! A TLS connection's line of the access log (network load balancers guide, "Access log entries"). Others have none.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ferrogate_nodeapi::{BalancerAssignment, Listener};
use jiff::Timestamp;
use rustls::ServerConnection;
use rustls::server::ClientHello;

use crate::tls::{TlsListener, cipher_name, version_name};

/// What a client prefers is cut here, as ELB does.
const PREFERENCES_BYTES_MAX: usize = 256;
const NONE: &str = "-";

/// What is known of a connection by its end.
pub(super) struct Record {
    began: Instant,
    created: Timestamp,
    handshake: Option<Duration>,
    alert: Option<u8>,
    hello: Hello,
    version: &'static str,
    cipher: &'static str,
    protocol: Option<Vec<u8>>,
    target_protocol: Option<Vec<u8>>,
}

#[derive(Default)]
struct Hello {
    certificate_arn: Option<String>,
    domain: Option<String>,
    preferences: Option<String>,
}

impl Record {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            created: Timestamp::now(),
            handshake: None,
            alert: None,
            hello: Hello::default(),
            version: NONE,
            cipher: NONE,
            protocol: None,
            target_protocol: None,
        }
    }

    pub(super) fn hello(&mut self, hello: &ClientHello<'_>, listener: &Listener, tls: &TlsListener) {
        // Of listeners without a policy it is not told.
        let policy = listener.alpn_policy.as_deref().is_some_and(|policy| policy != "None");
        self.hello = Hello {
            certificate_arn: Some(tls.certificate_arn(hello.server_name()).to_owned()),
            domain: hello.server_name().map(str::to_owned),
            preferences: hello.alpn().filter(|_| policy).map(preferences),
        };
    }

    pub(super) fn agreed(&mut self, session: &ServerConnection) {
        self.handshake = Some(self.began.elapsed());
        self.version = match version_name(session.protocol_version()) {
            "TLSv1.2" => "tlsv12",
            "TLSv1.3" => "tlsv13",
            other => other,
        };
        self.cipher = cipher_name(session.negotiated_cipher_suite());
        self.protocol = session.alpn_protocol().map(<[u8]>::to_vec);
    }

    pub(super) fn failed(&mut self, error: &std::io::Error) {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = cause {
            self.alert = Some(u8::from(*alert));
        }
    }

    pub(super) fn target_agreed(&mut self, protocol: Option<&[u8]>) {
        self.target_protocol = protocol.map(<[u8]>::to_vec);
    }

    /// `bytes`: from the client, and to it.
    pub(super) fn line(
        &self,
        assignment: &BalancerAssignment,
        listener: &Listener,
        (client, balancer): (SocketAddr, SocketAddr),
        bytes: (u64, u64),
    ) -> String {
        let arn = &assignment.load_balancer_arn;
        let name = arn.split_once(":loadbalancer/").map_or(arn.as_str(), |(_, name)| name);
        let listener = listener.listener_arn.rsplit('/').next().unwrap_or(NONE);
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
        let protocol = |name: &Option<Vec<u8>>| match name {
            Some(name) => encoded(name),
            None => NONE.to_owned(),
        };
        let milliseconds = |time: Duration| time.as_millis().to_string();
        format!(
            "tls 2.0 {ended} {name} {listener} {client} {balancer} {took} {handshake} {received} {sent} {alert} \
             {certificate} - {cipher} {version} - {domain} {front} {back} {preferences} {created}",
            ended = time(Timestamp::now()),
            took = milliseconds(self.began.elapsed()),
            handshake = self.handshake.map_or_else(|| NONE.to_owned(), milliseconds),
            received = bytes.0,
            sent = bytes.1,
            alert = self.alert.map_or_else(|| NONE.to_owned(), |alert| alert.to_string()),
            certificate = or_none(&self.hello.certificate_arn),
            cipher = self.cipher,
            version = self.version,
            domain = or_none(&self.hello.domain),
            front = protocol(&self.protocol),
            back = protocol(&self.target_protocol),
            preferences = or_none(&self.hello.preferences),
            created = time(self.created),
        )
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

fn preferences<'a>(names: impl Iterator<Item = &'a [u8]>) -> String {
    let quoted: Vec<String> = names.map(|name| format!("\"{}\"", encoded(name))).collect();
    let mut text = quoted.join(",");
    // Of ASCII only: it may be cut anywhere.
    text.truncate(PREFERENCES_BYTES_MAX);
    text
}

fn encoded(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b'%') {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_prefers_is_one_field() {
        let names: [&[u8]; 3] = [b"h2", b"http/1.1", b"a \"b\",\xff"];
        assert_eq!(preferences(names.into_iter()), r#""h2","http/1.1","a%20%22b%22%2C%FF""#);
        let long = [b"x".repeat(255), b"y".repeat(255)];
        assert_eq!(preferences(long.iter().map(Vec::as_slice)).len(), PREFERENCES_BYTES_MAX);
    }
}
