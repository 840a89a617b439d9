//! Choices that the configuration and the command line share. The variants' names are the allowed values.

use clap::ValueEnum;

/// What carries packets between nodes: `--dataplane` and `Backend.Dataplane`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DataplaneMode {
    /// BPF if it loads, else the kernel's vxlan device, with a warning that says what is missing.
    #[default]
    Auto,
    /// BPF; fails if it does not load.
    Bpf,
    /// The kernel's vxlan device alone.
    Netlink,
}

/// Whether XDP strips the outer headers of received packets: `--xdp` and `Backend.XDP`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// XDP in the drivers of real network cards that have it, else TC.
    #[default]
    Auto,
    /// XDP in the driver.
    Native,
    /// XDP behind the driver and before TC: slow, for drivers without XDP and for trials.
    Generic,
    /// TC.
    Off,
}

/// Which VXLAN packets are dropped because of their sender: `Backend.SourceCheck`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SourceCheck {
    /// Those of strangers, and those from a pod or a node that is not the sender's. A node may send from addresses outside
    /// the pods' network.
    #[default]
    Pods,
    /// All but those from the sender's own pods and its public address.
    Strict,
    /// None, as with flannel.
    Off,
}
