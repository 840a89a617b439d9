//! Hooks: tcx where the kernel has it (Linux 6.6), else a classifier on the clsact qdisc (Linux 4.5).
//!
//! Probed by trying: an old kernel answers a tcx link with EINVAL.

use std::fmt;

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{Link as _, LinkOrder, ProgramError, SchedClassifier, TcAttachType, tc};
use flannel_common::outcome::Hook;
use nix::net::if_::{Interface, if_nameindex};
use tracing::debug;

use super::pins::Pins;
use crate::dataplane::kernel::{Kernel, classifier};

/// Our filter's place on the clsact qdisc, fixed so that the next agent finds it: the overlay's port as
/// priority makes it easy to recognise in `tc filter show`.
const PRIORITY: u16 = 8472;
const HANDLE: TcHandle = TcHandle::new(0, 1);

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

/// Attaches the program, in place of an earlier agent's. `link`: the name of the link's pin; `adopt`: if there
/// is one, it is on this interface.
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
            clsact(program, hook, interface)
        }
        attached => attached,
    }
}

/// Puts the program on an earlier agent's link: no packet is missed.
fn update_link(program: &mut SchedClassifier, link: &str, pins: &Pins) -> Result<bool> {
    let Ok(pinned) = PinnedLink::from_pin(pins.path(link)) else { return Ok(false) };
    match program.attach_to_link(FdLink::from(pinned).try_into()?) {
        // The pin alone is to hold the link, so that it ends with it.
        Ok(id) => FdLink::try_from(program.take_link(id)?).map(|_| true).map_err(Into::into),
        // Its interface is gone (ENOLINK): attach anew.
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
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, direction(hook), options)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    pins.replace(pin, |path| {
        link.pin(path)?;
        Ok(())
    })?;
    Ok(Mechanism::Tcx)
}

fn lacks_tcx(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(ProgramError::SyscallError(error)) => error.io_error.raw_os_error() == Some(libc::EINVAL),
        _ => false,
    }
}

/// Attaches by clsact, whatever else the kernel has.
///
/// # Errors
/// The qdisc or the filter is refused.
pub fn clsact(program: &mut SchedClassifier, hook: Hook, interface: &str) -> Result<Mechanism> {
    match tc::qdisc_add_clsact(interface) {
        // The netlink error's text is all that is left of EEXIST.
        Err(error) => debug!(interface, %error, "clsact is there already, or the next step says why not"),
        Ok(()) => debug!(interface, "clsact added"),
    }
    let there = filter(hook, interface)?;
    let id = match program.attach_to_link(there) {
        Ok(id) => id,
        Err(_) => program.attach_with_options(
            interface,
            direction(hook),
            TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None }),
        )?,
    };
    // Dropping the link would detach the program: it is to stay when the agent goes.
    std::mem::forget(program.take_link(id)?);
    Ok(Mechanism::Clsact)
}

/// Whether our program of this hook is on the interface, by whichever mechanism; `index`: the interface's.
pub(super) async fn is_attached(
    program: &SchedClassifier,
    hook: Hook,
    interface: &str,
    index: u32,
    kernel: &Kernel,
) -> Result<bool> {
    let ours = program.info()?.id();
    if let Ok((_, there)) = SchedClassifier::query_tcx(interface, direction(hook))
        && there.iter().any(|program| program.id() == ours)
    {
        return Ok(true);
    }
    let direction = match direction(hook) {
        TcAttachType::Egress => classifier::Direction::Egress,
        _ => classifier::Direction::Ingress,
    };
    kernel.has_filter(index, direction, PRIORITY).await
}

/// Takes our filters off all interfaces: the pods' ports are not known by name to a new agent.
pub(super) fn detach_clsact_everywhere() -> Result<()> {
    for interface in &if_nameindex().context("listing interfaces")? {
        for hook in [Hook::UnderlayIngress, Hook::OverlayEgress] {
            detach_clsact(hook, &interface.name().to_string_lossy());
        }
    }
    Ok(())
}

/// The indexes of all interfaces but these.
pub(super) fn interfaces_beside(these: &[u32]) -> Result<Vec<u32>> {
    let interfaces = if_nameindex().context("listing interfaces")?;
    Ok(interfaces.iter().map(Interface::index).filter(|index| !these.contains(index)).collect())
}

/// Takes our filter for this hook's direction away, if there is one. (A tcx link goes with its pin.)
pub(super) fn detach_clsact(hook: Hook, interface: &str) {
    if let Ok(filter) = filter(hook, interface)
        && filter.detach().is_ok()
    {
        debug!(interface, program = hook.program(), "removed the filter of an earlier agent");
    }
}

fn filter(hook: Hook, interface: &str) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, direction(hook), PRIORITY, HANDLE, None)
}

/// The name of the pin of a hook's link, where the node has one such hook.
pub(super) fn link_name(hook: Hook) -> String {
    format!("{}_link", hook.program())
}

const fn direction(hook: Hook) -> TcAttachType {
    match hook {
        // To the host, what a pod sends comes in, and what it gets goes out.
        Hook::OverlayEgress | Hook::PodIngress | Hook::UnderlayEgress => TcAttachType::Egress,
        Hook::UnderlayIngress | Hook::OverlayIngress | Hook::PodEgress => TcAttachType::Ingress,
    }
}
