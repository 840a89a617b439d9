//! Completions of the command line for shells, made from its definition.

use std::path::Path;

use anyhow::Result;

use super::generated;

/// Writes them to `completions/` beside the binary, where the package takes them from.
pub(super) fn write(binary: &Path) -> Result<()> {
    generated::write("completions for shells", "completions", &binary.with_file_name("completions")).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::workspace::root;

    /// Completes the last word of a command line as bash does after the Tab key, and prints what fits.
    const COMPLETE: &str = r#"
        source "$1" && shift
        [[ $(complete -p flannel-agent) =~ \ -F\ ([^ ]+) ]] && function=${BASH_REMATCH[1]}
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
        "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        echo "${COMPREPLY[@]}"
    "#;

    #[test]
    fn the_package_has_each_file_and_bash_completes_subcommands_and_flags() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("flannel-agent")).unwrap();
        let package = fs::read_to_string(root().join("flannel-agent/Cargo.toml")).unwrap();
        let files = folder.path().join("completions").read_dir().unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(files.len(), 3, "{files:?}");
        for file in files {
            let source = format!("[\"target/release/completions/{file}\", ");
            assert!(package.contains(&source), "{file} is not in the package");
        }
        for (line, expected) in [
            (&["leas"][..], "leases"),
            (&["leases", "--w"], "--watch"),
            (&["peers", "--j"], "--json"),
            (&["--etcd-pre"], "--etcd-prefix"),
            (&["--xdp", "nat"], "native"),
        ] {
            let mut bash = Command::new("bash");
            bash.args(["-c", COMPLETE, "bash"]).arg(folder.path().join("completions/flannel-agent"));
            let output = bash.arg("flannel-agent").args(line).output().unwrap();
            let completed = String::from_utf8_lossy(&output.stdout);
            assert_eq!(completed.trim(), expected, "{line:?}: {output:?}");
        }
    }
}
