//! Stands in for [`super::identity`] in a build without the feature `tls`: boxes do not talk in the clear, so they do not talk.

use std::io;

use tokio::net::TcpStream;

use super::{Error, Security};

/// Never made.
pub(super) type Stream = TcpStream;

/// Never made.
pub(super) enum Identity {}

impl Identity {
    pub(super) fn load(_: &Security, _: &str) -> Result<Identity, Error> {
        Err(crate::tls::Error::NotBuilt { what: "the embedded store's connection to other boxes" }.into())
    }

    pub(super) fn renewed(&self, _: &str) -> Option<Result<Identity, Error>> {
        match *self {}
    }

    pub(super) async fn connect(&self, _: TcpStream) -> io::Result<Stream> {
        match *self {}
    }

    pub(super) async fn accept(&self, _: TcpStream) -> io::Result<Stream> {
        match *self {}
    }

    pub(super) fn explain(&self, _: &io::Error) -> String {
        match *self {}
    }
}
