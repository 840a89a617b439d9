//! What a subcommand prints.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};

use anyhow::Result;
use serde::Serialize;

/// Prints a value as text, or as JSON.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn show(value: &(impl fmt::Display + Serialize), json: bool) -> Result<()> {
    if json { print_json(value) } else { print(value).map(drop) }
}

/// Prints a value as JSON.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&format_args!("{}\n", serde_json::to_string_pretty(value)?)).map(drop)
}

/// Prints to a reader who may leave early (`| head`). Returns whether it was read to the end.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn print(text: &dyn fmt::Display) -> Result<bool> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}
