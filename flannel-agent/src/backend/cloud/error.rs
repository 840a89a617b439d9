//! Why a request to a cloud has failed.

use std::fmt;
use std::time::Duration;

/// A request that has failed.
#[derive(Debug)]
pub(in crate::backend) struct CloudError {
    /// What the caller may do about it.
    pub(in crate::backend) kind: ErrorKind,
    /// What failed and why, and the remedy if there is one.
    text: String,
}

/// The kinds of failures that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum ErrorKind {
    /// Too many requests. The cloud may have said for how long to wait.
    Throttled(Option<Duration>),
    /// What was to be removed does not exist.
    NotFound,
    /// Anything else.
    Failed,
}

impl CloudError {
    pub(in crate::backend) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Returns one of no special kind.
    pub(in crate::backend) fn failed(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, text)
    }

    /// Puts what was being done before the text.
    #[must_use]
    pub(in crate::backend) fn when(self, doing: impl fmt::Display) -> Self {
        Self { kind: self.kind, text: format!("{doing}: {}", self.text) }
    }

    /// Returns how long the cloud wants to be left alone; `None` if it does not.
    pub(super) fn throttled(&self) -> Option<Duration> {
        match self.kind {
            ErrorKind::Throttled(pause) => Some(pause.unwrap_or_default()),
            ErrorKind::NotFound | ErrorKind::Failed => None,
        }
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
