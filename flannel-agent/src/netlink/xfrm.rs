//! The kernel's IPsec policies (include/uapi/linux/xfrm.h).

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket};

use super::is_loaded;
use super::raw::{attribute, next_message, put_message, u16_at, u32_at};

const NETLINK_XFRM: isize = 6;
const XFRMNLGRP_POLICY: u32 = 4;
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRMA_TMPL: u16 = 5;
const XFRM_POLICY_BLOCK: u8 = 1;

/// Length of `struct xfrm_userpolicy_info`, and places of its fields.
const INFO: usize = 168;
const DIRECTION: usize = 160;
const ACTION: usize = 161;

/// What a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received packets.
    In,
    /// Sent packets.
    Out,
}

/// A policy that encrypts, demands encryption or blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What it is for.
    pub direction: Direction,
    /// Sources of its packets.
    pub source: IpNet,
    /// Their destinations.
    pub destination: IpNet,
    /// Their protocol; 0 for any.
    pub protocol: u8,
    /// Their destination port, and the bits of it that count.
    pub port: (u16, u16),
    /// The interface's index; 0 for any.
    pub interface: u32,
}

/// Returns the policies of this network namespace. Those that forward, or let packets pass as they are, are left out.
///
/// # Errors
/// The kernel does not answer.
pub fn policies() -> Result<Vec<Policy>> {
    if !is_loaded(NETLINK_XFRM).context("reading /proc/self/net/netlink")? {
        return Ok(Vec::new());
    }
    let mut socket = Socket::new(NETLINK_XFRM).context("opening a netlink socket for IPsec policies")?;
    socket.bind_auto().context("binding the netlink socket for IPsec policies")?;
    socket.send_to(&request(), &SocketAddr::new(0, 0), 0).context("asking for IPsec policies")?;
    let mut policies = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full().context("reading IPsec policies")?;
        if read(&bytes, &mut policies)? {
            return Ok(policies);
        }
    }
}

/// Reports that policies have come or gone.
#[derive(Default)]
pub struct PolicyWatch(Option<TokioSocket>);

impl PolicyWatch {
    /// Subscribes, once the kernel's part is loaded. To be called again now and then.
    ///
    /// # Errors
    /// The socket cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn subscribe(&mut self) -> Result<()> {
        if self.0.is_none() && is_loaded(NETLINK_XFRM).context("reading /proc/self/net/netlink")? {
            let mut socket =
                TokioSocket::new(NETLINK_XFRM).context("opening a netlink socket for IPsec policies")?;
            socket.socket_mut().bind_auto().context("binding the netlink socket for IPsec policies")?;
            let joined = socket.socket_mut().add_membership(XFRMNLGRP_POLICY);
            joined.context("subscribing to IPsec policies")?;
            self.0 = Some(socket);
        }
        Ok(())
    }

    /// Waits for a change. May be dropped and called again.
    pub async fn changed(&self) {
        match &self.0 {
            // A failure says that some were lost.
            Some(socket) => _ = socket.recv_from_full().await,
            None => pending().await,
        }
    }
}

fn request() -> Vec<u8> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or_default();
    let mut request = Vec::new();
    put_message(&mut request, (XFRM_MSG_GETPOLICY, flags, 0), |_| {});
    request
}

/// Reads the messages of a datagram. Returns whether they are the last.
fn read(mut bytes: &[u8], policies: &mut Vec<Policy>) -> Result<bool> {
    while let Some((kind, _, message, rest)) = next_message(bytes) {
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => bail!("the kernel does not tell IPsec policies"),
            _ if kind == XFRM_MSG_NEWPOLICY => policies.extend(policy(message)),
            _ => {}
        }
        bytes = rest;
    }
    Ok(false)
}

fn policy(message: &[u8]) -> Option<Policy> {
    let direction = match message.get(DIRECTION)? {
        0 => Direction::In,
        1 => Direction::Out,
        _ => return None,
    };
    let has_template = attribute(message.get(INFO..)?, XFRMA_TMPL).is_some();
    if !has_template && *message.get(ACTION)? != XFRM_POLICY_BLOCK {
        return None;
    }
    // `struct xfrm_selector`: addresses and ports in network byte order.
    let port = |at| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let net = |address, length: usize| {
        let bytes: [u8; 16] = message.get(address..address + 16)?.try_into().ok()?;
        let ip = match i32::from(u16_at(message, 40)?) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[..4]).ok()?)),
            libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(bytes)),
            _ => return None,
        };
        IpNet::new(ip, *message.get(length)?).ok()
    };
    Some(Policy {
        direction,
        destination: net(0, 42)?,
        source: net(16, 43)?,
        protocol: *message.get(44)?,
        port: (port(32)?, port(34)?),
        interface: u32_at(message, 48)?,
    })
}
