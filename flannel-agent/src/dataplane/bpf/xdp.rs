//! `underlay_xdp` on the uplink, in front of `underlay_ingress`.
//!
//! What it takes outer headers off of is nobody else's any more: a frame for the VTEP, on the wrong interface, which the
//! host drops. So it is attached last and goes first, and TC waits for what it has let through.

use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;
use std::{fmt, io};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::Xdp;
use flannel_common::node::{NodeConfig, XDP_GENERIC, XDP_NATIVE, XDP_OFF};
use flannel_common::outcome::Hook;
use tracing::debug;

use super::Bpf;
use super::attach::link_name;
use super::link::Link;
use super::pins::Pins;
use crate::random;

/// Much longer than a packet takes from the driver to TC, by way of GRO and the queue of another CPU.
const IN_FLIGHT: Duration = Duration::from_millis(50);

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack, behind GRO and in front of TC (Linux 4.12).
    Generic,
}

impl Mode {
    /// As [`NodeConfig::xdp`] has it.
    const fn number(mode: Option<Self>) -> u32 {
        match mode {
            Some(Self::Native) => XDP_NATIVE,
            Some(Self::Generic) => XDP_GENERIC,
            None => XDP_OFF,
        }
    }

    /// linux/if_link.h.
    const fn flag(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl Bpf {
    /// Takes an earlier agent's program off, unless it is where and how it is wanted. To be done before the programs of TC
    /// are touched.
    ///
    /// # Errors
    /// The link cannot be ended.
    pub fn release_xdp(&mut self, wanted: Option<Mode>) -> Result<()> {
        let stays = wanted.is_some()
            && self.previous.is_some_and(|previous| {
                (ifindex(&previous), previous.xdp) == (ifindex(&self.node), Mode::number(wanted))
            });
        if stays { Ok(()) } else { self.take_xdp_off() }
    }

    /// Puts the program on the uplink, in the place of an earlier agent's without a gap. To be done when the programs of
    /// TC are there.
    ///
    /// # Errors
    /// The verifier or the interface refuses; TC takes the outer headers off then.
    pub fn attach_xdp(&mut self, mode: Mode, uplink: &str) -> Result<()> {
        let attached = self.try_attach_xdp(mode, uplink);
        if attached.is_err() {
            self.take_xdp_off()?;
        }
        attached
    }

    fn try_attach_xdp(&mut self, mode: Mode, uplink: &str) -> Result<()> {
        let name = Hook::UnderlayXdp.program();
        program(&mut self.ebpf)?.load().with_context(|| format!("loading the BPF program {name}"))?;
        if !self.update_xdp()? {
            self.take_xdp_off()?;
            // Before its first packet.
            self.tell_xdp(Some(mode))?;
            let program = program(&mut self.ebpf)?;
            let link = Link::create(program.fd()?.as_fd(), ifindex(&self.node), mode.flag())
                .with_context(|| format!("attaching {name} to {uplink}"))?;
            self.pins.replace(&link_name(Hook::UnderlayXdp), |path| Ok(link.pin(path)?))?;
        }
        let program = program(&mut self.ebpf)?;
        self.pins.replace(name, |path| Ok(program.pin(path)?))
    }

    /// Puts the program on an earlier agent's link.
    fn update_xdp(&mut self) -> Result<bool> {
        let Ok(link) = Link::pinned(&self.pins.path(&link_name(Hook::UnderlayXdp))) else { return Ok(false) };
        match link.update(program(&mut self.ebpf)?.fd()?.as_fd()) {
            Ok(()) => Ok(true),
            // Its interface is gone, or somebody has ended it (ENOLINK): attach anew.
            Err(error) => {
                debug!(%error, "pinned XDP link cannot be used again");
                Ok(false)
            }
        }
    }

    /// Whether the program is where [`Self::attach_xdp`] has put it, if that was done; if the kernel does not say, it is.
    pub(super) fn is_xdp_attached(&self) -> bool {
        if self.node.xdp == XDP_OFF {
            return true;
        }
        let pin = self.pins.path(&link_name(Hook::UnderlayXdp));
        match Link::pinned(&pin).and_then(|link| link.place()) {
            Ok((interface, program)) => {
                interface == ifindex(&self.node) && self.xdp_program().is_none_or(|ours| ours == program)
            }
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// The kernel's number of the program.
    fn xdp_program(&self) -> Option<u32> {
        let program: &Xdp = self.ebpf.program(Hook::UnderlayXdp.program())?.try_into().ok()?;
        program.info().ok().map(|info| info.id())
    }

    fn take_xdp_off(&mut self) -> Result<()> {
        detach(&self.pins)?;
        self.tell_xdp(None)
    }

    /// Changes nothing else in `CONFIG`, where the sender check may have to wait for the leases.
    fn tell_xdp(&mut self, mode: Option<Mode>) -> Result<()> {
        self.node.xdp = Mode::number(mode);
        let told = self.config.get(&0, 0).context("reading the BPF map CONFIG")?;
        self.write(&NodeConfig { xdp: self.node.xdp, ..told })
    }
}

/// The node with what has to outlive agents in `CONFIG`. The key is made with the maps.
pub(super) fn inherit(node: &NodeConfig, previous: Option<&NodeConfig>) -> Result<NodeConfig> {
    let handover_key = match previous {
        Some(previous) => previous.handover_key,
        None => random::bytes().context("making a key for the handover from XDP to TC")?,
    };
    Ok(NodeConfig { handover_key, xdp: previous.map_or(XDP_OFF, |previous| previous.xdp), ..*node })
}

/// ifindex of the uplink, which the families share.
const fn ifindex(node: &NodeConfig) -> u32 {
    if node.v4.is_configured() { node.v4.uplink_ifindex } else { node.v6.uplink_ifindex }
}

/// Takes an earlier agent's program off the uplink, and waits until TC has got what it has let through.
pub(super) fn detach(pins: &Pins) -> Result<()> {
    if !pins.are_there() {
        return Ok(());
    }
    let name = link_name(Hook::UnderlayXdp);
    if let Ok(link) = Link::pinned(&pins.path(&name)) {
        // Without its last pin a link ends some time later.
        link.detach().context("taking the XDP program off the uplink")?;
        sleep(IN_FLIGHT);
    }
    pins.remove(&name)?;
    pins.remove(Hook::UnderlayXdp.program())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let name = Hook::UnderlayXdp.program();
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}
