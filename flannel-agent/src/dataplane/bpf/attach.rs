//! Attaches programs to TC hooks: by tcx where the kernel has it (Linux 6.6), else by a filter on the clsact qdisc (Linux
//! 4.5). Attaching is the probe: an old kernel answers a tcx link with EINVAL.

use std::{fmt, io};

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{Link as _, LinkOrder, ProgramError, SchedClassifier, TcAttachType, tc};
use flannel_common::outcome::Hook;
use nix::net::if_::{Interface, if_indextoname, if_nameindex, if_nametoindex};
use tracing::debug;

use super::link::{self, Link};
use super::pins::{Pins, link_name};
use crate::dataplane::kernel::Kernel;
use crate::dataplane::obstacle::Direction;

/// Priority of the filter on the clsact qdisc. It is fixed, so that the next agent finds it. It is the overlay's port, easy
/// to recognise in `tc filter show`.
pub const PRIORITY: u16 = 8472;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// A tcx link, pinned.
    Tcx,
    /// A filter on the clsact qdisc; it lives as long as the interface.
    Clsact,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// Attaches the program, in place of an earlier agent's. `link`: the name of the link's pin. `adopt`: a pinned link is on
/// this interface.
pub(super) fn attach(
    program: &mut SchedClassifier,
    hook: Hook,
    interface: &str,
    link: &str,
    adopt: bool,
    pins: &Pins,
) -> Result<Mechanism> {
    if adopt && update_link(program, link, pins)? {
        return Ok(Mechanism::Tcx);
    }
    match tcx(program, hook, interface, link, pins) {
        Err(error) if lacks_tcx(&error) => {
            debug!(interface, "the kernel has no tcx; using clsact");
            clsact(program, hook, interface, pins.vni())
        }
        attached => attached,
    }
}

/// Attaches the program by an earlier agent's link, so that no packet is missed. Returns whether there is one.
fn update_link(program: &mut SchedClassifier, link: &str, pins: &Pins) -> Result<bool> {
    let Ok(pinned) = PinnedLink::from_pin(pins.path(link)) else { return Ok(false) };
    match program.attach_to_link(FdLink::from(pinned).try_into()?) {
        // Only the pin holds the link from now on, and the link ends with it.
        Ok(id) => FdLink::try_from(program.take_link(id)?).map(|_| true).map_err(Into::into),
        // Its interface is gone (ENOLINK): a new link is needed.
        Err(error) => {
            debug!(%error, "pinned link cannot be used again");
            Ok(false)
        }
    }
}

fn tcx(
    program: &mut SchedClassifier,
    hook: Hook,
    interface: &str,
    pin: &str,
    pins: &Pins,
) -> Result<Mechanism> {
    let options = TcAttachOptions::TcxOrder(order(hook));
    let id = program.attach_with_options(interface, direction(hook), options)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    let old = Link::pinned(&pins.path(pin));
    pins.replace(pin, |path| {
        link.pin(path)?;
        Ok(())
    })?;
    // Without its pin it would run on for a while (an RCU grace period).
    if let Ok(old) = old {
        old.detach()?;
    }
    Ok(Mechanism::Tcx)
}

fn lacks_tcx(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(ProgramError::SyscallError(error)) => error.io_error.raw_os_error() == Some(libc::EINVAL),
        _ => false,
    }
}

/// Attaches the program of the overlay `vni` by clsact, even if the kernel has tcx.
///
/// # Errors
/// The qdisc or the filter is refused.
pub fn clsact(program: &mut SchedClassifier, hook: Hook, interface: &str, vni: u32) -> Result<Mechanism> {
    match tc::qdisc_add_clsact(interface) {
        // EEXIST is only a text by now. Any other error shows in the next step.
        Err(error) => debug!(interface, %error, "clsact not added"),
        Ok(()) => debug!(interface, "clsact added"),
    }
    let existing = filter(hook, interface, vni)?;
    let id = match program.attach_to_link(existing) {
        Ok(id) => id,
        Err(_) => program.attach_with_options(
            interface,
            direction(hook),
            TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: handle(vni), classid: None }),
        )?,
    };
    // Dropping the link would detach the program, which is to outlive the agent.
    std::mem::forget(program.take_link(id)?);
    Ok(Mechanism::Clsact)
}

/// Returns whether this program is attached to the interface with this index: by the link at the pin, or by a filter. The
/// link is asked, since asking the interface for its programs takes `CAP_SYS_ADMIN`.
pub(super) async fn is_attached(
    program: &SchedClassifier,
    hook: Hook,
    index: u32,
    pin: &str,
    pins: &Pins,
    kernel: &Kernel,
) -> Result<bool> {
    match Link::pinned(&pins.path(pin)).and_then(|link| link.attachment()) {
        Ok(attachment) => Ok(attachment == (index, program.info()?.id())),
        Err(error) if link::is_missing(&error) => has_filter(hook, index, pins.vni(), kernel).await,
        Err(error) => Err(error.into()),
    }
}

