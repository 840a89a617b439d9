//! Failed tests: the error that a test returns, and a flag that makes guards print their logs.

use std::cell::Cell;
use std::{fmt, thread};

use anyhow::{Result, anyhow};

use crate::{backlog, wait};

/// The result of a test. `?` turns every error into a [`Failure`].
pub type TestResult = Result<(), Failure>;

/// The reason why a test failed.
///
/// `?` creates it while the test's agents and servers still exist. When they are dropped a moment later, they find the
/// test failed and print their logs.
pub struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        FAILED.set(true);
        Self(error.into())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A machine that was too busy is part of the reason.
        let (busy, dropped) = (wait::crowding(), backlog::dropped());
        writeln!(f, "{:?}", self.0)?;
        write!(
            f,
            "There was work for {busy:.1} times the CPUs; {dropped} packets were dropped from full backlogs"
        )
    }
}

thread_local! {
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread's work as failed, so that guards print their logs when they are dropped.
pub fn declare() {
    FAILED.set(true);
}

/// Clears the mark for a new test, which may run in the same thread.
pub(crate) fn forget() {
    FAILED.set(false);
}

/// Returns true if the current thread's test has failed, by panic or by error.
pub fn declared() -> bool {
    thread::panicking() || FAILED.get()
}

/// Collects errors of a clean-up, which must not stop at the first.
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
