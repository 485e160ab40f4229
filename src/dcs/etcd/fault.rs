//! What an error of the client means: was the request refused, never sent, or is its fate unknown?

use std::io::ErrorKind;

use etcd_client::Error;

use crate::ha::input::DcsFailure;

/// Why an attempt at one endpoint failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The store understood and refused; nothing was applied, and another endpoint would say the same.
    Refused(DcsFailure),
    /// The store says that the lease does not exist. Nothing was applied.
    LeaseGone,
    /// The credentials of this connection are stale; nothing was applied, a new connection may do.
    Stale(DcsFailure),
    /// The request never reached the store.
    Unsent(DcsFailure),
    /// The servers are there, but elect a leader: soon over.
    Electing {
        /// In etcd's words.
        failure: DcsFailure,
        /// They had one when the request came, so it may have been applied.
        unsure: bool,
    },
    /// It may or may not have been applied.
    Unknown(DcsFailure),
}

impl Fault {
    /// For the log.
    pub(super) fn text(&self) -> String {
        match self {
            Fault::Refused(failure)
            | Fault::Stale(failure)
            | Fault::Unsent(failure)
            | Fault::Electing { failure, .. }
            | Fault::Unknown(failure) => failure.to_string(),
            Fault::LeaseGone => "the lease does not exist any more".to_owned(),
        }
    }

    /// The failure for the core.
    pub(super) fn into_failure(self) -> DcsFailure {
        match self {
            Fault::Refused(failure)
            | Fault::Stale(failure)
            | Fault::Unsent(failure)
            | Fault::Electing { failure, .. }
            | Fault::Unknown(failure) => failure,
            Fault::LeaseGone => DcsFailure::Error(self.text()),
        }
    }
}

/// For a write that found something else than it expected, where an earlier attempt of it may have been applied meanwhile.
pub(super) fn fate_unknown(operation: &str) -> Fault {
    Fault::Unknown(DcsFailure::Error(format!("etcd: {operation}: an answer was lost; it may have been applied")))
}

/// Opening a connection, as an operation.
pub(super) const CONNECT: &str = "connect";

/// gRPC status codes (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// Judges an error of `operation` at the endpoint `url`.
pub(super) fn judge(url: &str, operation: &str, error: &Error) -> Fault {
    let say = |detail: &str| format!("etcd {url}: {operation}: {detail}");
    let Error::GRpcStatus(status) = error else {
        return match error {
            Error::LeaseKeepAliveError(text) if text == "lease not found" => Fault::LeaseGone,
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                Fault::Refused(DcsFailure::Error(say(&error.to_string())))
            }
            Error::TransportError(_) => Fault::Unsent(DcsFailure::Unavailable(say(&with_causes("cannot connect", error)))),
            _ => Fault::Unknown(DcsFailure::Unavailable(say(&error.to_string()))),
        };
    };
    let message = status.message();
    // Fieldless enum with the numbers of the protocol.
    match status.code() as i32 {
        code::UNAUTHENTICATED => Fault::Stale(DcsFailure::Denied(say(message))),
        // etcd's words for "log in (again)": authentication was switched on, or users changed, after we connected.
        code::INVALID_ARGUMENT if message.contains("user name is empty") || message.contains("revision of auth store is old") => {
            Fault::Stale(DcsFailure::Denied(say(message)))
        }
        code::INVALID_ARGUMENT if message.contains("authentication failed") => Fault::Refused(DcsFailure::Denied(say(message))),
        code::PERMISSION_DENIED => Fault::Refused(DcsFailure::Denied(say(message))),
        code::NOT_FOUND if message.contains("lease not found") => Fault::LeaseGone,
        code::INVALID_ARGUMENT
        | code::NOT_FOUND
        | code::RESOURCE_EXHAUSTED
        | code::FAILED_PRECONDITION
        | code::OUT_OF_RANGE
        | code::UNIMPLEMENTED => Fault::Refused(DcsFailure::Error(say(message))),
        code::DEADLINE_EXCEEDED => Fault::Unknown(DcsFailure::Timeout),
        code::UNAVAILABLE if message.contains("no leader") || message.contains("leader changed") => {
            Fault::Electing { failure: DcsFailure::Unavailable(say(message)), unsure: message.contains("leader changed") }
        }
        code::UNAVAILABLE if never_connected(status) => Fault::Unsent(DcsFailure::Unavailable(say(&with_causes(message, status)))),
        _ => {
            let mut text = with_causes(message, status);
            // In TLS 1.3 the server judges the client's certificate after the handshake; often only its hanging up arrives here.
            if url.starts_with("https://") && operation == CONNECT && !text.contains("ertificate") {
                text.push_str(" (does the server want a client certificate, or another one than etcd3.cert?)");
            }
            Fault::Unknown(DcsFailure::Unavailable(say(&text)))
        }
    }
}

/// Whether the error comes from opening the connection.
fn never_connected(error: &dyn std::error::Error) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            if matches!(io.kind(), ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) {
                return true;
            }
        }
        cause = inner.source();
    }
    false
}

/// The error with its causes, each said once: "transport error" alone helps nobody.
fn with_causes(message: &str, error: &dyn std::error::Error) -> String {
    let mut text = message.to_owned();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    if text.contains("UnknownIssuer") {
        text.push_str(" (etcd3.cacert is not the CA of this server)");
    }
    text
}
