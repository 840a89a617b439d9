//! The state of the sources, which an image names.

use std::process::Command;

use crate::workspace::root;

/// The commit that the sources are.
pub(super) struct Source {
    /// Its hash, with `-dirty` where files differ from it.
    pub(super) revision: String,
    /// Its time as RFC 3339 has it, in UTC.
    pub(super) created: String,
}

impl Source {
    /// Asks git. None where the sources are not a clone.
    pub(super) fn get() -> Option<Self> {
        let revision = git(&["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"])?;
        let created = git(&["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"])?;
        Some(Self { revision, created })
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(root()).env("TZ", "UTC").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
