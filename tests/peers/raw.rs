//! A box that proves to be one of the store's, and then sends whatever the test wants.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use mastiff::dcs::embedded::peers::frame::{self, Frame, MAX_FRAME};
use mastiff::dcs::embedded::peers::Hello;

use crate::certs::Certs;

fn pair(certs: &Certs, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = vec![CertificateDer::from_pem_file(certs.crt(name)).unwrap()];
    (chain, PrivateKeyDer::from_pem_file(certs.path(&format!("{name}.key"))).unwrap())
}

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
                let (chain, key) = pair(certs, name);
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let stream = TcpStream::connect(address).await?;
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await?;
        Ok(Raw(TlsStream::Client(stream)))
    }

    /// Is called.
    pub async fn answered(certs: &Certs, listener: &TcpListener, hello: &Hello) -> Raw {
        let (chain, key) = pair(certs, "server");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let (stream, _) = tokio::time::timeout(Duration::from_secs(30), listener.accept()).await.expect("nobody calls").unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let mut raw = Raw(TlsStream::Server(stream));
        raw.send(&frame::hello(hello)).await;
        raw
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
