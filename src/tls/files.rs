//! Certificates and keys from PEM files.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::verify::Roots;
use super::x509::Certificate;
use super::{encrypted, Error};
use crate::config::types::TlsIdentity;

/// Where Debian, Alpine and others keep the CAs that the system trusts.
pub(crate) const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// No file with certificates or keys is longer, bytes. Larger ones are cut and then hold less.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// The files that were read, and what they held.
#[derive(Debug, Default)]
pub(crate) struct Seen(Vec<(PathBuf, Option<u64>)>);

impl Seen {
    /// Reads a file and remembers its content.
    pub(crate) fn read(&mut self, what: &str, path: &Path) -> Result<Vec<u8>, Error> {
        let content = read(path);
        self.0.push((path.to_owned(), content.as_deref().ok().map(digest)));
        content.map_err(|source| Error::Read { what: what.to_owned(), path: path.to_owned(), source })
    }

    /// Whether a file holds something else by now.
    pub(crate) fn has_changed(&self) -> bool {
        self.0.iter().any(|(path, known)| read(path).ok().as_deref().map(digest) != *known)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(MOST_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

fn digest(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// All certificates of a file; at least one.
pub(crate) fn certificates(seen: &mut Seen, what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let content = seen.read(what, path)?;
    let list: Vec<_> = CertificateDer::pem_slice_iter(&content).map_while(Result::ok).collect();
    if list.is_empty() {
        return Err(Error::Content { what: what.to_owned(), path: path.to_owned(), expected: "certificate" });
    }
    Ok(list)
}

/// The CAs of a file, or of the system if none is named.
pub(crate) fn roots(seen: &mut Seen, what: &str, path: Option<&Path>, provider: &CryptoProvider) -> Result<Arc<Roots>, Error> {
    let certificates = match path {
        Some(path) => certificates(seen, what, path)?,
        None => certificates(seen, what, Path::new(SYSTEM_CAS)).map_err(|_| Error::NoCa { what: what.to_owned() })?,
    };
    let path = path.unwrap_or(Path::new(SYSTEM_CAS)).to_owned();
    Roots::new(certificates, provider).ok_or_else(|| Error::Content { what: what.to_owned(), path, expected: "usable CA certificate" })
}

/// A revocation list.
pub(crate) type Revocations = CertificateRevocationListDer<'static>;

/// All revocation lists of a file; at least one.
pub(crate) fn revocations(seen: &mut Seen, what: &str, path: &Path) -> Result<Vec<Revocations>, Error> {
    let content = seen.read(what, path)?;
    let list: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&content).map_while(Result::ok).collect();
    if list.is_empty() {
        return Err(Error::Content { what: what.to_owned(), path: path.to_owned(), expected: "revocation list" });
    }
    Ok(list)
}

/// The names of an identity's settings, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Of the certificate.
    pub(crate) certificate: &'static str,
    /// Of the key.
    pub(crate) key: &'static str,
    /// Of the key's password.
    pub(crate) password: &'static str,
}

/// A certificate with its key, which must be a pair.
pub(crate) fn identity(
    seen: &mut Seen,
    settings: Settings,
    identity: &TlsIdentity,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(seen, settings.certificate, &identity.certfile)?;
    let content = seen.read(settings.key, &identity.keyfile)?;
    let wrong = |reason: String| Error::Key { what: settings.key.to_owned(), path: identity.keyfile.clone(), reason };
    let key = private_key(settings, identity, &content)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| wrong("only RSA keys of 2048 to 8192 bits, EC keys on P-256 or P-384 and Ed25519 keys can be".to_owned()))?;
    let public = chain.first().and_then(|first| Certificate::parse(first)).map(|first| first.key_whole.to_vec());
    if key.public_key().is_some_and(|own| public.as_deref() != Some(own.as_ref())) {
        let (certificate, key) = (identity.certfile.clone(), identity.keyfile.clone());
        return Err(Error::Mismatch { what: settings.key.to_owned(), certificate, key });
    }
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

fn private_key(settings: Settings, identity: &TlsIdentity, content: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    let path = identity.keyfile.clone();
    let text = String::from_utf8_lossy(content);
    if !encrypted::is_encrypted(&text) {
        return PrivateKeyDer::from_pem_slice(content).map_err(|_| Error::Content {
            what: settings.key.to_owned(),
            path,
            expected: "private key",
        });
    }
    let reason = match &identity.keyfile_password {
        None => format!("it is encrypted, and {} is not set", settings.password),
        Some(password) => match encrypted::decrypt(&text, password.0.as_bytes()) {
            Ok(key) => return Ok(key),
            Err(encrypted::Failure::Password) => format!("{} is not its password", settings.password),
            Err(encrypted::Failure::Unknown) => {
                let way = format!("openssl pkcs8 -topk8 -v2 aes-256-cbc -in {} -out NEWFILE", path.display());
                format!("it is encrypted in a way that is not known here (known are AES and triple DES in CBC mode with PBKDF2); convert it: {way}")
            }
        },
    };
    Err(Error::Key { what: settings.key.to_owned(), path, reason })
}
