//! Paths on the node that the daemon and its subcommands share.

use std::path::{Path, PathBuf};

/// Flags that say where the agent keeps its state.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Files")]
pub struct Paths {
    /// File that tells CNI and Docker the node's subnet.
    #[arg(
        long,
        env = "FLANNELD_SUBNET_FILE",
        value_name = "FILE",
        default_value = Self::SUBNET_FILE
    )]
    pub subnet_file: PathBuf,
    /// BPF filesystem for programs and maps. The daemon mounts it if it is not mounted.
    #[arg(long, env = "FLANNELD_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

impl Paths {
    /// flannel's subnet file.
    pub const SUBNET_FILE: &str = "/run/flannel/subnet.env";

    /// Returns the file in which the daemon keeps what it knows of the network, for its next start.
    #[must_use]
    pub fn last_known(&self) -> PathBuf {
        Self::last_known_beside(&self.subnet_file)
    }

    /// Returns that file of the daemon with this subnet file.
    #[must_use]
    pub fn last_known_beside(subnet_file: &Path) -> PathBuf {
        subnet_file.with_extension("last-known.json")
    }

    /// Returns the Unix socket on which the daemon says how it is.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.subnet_file.with_extension("sock")
    }

    /// Returns the Unix socket on which the daemon says what happens.
    #[must_use]
    pub fn feed(&self) -> PathBuf {
        self.subnet_file.with_extension("feed.sock")
    }
}
