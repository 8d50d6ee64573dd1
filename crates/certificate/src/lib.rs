//! Server certificates that are brought from elsewhere: whether certificate, chain and key are what they have to be,
//! and what a certificate says. Pure: the time is given.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use jiff::Timestamp;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::*;
use x509_parser::public_key::PublicKey;

/// Certificates of one chain.
const CHAIN_MAX: usize = 10;

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate is not in a valid PEM format")]
    NotPem,
    #[error("the certificate field contains {found} certificates; only one can be specified in it")]
    MoreThanOne { found: usize },
    #[error("the certificate cannot be parsed as X.509: {0}")]
    Malformed(String),
    #[error("the certificate has expired at {0}")]
    Expired(Timestamp),
    #[error("the certificate is not valid before {0}")]
    NotYetValid(Timestamp),
    #[error("the private key is encrypted; it has to be unencrypted")]
    KeyEncrypted,
    #[error("the private key is not in a valid PEM format")]
    KeyNotPem,
    #[error(
        "the private key is not supported; supported are RSA of 2048 to 4096 bits and ECDSA P-256, P-384, P-521"
    )]
    KeyUnsupported,
    #[error("the private key does not match the certificate")]
    KeyMismatch,
    #[error("the certificate chain is not in a valid PEM format")]
    ChainNotPem,
    #[error("the certificate chain has {found} certificates; at most {CHAIN_MAX} are allowed")]
    ChainTooLong { found: usize },
    /// From 0: the leaf.
    #[error(
        "certificate {0} of the chain did not issue the one before it; the chain has to begin with the issuer of the \
         certificate, and each one has to be followed by its own issuer"
    )]
    ChainBroken(usize),
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `CN=example.com, O=Example`
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal pairs with colons between them.
    pub serial: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// As ACM calls it: `RSA-2048`, `EC-prime256v1`.
    pub key_algorithm: String,
    /// As ACM calls it: `SHA256WITHRSA`.
    pub signature_algorithm: String,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// Alternative names: DNS names and addresses, in the certificate's order.
    pub names: Vec<String>,
    /// As ACM calls them: `DIGITAL_SIGNATURE`.
    pub key_usages: Vec<&'static str>,
    /// (ACM's name, OID)
    pub extended_key_usages: Vec<(&'static str, String)>,
}

impl Facts {
    /// What the certificate is for, in one name.
    pub fn domain_name(&self) -> String {
        self.common_name.clone().or_else(|| self.names.first().cloned()).unwrap_or_default()
    }
}

/// Checks a certificate with its key and, where there is one, its chain (without the certificate itself).
pub fn check(
    certificate_pem: &[u8],
    chain_pem: Option<&[u8]>,
    key_pem: &[u8],
    now: Timestamp,
) -> Result<Facts, CertificateError> {
    let mut certificates = pem(certificate_pem).ok_or(CertificateError::NotPem)?;
    let leaf = match (certificates.pop(), certificates.len()) {
        (Some(leaf), 0) => leaf,
        (None, _) => return Err(CertificateError::NotPem),
        (_, rest) => return Err(CertificateError::MoreThanOne { found: rest + 1 }),
    };
    let parsed = parse(&leaf)?;
    // The listeners of load balancers read it with this, which is stricter.
    ParsedCertificate::try_from(&leaf).map_err(|error| CertificateError::Malformed(error.to_string()))?;
    // Neither of the two parsers minds.
    if parsed.raw_serial().is_empty() {
        return Err(CertificateError::Malformed("the serial number is empty".into()));
    }
    let facts = facts(&parsed)?;
    if facts.not_after < now {
        return Err(CertificateError::Expired(facts.not_after));
    }
    if facts.not_before > now {
        return Err(CertificateError::NotYetValid(facts.not_before));
    }
    check_key(&parsed, key_pem)?;
    if let Some(chain) = chain_pem {
        check_chain(&leaf, chain)?;
    }
    Ok(facts)
}

fn pem(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    all.ok().filter(|all| !all.is_empty())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(CertificateError::Malformed("bytes follow the certificate".into())),
        Err(error) => Err(CertificateError::Malformed(error.to_string())),
    }
}

fn check_key(leaf: &X509Certificate<'_>, key_pem: &[u8]) -> Result<(), CertificateError> {
    if key_pem.windows(b"ENCRYPTED".len()).any(|part| part == b"ENCRYPTED") {
        return Err(CertificateError::KeyEncrypted);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| CertificateError::KeyNotPem)?;
    let key = any_supported_type(&key).map_err(|_| CertificateError::KeyUnsupported)?;
    let own = key.public_key().ok_or(CertificateError::KeyUnsupported)?;
    if own.as_ref() != leaf.public_key().raw {
        return Err(CertificateError::KeyMismatch);
    }
    Ok(())
}

fn check_chain(leaf: &CertificateDer<'_>, chain_pem: &[u8]) -> Result<(), CertificateError> {
    let chain = pem(chain_pem).ok_or(CertificateError::ChainNotPem)?;
    if chain.len() > CHAIN_MAX {
        return Err(CertificateError::ChainTooLong { found: chain.len() });
    }
    let mut below = leaf;
    for (n, above) in chain.iter().enumerate() {
        let (issued, issuer) = (parse(below)?, parse(above)?);
        if issued.issuer().as_raw() != issuer.subject().as_raw() || !issued_by(&issued, &issuer) {
            return Err(CertificateError::ChainBroken(n + 1));
        }
        below = above;
    }
    Ok(())
}

