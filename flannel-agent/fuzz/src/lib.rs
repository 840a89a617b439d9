//! What several fuzz targets check.

use std::fmt::Display;

/// Checks that an error is one line that says something, so that one bad value is one line of the log.
pub fn check_error(error: &impl Display) {
    let text = error.to_string();
    assert!(!text.trim().is_empty(), "an empty error");
    assert!(!text.contains(char::is_control), "an error with control characters: {text:?}");
}
