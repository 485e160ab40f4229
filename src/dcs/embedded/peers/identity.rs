//! Who may connect: TLS 1.3 (RFC 8446) with both sides proving who they are, by a shared key or by certificates. Never anything else, never plain.
//!
//! **A shared key.** Both sides make the same Ed25519 key pair of it and show the same certificate ([`super::der`]); each accepts this one
//! certificate, byte for byte, and the signature over the handshake (RFC 8446 section 4.4.3). The signatures of the two sides differ in their
//! context, so neither can be given back as the other's, and the session's keys come from a fresh key exchange: who learns the shared key later
//! cannot read what was recorded. Sessions are not resumed, so that every connection proves the key anew.
//!
//! What TLS cannot give: a server shows its certificate before it knows the client (RFC 8446 section 2), so whoever reaches the port gets the
//! *public* half and can try keys against it at home. Therefore the key goes through PBKDF2 ([`ROUNDS`]), and therefore it should be random and
//! long: `openssl rand -hex 16` cannot be guessed, a word can.
//!
//! Whoever has the key can be any box: a number in a greeting is as trustworthy as everybody who has the key. The same holds for certificates.
//!
//! **Certificates.** Mutual TLS. Whoever has a certificate of the cluster's own CA belongs to the cluster: no host name is checked, so the CA must
//! not be one that also signs for others. If a certificate has `extendedKeyUsage`, it needs both `serverAuth` and `clientAuth`: every box dials
//! and is dialled. Files are read again every [`super::RENEWAL`] when they have changed.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use ring::pbkdf2;
use ring::signature::{Ed25519KeyPair, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{verify_tls13_signature, WebPkiSupportedAlgorithms};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{der, Error, Security};
use crate::config::types::TlsIdentity;
use crate::tls::files::{self, Seen, Settings};
use crate::tls::provider;
use crate::tls::verify::{Checks, ClientVerifier, ServerVerifier};

/// Rounds of PBKDF2 with HMAC-SHA-256 (RFC 8018 section 5.2). All boxes need the same number, so it belongs to the protocol. 200,000 take 0.07 s on
/// an x86_64 with SHA instructions and, estimated, about 1 s on an ARMv6 of 700 MHz, once per start: a guess costs the guesser as much as it costs the
/// smallest box that we want to start within a second. A random key of 128 bits needs none of it.
const ROUNDS: NonZeroU32 = NonZeroU32::new(200_000).expect("not zero");

/// Part of the salt: this use of the key, and no other one.
const LABEL: &[u8] = b"mastiff embedded store, peers, 1";

/// Keys with fewer characters are warned about.
const SHORT: usize = 16;

const SETTINGS: Settings = Settings { certificate: "the store's certificate", key: "the store's key", password: "its password" };

/// A connection that has proven to be one of ours.
pub(super) type Stream = TlsStream<TcpStream>;

/// What this box shows and accepts.
pub(super) struct Identity {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    security: Security,
    seen: Seen,
}

impl Identity {
    /// Makes it. Takes its time and reads files: not for the main thread.
    pub(super) fn load(security: &Security, scope: &str) -> Result<Identity, Error> {
        let mut seen = Seen::default();
        let (own, servers, clients): (_, Arc<dyn ServerCertVerifier>, Arc<dyn ClientCertVerifier>) = match security {
            Security::Key(key) => {
                let own = from_key(&key.0, scope)?;
                let same =
                    Arc::new(Same { certificate: own.cert.first().cloned(), algorithms: provider().signature_verification_algorithms });
                (own, same.clone(), same)
            }
            Security::Certificates { ca, cert, key } => from_files(&mut seen, ca, cert, key)?,
        };
        let unusable = |error: TlsError| crate::tls::Error::Unusable { what: SETTINGS.certificate.to_owned(), reason: error.to_string() };
        let pair = Arc::new(SingleCertAndKey::from(own));
        let client = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(unusable)?;
        let mut client = client.dangerous().with_custom_certificate_verifier(servers).with_client_cert_resolver(pair.clone());
        client.resumption = Resumption::disabled();
        // The name goes in the clear, and there is none.
        client.enable_sni = false;
        let server = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(unusable)?;
        let mut server = server.with_client_cert_verifier(clients).with_cert_resolver(pair);
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let (connector, acceptor) = (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)));
        Ok(Identity { connector, acceptor, security: security.clone(), seen })
    }

    /// The same with the files' present content, if that has changed. Reads files: not for the main thread.
    pub(super) fn renewed(&self, scope: &str) -> Option<Result<Identity, Error>> {
        self.seen.has_changed().then(|| Identity::load(&self.security, scope))
    }

    /// The caller's handshake.
    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<Stream> {
        // Not sent and not verified: who is meant is known by what it shows.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        self.connector.connect(name, stream).await.map(TlsStream::Client)
    }

    /// The handshake of the one who is called.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        self.acceptor.accept(stream).await.map(TlsStream::Server)
    }

    /// What a failed handshake means.
    pub(super) fn explain(&self, error: &io::Error) -> String {
        let by_key = matches!(self.security, Security::Key(_));
        let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => "it closed the connection before both had shown who they are".to_owned(),
                _ => error.to_string(),
            };
        };
        match cause {
            TlsError::InvalidMessage(_) => "what it sends is no TLS: it is not a box of an embedded store".to_owned(),
            TlsError::InvalidCertificate(_) if by_key => "its key or its scope is another one than this box has".to_owned(),
            TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => "its certificate is not signed by the store's CA".to_owned(),
            TlsError::AlertReceived(AlertDescription::AccessDenied) if by_key => {
                "it refuses this box: its key or its scope is another one than this box has".to_owned()
            }
            TlsError::AlertReceived(AlertDescription::HandshakeFailure)
            | TlsError::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => {
                "it and this box do not prove in the same way who they are: one has a key in its configuration, the other one certificates"
                    .to_owned()
            }
            TlsError::AlertReceived(alert) => format!("it refuses this box's TLS: {alert:?}"),
            TlsError::NoCertificatesPresented => "it shows no certificate: it is not a box of an embedded store".to_owned(),
            TlsError::PeerIncompatible(_) => format!("it does not speak TLS 1.3 as the boxes of a store do ({cause})"),
            _ => cause.to_string(),
        }
    }
}

