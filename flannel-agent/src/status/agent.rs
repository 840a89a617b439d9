//! Asks the running agent, and does not wait for one that hangs.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::report::AgentReport;
use crate::sole::holder;

/// Time limit for the answer. A busy agent takes some milliseconds.
const DEADLINE: Duration = Duration::from_millis(200);
/// The longest answer in bytes.
const LONGEST: u64 = 4 << 20;

/// The agent of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Agent {
    /// It runs.
    Answers {
        /// What it says.
        report: Box<AgentReport>,
    },
    /// It runs, and does not say anything.
    Silent {
        /// Its process ID, if this PID namespace contains it.
        pid: Option<i32>,
        /// What is known of it.
        why: String,
    },
    /// It does not run.
    #[default]
    Absent,
    /// It may not be asked.
    Closed {
        /// Why.
        why: String,
    },
}

/// Asks the agent that listens at this path.
pub(super) async fn ask(path: &Path) -> Agent {
    match timeout(DEADLINE, UnixStream::connect(path)).await {
        Ok(Ok(mut stream)) => {
            let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid != 0);
            match timeout(DEADLINE, read(&mut stream)).await {
                Ok(Ok(report)) => Agent::Answers { report: Box::new(report) },
                Ok(Err(error)) => {
                    Agent::Silent { pid, why: format!("gives an answer that cannot be read: {error}") }
                }
                Err(_) => silent(pid),
            }
        }
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                Agent::Absent
            }
            // So many others wait for it already.
            io::ErrorKind::WouldBlock => silent(None),
            io::ErrorKind::PermissionDenied => {
                Agent::Closed { why: format!("{}: {error}; this needs root", path.display()) }
            }
            _ => Agent::Closed { why: format!("{}: {error}", path.display()) },
        },
        Err(_) => silent(None),
    }
}

impl Agent {
    /// Returns what is known of the agent of a network if nobody listens where it should.
    pub(super) fn without_socket(network: Option<String>) -> Self {
        match network.and_then(|network| holder(&network)) {
            Some(pid) => Self::Silent {
                pid: Some(pid).filter(|pid| *pid != 0),
                why: "runs, but not on its socket beside the subnet file: it is of an earlier version, or the socket was removed"
                    .to_owned(),
            },
            None => Self::Absent,
        }
    }
}

async fn read(stream: &mut UnixStream) -> io::Result<AgentReport> {
    let mut text = Vec::new();
    stream.take(LONGEST).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

fn silent(pid: Option<i32>) -> Agent {
    let state = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let state = state.as_deref().and_then(state_of).map_or_else(String::new, |state| format!("; {state}"));
    Agent::Silent { pid, why: format!("does not answer within {} ms{state}", DEADLINE.as_millis()) }
}

/// Explains the state of a process in the text of its file `stat` (proc_pid_stat(5)). The name before it may have any character.
fn state_of(stat: &str) -> Option<&'static str> {
    match stat.rsplit_once(')')?.1.trim_start().chars().next()? {
        'T' | 't' => Some("the process is stopped (SIGCONT continues it)"),
        'D' => Some("the process waits for a disk, or in the kernel"),
        'Z' | 'X' => Some("the process has ended"),
        'R' => Some("the process is busy"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn an_agent_that_hangs_is_told_from_one_that_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.sock");
        assert_eq!(ask(&path).await, Agent::Absent);
        let listener = UnixListener::bind(&path).unwrap();
        let Agent::Silent { pid, why } = ask(&path).await else { panic!("it answers") };
        assert_eq!(pid, Some(std::process::id().cast_signed()));
        assert!(why.starts_with("does not answer within 200 ms"), "{why}");
        drop(listener);
        assert_eq!(ask(&path).await, Agent::Absent);
    }

    #[test]
    fn the_state_of_a_process_is_read_behind_its_name() {
        assert_eq!(state_of("7 (a) R) T 1 7 7"), state_of("7 (x) T 1"));
        assert!(state_of("7 (x) T 1").unwrap().contains("stopped"));
        assert_eq!(state_of("7 (x) S 1"), None);
        assert_eq!(state_of(""), None);
    }
}
