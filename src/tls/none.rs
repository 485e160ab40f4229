//! Stands in for TLS in a build without the feature `tls`: plain connections only, and clear words for everything else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::config::types::{CtlConfig, RestConfig};

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// TLS is configured.
    #[error("{what} needs TLS, which this build leaves out (feature \"tls\")")]
    NotBuilt {
        /// The setting.
        what: &'static str,
    },
}

/// Would open TLS connections to members.
#[derive(Debug, Default)]
pub struct Client;

impl Client {
    /// Takes nothing of the configuration.
    #[must_use]
    pub fn new(_config: &CtlConfig) -> Client {
        Client
    }

    pub(crate) async fn connect(&self, _host: &str, _stream: TcpStream) -> Result<Stream, String> {
        Err("it needs TLS, which this build leaves out (feature \"tls\")".to_owned())
    }
}

/// Would accept TLS connections.
pub(crate) struct Server(());

impl Server {
    pub(crate) fn load(config: &RestConfig) -> Result<Option<Arc<Server>>, Error> {
        match config.tls {
            Some(_) => Err(Error::NotBuilt { what: "restapi.certfile" }),
            None => Ok(None),
        }
    }

    pub(crate) fn renewed(&self) -> Option<Result<Arc<Server>, Error>> {
        None
    }

    pub(crate) fn asks(&self) -> bool {
        false
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<(Stream, bool)> {
        Ok((Stream::Plain(stream), false))
    }
}

/// A connection.
pub(crate) enum Stream {
    /// As it is.
    Plain(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stream::Plain(stream) = self.get_mut();
        Pin::new(stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Stream::Plain(stream) = self.get_mut();
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream::Plain(stream) = self.get_mut();
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream::Plain(stream) = self.get_mut();
        Pin::new(stream).poll_shutdown(context)
    }
}
