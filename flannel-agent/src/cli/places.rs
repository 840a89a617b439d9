//! Where an agent's things are on its node: the same flags for the daemon and for whoever looks after it.

use std::path::PathBuf;

/// Where they are.
#[derive(Clone, Debug, clap::Args)]
pub struct Places {
    /// File that tells others our subnet.
    #[arg(
        long,
        env = "FLANNELD_SUBNET_FILE",
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env"
    )]
    pub subnet_file: PathBuf,
    /// BPF filesystem for programs and maps; the daemon mounts it if it is not.
    #[arg(long, env = "FLANNELD_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}
