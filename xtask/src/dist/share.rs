//! What the package and the image have below `/usr/share` besides documents: manual pages and completions for shells, made from the
//! definition of the command line by examples of the agent's crate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::phase;
use crate::workspace::cargo;

/// Writes them to `share/` beside the binary, each at its place below `/usr/share`, and returns that folder. The package and the image
/// take all of it.
pub(crate) fn write(binary: &Path) -> Result<PathBuf> {
    let share = binary.with_file_name("share");
    if share.exists() {
        fs::remove_dir_all(&share).with_context(|| format!("cannot remove {}", share.display()))?;
    }
    phase::measured("manual pages, and completions for shells", || {
        let pages = share.join("man/man8");
        run_example("man", &pages)?;
        compress(&pages)?;
        run_example("completions", &share)
    })?;
    Ok(share)
}

/// Has an example write its files to a folder.
fn run_example(example: &str, folder: &Path) -> Result<()> {
    let mut command = cargo(["run", "--quiet", "--package", "flannel-agent", "--example", example, "--"]);
    phase::execute(command.arg(folder))
}

/// Compresses all files of a folder as Debian has manual pages.
fn compress(folder: &Path) -> Result<()> {
    let files = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let files = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    phase::execute(Command::new("gzip").args(["--best", "--no-name"]).args(files))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use flannel_tests::process::{LIMIT, finish};
    use flannel_tests::shell::Shell;

    use super::*;

    #[test]
    fn each_shell_completes_subcommands_flags_and_values() {
        let folder = tempfile::tempdir().unwrap();
        let share = write(&folder.path().join("flannel-agent")).unwrap();
        for shell in &Shell::ALL {
            let script = folder.path().join(shell.name);
            fs::write(&script, shell.script).unwrap();
            for (line, expected) in [
                ("leas", "leases"),
                ("leases --w", "--watch"),
                ("peers --j", "--json"),
                ("trace --proto i", "icmp"),
                ("--etcd-pre", "--etcd-prefix"),
                ("--xdp nat", "native"),
                ("--kube-subnet-mgr --xdp nat", "native"),
                ("leases --xd", ""),
            ] {
                let mut env = Command::new("env");
                env.args(shell.arguments(&script, &share)).arg("flannel-agent").args(line.split(' '));
                let completed = finish(&mut env, "", LIMIT).unwrap();
                assert_eq!(completed.trim(), expected, "{}: {line}", shell.name);
            }
        }
    }
}
