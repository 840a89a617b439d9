//! What a subcommand prints.

use std::env;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use anyhow::Result;
use serde::Serialize;

/// Returns whether the output may have colours: on a terminal, unless `NO_COLOR` is set.
pub(crate) fn colours() -> bool {
    let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_colour && io::stdout().is_terminal()
}

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

/// Returns the first line of a text, without what a terminal would take for commands: it may come from the datastore.
pub(crate) fn clean(text: &str) -> String {
    let mut lines = text.lines();
    let first = printable(lines.next().unwrap_or_default());
    if lines.next().is_some() { format!("{first} ...") } else { first }
}

/// Returns a text without what a terminal would take for commands.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
