//! Mutual TLS in passthrough mode: a client is asked for its certificates, and the targets judge them (ELB user guide,
//! "Mutual authentication with TLS in Application Load Balancer").

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConnection, SignatureScheme,
};

/// Of a client's whole chain; targets see a third more of it, in one header.
const CHAIN_BYTES_MAX: usize = 32 * 1024;
/// As PEM has them.
const LINE_BYTES: usize = 64;

/// Takes any chain, and none at all. That the client has the key of the certificate it shows is checked.
#[derive(Debug)]
pub(super) struct Passthrough {
    provider: Arc<CryptoProvider>,
}

impl Passthrough {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

impl ClientCertVerifier for Passthrough {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Names of authorities would be a hint which certificate to show; here any will do.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if leaf.len() + rest.iter().map(|one| one.len()).sum::<usize>() > CHAIN_BYTES_MAX {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What a client has shown, the leaf first, as `X-Amzn-Mtls-Clientcert` has it: PEM, URL-encoded but for `+=/`. `None`: it
/// was not asked, or has none.
pub(crate) fn shown(session: &ServerConnection) -> Option<HeaderValue> {
    let chain = session.peer_certificates().filter(|chain| !chain.is_empty())?;
    HeaderValue::try_from(encoded(chain.iter().map(AsRef::as_ref))).ok()
}

fn encoded<'a>(chain: impl Iterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for certificate in chain {
        text.push_str("-----BEGIN%20CERTIFICATE-----%0A");
        let mut body = STANDARD.encode(certificate);
        while !body.is_empty() {
            let rest = body.split_off(body.len().min(LINE_BYTES));
            text.push_str(&body);
            text.push_str("%0A");
            body = rest;
        }
        text.push_str("-----END%20CERTIFICATE-----%0A");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_as_the_user_guide_has_it() {
        // 49 bytes: a line of 64 digits and one of 4, with what Base64 has besides letters.
        let (first, second) = ([0xfb; 49], [0xff; 3]);
        let text = encoded([first.as_slice(), &second].into_iter());
        let line = "+/v7".repeat(16);
        assert_eq!(
            text,
            format!(
                "-----BEGIN%20CERTIFICATE-----%0A{line}%0A+w==%0A-----END%20CERTIFICATE-----%0A\
                 -----BEGIN%20CERTIFICATE-----%0A////%0A-----END%20CERTIFICATE-----%0A"
            )
        );
        assert!(HeaderValue::try_from(text).is_ok());
    }
}
