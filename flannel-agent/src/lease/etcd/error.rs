//! Turns errors of etcd's client into short texts.

use std::iter;

use etcd_client::Error;

/// Returns etcd's own message, or the error with its innermost cause, such as "Connection refused".
pub(super) fn describe(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => with_innermost_cause(status.message(), status),
        Error::TransportError(error) => with_innermost_cause(&error.to_string(), error),
        _ => error.to_string(),
    }
}

fn with_innermost_cause(message: &str, error: &dyn std::error::Error) -> String {
    match iter::successors(error.source(), |cause| cause.source()).last() {
        Some(cause) => format!("{message}: {cause}"),
        None => message.to_owned(),
    }
}
