//! The caller's side, towards other members.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::{TlsConnector, TlsStream};

use super::files::{self, Seen, Settings};
use super::stream::Stream;
use super::verify::{Checks, ServerVerifier};
use super::{provider, Error};
use crate::config::types::CtlConfig;

const SETTINGS: Settings = Settings { certificate: "ctl.certfile", key: "ctl.keyfile", password: "ctl.keyfile_password" };

/// Opens TLS connections to members as `ctl` says it. Files are read for the first call and again when they have changed.
#[derive(Debug, Default)]
pub struct Client {
    config: CtlConfig,
    ready: Mutex<Option<(Seen, Arc<ClientConfig>)>>,
}

impl Client {
    /// From the configuration. Nothing is read yet.
    #[must_use]
    pub fn new(config: &CtlConfig) -> Client {
        Client { config: config.clone(), ready: Mutex::new(None) }
    }

    /// The handshake with `host`.
    pub(crate) async fn connect(&self, host: &str, stream: TcpStream) -> Result<Stream, String> {
        let config = self.ready().map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| "its host is no name that a certificate could have".to_owned())?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| self.explain(&error))?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }

    fn ready(&self) -> Result<Arc<ClientConfig>, Error> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        match &*ready {
            Some((seen, config)) if !seen.has_changed() => return Ok(Arc::clone(config)),
            _ => {}
        }
        match self.build() {
            Ok((seen, config)) => {
                *ready = Some((seen, Arc::clone(&config)));
                Ok(config)
            }
            // Half of a renewed pair: the old one serves until the other half is there.
            Err(error) => match &*ready {
                Some((_, config)) => {
                    log::warn!("the certificates before the change are used on: {error}");
                    Ok(Arc::clone(config))
                }
                None => Err(error),
            },
        }
    }

    fn build(&self) -> Result<(Seen, Arc<ClientConfig>), Error> {
        let provider = provider();
        let mut seen = Seen::default();
        let checks = match (self.config.insecure, &self.config.identity) {
            (false, _) => Checks::Name,
            // Patroni's rule: with an own certificate `insecure` is about the host's name only.
            (true, Some(_)) => Checks::Chain,
            (true, None) => Checks::Nothing,
        };
        let roots = match checks {
            Checks::Nothing => None,
            _ => Some(files::roots(&mut seen, "ctl.cacert", self.config.cacert.as_deref(), &provider)?),
        };
        let unusable = |reason: String| Error::Unusable { what: "ctl.cacert".to_owned(), reason };
        let verifier = ServerVerifier::new(roots, Vec::new(), checks, &provider).map_err(unusable)?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(error.to_string()))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match &self.config.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let pair = files::identity(&mut seen, SETTINGS, identity, &provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        };
        Ok((seen, Arc::new(config)))
    }

    /// The library's words, and where to look.
    fn explain(&self, error: &std::io::Error) -> String {
        let text = error.to_string();
        if !text.contains("UnknownIssuer") {
            return text;
        }
        match &self.config.cacert {
            Some(path) => format!("{text} ({} does not hold the CA of this server)", path.display()),
            None => format!("{text} (neither ctl.cacert nor restapi.cafile is set, and the system's CAs do not know it)"),
        }
    }
}
