//! `flannel-agent prepare-node`: does on the node what takes more privileges than the daemon has in its pod.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};
use nix::unistd::User;

use crate::dataplane::bpf::pins;
use crate::dataplane::kernel::conntrack;

/// Prepares this node for an agent without privileges, as an init container does: mounts the BPF filesystem if it is
/// missing, and loads and sets the connection tracker for the flow cache.
///
/// What cannot be done is printed and is no failure: the agent works without it, and says what it misses.
#[derive(Clone, Debug, clap::Args)]
pub struct PrepareNode {
    /// BPF filesystem for programs and maps.
    #[arg(long, env = "FLANNELD_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// User, by name or number, who runs the agent if that is not root: gets the folder of the pins in the BPF filesystem, and
    /// the filesystem as a whole if it is mounted now.
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
}

/// Prepares the node and prints what could not be done.
pub fn run(options: &PrepareNode) {
    let steps = [prepare_bpffs(options), prepare_conntrack()];
    for error in steps.into_iter().filter_map(Result::err) {
        eprintln!("warning: {error:#}");
    }
}

fn prepare_bpffs(options: &PrepareNode) -> Result<()> {
    match &options.owner {
        Some(name) => pins::prepare_for(&options.bpffs, user(name)?),
        None => pins::mount_bpffs(&options.bpffs),
    }
}

/// Returns the number of a user.
fn user(name: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let user = User::from_name(name).with_context(|| format!("looking for the user {name}"))?;
    Ok(user.with_context(|| format!("there is no user {name}; see --owner"))?.uid.as_raw())
}

/// Sets the connection tracker, which is loaded before: its settings are there only then, and kube-proxy or the agent
/// may load it when the agent has begun to run.
fn prepare_conntrack() -> Result<()> {
    load_conntrack().context("loading the connection tracker")?;
    conntrack::prepare()
}

/// Makes the kernel load the connection tracker, by a question for its statistics: a message to a subsystem of nfnetlink
/// that is not there loads its module (`nfnetlink_rcv_msg`, Linux 2.6.14). It is loaded when the message has been sent.
fn load_conntrack() -> Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)
        .context("opening a netlink socket")?;
    send(socket.as_raw_fd(), &question(), MsgFlags::empty()).context("asking for the connection tracker")?;
    Ok(())
}

/// Returns the request IPCTNL_MSG_CT_GET_STATS: a `nlmsghdr` and a `nfgenmsg` in host byte order.
fn question() -> [u8; 20] {
    const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_CTNETLINK as u16;
    const GET_STATS: u16 = 5;
    let mut message = [0; 20];
    message[0..4].copy_from_slice(&20u32.to_ne_bytes());
    message[4..6].copy_from_slice(&(SUBSYSTEM << 8 | GET_STATS).to_ne_bytes());
    message[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message
}
