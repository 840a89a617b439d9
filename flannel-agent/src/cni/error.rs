//! Errors in the form that runtimes read (CNI specification, section 5, "Error").

use std::io;
use std::path::Path;

use serde_json::json;

/// What kind of error it is. Below 100 the specification gives the meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// The plugin does not support the configuration's CNI version.
    IncompatibleVersion = 1,
    /// A field of the configuration must not be there. The text has its key and value.
    UnsupportedField = 2,
    /// The container is not known.
    UnknownContainer = 3,
    /// An environment variable is missing or wrong. The text has its name.
    InvalidEnvironment = 4,
    /// Reading, writing or executing failed.
    Io = 5,
    /// A text is not what it should be, such as JSON.
    Decoding = 6,
    /// The configuration is not valid.
    InvalidConfig = 7,
    /// The condition passes by itself.
    TryAgainLater = 11,
    /// The plugin cannot serve ADD now. Answer to STATUS.
    NotAvailable = 50,
    /// The delegate failed and printed no error.
    SilentDelegate = 100,
}

/// An error for the runtime, which shows `msg; details` to its user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Error {
    pub(super) code: Code,
    /// What went wrong, in a few words.
    pub(super) msg: String,
    /// Where, why, and what to do.
    pub(super) details: String,
}

impl Error {
    pub(super) fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// Makes the error of a failed operation on a file: `doing` says what was being done.
    pub(super) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(Code::Io, doing, format!("{}: {error}", path.display()))
    }

    /// Returns the JSON text. `version` is the one of the configuration; empty if it is not known.
    pub(super) fn to_json(&self, version: &str) -> String {
        let version = if version.is_empty() { super::version::NEWEST } else { version };
        let Self { code, msg, details } = self;
        json!({"cniVersion": version, "code": *code as u32, "msg": msg, "details": details}).to_string()
    }
}
