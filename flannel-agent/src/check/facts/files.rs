//! Facts in files and system calls. These calls block.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::check::judge::cni::Configuration;
use crate::check::judge::host::Settings;
use crate::check::judge::managers::{File, Manager};
use crate::cni::install::conflist::configurations;
use crate::firewall::obstacles::missing_setting;
use crate::processes;

/// The names of processes, which the kernel cuts off after 15 bytes.
const NETWORK_MANAGER: &str = "NetworkManager";
const NETWORKD: &str = "systemd-network";

/// What files say.
#[derive(Clone, Debug)]
pub(in crate::check) struct FileFacts {
    pub(in crate::check) settings: Settings,
    /// What is wrong with br_netfilter, and the remedy, for each address family.
    pub(in crate::check) bridged: Vec<(String, String)>,
    pub(in crate::check) machine_id: Option<String>,
    /// The CNI configurations, or why they are not known.
    pub(in crate::check) cni: Result<Vec<Configuration>, String>,
    pub(in crate::check) network_manager: Manager,
    pub(in crate::check) networkd: Manager,
    /// networkd's own settings.
    pub(in crate::check) networkd_settings: Vec<File>,
    /// Whether the kernel says that its clock is synchronised.
    pub(in crate::check) clock: Result<bool, String>,
}

/// Reads them. `settings`: paths below /proc/sys. `families`: whether each address family is IPv6.
pub(in crate::check) fn read(settings: &[String], families: &[bool], cni_folder: &Path) -> FileFacts {
    let setting = |path: &String| Some((path.clone(), sysctl(path).ok()?.trim().to_owned()));
    let key = |v6: &bool| if *v6 { "bridge-nf-call-ip6tables" } else { "bridge-nf-call-iptables" };
    let bridged =
        families.iter().filter_map(|v6| missing_setting(key(v6), sysctl(&format!("net/bridge/{}", key(v6)))));
    let running = processes::named(&[NETWORK_MANAGER, NETWORKD]).unwrap_or_default();
    let runs = |name| running.iter().any(|process| process.name == name);
    FileFacts {
        settings: settings.iter().filter_map(setting).collect(),
        bridged: bridged.collect(),
        machine_id: fs::read_to_string("/etc/machine-id").ok(),
        cni: cni(cni_folder),
        network_manager: Manager {
            runs: runs(NETWORK_MANAGER),
            files: network_manager_files(Path::new("/")),
        },
        networkd: Manager { runs: runs(NETWORKD), files: networkd_files(Path::new("/")) },
        networkd_settings: networkd_settings(Path::new("/")),
        clock: is_synchronised(),
    }
}

fn sysctl(path: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/sys/{path}"))
}

fn cni(folder: &Path) -> Result<Vec<Configuration>, String> {
    if !folder.is_dir() {
        return Err("there is no such folder".to_owned());
    }
    let names = configurations(folder).map_err(|error| format!("{error:#}"))?;
    let read = |name: PathBuf| {
        (name.display().to_string(), fs::read_to_string(folder.join(&name)).unwrap_or_default())
    };
    Ok(names.into_iter().map(read).collect())
}

/// Returns the files with this ending in the folders, by name. A file hides those of its name in earlier folders.
fn layered(root: &Path, folders: &[&str], ending: &str) -> Vec<File> {
    let mut by_name = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|found| found == ending) {
                by_name.insert(entry.file_name(), entry.path());
            }
        }
    }
    by_name.into_values().filter_map(|path| file(&path)).collect()
}

fn file(path: &Path) -> Option<File> {
    Some((path.display().to_string(), fs::read_to_string(path).ok()?))
}

/// Returns the files of NetworkManager(8), those that count most last.
fn network_manager_files(root: &Path) -> Vec<File> {
    let mut files = layered(root, &["usr/lib/NetworkManager/conf.d", "run/NetworkManager/conf.d"], "conf");
    files.extend(file(&root.join("etc/NetworkManager/NetworkManager.conf")));
    files.extend(layered(root, &["etc/NetworkManager/conf.d"], "conf"));
    files
}

/// Returns the files of systemd.network(5), in the order in which they are tried.
fn networkd_files(root: &Path) -> Vec<File> {
    const FOLDERS: [&str; 4] = [
        "usr/lib/systemd/network",
        "usr/local/lib/systemd/network",
        "run/systemd/network",
        "etc/systemd/network",
    ];
    layered(root, &FOLDERS, "network")
}

/// Returns the files of networkd.conf(5), those that count most last.
fn networkd_settings(root: &Path) -> Vec<File> {
    const FOLDERS: [&str; 3] =
        ["usr/lib/systemd/networkd.conf.d", "run/systemd/networkd.conf.d", "etc/systemd/networkd.conf.d"];
    let main = ["usr/lib/systemd/networkd.conf", "etc/systemd/networkd.conf"];
    let mut files: Vec<_> = main.iter().filter_map(|path| file(&root.join(path))).collect();
    files.extend(layered(root, &FOLDERS, "conf"));
    files
}

/// Asks whether something synchronises the kernel's clock (adjtimex(2)). Changes nothing.
fn is_synchronised() -> Result<bool, String> {
    // SAFETY: all zero is a value of this structure of numbers, and `modes` 0 asks only.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` that lives through the call.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    Errno::result(answer).map_err(|error| error.to_string())?;
    Ok(state.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_hides_those_of_its_name_in_folders_before() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("usr/lib/systemd/network/10-a.network", "hidden");
        write("usr/lib/systemd/network/20-b.network", "b");
        write("usr/lib/systemd/network/20-b.link", "no");
        write("etc/systemd/network/10-a.network", "a");
        write("usr/lib/NetworkManager/conf.d/z.conf", "first");
        write("etc/NetworkManager/NetworkManager.conf", "second");
        write("etc/NetworkManager/conf.d/a.conf", "third");
        let texts = |files: Vec<File>| files.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(networkd_files(root.path())), ["a", "b"]);
        assert_eq!(texts(network_manager_files(root.path())), ["first", "second", "third"]);
        assert_eq!(texts(networkd_settings(root.path())), [""; 0]);
    }

    #[test]
    fn the_kernel_says_whether_its_clock_is_synchronised() {
        assert!(is_synchronised().is_ok());
    }
}
