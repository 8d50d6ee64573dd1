//! HTTPS listeners, HTTP/2 on both sides, gRPC.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ferrogate_edge::{Certificates, LogKind};
use ferrogate_nodeapi::*;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::*;

/// Self-signed, for these names.
pub(crate) fn certificate(names: &[&str]) -> Arc<Certificate> {
    certificate_of(names, None)
}

/// … and of this time: from, to.
pub(crate) fn certificate_of(names: &[&str], times: Option<[&str; 2]>) -> Arc<Certificate> {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let configuration = format!(
        "[ca]\ndefault_ca = own\n[own]\ndatabase = issued\nnew_certs_dir = .\nrand_serial = yes\ndefault_md = sha256\n\
         policy = any\nx509_extensions = names\n[any]\ncommonName = supplied\n[names]\nsubjectAltName = {}\n",
        names.join(",")
    );
    std::fs::write(folder.path().join("configuration"), configuration).unwrap();
    std::fs::write(folder.path().join("issued"), "").unwrap();
    let openssl = |arguments: &str, more: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        let made = command.current_dir(&folder).args(arguments.split(' ')).args(more).output().unwrap();
        assert!(made.status.success(), "{arguments}: {}", String::from_utf8_lossy(&made.stderr));
    };
    openssl(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test -keyout key -out request",
        &[],
    );
    let of_time = match times {
        Some([from, to]) => ["-startdate", from, "-enddate", to].to_vec(),
        None => vec!["-days", "2"],
    };
    openssl(
        "ca -batch -config configuration -selfsign -keyfile key -in request -out certificate -notext",
        &of_time,
    );
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    Arc::new(Certificate { chain_pem: read("certificate"), private_key_pem: read("key") })
}

pub(crate) fn https(arns: &[&str]) -> impl FnOnce(&mut BalancerAssignment) + use<> {
    let arns: Vec<String> = arns.iter().map(|arn| (*arn).to_owned()).collect();
    move |assignment| {
        let listener = &mut assignment.listeners[0];
        listener.protocol = ListenerProtocol::Https;
        listener.ssl_policy = Some("ELBSecurityPolicy-TLS13-1-2-2021-06".to_owned());
        listener.certificate_arns = arns;
    }
}

#[derive(Debug)]
pub(crate) struct Trusting;

