//! How a test fails: with its reason, and with the logs of what was running.

use std::cell::Cell;
use std::{fmt, thread};

use anyhow::{Result, anyhow};

/// What a test returns. `?` turns every error into a [`Failure`].
pub type TestResult = Result<(), Failure>;

/// The reason why a test failed.
///
/// It is made by `?` while the test's agents and servers still live, so that they know, when they are
/// dropped a moment later, that their logs are wanted.
pub struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        FAILED.set(true);
        Self(error.into())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

thread_local! {
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// Says that what this thread was doing failed, so that logs are printed when it takes things down.
pub fn declare() {
    FAILED.set(true);
}

/// What fails from now on belongs to a new test, which may share this thread.
pub(crate) fn forget() {
    FAILED.set(false);
}

/// Whether the current thread's test has failed, by panic or by an error.
pub fn declared() -> bool {
    thread::panicking() || FAILED.get()
}

/// Gathers errors where stopping at the first would leave things behind.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<anyhow::Error>);

impl Errors {
    pub(crate) fn collect<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    pub(crate) fn into_result(self) -> Result<()> {
        let texts: Vec<_> = self.0.iter().map(|error| format!("{error:#}")).collect();
        if texts.is_empty() { Ok(()) } else { Err(anyhow!(texts.join("; "))) }
    }
}
