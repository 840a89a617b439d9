//! A clock that a test can set for agents alone, by libfaketime. The monotonic clock, which measures how long something takes, is not
//! changed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The clock of some agents.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// The variables of [`Self::environment`].
    pub(crate) const VARIABLES: [&str; 5] = [
        "LD_PRELOAD",
        "FAKETIME_TIMESTAMP_FILE",
        "FAKETIME_NO_CACHE",
        "FAKETIME_DONT_FAKE_MONOTONIC",
        // Files have the times that they have.
        "NO_FAKE_STAT",
    ];

    /// Makes a clock that is right, in this folder.
    pub fn new(folder: &Path) -> Result<Self> {
        let clock = Self { file: folder.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it this many hours before the machine's, or after it if that is negative.
    pub fn set(&self, hours: i64) -> Result<()> {
        let staged = self.file.with_extension("new");
        fs::write(&staged, format!("{hours:+}h\n")).context("write the clock")?;
        fs::rename(&staged, &self.file).context("set the clock")
    }

    /// Returns the variables that make a program use it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", env::consts::ARCH);
        let (file, yes) = (self.file.display().to_string(), "1".to_owned());
        let [preload, timestamps, no_cache, monotonic, stat] = Self::VARIABLES;
        [
            (preload, library),
            (timestamps, file),
            (no_cache, yes.clone()),
            (monotonic, yes.clone()),
            (stat, yes),
        ]
    }
}