impl rustls::client::danger::ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn tls(
    address: SocketAddr,
    name: &str,
    alpn: &[u8],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

pub(crate) async fn https_client(balancer: &Balancer, name: &str) -> (Client<TlsStream<TcpStream>>, Vec<u8>) {
    let stream = tls(balancer.address, name, b"http/1.1", rustls::ALL_VERSIONS).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    (Client::new(stream), shown)
}

#[tokio::test]
async fn https_says_so_to_the_target_and_picks_the_certificate_by_name() {
    let backend = Backend::named("secret").await;
    let certificates: Certificates = [
        ("default".to_owned(), certificate(&["default.example.com"])),
        ("wild".to_owned(), certificate(&["*.example.org"])),
    ]
    .into();
    let balancer = Balancer::with_certificates(certificates, &[&backend], |assignment| {
        https(&["default", "wild"])(assignment);
        assignment.attributes.tls_version_and_cipher_headers = true;
    });
    let (mut client, wild) = https_client(&balancer, "api.example.org").await;
    client.send("GET / HTTP/1.1\r\nHost: api.example.org\r\nX-Amzn-Tls-Version: SSLv2\r\n\r\n").await;
    assert_eq!(client.reply().await.text(), "secret");
    let got = backend.last();
    assert_eq!(
        (got.header("x-forwarded-proto"), got.header("x-amzn-tls-version")),
        (Some("https"), Some("TLSv1.3"))
    );
    assert_eq!(got.header("x-amzn-tls-cipher-suite"), Some("TLS_AES_128_GCM_SHA256"));
    let line = balancer.log(1).await.remove(0);
    assert!(line.starts_with("https ") && line.contains(" TLS_AES_128_GCM_SHA256 TLSv1.3 "), "{line}");
    assert!(line.contains("\"api.example.org\" \"wild\""), "{line}");
    let (_, other) = https_client(&balancer, "nobody.example.net").await;
    let (_, deep) = https_client(&balancer, "a.b.example.org").await;
    assert!(wild != other && other == deep, "a name of no certificate gets the default one");
    let lines = balancer.lines(LogKind::Connection, 1).await;
    assert!(lines[0].contains(" TLSv1.3 TLS_AES_128_GCM_SHA256 ") && lines[0].contains(" TID_"), "{lines:?}");
}

#[tokio::test]
async fn a_certificate_changes_while_connections_stand() {
    let backend = Backend::named("x").await;
    let first: Certificates = [("c".to_owned(), certificate(&["a.example.com"]))].into();
    let mut balancer = Balancer::with_certificates(first, &[&backend], https(&["c"]));
    let (mut standing, before) = https_client(&balancer, "a.example.com").await;
    balancer.certificates = [("c".to_owned(), certificate(&["a.example.com"]))].into();
    balancer.change(|_| {});
    let (_, after) = https_client(&balancer, "a.example.com").await;
    assert_ne!(before, after);
    standing.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(standing.reply().await.status, 200);
}

#[tokio::test]
async fn a_policy_that_the_client_does_not_meet_ends_the_handshake() {
    let certificates: Certificates = [("c".to_owned(), certificate(&["a.example.com"]))].into();
    let balancer = Balancer::with_certificates(certificates, &[], |assignment| {
        https(&["c"])(assignment);
        assignment.listeners[0].ssl_policy = Some("ELBSecurityPolicy-TLS13-1-3-2021-06".to_owned());
    });
    let old = tls(balancer.address, "a.example.com", b"http/1.1", &[&rustls::version::TLS12]).await;
    assert!(old.is_err());
    let lines = balancer.lines(LogKind::Connection, 1).await;
    assert!(lines[0].contains(" Failed:UnmappedConnectionError "), "{lines:?}");
    let metrics = balancer.edge.metrics.drain();
    assert!(
        metrics.iter().any(|metric| metric.name == "ClientTLSNegotiationErrorCount" && metric.sum == 1.0),
        "{metrics:?}"
    );
    // No TLS at all.
    let mut plain = balancer.connect().await;
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!plain.rest().await.starts_with(b"HTTP/"));
}

type Sender =
    hyper::client::conn::http2::SendRequest<http_body_util::combinators::BoxBody<Bytes, hyper::Error>>;

async fn http2(balancer: &Balancer) -> Sender {
    let stream = tls(balancer.address, "a.example.com", b"h2", rustls::ALL_VERSIONS).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(
    method: &str,
    path: &str,
    body: &'static str,
) -> http::Request<http_body_util::combinators::BoxBody<Bytes, hyper::Error>> {
    http::Request::builder()
        .method(method)
        .uri(format!("https://a.example.com{path}"))
        .body(Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {}).boxed())
        .unwrap()
}

async fn text(response: http::Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn http2_from_the_client_is_http1_to_the_target() {
    let backend = Backend::new(|request| {
        let body = String::from_utf8(request.body.clone()).unwrap();
        let reply = format!("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        Act::Send(reply.into_bytes())
    })
    .await;
    let certificates: Certificates = [("c".to_owned(), certificate(&["a.example.com"]))].into();
    let balancer = Balancer::with_certificates(certificates, &[&backend], https(&["c"]));
    let mut sender = http2(&balancer).await;
    let mut posted = request("POST", "/up?x=1", "a body");
    posted.headers_mut().append("cookie", "a=1".parse().unwrap());
    posted.headers_mut().append("cookie", "b=2".parse().unwrap());
    let response = sender.send_request(posted).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("keep-alive")), (200, None));
    assert_eq!(text(response).await, "a body");
    let got = backend.last();
    assert_eq!(got.line(), "POST /up?x=1 HTTP/1.1");
    assert_eq!(got.header("host"), Some(&*format!("a.example.com:{}", balancer.address.port())));
    assert_eq!((got.header("cookie"), got.header("content-length")), (Some("a=1; b=2"), Some("6")));
    // Many at once over one connection.
    let many = (0..100).map(|_| {
        let mut sender = sender.clone();
        tokio::spawn(
            async move { text(sender.send_request(request("POST", "/", "many")).await.unwrap()).await },
        )
    });
    for answer in many.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), "many");
    }
    let line = balancer.log(1).await.remove(0);
    assert!(line.starts_with("h2 ") && line.contains("HTTP/2.0\""), "{line}");
}

