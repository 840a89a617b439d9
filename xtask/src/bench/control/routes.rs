//! The kernel's notifications about IPv4 routes: what it says, not what the agent says.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};
use flannel_tests::Node;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// `RTMGRP_IPV4_ROUTE` of linux/rtnetlink.h.
const GROUP: u32 = 0x40;
/// `RTM_NEWROUTE`.
const NEW: u16 = 24;
/// `RTM_DELROUTE`.
const DELETED: u16 = 25;
/// Length of `nlmsghdr` and of `rtmsg`.
const HEADERS: usize = 16 + 12;
/// `RTA_DST`.
const DESTINATION: u16 = 1;

/// A socket that receives them.
pub(super) struct Routes(OwnedFd);

impl Routes {
    /// Opens it in a node's network namespace.
    pub(super) fn open(node: &Node) -> Result<Self> {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
            anyhow::Ok(Self(socket))
        };
        node.netns().run(open).context("listen for changes of routes")
    }

    /// Fails unless the kernel has said by now that a route to this subnet was added. Forgets what it said before.
    pub(super) fn ensure_added(&mut self, subnet: Ipv4Addr) -> Result<()> {
        ensure!(self.changes()?.contains(&(NEW, subnet)), "the kernel has no new route to {subnet}");
        Ok(())
    }

    /// [`Self::ensure_added`] of a route that was removed.
    pub(super) fn ensure_removed(&mut self, subnet: Ipv4Addr) -> Result<()> {
        ensure!(self.changes()?.contains(&(DELETED, subnet)), "the kernel still has a route to {subnet}");
        Ok(())
    }

    /// Returns all changes that wait: kind and destination.
    fn changes(&mut self) -> Result<Vec<(u16, Ipv4Addr)>> {
        let mut buffer = [0; 16 << 10];
        let mut changes = Vec::new();
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => changes.extend(messages(&buffer[..length]).filter_map(change)),
                Err(Errno::EAGAIN) => return Ok(changes),
                Err(error) => bail!("read changes of routes: {error}"),
            }
        }
    }
}

/// Splits what was received into messages: kind, and everything behind both headers.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let attributes = bytes.get(HEADERS..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, attributes))
    })
}

/// Returns kind and destination of a message.
fn change((kind, mut attributes): (u16, &[u8])) -> Option<(u16, Ipv4Addr)> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let name = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if name == DESTINATION {
            let address: [u8; 4] = attributes.get(4..length)?.try_into().ok()?;
            return Some((kind, address.into()));
        }
        // A length below that of its own header has no next attribute.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}
