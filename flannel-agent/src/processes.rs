//! Processes of this network namespace.

use std::{fs, io};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its process ID.
    pub(crate) pid: u32,
    /// Its name: the first 15 bytes of that of its program.
    pub(crate) name: String,
}

/// Lists the processes in this network namespace that have one of these names, except this process.
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn named(names: &[&str]) -> io::Result<Vec<Process>> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
    let own = namespace("self")?;
    let process = |pid: u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned();
        // It may have ended by now.
        let is_here = || namespace(&pid.to_string()).is_ok_and(|other| other == own);
        (names.contains(&name.as_str()) && is_here()).then_some(Process { pid, name })
    };
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| *pid != std::process::id()).filter_map(process).collect())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn processes_are_found_by_name() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It has its name a moment after it was started, and before it answers.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let found = named(&["cat", "a name that no process has"]);
        let expected = Process { pid: child.id(), name: "cat".to_owned() };
        drop(child.stdin.take());
        child.wait().unwrap();
        let found = found.unwrap();
        assert!(found.contains(&expected) && found.iter().all(|process| process.name == "cat"), "{found:?}");
        assert_eq!(named(&["a name that no process has"]).unwrap(), []);
    }
}
