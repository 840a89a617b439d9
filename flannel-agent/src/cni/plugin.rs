//! Other plugins, run as the delegate (CNI specification, section 4).

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::error::{Code, Error};
use super::request::Verb;

/// A plugin's program.
#[derive(Debug)]
pub(super) struct Plugin<'a> {
    name: &'a str,
    path: PathBuf,
}

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// This plugin's error.
    Own(Error),
    /// The delegate's standard output, which has its error, and its exit code.
    Delegate { stdout: Vec<u8>, code: u8 },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

impl<'a> Plugin<'a> {
    /// Looks for a program in the folders of `CNI_PATH`, in their order.
    pub(super) fn find(name: &'a str, folders: &[PathBuf]) -> Result<Self, Error> {
        let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        found.map(|path| Self { name, path }).ok_or_else(|| {
            let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let details = format!("not in CNI_PATH ({}): install the CNI plugins there", folders.join(", "));
            Error::new(Code::Io, format!("the plugin {name:?} is not installed"), details)
        })
    }

    /// Runs a verb with the environment of this process and returns the standard output. The standard error is that of
    /// this process.
    pub(super) fn run(&self, verb: Verb, config: &str) -> Result<Vec<u8>, Failure> {
        let output = self.execute(verb, config)?;
        match output.status.code() {
            Some(0) => Ok(output.stdout),
            code if output.stdout.is_empty() => {
                let details =
                    code.map_or_else(|| output.status.to_string(), |code| format!("exit code {code}"));
                let msg = format!("the plugin {:?} failed and printed no error", self.name);
                Err(Error::new(Code::SilentDelegate, msg, details).into())
            }
            code => {
                let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                Err(Failure::Delegate { stdout: output.stdout, code })
            }
        }
    }

    /// Returns the versions of the CNI specification that the plugin supports; empty if it does not tell.
    pub(super) fn versions(&self, asked: &str) -> Vec<String> {
        let config = serde_json::json!({ "cniVersion": asked }).to_string();
        let answer = self.run(Verb::Version, &config).unwrap_or_default();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let versions = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
        versions.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn execute(&self, verb: Verb, config: &str) -> Result<Output, Error> {
        let mut command = Command::new(&self.path);
        command.env("CNI_COMMAND", verb.name()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.not_run(&error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that ends without reading its input says why by itself.
            drop(stdin.write_all(config.as_bytes()));
        }
        child.wait_with_output().map_err(|error| self.not_run(&error))
    }

    fn not_run(&self, error: &std::io::Error) -> Error {
        match error.kind() {
            ErrorKind::ExecutableFileBusy => {
                let details = format!("{} is being written", self.path.display());
                Error::new(Code::TryAgainLater, format!("the plugin {:?} cannot run yet", self.name), details)
            }
            _ => Error::io(&format!("running the plugin {:?}", self.name), Path::new(&self.path), error),
        }
    }
}
