//! `flannel-agent install-cni`: puts the CNI plugin and its conflist where the node's runtime looks for them.

pub(crate) mod conflist;
mod plugin;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use self::plugin::Owner;

/// Name of the conflist. Runtimes take the first of the folder's configurations by name.
pub(crate) const CONFLIST: &str = "10-flannel.conflist";
/// Name of the plugin, and the type by which conflists ask for it.
pub(crate) const PLUGIN: &str = "flannel";

/// Installs the CNI plugin and its conflist on the node, in place of an older flannel's too. Files that are right
/// already stay untouched.
#[derive(Clone, Debug, clap::Args)]
pub struct InstallCni {
    /// Folder of the node's CNI plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Folder of the node's CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Conflist to install as 10-flannel.conflist. Default: /etc/kube-flannel/cni-conf.json, or flannel's usual
    /// conflist if that file does not exist.
    #[arg(long, value_name = "FILE")]
    pub cni_conf: Option<PathBuf>,
    /// Remove conflist and plugin again. A plugin that is not flannel-agent's stays, and so does the conflist for it.
    /// Drain the node first: pods cannot be deleted without the plugin.
    #[arg(long)]
    pub remove: bool,
}

/// Installs or removes, and prints what was done.
///
/// # Errors
/// The conflist is not valid, or a file cannot be read, written or removed.
pub fn run(options: &InstallCni) -> Result<()> {
    let plugin = options.cni_bin_dir.join(PLUGIN);
    let conflist = options.cni_conf_dir.join(CONFLIST);
    if options.remove { remove(&plugin, &conflist) } else { install(options, &plugin, &conflist) }
}

/// Installs the plugin first: the runtime makes pods as soon as it sees the conflist.
fn install(options: &InstallCni, plugin: &Path, conflist: &Path) -> Result<()> {
    let text = conflist::text(options.cni_conf.as_deref())?;
    report(plugin, plugin::install(plugin)?);
    report(conflist, conflist::install(conflist, &text)?);
    for warning in conflist::rivals(&options.cni_conf_dir)? {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

fn report(path: &Path, written: bool) {
    println!("{} {}", if written { "installed" } else { "already there:" }, path.display());
}

/// Removes the conflist first, so that the runtime makes no pods that need the plugin.
fn remove(plugin: &Path, conflist: &Path) -> Result<()> {
    let owner = plugin::owner(plugin);
    if owner == Owner::Other {
        println!("left {}, which is not flannel-agent's, and {}", plugin.display(), conflist.display());
        return Ok(());
    }
    let mut removed = Vec::new();
    if conflist::asks_for_plugin(conflist) {
        removed.push(conflist);
    }
    if owner == Owner::Agent {
        removed.push(plugin);
    }
    for path in &removed {
        std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
        println!("removed {}", path.display());
    }
    if removed.is_empty() {
        println!("nothing to remove");
    }
    Ok(())
}
