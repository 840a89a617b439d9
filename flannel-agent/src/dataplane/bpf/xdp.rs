//! `underlay_xdp` on the uplink, before `underlay_ingress`.
//!
//! A packet whose outer headers it has stripped is only for `underlay_ingress`: the host would drop it, a frame for the
//! VTEP on the wrong interface. So it is attached last and detached first, and `underlay_ingress` stays until all such
//! packets have arrived.

use std::fmt;
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::Xdp;
use flannel_common::node::{NodeConfig, XDP_GENERIC, XDP_NATIVE, XDP_OFF};
use flannel_common::outcome::Hook;
use tracing::debug;

use super::Bpf;
use super::link::{self, Link};
use super::pins::{Pins, link_name};
use crate::random;

/// Much longer than a packet needs from the driver to TC, through GRO and the queue of another CPU.
const IN_FLIGHT: Duration = Duration::from_millis(50);

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the stack, after GRO and before TC (Linux 4.12).
    Generic,
}

impl AttachMode {
    /// Returns the number in [`NodeConfig::xdp`].
    const fn number(mode: Option<Self>) -> u32 {
        match mode {
            Some(Self::Native) => XDP_NATIVE,
            Some(Self::Generic) => XDP_GENERIC,
            None => XDP_OFF,
        }
    }

    /// Returns the flag of linux/if_link.h.
    const fn flag(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl Bpf {
    /// Detaches an earlier agent's program, unless it is attached as wanted. To be called before the programs of TC are
    /// replaced.
    ///
    /// # Errors
    /// The link cannot be detached.
    pub fn release_xdp(&mut self, wanted: Option<AttachMode>) -> Result<()> {
        let stays = wanted.is_some()
            && self.previous.is_some_and(|previous| {
                (ifindex(&previous), previous.xdp)
                    == (ifindex(self.config.node()), AttachMode::number(wanted))
            });
        if stays { Ok(()) } else { self.detach_xdp() }
    }

    /// Attaches the program to the uplink, in place of an earlier agent's without a gap. To be called after the programs of
    /// TC are attached.
    ///
    /// # Errors
    /// The verifier or the interface refuses. TC then strips the outer headers.
    pub fn attach_xdp(&mut self, mode: AttachMode, uplink: &str) -> Result<()> {
        let attached = self.try_attach_xdp(mode, uplink);
        if attached.is_err() {
            self.detach_xdp()?;
        }
        attached
    }

    fn try_attach_xdp(&mut self, mode: AttachMode, uplink: &str) -> Result<()> {
        let name = Hook::UnderlayXdp.program();
        program(&mut self.ebpf)?.load().with_context(|| format!("loading the BPF program {name}"))?;
        if !self.update_xdp()? {
            self.detach_xdp()?;
            // `underlay_ingress` needs to know before the first packet.
            self.record_xdp(Some(mode))?;
            let program = program(&mut self.ebpf)?;
            let link = Link::create(program.fd()?.as_fd(), ifindex(self.config.node()), mode.flag())
                .with_context(|| format!("attaching {name} to {uplink}"))?;
            self.pins.replace(&link_name(Hook::UnderlayXdp, ""), |path| Ok(link.pin(path)?))?;
        }
        let program = program(&mut self.ebpf)?;
        self.pins.replace(name, |path| Ok(program.pin(path)?))
    }

    /// Attaches the program by an earlier agent's link. Returns whether there is one.
    fn update_xdp(&mut self) -> Result<bool> {
        let Ok(link) = Link::pinned(&self.pins.path(&link_name(Hook::UnderlayXdp, ""))) else {
            return Ok(false);
        };
        match link.update(program(&mut self.ebpf)?.fd()?.as_fd()) {
            Ok(()) => Ok(true),
            // Its interface is gone, or it was detached (ENOLINK): a new link is needed.
            Err(error) => {
                debug!(%error, "pinned XDP link cannot be used again");
                Ok(false)
            }
        }
    }

    /// Returns whether the program is where [`Self::attach_xdp`] has attached it, as far as the kernel can be asked.
    pub(super) fn is_xdp_attached(&self) -> bool {
        if self.config.node().xdp == XDP_OFF {
            return true;
        }
        let pin = self.pins.path(&link_name(Hook::UnderlayXdp, ""));
        match Link::pinned(&pin).and_then(|link| link.attachment()) {
            Ok((interface, program)) => {
                interface == ifindex(self.config.node()) && self.xdp_program().is_none_or(|id| id == program)
            }
            Err(error) => !link::is_missing(&error),
        }
    }

    /// Returns the kernel's ID of the program.
    fn xdp_program(&self) -> Option<u32> {
        let program: &Xdp = self.ebpf.program(Hook::UnderlayXdp.program())?.try_into().ok()?;
        program.info().ok().map(|info| info.id())
    }

    fn detach_xdp(&mut self) -> Result<()> {
        detach(&self.pins)?;
        self.record_xdp(None)
    }

    fn record_xdp(&mut self, mode: Option<AttachMode>) -> Result<()> {
        self.config.set_xdp(AttachMode::number(mode))
    }
}

/// Returns the node with what outlives agents in `CONFIG`. The key is made together with the maps.
pub(super) fn inherit(node: &NodeConfig, previous: Option<&NodeConfig>) -> Result<NodeConfig> {
    let handover_key = match previous {
        Some(previous) => previous.handover_key,
        None => random::bytes().context("making a key for the handover from XDP to TC")?,
    };
    let (xdp, floor) = previous.map_or((XDP_OFF, 0), |previous| (previous.xdp, previous.floor));
    Ok(NodeConfig { handover_key, xdp, floor, ..*node })
}

/// Returns the index of the uplink, which both families share.
pub(super) const fn ifindex(node: &NodeConfig) -> u32 {
    if node.v4.is_configured() { node.v4.uplink_ifindex } else { node.v6.uplink_ifindex }
}

/// Detaches an earlier agent's program from the uplink, and waits until its packets have arrived at TC.
pub(super) fn detach(pins: &Pins) -> Result<()> {
    if !pins.exist() {
        return Ok(());
    }
    let name = link_name(Hook::UnderlayXdp, "");
    if let Ok(link) = Link::pinned(&pins.path(&name)) {
        // Removing its last pin would end the link some time later.
        link.detach().context("detaching the XDP program from the uplink")?;
        wait_for_its_packets();
    }
    pins.remove(&name)?;
    pins.remove(Hook::UnderlayXdp.program())
}

/// Waits until TC has the packets that a program has stripped which was just detached.
pub(super) fn wait_for_its_packets() {
    sleep(IN_FLIGHT);
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let name = Hook::UnderlayXdp.program();
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}
