//! What a subcommand shows: once, or with `--watch` again and again.

use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use crate::output::{print, show};

/// Time between two states of `--watch`.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// Puts the cursor into the upper left corner.
const HOME: &str = "\x1b[H";
/// Removes the rest of the line.
const END_OF_LINE: &str = "\x1b[K";
/// Removes everything below the cursor.
const END_OF_SCREEN: &str = "\x1b[J";

mod size {
    nix::ioctl_read_bad!(read, libc::TIOCGWINSZ, libc::winsize);
}

/// How a subcommand shows what it has read.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Form {
    /// Print it each second, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Print it as JSON; with --watch a line each second.
    #[arg(long)]
    pub json: bool,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    rows: usize,
    columns: usize,
}

/// Shows what `read` returns.
///
/// With `watch` a terminal is drawn again each time, and shows as many lines as it has. For other readers there is an empty line
/// after each text. Ctrl-C ends the process at any time: nothing needs to be put back.
///
/// # Errors
/// Those of `read`, or the output cannot be written.
pub(crate) async fn show_all<T: Display + Serialize>(
    form: Form,
    mut read: impl AsyncFnMut() -> Result<T>,
) -> Result<()> {
    if !form.watch {
        return show(&read().await?, form.json);
    }
    let mut is_first = true;
    while show_once(&read().await?, form.json, is_first)? {
        is_first = false;
        sleep(PERIOD).await;
    }
    Ok(())
}

/// Shows a state among others. Returns whether there still is a reader.
fn show_once(value: &(impl Display + Serialize), json: bool, is_first: bool) -> Result<bool> {
    if json {
        return print(&format_args!("{}\n", serde_json::to_string(value)?));
    }
    match terminal() {
        Some(size) => {
            // What was there before scrolls away, and is not written over.
            let room = if is_first { "\n".repeat(size.rows) } else { String::new() };
            print(&format_args!("{room}{}", screen(&value.to_string(), size)))
        }
        None => print(&format_args!("{value}\n")),
    }
}

/// Returns the size of the terminal that standard output is; `None` if it is something else.
fn terminal() -> Option<Size> {
    let output = io::stdout();
    if !output.is_terminal() {
        return None;
    }
    let mut found = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes a winsize, and `found` is one.
    let read = unsafe { size::read(output.as_raw_fd(), &raw mut found) };
    let size = Size { rows: found.ws_row.into(), columns: found.ws_col.into() };
    // A serial line does not know its size.
    let is_known = read.is_ok() && size.rows > 1 && size.columns > 1;
    Some(if is_known { size } else { Size { rows: 24, columns: 80 } })
}

/// Returns what draws a text over the one before. A text that is too large is cut off.
fn screen(text: &str, size: Size) -> String {
    let lines = text.lines().count();
    // The cursor stays below the text.
    let room = size.rows - 1;
    let shown = if lines > room { room - 1 } else { lines };
    let cut = |line: &str| line.chars().take(size.columns).collect::<String>() + END_OF_LINE + "\n";
    let mut drawn = HOME.to_owned();
    drawn.extend(text.lines().take(shown).map(cut));
    if lines > shown {
        drawn += &cut(&format!("and {} more lines", lines - shown));
    }
    drawn + END_OF_SCREEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_has_as_many_lines_as_the_terminal_and_none_is_too_long() {
        let size = Size { rows: 4, columns: 5 };
        for (text, expected) in [
            ("", "\x1b[H\x1b[J"),
            ("one\n", "\x1b[Hone\x1b[K\n\x1b[J"),
            ("1\n2\näöüßxyz\n", "\x1b[H1\x1b[K\n2\x1b[K\näöüßx\x1b[K\n\x1b[J"),
            ("1\n2\n3\n4\n", "\x1b[H1\x1b[K\n2\x1b[K\nand 2\x1b[K\n\x1b[J"),
        ] {
            assert_eq!(screen(text, size), expected);
        }
        assert_eq!(screen("1\n2\n", Size { rows: 2, columns: 2 }), "\x1b[Han\x1b[K\n\x1b[J");
    }

    #[tokio::test]
    async fn without_watch_it_is_read_once() {
        let mut reads = 0;
        let read = async || {
            reads += 1;
            anyhow::ensure!(reads > 1, "it fails");
            Ok("text")
        };
        assert!(show_all(Form::default(), read).await.is_err());
        assert_eq!(reads, 1);
    }
}