/// Whether the signature is the issuer's.
fn issued_by(issued: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let algorithms: &[&dyn VerificationAlgorithm] = match issued
        .signature_algorithm
        .algorithm
        .to_id_string()
        .as_str()
    {
        "1.2.840.113549.1.1.11" => &[&signature::RSA_PKCS1_2048_8192_SHA256],
        "1.2.840.113549.1.1.12" => &[&signature::RSA_PKCS1_2048_8192_SHA384],
        "1.2.840.113549.1.1.13" => &[&signature::RSA_PKCS1_2048_8192_SHA512],
        "1.2.840.113549.1.1.10" => &[
            &signature::RSA_PSS_2048_8192_SHA256,
            &signature::RSA_PSS_2048_8192_SHA384,
            &signature::RSA_PSS_2048_8192_SHA512,
        ],
        "1.2.840.10045.4.3.2" => &[&signature::ECDSA_P256_SHA256_ASN1, &signature::ECDSA_P384_SHA256_ASN1],
        "1.2.840.10045.4.3.3" => &[&signature::ECDSA_P384_SHA384_ASN1, &signature::ECDSA_P256_SHA384_ASN1],
        "1.2.840.10045.4.3.4" => &[&signature::ECDSA_P521_SHA512_ASN1],
        "1.3.101.112" => &[&signature::ED25519],
        _ => &[],
    };
    let key = &issuer.public_key().subject_public_key.data;
    algorithms.iter().any(|algorithm| {
        let key = UnparsedPublicKey::new(*algorithm, key);
        key.verify(issued.tbs_certificate.as_ref(), &issued.signature_value.data).is_ok()
    })
}

fn timestamp(time: &ASN1Time) -> Result<Timestamp, CertificateError> {
    Timestamp::from_second(time.timestamp()).map_err(|error| CertificateError::Malformed(error.to_string()))
}

fn facts(parsed: &X509Certificate<'_>) -> Result<Facts, CertificateError> {
    let names = parsed.subject_alternative_name().ok().flatten();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
        GeneralName::IPAddress(bytes) => {
            <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string())
        }
        _ => None,
    };
    let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(Facts {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial_as_string(),
        not_before: timestamp(&parsed.validity().not_before)?,
        not_after: timestamp(&parsed.validity().not_after)?,
        key_algorithm: key_algorithm(parsed),
        signature_algorithm: signature_algorithm(&parsed.signature_algorithm.algorithm.to_id_string())
            .to_owned(),
        common_name: common_name.map(str::to_owned),
        names: names
            .map(|found| found.value.general_names.iter().filter_map(name).collect())
            .unwrap_or_default(),
        key_usages: key_usages(parsed),
        extended_key_usages: extended_key_usages(parsed),
    })
}

fn key_algorithm(parsed: &X509Certificate<'_>) -> String {
    match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA-{}", key.key_size()),
        Ok(PublicKey::EC(point)) => match point.key_size() {
            256 => "EC-prime256v1".into(),
            384 => "EC-secp384r1".into(),
            _ => "EC-secp521r1".into(),
        },
        _ => parsed.public_key().algorithm.algorithm.to_id_string(),
    }
}

fn signature_algorithm(oid: &str) -> &str {
    match oid {
        "1.2.840.113549.1.1.5" => "SHA1WITHRSA",
        "1.2.840.113549.1.1.11" => "SHA256WITHRSA",
        "1.2.840.113549.1.1.12" => "SHA384WITHRSA",
        "1.2.840.113549.1.1.13" => "SHA512WITHRSA",
        "1.2.840.10045.4.3.2" => "SHA256WITHECDSA",
        "1.2.840.10045.4.3.3" => "SHA384WITHECDSA",
        "1.2.840.10045.4.3.4" => "SHA512WITHECDSA",
        other => other,
    }
}

fn key_usages(parsed: &X509Certificate<'_>) -> Vec<&'static str> {
    let Some(usage) = parsed.key_usage().ok().flatten() else { return Vec::new() };
    let usage = usage.value;
    let all = [
        (usage.digital_signature(), "DIGITAL_SIGNATURE"),
        (usage.non_repudiation(), "NON_REPUDIATION"),
        (usage.key_encipherment(), "KEY_ENCIPHERMENT"),
        (usage.data_encipherment(), "DATA_ENCIPHERMENT"),
        (usage.key_agreement(), "KEY_AGREEMENT"),
        (usage.key_cert_sign(), "CERTIFICATE_SIGNING"),
        (usage.crl_sign(), "CRL_SIGNING"),
        (usage.encipher_only(), "ENCIPHER_ONLY"),
        (usage.decipher_only(), "DECIPHER_ONLY"),
    ];
    all.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect()
}

fn extended_key_usages(parsed: &X509Certificate<'_>) -> Vec<(&'static str, String)> {
    let Some(usage) = parsed.extended_key_usage().ok().flatten() else { return Vec::new() };
    let usage = usage.value;
    let all = [
        (usage.any, "ANY", "2.5.29.37.0"),
        (usage.server_auth, "TLS_WEB_SERVER_AUTHENTICATION", "1.3.6.1.5.5.7.3.1"),
        (usage.client_auth, "TLS_WEB_CLIENT_AUTHENTICATION", "1.3.6.1.5.5.7.3.2"),
        (usage.code_signing, "CODE_SIGNING", "1.3.6.1.5.5.7.3.3"),
        (usage.email_protection, "EMAIL_PROTECTION", "1.3.6.1.5.5.7.3.4"),
        (usage.time_stamping, "TIME_STAMPING", "1.3.6.1.5.5.7.3.8"),
        (usage.ocsp_signing, "OCSP_SIGNING", "1.3.6.1.5.5.7.3.9"),
    ];
    let known = all.into_iter().filter(|(given, ..)| *given).map(|(_, name, oid)| (name, oid.to_owned()));
    known.chain(usage.other.iter().map(|oid| ("CUSTOM", oid.to_id_string()))).collect()
}

#[cfg(test)]
mod tests;
