//! A caller that proves to be one of the boxes, and then sends whatever the test wants.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use mastiff::dcs::embedded::peers::frame::{self, Frame, MAX_FRAME};
use mastiff::dcs::embedded::peers::Hello;

use crate::certs::Certs;

pub struct Raw(pub TlsStream<TcpStream>);

impl Raw {
    /// With the certificate `name`, or without one.
    pub async fn connect(certs: &Certs, name: Option<&str>, address: &str) -> std::io::Result<Raw> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certs.crt("ca")).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match name {
            None => config.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(certs.crt(name)).unwrap()];
                let key = PrivateKeyDer::from_pem_file(certs.path(&format!("{name}.key"))).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let stream = TcpStream::connect(address).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await?;
        Ok(Raw(stream))
    }

    /// And greets.
    pub async fn greeted(certs: &Certs, address: &str, hello: &Hello) -> Raw {
        let mut raw = Raw::connect(certs, Some("server"), address).await.unwrap();
        raw.send(&frame::hello(hello)).await;
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // Whoever is refused may be closed already.
        let _ = self.0.write_all(bytes).await;
        let _ = self.0.flush().await;
    }

    pub async fn frame(&mut self) -> Option<Frame> {
        frame::read(&mut self.0, MAX_FRAME, Duration::from_secs(30), || {}).await.ok()
    }

    /// Reads to the end; the reason of the farewell, if there is one.
    pub async fn farewell(&mut self) -> Option<String> {
        let mut why = None;
        while let Some(frame) = self.frame().await {
            if let Frame::Goodbye(text) = frame {
                why = Some(text);
            }
        }
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(30), self.0.read_to_end(&mut rest)).await.expect("it is not closed");
        why
    }
}
