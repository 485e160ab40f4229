//! The REST API's side: its certificate, and who must show one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::files::{self, Seen, Settings};
use super::stream::Stream;
use super::verify::ClientVerifier;
use super::{ciphers, Error};
use crate::config::types::{RestConfig, TlsIdentity};

const SETTINGS: Settings = Settings { certificate: "restapi.certfile", key: "restapi.keyfile", password: "restapi.keyfile_password" };

/// What the configuration says.
#[derive(Clone, Debug)]
struct Wanted {
    identity: TlsIdentity,
    cafile: Option<PathBuf>,
    verify: Verify,
    ciphers: Option<String>,
}

/// `verify_client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    None,
    Optional,
    Required,
}

/// Accepts TLS connections.
pub(crate) struct Server {
    wanted: Wanted,
    acceptor: TlsAcceptor,
    seen: Seen,
}

impl Server {
    /// Reads the files. `None` if the API is plain HTTP.
    pub(crate) fn load(config: &RestConfig) -> Result<Option<Arc<Server>>, Error> {
        let Some(identity) = config.tls.clone() else { return Ok(None) };
        let verify = match config.verify_client.to_ascii_lowercase().as_str() {
            "required" => Verify::Required,
            "optional" => Verify::Optional,
            _ => Verify::None,
        };
        let wanted = Wanted { identity, cafile: config.cafile.clone(), verify, ciphers: config.ciphers.clone() };
        if verify != Verify::None && wanted.cafile.is_none() {
            log::warn!("restapi.verify_client asks for client certificates, but restapi.cafile is missing: none can be accepted");
        }
        Server::build(wanted).map(Some)
    }

    fn build(wanted: Wanted) -> Result<Arc<Server>, Error> {
        let mut seen = Seen::default();
        let provider = ciphers::restricted(wanted.ciphers.as_deref());
        let unusable = |reason: String| Error::Unusable { what: SETTINGS.certificate.to_owned(), reason };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(error.to_string()))?;
        let builder = if wanted.verify == Verify::None {
            builder.with_no_client_auth()
        } else {
            let cafile = wanted.cafile.as_deref();
            let roots = cafile.map(|path| files::roots(&mut seen, "restapi.cafile", Some(path), &provider)).transpose()?;
            builder.with_client_cert_verifier(ClientVerifier::new(roots, wanted.verify == Verify::Required, &provider))
        };
        let identity = files::identity(&mut seen, SETTINGS, &wanted.identity, &provider)?;
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        // A list of ciphers is in the order of preference.
        config.ignore_client_order = wanted.ciphers.is_some();
        if wanted.verify != Verify::None {
            // A resumed session would outlive the client's certificate.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(Server { wanted, acceptor: TlsAcceptor::from(Arc::new(config)), seen }))
    }

    /// The same with the files' present content, if that has changed.
    pub(crate) fn renewed(&self) -> Option<Result<Arc<Server>, Error>> {
        self.seen.has_changed().then(|| Server::build(self.wanted.clone()))
    }

    /// Whether unsafe requests need a client certificate.
    pub(crate) fn asks(&self) -> bool {
        self.wanted.verify != Verify::None
    }

    /// The handshake. Whether the client has shown a certificate that is trusted comes with the stream.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<(Stream, bool)> {
        let stream = self.acceptor.accept(stream).await?;
        let certified = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
        Ok((Stream::Tls(Box::new(TlsStream::Server(stream))), certified))
    }
}