/// Returns whether a program for this hook is attached to the interface with this index: by one of the pinned links, or by a
/// filter. As in [`is_attached`], the links are asked and not the interface.
///
/// # Errors
/// The kernel does not answer.
pub(super) async fn is_some_attached(hook: Hook, index: u32, pins: &Pins, kernel: &Kernel) -> Result<bool> {
    let start = link_name(hook, "");
    for name in pins.names().iter().filter(|name| name.starts_with(&start)) {
        match Link::pinned(&pins.path(name)).and_then(|link| link.attachment()) {
            Ok((attached, _)) if attached == index => return Ok(true),
            Err(error) if !link::is_missing(&error) => {
                return Err(error).with_context(|| format!("asking {name} where it is attached"));
            }
            _ => {}
        }
    }
    has_filter(hook, index, pins.vni(), kernel).await
}

/// Returns whether the interface with this index has a filter of the overlay `vni` in this hook's direction.
pub(super) async fn has_filter(hook: Hook, index: u32, vni: u32, kernel: &Kernel) -> Result<bool> {
    let direction = match direction(hook) {
        TcAttachType::Egress => Direction::Egress,
        _ => Direction::Ingress,
    };
    kernel.has_filter(index, direction, PRIORITY, handle(vni).into()).await
}

/// Removes the overlay's filters from all interfaces: a new agent does not know the names of the pods' ports.
pub(super) fn detach_clsact_everywhere(vni: u32) -> Result<()> {
    for interface in &if_nameindex().context("listing interfaces")? {
        for hook in [Hook::UnderlayIngress, Hook::OverlayEgress] {
            detach_clsact(hook, &interface.name().to_string_lossy(), vni);
        }
    }
    Ok(())
}

/// Returns whether the interface with this index still has this name. While one is removed, the kernel may know it by one
/// of them alone.
pub(super) fn is_there(index: u32, name: &str) -> bool {
    if_nametoindex(name) == Ok(index)
}

/// Returns the name of the interface with this index, if it exists.
pub(super) fn interface_name(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?.to_string_lossy().into_owned();
    // What nix 0.31 says of an interface that is not there.
    Some(name).filter(|name| !name.is_empty())
}

/// Returns the indexes of all interfaces but these.
pub(super) fn interfaces_beside(these: &[u32]) -> Result<Vec<u32>> {
    let interfaces = if_nameindex().context("listing interfaces")?;
    Ok(interfaces.iter().map(Interface::index).filter(|index| !these.contains(index)).collect())
}

/// Removes the overlay's filter in this hook's direction, if there is one. A tcx link ends with its pin instead.
pub(super) fn detach_clsact(hook: Hook, interface: &str, vni: u32) {
    if let Ok(filter) = filter(hook, interface, vni)
        && filter.detach().is_ok()
    {
        debug!(interface, program = hook.program(), "removed the filter of an earlier agent");
    }
}

fn filter(hook: Hook, interface: &str, vni: u32) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, direction(hook), PRIORITY, handle(vni), None)
}

/// Returns the handle of an overlay's filter. The overlays of a node share an uplink, and each has its own filter there. Bit
/// 24 is set because the kernel takes handle 0 for a wish to choose one, and 0 is a VNI.
fn handle(vni: u32) -> TcHandle {
    TcHandle::from(1 << 24 | vni)
}

/// Where senders are checked, no program of others comes first: it might pass packets on unchecked.
fn order(hook: Hook) -> LinkOrder {
    match hook {
        Hook::UnderlayIngress | Hook::SideIngress | Hook::OverlayIngress => LinkOrder::first(),
        _ => LinkOrder::default(),
    }
}

const fn direction(hook: Hook) -> TcAttachType {
    match hook {
        // At the host's end of the veth pair, what a pod sends comes in.
        Hook::OverlayEgress | Hook::PodIngress | Hook::UnderlayEgress => TcAttachType::Egress,
        Hook::UnderlayIngress
        | Hook::OverlayIngress
        | Hook::PodEgress
        | Hook::UnderlayXdp
        | Hook::SideIngress => TcAttachType::Ingress,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_interface_that_is_there_has_a_name() {
        assert_eq!(interface_name(1).as_deref(), Some("lo"));
        assert_eq!(interface_name(0), None);
        assert_eq!(interface_name(0x7fff_ffff), None);
    }
}
