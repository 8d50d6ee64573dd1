//! Mutual TLS, passthrough: what clients show goes to the targets.

use std::io;
use std::sync::Arc;

use ferrogate_edge::Certificates;
use ferrogate_nodeapi::Certificate;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::*;
use crate::tls_and_http2::{Trusting, certificate, https};

const HEADER: &str = "x-amzn-mtls-clientcert";
/// What a client says of itself is never believed.
const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\nX-Amzn-Mtls-Clientcert: mine\r\n\r\n";

/// Shows these certificates, whatever is asked for, and signs with this key.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// `key`: whose certificate's key is signed with.
fn shows(chain: &[&Certificate], key: &Certificate) -> Arc<dyn ResolvesClientCert> {
    let certificate = |one: &&Certificate| CertificateDer::from_pem_slice(one.chain_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.private_key_pem.as_bytes()).unwrap();
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap();
    Arc::new(Shows(Arc::new(CertifiedKey::new(chain.iter().map(certificate).collect(), key))))
}

async fn connect(
    balancer: &Balancer,
    shown: Option<Arc<dyn ResolvesClientCert>>,
    version: &'static rustls::SupportedProtocolVersion,
) -> io::Result<Client<TlsStream<TcpStream>>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let config = match shown {
        Some(shown) => config.with_client_cert_resolver(shown),
        None => config.with_no_client_auth(),
    };
    let tcp = TcpStream::connect(balancer.address).await?;
    let name = ServerName::try_from("door.example.com").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map(Client::new)
}

/// As a target reads it.
fn decoded(header: &str) -> String {
    header.replace("%20", " ").replace("%0A", "\n")
}

/// The header that one listener names is no client's to send at another, which leads to the same targets.
#[tokio::test]
async fn a_renamed_header_is_believed_at_no_listener() {
    let backend = Backend::named("app").await;
    let own: Certificates = [("own".to_owned(), certificate(&["door.example.com"]))].into();
    let balancer = Balancer::with_certificates(own, &[&backend], |assignment| {
        let mut other = listener(1);
        other.protocol = ferrogate_nodeapi::ListenerProtocol::Https;
        other.certificate_arns = vec!["own".to_owned()];
        other.mtls_passthrough = true;
        let name = "routing.http.request.x_amzn_mtls_clientcert.header_name";
        other.header_attributes = vec![(name.to_owned(), "X-Client-Cert".to_owned())];
        assignment.listeners.push(other);
    });
    let reply =
        balancer.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Client-Cert: mine\r\nX-Other: mine\r\n\r\n").await;
    assert_eq!(reply.text(), "app");
    assert_eq!(
        (backend.last().header("x-client-cert"), backend.last().header("x-other")),
        (None, Some("mine"))
    );
}

#[tokio::test]
async fn targets_see_the_whole_chain_and_nothing_that_a_client_says_of_it() {
    let backend = Backend::named("app").await;
    let own: Certificates = [("own".to_owned(), certificate(&["door.example.com"]))].into();
    let (leaf, above) = (certificate(&["client.example.com"]), certificate(&["above.example.com"]));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let balancer = Balancer::with_certificates(own.clone(), &[&backend], |assignment| {
            https(&["own"])(assignment);
            assignment.listeners[0].mtls_passthrough = true;
        });
        let mut client = connect(&balancer, Some(shows(&[&leaf, &above], &leaf)), version).await.unwrap();
        for _ in 0..2 {
            client.send(ASK).await;
            assert_eq!(client.reply().await.text(), "app");
            let seen = backend.last();
            assert_eq!(header_lines(&seen.head, HEADER).count(), 1);
            let chain = decoded(seen.header(HEADER).unwrap());
            assert_eq!(chain, format!("{}{}", leaf.chain_pem, above.chain_pem));
        }
        // Who shows none is a client as well, and who has not the key is none.
        let mut client = connect(&balancer, None, version).await.unwrap();
        client.send(ASK).await;
        assert_eq!(client.reply().await.text(), "app");
        assert_eq!(backend.last().header(HEADER), None);
        let seen = backend.seen().len();
        if let Ok(mut thief) = connect(&balancer, Some(shows(&[&leaf], &above)), version).await {
            thief.send(ASK).await;
            assert!(thief.try_reply(false).await.is_err());
        }
        assert_eq!(backend.seen().len(), seen);
    }
    // Where nobody is asked, nobody is shown.
    let balancer = Balancer::with_certificates(own, &[&backend], https(&["own"]));
    let shown = Some(shows(&[&leaf], &leaf));
    let mut client = connect(&balancer, shown, &rustls::version::TLS13).await.unwrap();
    client.send(ASK).await;
    assert_eq!(client.reply().await.text(), "app");
    assert_eq!(backend.last().header(HEADER), None);
}
