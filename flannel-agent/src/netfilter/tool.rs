//! Runs iptables and nft, each command for a limited time.

mod programs;

use std::env;
use std::ffi::OsStr;
use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// Time limit of a command. Hosts with very many rules need seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How variables begin that may hold what is none of the tools' business: the password of etcd's user, keys and tokens of clouds.
const PRIVATE: [&str; 5] = ["ACCESS_KEY_", "ALIBABA_CLOUD_", "AWS_", "FLANNELD_", "SECURITY_TOKEN"];

/// Exit status of iptables when another program held the lock for too long (`RESOURCE_PROBLEM` in xtables.h).
const LOCKED: i32 = 4;

/// Why running a tool failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
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
    #[error("another program holds the lock of `{0}`, /run/xtables.lock")]
    Locked(String),
}

impl ToolError {
    pub(crate) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }

    /// Returns true if the same command may succeed later, as it is.
    pub(crate) const fn is_late(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Locked(_))
    }

    /// Returns true if the kernel has no such table, for instance ip6tables on a host without IPv6. Legacy iptables uses
    /// the same exit status for a missing permission, so the text decides.
    pub(crate) fn is_no_table(&self) -> bool {
        matches!(self, Self::Failed { code: Some(3), stderr, .. } if stderr.contains("Table does not exist"))
    }
}

/// Runs a command line, split at spaces, and returns its output.
pub(crate) async fn run(line: &str, input: &str) -> Result<String, ToolError> {
    let program = || line.split(' ').next().unwrap_or(line).to_owned();
    let output = match timeout(TIMEOUT, output(line, input)).await {
        Err(_) => return Err(ToolError::TimedOut(program())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ToolError::Missing(program()));
        }
        Ok(Err(source)) => return Err(ToolError::Run { line: first(line), source }),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    match output.status.code() {
        Some(LOCKED) if stderr.contains("xtables lock") => Err(ToolError::Locked(program())),
        code => Err(ToolError::Failed { line: first(line), code, stderr }),
    }
}

/// Returns the first line: nft's script is an argument of many.
fn first(line: &str) -> String {
    line.lines().next().unwrap_or(line).to_owned()
}

async fn output(line: &str, input: &str) -> io::Result<Output> {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut command = Command::new(programs::path(name)?);
    // A group of its own, so that a script ends together with what it runs.
    command.args(words).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in env::vars_os().filter(|(name, _)| is_private(name)) {
        command.env_remove(name);
    }
    let mut child = command.spawn().inspect_err(|_| programs::forget(name))?;
    let group = Group(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends before it has read everything reports the reason by its exit status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await;
    group.has_ended();
    output
}

/// The process group of a command. Dropping it kills the command and what it has started.
struct Group(Option<u32>);

impl Group {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // It may have ended at this moment.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// Returns whether a tool does not get the variable of this name.
fn is_private(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    PRIVATE.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn output_is_returned_and_failures_are_told_apart() {
        assert_eq!(run("cat", "a\nb\n").await.unwrap(), "a\nb\n");
        assert!(run("no-such-program --version", "").await.unwrap_err().is_missing());
        let failed = run("ls /no/such/file", "").await.unwrap_err();
        assert!(failed.to_string().starts_with("`ls /no/such/file`: ") && !failed.is_missing(), "{failed}");
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_ends_together_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let (script, pid) = (dir.path().join("slow"), dir.path().join("pid"));
        // The shell's child writes its own pid once it runs.
        fs::write(&script, format!("sh -c 'echo $$ > {}; exec sleep 1000'\nexit 1\n", pid.display()))
            .unwrap();
        let line = format!("sh {}", script.display());
        let written = async {
            loop {
                if let Ok(text) = fs::read_to_string(&pid)
                    && let Ok(id) = text.trim().parse::<u32>()
                {
                    return id;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let id = tokio::select! {
            id = written => id,
            output = run(&line, "") => panic!("it has ended: {output:?}"),
        };
        let status = || fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let is_gone = || status().is_empty() || status().contains(") Z ");
        timeout(Duration::from_secs(5), async {
            while !is_gone() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the child of the command lives on");
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
