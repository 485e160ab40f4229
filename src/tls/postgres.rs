//! Connections to PostgreSQL with libpq's `sslmode` and its relatives (PostgreSQL documentation, "SSL Support" of libpq).

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::TlsConnector;

use super::files::{self, Seen, Settings};
use super::verify::{Checks, ServerVerifier};
use super::x509::Certificate;
use super::{provider, Error};
use crate::config::types::{Secret, TlsIdentity};

const SETTINGS: Settings = Settings { certificate: "sslcert", key: "sslkey", password: "sslpassword" };

/// `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// libpq's options about TLS, as they are configured.
#[derive(Clone, Debug)]
pub struct Options {
    mode: Mode,
    rootcert: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    password: Option<Secret>,
    crl: Option<PathBuf>,
    crldir: Option<PathBuf>,
    direct: bool,
    binding: tokio_postgres::config::ChannelBinding,
}

impl Options {
    /// From libpq's names: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `sslpassword`, `sslcrl`, `sslcrldir`, `sslnegotiation`, `channel_binding`.
    #[must_use]
    pub fn new(get: impl Fn(&str) -> Option<String>) -> Options {
        use tokio_postgres::config::ChannelBinding::{Disable, Prefer, Require};
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let rootcert = get("sslrootcert");
        let system = rootcert.as_deref() == Some("system");
        let mode = match get("sslmode").as_deref() {
            Some("disable") => Mode::Disable,
            // Weaker modes make no sense with all the CAs of the system, and libpq refuses them.
            _ if system => Mode::VerifyFull,
            Some("allow") => Mode::Allow,
            Some("require") => Mode::Require,
            Some("verify-ca") => Mode::VerifyCa,
            Some("verify-full") => Mode::VerifyFull,
            _ => Mode::Prefer,
        };
        let binding = match get("channel_binding").as_deref() {
            Some("disable") => Disable,
            Some("require") => Require,
            _ => Prefer,
        };
        let path = |name: &str| get(name).map(PathBuf::from);
        Options {
            mode,
            rootcert,
            cert: path("sslcert"),
            key: path("sslkey"),
            password: get("sslpassword").map(Secret),
            crl: path("sslcrl"),
            crldir: path("sslcrldir"),
            direct: get("sslnegotiation").as_deref() == Some("direct"),
            binding,
        }
    }

    /// What is tried, in this order.
    fn attempts(&self) -> &'static [SslMode] {
        match self.mode {
            Mode::Disable => &[SslMode::Disable],
            Mode::Allow => &[SslMode::Disable, SslMode::Require],
            Mode::Prefer => &[SslMode::Prefer, SslMode::Disable],
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => &[SslMode::Require],
        }
    }

    /// Roots and what is checked with them. As in libpq a CA file that is there is used even where the mode does not ask for it.
    fn build(&self) -> Result<ClientConfig, Error> {
        let provider = provider();
        let mut seen = Seen::default();
        let wants = match self.mode {
            Mode::VerifyFull => Checks::Name,
            Mode::VerifyCa => Checks::Chain,
            _ => Checks::Nothing,
        };
        let given = match self.rootcert.as_deref() {
            Some("system") => None,
            Some(path) => Some(PathBuf::from(path)),
            None => home("root.crt"),
        };
        let (roots, checks) = match given {
            None if self.rootcert.is_some() => (Some(files::roots(&mut seen, "sslrootcert", None, &provider)?), wants),
            Some(path) if wants != Checks::Nothing || path.exists() => {
                let checks = if wants == Checks::Nothing { Checks::Chain } else { wants };
                (Some(files::roots(&mut seen, "sslrootcert", Some(&path), &provider)?), checks)
            }
            _ if wants != Checks::Nothing => return Err(Error::NoCa { what: "sslrootcert".to_owned() }),
            _ => (None, Checks::Nothing),
        };
        let unusable = |reason: String| Error::Unusable {
            what: "sslcrl".to_owned(),
            reason: format!("{reason} (revocation lists must be of version 2, with a number)"),
        };
        let verifier = ServerVerifier::new(roots, self.revocations(&mut seen)?, checks, &provider).map_err(unusable)?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(error.to_string()))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match self.identity() {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let pair = files::identity(&mut seen, SETTINGS, &identity, &provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(config)
    }

    /// The client's certificate, if its file is there: libpq goes on without, too.
    fn identity(&self) -> Option<TlsIdentity> {
        let certfile = self.cert.clone().or_else(|| home("postgresql.crt")).filter(|path| path.exists())?;
        let keyfile = self.key.clone().or_else(|| home("postgresql.key")).unwrap_or_else(|| certfile.clone());
        Some(TlsIdentity { certfile, keyfile, keyfile_password: self.password.clone() })
    }

    fn revocations(&self, seen: &mut Seen) -> Result<Vec<files::Revocations>, Error> {
        let file = self.crl.clone().or_else(|| home("root.crl").filter(|_| self.crldir.is_none()));
        let mut lists = match file.filter(|path| path.exists()) {
            Some(path) => files::revocations(seen, "sslcrl", &path)?,
            None => Vec::new(),
        };
        let entries = self.crldir.as_ref().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        for entry in entries.take(100) {
            lists.extend(files::revocations(seen, "sslcrldir", &entry.path()).unwrap_or_default());
        }
        Ok(lists)
    }
}