/// The pair that stands for a key in this scope.
fn from_key(key: &str, scope: &str) -> Result<Arc<CertifiedKey>, Error> {
    if key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if key.chars().count() < SHORT {
        log::warn!(
            "the store's key is shorter than {SHORT} characters: whoever reaches the port can try keys without asking anybody; openssl rand -hex 16 makes a good one"
        );
    }
    let unusable = |reason: String| crate::tls::Error::Unusable { what: SETTINGS.key.to_owned(), reason };
    let seed = derive(key, scope);
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| unusable(error.to_string()))?;
    let certificate = der::certificate(pair.public_key().as_ref(), "mastiff store", |signed| pair.sign(signed).as_ref().to_vec());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der::private_key(&seed)));
    let key = provider().key_provider.load_private_key(key).map_err(|error| unusable(error.to_string()))?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(certificate)], key)))
}

/// The seed of the key pair. The same key in another scope is another pair.
fn derive(key: &str, scope: &str) -> [u8; 32] {
    let salt = [LABEL, &[0], scope.as_bytes()].concat();
    let mut seed = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, key.as_bytes(), &mut seed);
    seed
}

type Parts = (Arc<CertifiedKey>, Arc<dyn ServerCertVerifier>, Arc<dyn ClientCertVerifier>);

fn from_files(seen: &mut Seen, ca: &Path, cert: &Path, key: &Path) -> Result<Parts, Error> {
    let identity = TlsIdentity { certfile: cert.to_owned(), keyfile: key.to_owned(), keyfile_password: None };
    let what = "the store's CA";
    let own = files::identity(seen, SETTINGS, &identity, &provider())?;
    let roots = files::roots(seen, what, Some(ca), &provider())?;
    let servers = ServerVerifier::new(Some(roots.clone()), Vec::new(), Checks::Chain, &provider());
    let servers = servers.map_err(|reason| crate::tls::Error::Unusable { what: what.to_owned(), reason })?;
    Ok((own, servers, ClientVerifier::new(Some(roots), true, &provider())))
}

/// Accepts one certificate, of servers and of clients.
#[derive(Debug)]
struct Same {
    certificate: Option<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Same {
    fn check(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let same = more.is_empty() && self.certificate.as_ref().is_some_and(|own| own == shown);
        same.then_some(()).ok_or(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }
}

/// It is not offered, so nobody gets here.
fn no_tls12() -> Result<HandshakeSignatureValid, TlsError> {
    Err(TlsError::General("TLS 1.2 is not spoken here".to_owned()))
}

impl ServerCertVerifier for Same {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Same {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::{derive, from_key, Error};

    fn certificate(key: &str, scope: &str) -> Vec<u8> {
        from_key(key, scope).unwrap().cert[0].to_vec()
    }

    #[test]
    fn the_same_key_makes_the_same_certificate() {
        let first = certificate("a key of some length", "demo");
        assert_eq!(first, certificate("a key of some length", "demo"));
        assert_ne!(first, certificate("a key of some length", "other"));
        assert_ne!(first, certificate("a key of some lengtH", "demo"));
        // The border between label and scope, and that between key and scope, cannot be moved.
        assert_ne!(derive("key", "a\0b"), derive("key", "ab"));
        assert_ne!(derive("keya", "b"), derive("key", "ab"));
    }

    /// Boxes of two releases must agree: this never changes. OpenSSL says the same:
    /// `openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt pass:KEY -kdfopt salt:... -kdfopt iter:200000 PBKDF2`.
    #[test]
    fn derivation_is_fixed() {
        let hex: String = derive("correct horse battery staple", "demo").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "16f9d1a975cba65f25a4057a24e97612651764c5cf63d0fe89cf98f71cebe752");
    }

    #[test]
    fn an_empty_key_is_refused() {
        assert!(matches!(from_key("", "demo"), Err(Error::EmptyKey)));
    }
}
