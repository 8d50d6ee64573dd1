//! TLS of network load balancers: towards clients as everywhere, with the listener's ALPN policy; towards targets without a
//! look at their certificates.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ferrogate_nodeapi::Listener;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::state::Live;
use crate::tls::TlsListener;

/// How TLS listeners speak, by port, made when the first client comes.
#[derive(Default)]
pub(crate) struct Configs(Mutex<Made>);

/// Of one configuration.
#[derive(Default)]
struct Made {
    live: Weak<Live>,
    by_port: HashMap<u16, Option<Arc<TlsListener>>>,
}

impl Configs {
    /// `None`: its certificates cannot be used.
    pub(crate) fn listener(&self, live: &Arc<Live>, listener: &Listener) -> Option<Arc<TlsListener>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(made.live.as_ptr(), Arc::as_ptr(live)) {
            *made = Made { live: Arc::downgrade(live), by_port: HashMap::new() };
        }
        let make = || {
            let alpn = protocols(listener.alpn_policy.as_deref().unwrap_or_default());
            match TlsListener::new(listener, &live.certificates, alpn) {
                Ok(tls) => Some(Arc::new(tls)),
                Err(error) => {
                    tracing::warn!(%error, "a TLS listener takes no connection");
                    None
                }
            }
        };
        made.by_port.entry(listener.port).or_insert_with(make).clone()
    }
}

/// By preference (network load balancers guide, "ALPN policies").
fn protocols(policy: &str) -> &'static [&'static [u8]] {
    match policy {
        "HTTP1Only" => &[b"http/1.1", b"http/1.0"],
        "HTTP2Only" => &[b"h2"],
        "HTTP2Optional" => &[b"http/1.1", b"http/1.0", b"h2"],
        "HTTP2Preferred" => &[b"h2", b"http/1.1", b"http/1.0"],
        _ => &[],
    }
}

/// ELB does not look at a target's certificate: the VPC says who it is (ELB user guides, "Target groups").
///
/// For a connection to a target, which offers these protocols.
pub(crate) fn unverified(alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// An address is no SNI: none is sent.
pub(crate) fn server_name(ip: IpAddr) -> ServerName<'static> {
    ServerName::from(ip)
}

/// Takes every certificate whose key signs the handshake.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
