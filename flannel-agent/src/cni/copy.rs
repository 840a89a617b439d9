//! Copies one file in one step: `cp -f SOURCE DESTINATION`, and flannel's `install-conf SOURCE DESTINATION`.
//!
//! The init containers of flannel's manifests install plugin and conflist by these two commands. The image has nothing
//! else by these names, so the agent's binary does it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::atomic_file;

/// Copies as the command line says, program name first. Follows links and keeps the permissions. Readers of the
/// destination see the old file or the new one, also while the old one is being executed.
///
/// # Errors
/// The command line is not of this form, or the file cannot be copied.
pub fn run(args: &[OsString]) -> Result<()> {
    let words: Vec<_> = args.iter().skip(1).filter(|word| *word != "-f").map(Path::new).collect();
    let [source, destination] = words[..] else {
        bail!("usage: cp -f SOURCE DESTINATION (this is flannel-agent, which copies one file)");
    };
    let destination = within(source, destination);
    copy(source, &destination)
        .with_context(|| format!("copying {} to {}", source.display(), destination.display()))
}

fn copy(source: &Path, destination: &Path) -> Result<()> {
    let mode = fs::metadata(source)?.permissions().mode() & 0o7777;
    Ok(atomic_file::copy(source, destination, mode)?)
}

/// Returns the file to write: the destination, or the source's name in it if it is a folder.
fn within(source: &Path, destination: &Path) -> PathBuf {
    match source.file_name() {
        Some(name) if destination.is_dir() => destination.join(name),
        _ => destination.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn cp(words: &[&Path]) -> Result<()> {
        let args = ["cp", "-f"].into_iter().map(OsString::from);
        run(&args.chain(words.iter().map(|word| word.as_os_str().to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn a_file_behind_a_link_is_copied_with_its_mode_over_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("data"), "new").unwrap();
        fs::set_permissions(path("data"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(path("data"), path("source")).unwrap();
        fs::write(path("destination"), "old").unwrap();
        let old = fs::File::open(path("destination")).unwrap();
        cp(&[&path("source"), &path("destination")]).unwrap();
        assert_eq!(fs::read_to_string(path("destination")).unwrap(), "new");
        assert_eq!(fs::symlink_metadata(path("destination")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(
            std::io::read_to_string(old).unwrap(),
            "old",
            "the old file is replaced, not written over"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "a temporary file is left");
    }

    #[test]
    fn a_folder_as_destination_gets_a_file_of_the_sources_name() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("flannel"), "plugin").unwrap();
        cp(&[&from.path().join("flannel"), to.path()]).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("flannel")).unwrap(), "plugin");
    }

    #[test]
    fn other_command_lines_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for words in [&[][..], &[file.as_path()], &[&file, &file, &file], &[Path::new("-r"), &file, &file]] {
            assert!(cp(words).unwrap_err().to_string().starts_with("usage: "), "{words:?}");
        }
        let missing = cp(&[&dir.path().join("missing"), &file]).unwrap_err();
        assert!(format!("{missing:#}").contains("No such file"), "{missing:#}");
    }
}
