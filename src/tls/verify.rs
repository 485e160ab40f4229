//! Who is trusted. webpki decides first; what it refuses for its form alone (a version 1 certificate, `CA:TRUE` as end entity, a name in the
//! common name only) and OpenSSL accepts is judged here, by narrower rules: see [`Roots::vouches`].

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{verify_server_name, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{
    verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key, CryptoProvider, WebPkiSupportedAlgorithms,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::x509::{name_matches, split_key, Certificate, Usage};

/// The certificates of a CA file.
#[derive(Debug)]
pub(crate) struct Roots {
    store: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Roots {
    /// From what a CA file holds. `None` if no certificate of it can be used.
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>, provider: &CryptoProvider) -> Option<Arc<Roots>> {
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            if let Err(error) = store.add(certificate.clone()) {
                log::debug!("a CA certificate cannot be used: {error}");
            }
        }
        let algorithms = provider.signature_verification_algorithms;
        (!store.is_empty()).then(|| Arc::new(Roots { store: Arc::new(store), certificates, algorithms }))
    }

    /// Whether an end entity of unusual form is trusted: it is valid now, its extensions allow the use, and it is either one of the configured
    /// certificates itself, byte by byte, or signed by one of them directly. Version 1 and `CA:TRUE` are the only forms that are looked at.
    ///
    /// Nothing is opened for others: whoever could make such a certificate holds the key of a configured CA, and what it signs in its turn is not
    /// trusted here. A CA proper, whose `keyUsage` is for signing certificates only, is no end entity, for OpenSSL neither.
    fn vouches(&self, der: &CertificateDer<'_>, usage: Usage, now: UnixTime) -> bool {
        let Some(certificate) = Certificate::parse(der) else { return false };
        if !(certificate.is_v1 || certificate.is_ca) || !certificate.is_valid_at(now.as_secs()) || !certificate.allows(usage) {
            return false;
        }
        self.certificates.iter().any(|known| known == der) || self.has_signed(&certificate)
    }

    fn has_signed(&self, certificate: &Certificate<'_>) -> bool {
        let issuers = self.store.roots.iter().filter(|root| *root.subject == *certificate.issuer && root.name_constraints.is_none());
        issuers.filter_map(|root| split_key(&root.subject_public_key_info)).any(|(kind, key)| {
            self.algorithms.all.iter().any(|algorithm| {
                *algorithm.signature_alg_id() == *certificate.algorithm
                    && *algorithm.public_key_alg_id() == *kind
                    && algorithm.verify_signature(key, certificate.signed, certificate.signature).is_ok()
            })
        })
    }
}

/// Whether the certificate is for this host: by its names, or by its common name where it has none, as OpenSSL does it.
fn is_for(der: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    let Some(certificate) = Certificate::parse(der) else { return false };
    if certificate.has_names {
        return ParsedCertificate::try_from(der).is_ok_and(|parsed| verify_server_name(&parsed, host).is_ok());
    }
    certificate.common_name().is_some_and(|name| name_matches(name, &host.to_str()))
}

/// What is verified of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    /// Nothing: only that it has the key of the certificate that it shows.
    Nothing,
    /// That a CA vouches for it.
    Chain,
    /// And that it is the host that was meant.
    Name,
}

/// Verifies servers.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    roots: Option<(Arc<Roots>, Arc<WebPkiServerVerifier>)>,
    checks: Checks,
    has_crls: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// A verifier. Without roots it must have nothing to check. The error: a revocation list that cannot be used.
    pub(crate) fn new(
        roots: Option<Arc<Roots>>,
        crls: Vec<CertificateRevocationListDer<'static>>,
        checks: Checks,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<ServerVerifier>, String> {
        let has_crls = !crls.is_empty();
        let roots = match roots {
            None => None,
            Some(roots) => {
                let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots.store), Arc::clone(provider)).with_crls(crls);
                // As libpq: the whole chain is checked, but a CA without a list in the file is no mistake.
                let inner = builder.allow_unknown_revocation_status().build().map_err(|error| error.to_string())?;
                Some((roots, inner))
            }
        };
        Ok(Arc::new(ServerVerifier { roots, checks, has_crls, algorithms: provider.signature_verification_algorithms }))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.checks == Checks::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let Some((roots, inner)) = &self.roots else { return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) };
        let Err(error) = inner.verify_server_cert(end_entity, intermediates, host, ocsp, now) else {
            return Ok(ServerCertVerified::assertion());
        };
        // webpki looks at the name last: then the chain is good.
        let is_about_name =
            matches!(error, Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }));
        let trusted = is_about_name || !self.has_crls && roots.vouches(end_entity, Usage::Server, now);
        match trusted {
            false => Err(error),
            true if self.checks == Checks::Chain || is_for(end_entity, host) => Ok(ServerCertVerified::assertion()),
            true if is_about_name => Err(error),
            true => Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                expected: host.to_owned(),
                presented: Certificate::parse(end_entity).and_then(|own| own.common_name()).map(str::to_owned).into_iter().collect(),
            })),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_12(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_13(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies clients. Without roots it asks for a certificate and refuses every one.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    roots: Option<(Arc<Roots>, Arc<dyn ClientCertVerifier>)>,
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// A verifier; `mandatory`: nobody comes in without a certificate.
    pub(crate) fn new(roots: Option<Arc<Roots>>, mandatory: bool, provider: &Arc<CryptoProvider>) -> Arc<ClientVerifier> {
        let roots = roots.and_then(|roots| {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots.store), Arc::clone(provider));
            // It fails without roots and for broken revocation lists; neither is the case.
            builder.build().ok().map(|inner| (roots, inner))
        });
        Arc::new(ClientVerifier { roots, mandatory, algorithms: provider.signature_verification_algorithms })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.roots.as_ref().map_or(&[], |(_, inner)| inner.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let Some((roots, inner)) = &self.roots else { return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) };
        match inner.verify_client_cert(end_entity, intermediates, now) {
            Err(_) if roots.vouches(end_entity, Usage::Client, now) => Ok(ClientCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_12(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_13(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The signature of a TLS 1.2 handshake. webpki does not read version 1 certificates; their key is no different.
fn signed_12(
    message: &[u8],
    der: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let Some(certificate) = Certificate::parse(der).filter(|certificate| certificate.is_v1) else {
        return verify_tls12_signature(message, der, signature, algorithms);
    };
    let bad = || Error::InvalidCertificate(CertificateError::BadSignature);
    let (kind, key) = certificate.public_key().ok_or_else(bad)?;
    let fitting = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signature.scheme).flat_map(|(_, list)| list.iter());
    let good = fitting
        .filter(|algorithm| *algorithm.public_key_alg_id() == *kind)
        .any(|algorithm| algorithm.verify_signature(key, message, signature.signature()).is_ok());
    good.then(HandshakeSignatureValid::assertion).ok_or_else(bad)
}

/// The signature of a TLS 1.3 handshake.
fn signed_13(
    message: &[u8],
    der: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    match Certificate::parse(der).filter(|certificate| certificate.is_v1) {
        None => verify_tls13_signature(message, der, signature, algorithms),
        Some(certificate) => {
            let key = SubjectPublicKeyInfoDer::from(certificate.key_whole);
            verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
        }
    }
}
