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
    #[error(
        "`{0}` is not installed and no firewall rule can be written without it: install it, or choose between iptables \
         and nftables by EnableNFTables in the network's configuration"
    )]
    Missing(String),
    /// It cannot be run.
    #[error("running `{line}`")]
    Run { line: String, source: io::Error },
    /// It failed, and this is what it said.
    #[error("`{line}`: {said}")]
    Failed { line: String, code: Option<i32>, said: String },
    /// What it printed makes no sense.
    #[error("reading what nft printed, which should be JSON")]
    Output(#[source] serde_json::Error),
    /// It did not end.
    #[error("`{0}` did not end within {PATIENCE:?} and was killed")]
    Late(String),
}

impl ToolError {
    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }

    /// Whether the kernel has no such table, as legacy iptables says it (with the same status as for no permission):
    /// ip6tables without IPv6.
    pub(super) fn is_no_table(&self) -> bool {
        matches!(self, Self::Failed { code: Some(3), said, .. } if said.contains("Table does not exist"))
    }
}

/// Runs a command line, split at blanks, and returns what it writes.
pub(super) async fn run(line: &str, input: &str) -> Result<String, ToolError> {
    let output = timeout(PATIENCE, output(line, input)).await;
    // A whole script may follow.
    let line = line.lines().next().unwrap_or(line).to_owned();
    let output = match output {
        Err(_) => return Err(ToolError::Late(line)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ToolError::Missing(line.split(' ').next().unwrap_or(&line).to_owned()));
        }
        Ok(Err(source)) => return Err(ToolError::Run { line, source }),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(ToolError::Failed { line, code: output.status.code(), said })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_says_what_it_has_to_say() {
        assert_eq!(run("cat", "a\nb\n").await.unwrap(), "a\nb\n");
        assert!(run("no-such-program --version", "").await.unwrap_err().is_missing());
        let failed = run("ls /no/such/file", "").await.unwrap_err();
        assert!(failed.to_string().starts_with("`ls /no/such/file`: ") && !failed.is_missing(), "{failed}");
    }

    #[test]
    fn a_table_that_the_kernel_does_not_have_is_not_a_lack_of_permission() {
        for (said, expected) in [
            (
                "ip6tables v1.8.9 (legacy): can't initialize ip6tables table `nat': Table does not exist (do you need to insmod?)",
                true,
            ),
            (
                "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Permission denied (you must be root)",
                false,
            ),
        ] {
            let error = ToolError::Failed { line: String::new(), code: Some(3), said: said.to_owned() };
            assert_eq!(error.is_no_table(), expected, "{said}");
        }
    }
}
