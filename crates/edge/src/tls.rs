//! TLS towards clients, for HTTPS and TLS listeners: ELB's security policies and the choice of a certificate by SNI.
//!
//! What a policy allows beyond TLS 1.2 and 1.3 with forward secrecy and AEAD (TLS 1.0, 1.1, CBC, RSA key exchange) is not
//! spoken: a client that has nothing better is refused in the handshake, as with the stricter policies of ELB.

pub(crate) mod client;

use std::sync::{Arc, OnceLock};

use ferrogate_nodeapi::{Certificate, Listener};
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, kx_group};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ProtocolVersion, ServerConfig, SignatureAlgorithm, SupportedCipherSuite, SupportedProtocolVersion,
};

use crate::state::{Certificates, ConfigurationError};

/// How a listener speaks TLS.
pub(crate) struct TlsListener {
    pub(crate) config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
}

impl TlsListener {
    /// `alpn`: protocols by preference; empty: none is negotiated.
    pub(crate) fn new(
        listener: &Listener,
        certificates: &Certificates,
        alpn: &[&[u8]],
    ) -> Result<TlsListener, ConfigurationError> {
        let port = listener.port;
        let policy = listener.ssl_policy.as_deref().unwrap_or(DEFAULT_POLICY);
        let policy = Policy::named(policy)
            .ok_or_else(|| ConfigurationError::SslPolicy { port, policy: policy.to_owned() })?;
        let provider = Arc::new(policy.provider());
        let mut served = Vec::new();
        for arn in &listener.certificate_arns {
            let missing = || ConfigurationError::CertificateMissing { port, arn: arn.clone() };
            let certificate = certificates.get(arn).ok_or_else(missing)?;
            let refused =
                |error: String| ConfigurationError::Certificate { port, arn: arn.clone(), reason: error };
            let key = certified_key(certificate, &provider).map_err(refused)?;
            served.push(Served { arn: arn.clone(), key: Arc::new(key) });
        }
        if served.is_empty() {
            return Err(ConfigurationError::CertificateMissing { port, arn: "(none is named)".to_owned() });
        }
        let resolver = Arc::new(Resolver { served });
        let unusable =
            |error: rustls::Error| ConfigurationError::SslPolicy { port, policy: error.to_string() };
        let algorithms = Arc::clone(&provider);
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(policy.versions())
            .map_err(unusable)?;
        let config = match listener.mtls_passthrough {
            true => config.with_client_cert_verifier(Arc::new(client::Passthrough::new(algorithms))),
            false => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(resolver.clone());
        // ELB: the server's order of suites.
        config.ignore_client_order = true;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        if let Some(ticketer) = ticketer(listener.mtls_passthrough) {
            config.ticketer = ticketer;
        }
        Ok(TlsListener { config: Arc::new(config), resolver })
    }

    /// The one that a client with this SNI was shown.
    pub(crate) fn certificate_arn(&self, sni: Option<&str>) -> &str {
        &self.resolver.choose(sni, &[]).arn
    }
}

/// A connection is resumed over changes of the configuration; but a ticket has the client's certificate, or that nobody asked for
/// it.
fn ticketer(mtls_passthrough: bool) -> Option<Arc<dyn ProducesTickets>> {
    static TICKETERS: [OnceLock<Option<Arc<dyn ProducesTickets>>>; 2] = [OnceLock::new(), OnceLock::new()];
    TICKETERS[usize::from(mtls_passthrough)].get_or_init(|| aws_lc_rs::Ticketer::new().ok()).clone()
}

fn certified_key(certificate: &Certificate, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("the chain is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("the chain has no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(certificate.private_key_pem.as_bytes())
        .map_err(|error| format!("the key is no PEM: {error}"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| error.to_string())
}

struct Served {
    arn: String,
    key: Arc<CertifiedKey>,
}

/// The default certificate first.
struct Resolver {
    served: Vec<Served>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.served.iter().map(|served| &served.arn)).finish()
    }
}

impl Resolver {
    /// The best of those that are for the name: one that the client can check, ECDSA before RSA. Else the default.
    fn choose(&self, sni: Option<&str>, schemes: &[rustls::SignatureScheme]) -> &Served {
        let name = sni.and_then(|name| ServerName::try_from(name).ok());
        let fits = |served: &&Served| name.as_ref().is_some_and(|name| is_for(&served.key, name));
        let rank = |served: &&Served| {
            let usable = schemes.is_empty() || served.key.key.choose_scheme(schemes).is_some();
            (!usable, served.key.key.algorithm() != SignatureAlgorithm::ECDSA)
        };
        self.served.iter().filter(fits).min_by_key(rank).unwrap_or(&self.served[0])
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = key.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    leaf.is_some_and(|leaf| rustls::client::verify_server_name(&leaf, name).is_ok())
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name(), hello.signature_schemes()).key.clone())
    }
}

/// ELB's default when a listener names none.
const DEFAULT_POLICY: &str = "ELBSecurityPolicy-2016-08";

/// What a security policy allows of that which is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    tls12: bool,
    tls13: bool,
    post_quantum: bool,
    fips: bool,
}

