//! Versions of the CNI specification.

use super::error::{Code, Error};
use super::request::Verb;

/// Those that the plugin supports, oldest first.
pub(super) const SUPPORTED: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest one.
pub(super) const NEWEST: &str = SUPPORTED[SUPPORTED.len() - 1];
/// The version of a configuration that names none.
const UNNAMED: &str = "0.1.0";

/// Returns the version in which a verb came into the specification.
const fn introduced_by(verb: Verb) -> &'static str {
    match verb {
        Verb::Add | Verb::Del | Verb::Version => UNNAMED,
        Verb::Check => "0.4.0",
        Verb::Gc | Verb::Status => "1.1.0",
    }
}

/// Fails unless the plugin supports a configuration's version and this version has the verb.
pub(super) fn ensure_allows(version: &str, verb: Verb) -> Result<(), Error> {
    let version = if version.is_empty() { UNNAMED } else { version };
    let place = |version| SUPPORTED.iter().position(|supported| *supported == version);
    let Some(given) = place(version) else {
        let details = format!("the configuration has {version:?}, the plugin supports {SUPPORTED:?}");
        return Err(Error::new(Code::IncompatibleVersion, "incompatible CNI versions", details));
    };
    let needed = introduced_by(verb);
    if place(needed).is_some_and(|needed| given < needed) {
        let details = format!("{} came with {needed}, the configuration has {version}", verb.name());
        return Err(Error::new(
            Code::IncompatibleVersion,
            "the CNI version does not have this verb",
            details,
        ));
    }
    Ok(())
}
