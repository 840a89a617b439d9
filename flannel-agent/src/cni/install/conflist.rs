//! The conflist's file, and the other configurations beside it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{CONFLIST, PLUGIN};
use crate::atomic_file;

/// The conflist of flannel's manifest.
const STOCK: &str = include_str!("10-flannel.conflist");
/// Where flannel's manifest mounts the key `cni-conf.json` of its ConfigMap.
const MOUNTED: &str = "/etc/kube-flannel/cni-conf.json";
const MODE: u32 = 0o644;
/// The configuration of flannel before conflists.
const OLD_CONF: &str = "10-flannel.conf";
/// Endings of the files that runtimes read (`ConfFiles` in libcni).
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// Returns the conflist to install: of this file, else of the mounted ConfigMap, else flannel's usual one.
pub(super) fn text(chosen: Option<&Path>) -> Result<String> {
    let path = chosen.unwrap_or(Path::new(MOUNTED));
    let text = match fs::read_to_string(path) {
        Err(error) if chosen.is_none() && error.kind() == ErrorKind::NotFound => STOCK.to_owned(),
        read => read.with_context(|| format!("reading the conflist {}", path.display()))?,
    };
    ensure!(
        has_plugin(&text),
        "{} is not installed: it is no conflist with the plugin {PLUGIN:?}, and the node would get no pods with it",
        path.display()
    );
    Ok(text)
}

/// Writes the conflist unless it is there already. Returns whether it was written.
pub(super) fn install(path: &Path, text: &str) -> Result<bool> {
    if fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(false);
    }
    let written = fs::create_dir_all(atomic_file::folder(path))
        .and_then(|()| atomic_file::replace(path, text.as_bytes(), MODE));
    written.with_context(|| format!("installing the conflist as {}", path.display()))?;
    Ok(true)
}

/// Whether the file exists and its first plugin is flannel's.
pub(super) fn asks_for_plugin(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| has_plugin(&text))
}

fn has_plugin(text: &str) -> bool {
    let conflist: Value = serde_json::from_str(text).unwrap_or_default();
    let plugins = conflist["plugins"].as_array();
    conflist["name"].is_string()
        && plugins.is_some_and(|plugins| plugins.iter().any(|plugin| plugin["type"] == PLUGIN))
}

/// Returns a warning for each configuration that the runtime takes instead of flannel's, because its name is before.
pub(super) fn rivals(folder: &Path) -> Result<Vec<String>> {
    let names = configurations(folder)?;
    let before = names.iter().take_while(|name| name.as_path() < Path::new(CONFLIST));
    Ok(before.map(|name| warning(&folder.join(name))).collect())
}

/// Returns the names of a folder's configurations, in the order in which runtimes look at them.
///
/// # Errors
/// The folder cannot be listed.
pub(crate) fn configurations(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = folder.read_dir().with_context(|| format!("listing {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.with_context(|| format!("listing {}", folder.display()))?.file_name());
    }
    names.sort();
    let read = names.into_iter().map(PathBuf::from).filter(|name| {
        name.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending))
    });
    Ok(read.collect())
}

fn warning(path: &Path) -> String {
    let whose = if path.ends_with(OLD_CONF) { ", which an older flannel left," } else { "" };
    format!(
        "the container runtime uses {}{whose} instead of {CONFLIST}, because its name sorts first: remove it",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_conflist_is_written_once_and_again_when_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net.d").join(CONFLIST);
        let inode = || fs::metadata(&path).unwrap().ino();
        assert!(install(&path, STOCK).unwrap());
        let first = inode();
        assert!(!install(&path, STOCK).unwrap(), "written again without need");
        assert_eq!(inode(), first, "replaced without need");
        fs::write(&path, "{}").unwrap();
        assert!(install(&path, STOCK).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), STOCK);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, MODE);
    }

    #[test]
    fn only_a_conflist_that_asks_for_the_plugin_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cni-conf.json");
        let chosen = |content: &str| {
            fs::write(&path, content).unwrap();
            text(Some(&path))
        };
        let own = r#"{"name": "pods", "plugins": [{"type": "flannel"}]}"#;
        assert_eq!(chosen(own).unwrap(), own);
        for content in
            ["", "{", r#"{"name":"cbr0","type":"flannel"}"#, r#"{"name":"a","plugins":[{"type":"b"}]}"#]
        {
            let error = chosen(content).unwrap_err().to_string();
            assert!(error.contains("it is no conflist with the plugin \"flannel\""), "{content}: {error}");
        }
        assert!(text(Some(&dir.path().join("missing"))).is_err(), "a chosen file that is missing");
        assert!(has_plugin(STOCK));
    }

    #[test]
    fn configurations_that_sort_first_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["05-calico.conflist", "10-flannel.conf", "10-a.txt", "10-flannel.conflist", "99-bridge.conf"]
        {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        let warnings = rivals(dir.path()).unwrap();
        let [calico, old] = &warnings[..] else { panic!("not two warnings: {warnings:#?}") };
        assert!(calico.contains("05-calico.conflist instead of 10-flannel.conflist"), "{calico}");
        assert!(old.contains("10-flannel.conf, which an older flannel left, instead of"), "{old}");
    }
}
