//! What a runtime asks for by environment variables (CNI specification, section 2, "Parameters").

use std::env;
use std::path::PathBuf;

use super::error::{Code, Error};

/// The longest name of an interface in bytes: `IFNAMSIZ` in linux/if.h without the terminating zero.
const LONGEST_INTERFACE: usize = 15;

/// An operation of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];

    /// Returns the value of `CNI_COMMAND`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// Returns the variables without which the operation is refused.
    const fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Self::Status | Self::Gc => &["CNI_PATH"],
            Self::Version => &[],
        }
    }
}

/// A request of a runtime.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) verb: Verb,
    /// The container's ID, safe as a file name. Empty where the verb has no container.
    pub(super) container: String,
    /// The folders of plugins.
    pub(super) path: Vec<PathBuf>,
}

impl Request {
    /// Reads a request. `variable` returns the value of an environment variable.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let command = given("CNI_COMMAND").unwrap_or_default();
        let Some(verb) = Verb::ALL.into_iter().find(|verb| verb.name() == command) else {
            return Err(invalid(&format!("CNI_COMMAND is {command:?}, which is no command of CNI")));
        };
        let missing: Vec<_> = verb.required().iter().filter(|name| given(name).is_none()).copied().collect();
        if !missing.is_empty() {
            return Err(invalid(&format!("{command} needs {}", missing.join(", "))));
        }
        let value = |name| if verb.required().contains(&name) { given(name) } else { None };
        if let Some(name) = value("CNI_IFNAME").filter(|name| !is_interface_name(name)) {
            return Err(invalid(&format!("CNI_IFNAME is {name:?}, which cannot be an interface's name")));
        }
        let container = value("CNI_CONTAINERID").unwrap_or_default();
        if !container.is_empty() && !is_identifier(&container) {
            return Err(invalid(&format!("CNI_CONTAINERID is {container:?}: {IDENTIFIER}")));
        }
        let path = env::split_paths(&given("CNI_PATH").unwrap_or_default()).collect();
        Ok(Self { verb, container, path })
    }
}

fn invalid(details: &str) -> Error {
    Error::new(Code::InvalidEnvironment, "invalid environment variables", details)
}

/// What [`is_identifier`] wants, for messages.
pub(super) const IDENTIFIER: &str =
    "it must start with a letter or digit and have only letters, digits, _, . and -";

/// Whether this is a valid container ID or network name.
pub(super) fn is_identifier(text: &str) -> bool {
    let starts = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    starts && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter))
}

/// Whether the kernel takes this as an interface's name (`dev_valid_name` in net/core/dev.c).
fn is_interface_name(name: &str) -> bool {
    let bad = |letter: char| "/:".contains(letter) || letter.is_whitespace();
    name.len() <= LONGEST_INTERFACE && name != "." && name != ".." && !name.contains(bad)
}
