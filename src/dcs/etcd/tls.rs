//! Certificates for https endpoints. Files are read anew for each connection, so that renewed ones are used.

use std::path::{Path, PathBuf};

use etcd_client::ConnectOptions;

use crate::config::types::EtcdConfig;
use crate::dcs::Error;

/// Where Debian, Alpine and others keep the CAs that the system trusts.
#[cfg(feature = "tls")]
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The files.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(super) struct Tls {
    cacert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Tls {
    /// From the configuration.
    pub(super) fn new(config: &EtcdConfig) -> Tls {
        Tls { cacert: config.cacert.clone(), cert: config.cert.clone(), key: config.key.clone() }
    }

    /// Whether connections to `url` can be set up: files are there and hold what they should.
    pub(super) fn check(&self, url: &str) -> Result<(), Error> {
        self.apply(ConnectOptions::new(), url).map(|_| ())
    }

    /// Adds CA and client certificate to the options.
    #[cfg(feature = "tls")]
    pub(super) fn apply(&self, options: ConnectOptions, _url: &str) -> Result<ConnectOptions, Error> {
        use etcd_client::{Certificate, Identity, TlsOptions};

        let ca = match &self.cacert {
            Some(path) => pem("etcd3.cacert", path, "certificate", "CERTIFICATE-----")?,
            None => std::fs::read_to_string(SYSTEM_CAS).map_err(|_| Error::NoCa)?,
        };
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        if let Some(cert) = &self.cert {
            let key = self.key.as_ref().unwrap_or(cert);
            let cert = pem("etcd3.cert", cert, "certificate", "CERTIFICATE-----")?;
            tls = tls.identity(Identity::from_pem(cert, pem("etcd3.key", key, "private key", "PRIVATE KEY-----")?));
        }
        Ok(options.with_tls(tls))
    }

    /// This build has no TLS.
    #[cfg(not(feature = "tls"))]
    pub(super) fn apply(&self, _options: ConnectOptions, url: &str) -> Result<ConnectOptions, Error> {
        Err(Error::NoTls { url: url.to_owned() })
    }
}

/// Reads a PEM file that must hold a certain block.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
fn pem(what: &'static str, path: &Path, expected: &'static str, label: &str) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::TlsFile { what, path: path.to_owned(), source })?;
    if text.contains(label) {
        Ok(text)
    } else {
        Err(Error::TlsContent { what, path: path.to_owned(), expected })
    }
}