/// Where libpq looks for a file that is not named.
fn home(name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".postgresql").join(name))
}

/// What drives an open connection.
pub type Driver = Connection<Socket, Stream>;

/// Connects as `options` say. The caller bounds it in time.
///
/// # Errors
/// The driver's; files that cannot be used and servers that are not trusted are among them.
pub async fn connect(settings: &Config, options: &Options) -> Result<(Client, Driver), tokio_postgres::Error> {
    let mut settings = settings.clone();
    settings.channel_binding(options.binding);
    if options.direct {
        settings.ssl_negotiation(SslNegotiation::Direct);
    }
    // libpq uses TLS over TCP only.
    let local = settings.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    let attempts = if local { &[SslMode::Disable][..] } else { options.attempts() };
    let mut last = None;
    for mode in attempts {
        let tried = Arc::new(AtomicBool::new(false));
        let maker = Maker { options, tried: Arc::clone(&tried) };
        match settings.ssl_mode(*mode).connect(maker).await {
            Ok(connected) => return Ok(connected),
            // The other way is for access rules and TLS itself, not for a server that is silent or starting.
            Err(error) if is_worth_retrying(&error, *mode, tried.load(Ordering::Relaxed)) => last = Some(error),
            Err(error) => return Err(last.filter(|_| *mode != SslMode::Require).unwrap_or(error)),
        }
    }
    match last {
        Some(error) => Err(error),
        // There is always an attempt; this one cannot be reached.
        None => settings.connect(Maker { options, tried: Arc::default() }).await,
    }
}

fn is_worth_retrying(error: &tokio_postgres::Error, mode: SslMode, tls: bool) -> bool {
    let denied = error.code().is_some_and(|code| code.code().starts_with("28"));
    match mode {
        SslMode::Disable => denied,
        _ => tls && (denied || error.code().is_none()),
    }
}

/// Makes connectors, one for each host.
struct Maker<'a> {
    options: &'a Options,
    /// TLS was begun.
    tried: Arc<AtomicBool>,
}

impl MakeTlsConnect<Socket> for Maker<'_> {
    type Stream = Stream;
    type TlsConnect = Connector;
    type Error = Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connector, Error> {
        let name = || {
            let reason = format!("{host} is no name that a certificate could have");
            ServerName::try_from(host.to_owned()).map_err(|_| Error::Unusable { what: "host".to_owned(), reason })
        };
        // Called in any mode. A fault must not stop a connection that needs no TLS.
        let ready = match self.options.mode {
            Mode::Disable => Err(Error::Unusable { what: "sslmode".to_owned(), reason: "disable".to_owned() }),
            _ => self.options.build().and_then(|config| Ok((TlsConnector::from(Arc::new(config)), name()?))),
        };
        Ok(Connector { ready, tried: Arc::clone(&self.tried) })
    }
}

/// Makes one handshake.
struct Connector {
    ready: Result<(TlsConnector, ServerName<'static>), Error>,
    tried: Arc<AtomicBool>,
}

type Handshake = Pin<Box<dyn Future<Output = Result<Stream, Box<dyn std::error::Error + Send + Sync>>> + Send>>;

impl TlsConnect<Socket> for Connector {
    type Stream = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Handshake;

    fn connect(self, socket: Socket) -> Handshake {
        self.tried.store(true, Ordering::Relaxed);
        Box::pin(async move {
            let (connector, name) = self.ready?;
            Ok(Stream(Box::new(connector.connect(name, socket).await?)))
        })
    }
}

/// A connection inside TLS.
pub struct Stream(Box<TlsStream<Socket>>);

impl tokio_postgres::tls::TlsStream for Stream {
    /// `tls-server-end-point` of RFC 5929: the certificate's hash, by the algorithm of its signature but at least SHA-256.
    fn channel_binding(&self) -> ChannelBinding {
        let chain = self.0.get_ref().1.peer_certificates();
        let hash = chain.and_then(<[_]>::first).and_then(|der| {
            let algorithm = hash_of(Certificate::parse(der)?.algorithm)?;
            Some(ring::digest::digest(algorithm, der).as_ref().to_vec())
        });
        hash.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// The hash of a signature algorithm, `None` where that names none (Ed25519).
fn hash_of(algorithm: &[u8]) -> Option<&'static ring::digest::Algorithm> {
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
    const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4];
    let object = super::x509::Der(algorithm).expect(super::x509::OBJECT)?;
    match (object.strip_prefix(&RSA[..]), object.strip_prefix(&ECDSA[..])) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => Some(&ring::digest::SHA256),
        (Some([12]), _) | (_, Some([3, 3])) => Some(&ring::digest::SHA384),
        (Some([13]), _) | (_, Some([3, 4])) => Some(&ring::digest::SHA512),
        _ => None,
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