/// ELB user guide, "Security policies"; the whole names, so that a misspelt one is found.
const POLICIES: &[&str] = &[
    "2016-08",
    "TLS-1-0-2015-04",
    "TLS-1-1-2017-01",
    "TLS-1-2-2017-01",
    "TLS-1-2-Ext-2018-06",
    "FS-2018-06",
    "FS-1-1-2019-08",
    "FS-1-2-2019-08",
    "FS-1-2-Res-2019-08",
    "FS-1-2-Res-2020-10",
    "2015-05",
    "TLS13-1-0-2021-06",
    "TLS13-1-1-2021-06",
    "TLS13-1-2-2021-06",
    "TLS13-1-2-Res-2021-06",
    "TLS13-1-2-Ext1-2021-06",
    "TLS13-1-2-Ext2-2021-06",
    "TLS13-1-3-2021-06",
    "TLS13-1-0-FIPS-2023-04",
    "TLS13-1-1-FIPS-2023-04",
    "TLS13-1-2-FIPS-2023-04",
    "TLS13-1-2-Res-FIPS-2023-04",
    "TLS13-1-2-Ext0-FIPS-2023-04",
    "TLS13-1-2-Ext1-FIPS-2023-04",
    "TLS13-1-2-Ext2-FIPS-2023-04",
    "TLS13-1-3-FIPS-2023-04",
    "TLS13-1-0-PQ-2025-09",
    "TLS13-1-2-PQ-2025-09",
    "TLS13-1-2-Res-PQ-2025-09",
    "TLS13-1-2-Ext1-PQ-2025-09",
    "TLS13-1-2-Ext2-PQ-2025-09",
    "TLS13-1-3-PQ-2025-09",
    "TLS13-1-0-FIPS-PQ-2025-09",
    "TLS13-1-2-FIPS-PQ-2025-09",
    "TLS13-1-2-Res-FIPS-PQ-2025-09",
    "TLS13-1-2-Ext0-FIPS-PQ-2025-09",
    "TLS13-1-2-Ext1-FIPS-PQ-2025-09",
    "TLS13-1-2-Ext2-FIPS-PQ-2025-09",
    "TLS13-1-3-FIPS-PQ-2025-09",
];

impl Policy {
    fn named(name: &str) -> Option<Policy> {
        let name = name.strip_prefix("ELBSecurityPolicy-")?;
        POLICIES.contains(&name).then(|| Policy {
            tls12: !name.starts_with("TLS13-1-3"),
            tls13: name.starts_with("TLS13-"),
            post_quantum: name.contains("-PQ-"),
            fips: name.contains("-FIPS-"),
        })
    }

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
        match (self.tls12, self.tls13) {
            (true, true) => BOTH,
            (true, false) => &BOTH[1..],
            (false, _) => &BOTH[..1],
        }
    }

    fn provider(self) -> CryptoProvider {
        let mut suites: Vec<SupportedCipherSuite> =
            vec![suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384];
        if !self.fips {
            suites.push(suite::TLS13_CHACHA20_POLY1305_SHA256);
        }
        suites.extend([
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ]);
        let mut groups = vec![kx_group::SECP256R1, kx_group::SECP384R1];
        if !self.fips {
            groups.insert(0, kx_group::X25519);
        }
        if self.post_quantum {
            groups.insert(0, kx_group::X25519MLKEM768);
        }
        CryptoProvider { cipher_suites: suites, kx_groups: groups, ..aws_lc_rs::default_provider() }
    }
}

/// As logs and headers name it: `TLSv1.2`.
pub(crate) fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "-",
    }
}

/// As OpenSSL names it, which ELB's logs and headers do.
pub(crate) fn cipher_name(suite: Option<SupportedCipherSuite>) -> &'static str {
    use rustls::CipherSuite as Id;
    match suite.map(|suite| suite.suite()) {
        Some(Id::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(Id::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(Id::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(Id::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Some(Id::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) => "ECDHE-RSA-AES128-GCM-SHA256",
        Some(Id::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Some(Id::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) => "ECDHE-RSA-AES256-GCM-SHA384",
        _ => "-",
    }
}

/// The last fields of the connection log know reasons of client certificates only, and this one for all else.
pub(crate) const HANDSHAKE_FAILED: &str = "Failed:UnmappedConnectionError";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_say_what_is_spoken() {
        let policy = |name: &str| Policy::named(&format!("ELBSecurityPolicy-{name}"));
        assert!(policy("2016-08").is_some_and(|policy| policy.tls12 && !policy.tls13));
        assert!(policy("TLS13-1-3-2021-06").is_some_and(|policy| !policy.tls12 && policy.tls13));
        assert!(policy("TLS13-1-2-Res-PQ-2025-09").is_some_and(|policy| policy.post_quantum && !policy.fips));
        assert_eq!(policy("TLS13-1-2-2021-07"), None);
        assert_eq!(Policy::named("TLS13-1-2-2021-06"), None);
        for name in POLICIES {
            let policy = policy(name).unwrap();
            ServerConfig::builder_with_provider(Arc::new(policy.provider()))
                .with_protocol_versions(policy.versions())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
