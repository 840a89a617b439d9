//! Downloads source packages, for which most machines have no sources of apt. Uses those of binary packages, in settings
//! and lists of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt_get, ask};
use crate::phase;

const LIST: &str = "/etc/apt/sources.list";
const FOLDER: &str = "/etc/apt/sources.list.d";

/// Downloads the newest wanted version of a source package into the folder. apt checks its signature. Returns the path of
/// its description (`.dsc`).
pub(crate) fn download(package: &str, wanted: impl Fn(&str) -> bool, folder: &Path) -> Result<PathBuf> {
    let config = configure(&folder.join("apt"))?;
    let run = |command: &mut Command| phase::execute(command.env("APT_CONFIG", &config).current_dir(folder));
    if let Err(error) = run(apt_get().args(["--quiet=2", "update"])) {
        phase::note(&format!("{error:#}: going on with the sources that answered"));
    }
    let records = ask(Command::new("apt-cache").args(["showsrc", package]).env("APT_CONFIG", &config))?;
    let Some(version) = versions(&records).find(|version| wanted(version)) else {
        let others: Vec<_> = versions(&records).collect();
        match &others[..] {
            [] => bail!("apt's sources have no source package {package}"),
            _ => bail!("apt's sources have {package} {} only", others.join(", ")),
        }
    };
    run(apt_get().args(["--quiet=2", "source", "--download-only", &format!("{package}={version}")]))?;
    let files = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = files.filter_map(|file| Some(file.ok()?.path()));
    files.find(|file| file.extension().is_some_and(|name| name == "dsc")).context("apt downloaded no .dsc")
}

fn versions(records: &str) -> impl Iterator<Item = &str> {
    records.lines().filter_map(|line| line.strip_prefix("Version: "))
}

/// Writes the settings of an apt that knows the source packages of this machine's mirrors. Returns their file.
fn configure(folder: &Path) -> Result<PathBuf> {
    let write = || {
        for name in ["sources", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(name))?;
        }
        for (number, file) in files().iter().enumerate() {
            let extension = file.extension().unwrap_or_default().to_string_lossy();
            let name = folder.join(format!("sources/{number}.{extension}"));
            fs::write(name, for_sources(&extension, &fs::read_to_string(file)?))?;
        }
        let shown = folder.display();
        let config = folder.join("apt.conf");
        let text = format!(
            "Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{shown}/sources\";\n\
             Dir::State::lists \"{shown}/lists\";\nDir::Cache \"{shown}/cache\";\nAPT::Sandbox::User \"root\";\n"
        );
        fs::write(&config, text)?;
        Ok::<_, std::io::Error>(config)
    };
    write().with_context(|| format!("cannot write apt's settings to {}", folder.display()))
}

/// Returns the files with apt's sources.
fn files() -> Vec<PathBuf> {
    let entries = Path::new(FOLDER).read_dir().into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.push(LIST.into());
    files.retain(|file| {
        file.is_file() && file.extension().is_some_and(|name| name == "list" || name == "sources")
    });
    files.sort_unstable();
    files
}

/// Turns the sources in a file from those of binary packages into those of source packages.
fn for_sources(extension: &str, text: &str) -> String {
    let lines = text.lines().filter(|line| extension != "list" || line.starts_with("deb "));
    let line = |line: &str| match (extension, line.strip_prefix("deb ")) {
        ("list", Some(rest)) => format!("deb-src {rest}\n"),
        _ if line.starts_with("Types:") => "Types: deb-src\n".to_owned(),
        _ => format!("{line}\n"),
    };
    lines.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_both_formats_become_those_of_source_packages() {
        let list =
            "# a mirror\ndeb [arch=amd64] http://deb.debian.org/debian bookworm main\ndeb-src http://x y z\n";
        assert_eq!(
            for_sources("list", list),
            "deb-src [arch=amd64] http://deb.debian.org/debian bookworm main\n"
        );
        let stanza = "Types: deb deb-src\nURIs: http://deb.debian.org/debian\n";
        assert_eq!(for_sources("sources", stanza), "Types: deb-src\nURIs: http://deb.debian.org/debian\n");
    }

    #[test]
    fn versions_are_read_from_apts_records() {
        let records = "Package: kubernetes\nVersion: 1.20.5+really1.20.2-1.1\nStandards-Version: 4.5.1\n\nVersion: 1.20.2-1\n";
        assert_eq!(versions(records).collect::<Vec<_>>(), ["1.20.5+really1.20.2-1.1", "1.20.2-1"]);
    }
}
