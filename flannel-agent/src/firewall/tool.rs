//! The programs that firewalls are written with.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// iptables waits up to 5 s for others to release its lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a program did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    /// It is not there.
    #[error("`{0}` is not installed; it is what the firewall's rules are written with")]
    Missing(String),
    /// It cannot be run.
    #[error("running `{line}`")]
    Run { line: String, source: io::Error },
    /// It failed, and this is what it said.
    #[error("`{line}`: {said}")]
    Failed { line: String, code: Option<i32>, said: String },
    /// It did not end.
    #[error("`{0}` did not end within {PATIENCE:?} and was killed")]
    Late(String),
}

impl ToolError {
    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

/// Runs a command line, split at blanks, and returns what it writes.
pub(super) async fn run(line: &str, input: &str) -> Result<String, ToolError> {
    let output = match timeout(PATIENCE, output(line, input)).await {
        Err(_) => return Err(ToolError::Late(line.to_owned())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ToolError::Missing(line.split(' ').next().unwrap_or(line).to_owned()));
        }
        Ok(output) => output.map_err(|source| ToolError::Run { line: line.to_owned(), source })?,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(ToolError::Failed { line: line.to_owned(), code: output.status.code(), said })
}

async fn output(line: &str, input: &str) -> io::Result<std::process::Output> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read all says why by its status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    child.wait_with_output().await
}