/// An HTTP/2 target without TLS: says back what came, with trailers.
async fn http2_target() -> (Target, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: http::Request<Incoming>| async move {
                let te = request.headers().get("te").cloned();
                let body = request.into_body().collect().await?.to_bytes();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let frames =
                    [Ok::<_, std::convert::Infallible>(Frame::data(body)), Ok(Frame::trailers(trailers))];
                let mut response = http::Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                if let Some(te) = te {
                    response.headers_mut().insert("x-te", te);
                }
                Ok::<_, hyper::Error>(response)
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    (target(address), task)
}

#[tokio::test]
async fn grpc_keeps_its_trailers() {
    let (target, task) = http2_target().await;
    let certificates: Certificates = [("c".to_owned(), certificate(&["a.example.com"]))].into();
    let balancer = Balancer::with_certificates(certificates, &[], |assignment| {
        https(&["c"])(assignment);
        assignment.target_groups[0].targets = vec![target];
        assignment.target_groups[0].protocol_version = ProtocolVersion::Grpc;
    });
    let mut sender = http2(&balancer).await;
    for _ in 0..3 {
        let mut call = request("POST", "/pkg.Service/Call", "message");
        call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        call.headers_mut().insert("te", "trailers".parse().unwrap());
        let response = sender.send_request(call).await.unwrap();
        assert_eq!(response.headers().get("x-te").unwrap(), "trailers");
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap().get("grpc-status").unwrap(), "0");
        assert_eq!(collected.to_bytes(), "message");
    }
    let line = balancer.log(1).await.remove(0);
    assert!(line.starts_with("grpcs "), "{line}");
    assert_eq!(sender.send_request(request("GET", "/", "")).await.unwrap().status(), 464);
    let (mut old, _) = https_client(&balancer, "a.example.com").await;
    old.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(old.reply().await.status, 464);
    task.abort();
}

/// A target that answers "over TLS" with this certificate.
pub(crate) async fn serve_tls(made: &Certificate) -> (Target, tokio::task::JoinHandle<()>) {
    let chain = CertificateDer::pem_slice_iter(made.chain_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(made.private_key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secured = target(listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(tcp).await else { continue };
            let service = service_fn(|_| async {
                Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from_static(b"over TLS"))))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (secured, task)
}

#[tokio::test]
async fn a_target_speaks_tls_with_any_certificate() {
    let (secured, task) = serve_tls(&certificate(&["nobody"])).await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let no_tls = target(plain.local_addr().unwrap());
    let talking = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut tcp, _) = plain.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let balancer = Balancer::start(&[], |assignment| {
        assignment.target_groups[0].targets = vec![secured];
        assignment.target_groups[0].protocol = TargetProtocol::Https;
    });
    for _ in 0..2 {
        assert_eq!(balancer.get("/").await.text(), "over TLS");
    }
    balancer.change(|assignment| assignment.target_groups[0].targets = vec![no_tls]);
    assert_eq!(balancer.get("/").await.status, 502);
    assert!(
        balancer.edge.metrics.drain().iter().any(|metric| metric.name == "TargetTLSNegotiationErrorCount")
    );
    talking.await.unwrap();
    task.abort();
}
