//! Runs iptables and nft.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// Time limit of a command. iptables waits up to 5 s for its lock.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why running a tool failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    #[error(
        "`{0}` is not installed, so firewall rules cannot be written: install it, or choose between iptables and \
         nftables by EnableNFTables in the network's configuration"
    )]
    Missing(String),
    #[error("running `{line}`")]
    Run { line: String, source: io::Error },
    #[error("`{line}`: {stderr}")]
    Failed { line: String, code: Option<i32>, stderr: String },
    #[error("reading the output of nft, which should be JSON")]
    Output(#[source] serde_json::Error),
    #[error("`{0}` did not end within {TIMEOUT:?} and was killed")]
    TimedOut(String),
}

impl ToolError {
    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }

    /// Returns true if the kernel has no such table, for instance ip6tables on a host without IPv6. Legacy iptables uses
    /// the same exit status for a missing permission, so the text decides.
    pub(super) fn is_no_table(&self) -> bool {
        matches!(self, Self::Failed { code: Some(3), stderr, .. } if stderr.contains("Table does not exist"))
    }
}

/// Runs a command line, split at spaces, and returns its output.
pub(super) async fn run(line: &str, input: &str) -> Result<String, ToolError> {
    let output = timeout(TIMEOUT, output(line, input)).await;
    // nft's script is an argument of many lines: errors show the first.
    let line = line.lines().next().unwrap_or(line).to_owned();
    let output = match output {
        Err(_) => return Err(ToolError::TimedOut(line)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ToolError::Missing(line.split(' ').next().unwrap_or(&line).to_owned()));
        }
        Ok(Err(source)) => return Err(ToolError::Run { line, source }),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(ToolError::Failed { line, code: output.status.code(), stderr })
}

async fn output(line: &str, input: &str) -> io::Result<std::process::Output> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends before it has read everything reports the reason by its exit status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_returned_and_failures_are_told_apart() {
        assert_eq!(run("cat", "a\nb\n").await.unwrap(), "a\nb\n");
        assert!(run("no-such-program --version", "").await.unwrap_err().is_missing());
        let failed = run("ls /no/such/file", "").await.unwrap_err();
        assert!(failed.to_string().starts_with("`ls /no/such/file`: ") && !failed.is_missing(), "{failed}");
    }

    #[test]
    fn a_missing_table_is_told_from_a_missing_permission() {
        for (stderr, expected) in [
            (
                "ip6tables v1.8.9 (legacy): can't initialize ip6tables table `nat': Table does not exist (do you need to insmod?)",
                true,
            ),
            (
                "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Permission denied (you must be root)",
                false,
            ),
        ] {
            let error = ToolError::Failed { line: String::new(), code: Some(3), stderr: stderr.to_owned() };
            assert_eq!(error.is_no_table(), expected, "{stderr}");
        }
    }
}
