//! BPF on the floor: wanted or not, loaded or not.

mod detached;
mod failed;

use std::future::pending;

use anyhow::{Context as _, Error, Result, anyhow};
use tracing::warn;

use super::overlay::Overlay;
use crate::config::DataplaneMode;
use crate::dataplane::accelerator::{AcceleratedDevice, Accelerator, AcceleratorEvent, Settings};
use crate::dataplane::bpf::leases::Routes;
use crate::dataplane::kernel::Kernel;
use crate::lease::SubnetKey;
use crate::metrics::Repaired;
use crate::peer::Peer;
use crate::report::{REPORT, SlowPort};
use crate::uplink::Uplink;
use failed::Failed;

/// The accelerator of this node, if there is one. Without one everything here does nothing, and succeeds.
pub(super) struct Acceleration {
    settings: Settings,
    state: State,
    failed: Failed,
}

enum State {
    /// Loading has not been tried yet.
    NotProbed,
    /// BPF is not wanted, or the kernel cannot load the programs: why.
    Absent(Option<String>),
    Present(Box<Accelerator>),
    /// They were attached, and could not be attached again or do not stay attached.
    Failed,
}

impl Acceleration {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, state: State::NotProbed, failed: Failed::default() }
    }

    /// Returns whether to [`Self::load`] before a subnet is taken.
    pub(super) fn precedes_subnet(&self) -> bool {
        self.settings.pins.exist() || self.settings.mode == DataplaneMode::Bpf
    }

    pub(super) const fn is_probed(&self) -> bool {
        !matches!(self.state, State::NotProbed)
    }

    pub(super) const fn is_present(&self) -> bool {
        matches!(self.state, State::Present(_))
    }

    /// Loads and attaches the programs for these overlays, where they are wanted, or detaches an earlier agent's. In mode
    /// `auto` a warning is logged if they cannot be loaded.
    ///
    /// # Errors
    /// The programs cannot be loaded in mode `bpf`, or an earlier agent's cannot be removed.
    pub(super) async fn load(
        &mut self,
        overlays: &[Overlay],
        uplink: &Uplink,
        kernel: &Kernel,
    ) -> Result<()> {
        let devices = accelerated(overlays, uplink);
        let start = || Accelerator::start(&self.settings, &devices, kernel);
        let why = match self.settings.mode {
            DataplaneMode::Netlink => None,
            DataplaneMode::Bpf => {
                self.state = State::Present(start().await.context("--dataplane bpf was asked for")?);
                return Ok(());
            }
            DataplaneMode::Auto => match start().await {
                Ok(accelerator) => {
                    self.state = State::Present(accelerator);
                    return Ok(());
                }
                Err(error) => {
                    Some(format!("BPF is not available, the kernel's vxlan device carries all: {error:#}"))
                }
            },
        };
        why.iter().for_each(|why| warn!("{why}"));
        Accelerator::detach(&self.settings)?;
        self.state = State::Absent(why);
        Ok(())
    }

    /// Attaches the programs again: other programs have detached them, or have removed a device. If that fails, or happens
    /// again and again, detaches the rest, so that the floor carries all: what XDP has stripped only `underlay_ingress` can
    /// deliver. It is then tried again, as [`Self::changed`] reports.
    ///
    /// # Errors
    /// See [`Self::load`], which this is as long as they were never attached.
    pub(super) async fn heal(
        &mut self,
        overlays: &[Overlay],
        uplink: &Uplink,
        kernel: &Kernel,
        detached: bool,
    ) -> Result<()> {
        match self.state {
            State::NotProbed | State::Absent(_) => return self.load(overlays, uplink, kernel).await,
            State::Present(_) if self.failed.lost() => {
                self.give_up(anyhow!(
                    "another program detaches them or removes their device again and again; stop it, or choose --dataplane \
                     netlink"
                ));
                return Ok(());
            }
            State::Present(_) if detached => {
                warn!("the BPF programs were detached by another program; attaching them again");
            }
            State::Failed if !detached && self.failed.has_to_wait() => return Ok(()),
            State::Present(_) | State::Failed => {}
        }
        match Accelerator::start(&self.settings, &accelerated(overlays, uplink), kernel).await {
            Ok(accelerator) => {
                self.failed.attached();
                REPORT.repaired(Repaired::Programs, detached.into());
                self.state = State::Present(accelerator);
            }
            Err(error) => self.give_up(error),
        }
        Ok(())
    }

    /// Leaves all to the floor until the next try.
    fn give_up(&mut self, why: Error) {
        let rest = Accelerator::detach(&self.settings);
        self.state = State::Failed;
        self.failed.again(&self.settings.pins, [Some(why), rest.err()].into_iter().flatten());
    }

    /// Returns why packets do not take the way that was asked for.
    pub(super) fn shortcoming(&self) -> Option<String> {
        match &self.state {
            State::Present(accelerator) => accelerator.shortcoming(),
            State::Absent(why) => why.clone(),
            State::Failed => Some(self.failed.why().to_owned()),
            State::NotProbed => None,
        }
    }

    /// Returns why there are no programs; `None` if there are.
    pub(super) fn absence(&self) -> Option<String> {
        let why = match &self.state {
            State::Present(_) => return None,
            State::Absent(Some(why)) => why,
            State::Failed => self.failed.why(),
            State::Absent(None) => "the kernel's dataplane was chosen (--dataplane, or Backend.Dataplane)",
            State::NotProbed => "the programs are not loaded yet",
        };
        Some(why.to_owned())
    }

    /// See [`Accelerator::slow_ports`].
    pub(super) fn slow_ports(&self) -> Vec<SlowPort> {
        match &self.state {
            State::Present(accelerator) => accelerator.slow_ports(),
            State::NotProbed | State::Absent(_) | State::Failed => Vec::new(),
        }
    }

    pub(super) fn set_own_subnets(&mut self, own: SubnetKey) {
        if let State::Present(accelerator) = &mut self.state {
            accelerator.set_own_subnets(&own.nets().collect::<Vec<_>>());
        }
    }

    /// See [`Accelerator::apply`].
    pub(super) fn apply(&mut self, peers: &[Peer], routes: Routes<'_>) -> Result<()> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.apply(peers, routes),
            State::NotProbed | State::Absent(_) | State::Failed => Ok(()),
        }
    }

    /// See [`Accelerator::add_peers`].
    pub(super) fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.add_peers(joined),
            State::NotProbed | State::Absent(_) | State::Failed => Ok(true),
        }
    }

    /// See [`Accelerator::follow_interfaces`].
    pub(super) async fn follow_interfaces(&mut self, kernel: &Kernel) -> Vec<Error> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.follow_interfaces(kernel).await,
            State::NotProbed | State::Absent(_) | State::Failed => Vec::new(),
        }
    }

    /// See [`Accelerator::has_waiting`].
    pub(super) fn has_waiting(&self) -> bool {
        matches!(&self.state, State::Present(accelerator) if accelerator.has_waiting())
    }

    /// See [`Accelerator::attach_next`].
    pub(super) async fn attach_next(&mut self, kernel: &Kernel) -> Vec<Error> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.attach_next(kernel).await,
            State::NotProbed | State::Absent(_) | State::Failed => Vec::new(),
        }
    }

    /// See [`Accelerator::changed`]. Programs that were left detached are reported as detached when it is time to attach them
    /// again.
    pub(super) async fn changed(&mut self, kernel: &Kernel) -> AcceleratorEvent {
        let Self { settings, state, failed } = self;
        match state {
            State::Present(accelerator) => loop {
                tokio::select! {
                    event = accelerator.changed(kernel) => return event,
                    () = failed.stays() => failed.settled(),
                }
            },
            State::Failed => {
                failed.due(&settings.pins).await;
                AcceleratorEvent::Detached
            }
            State::NotProbed | State::Absent(_) => pending().await,
        }
    }
}

fn accelerated<'a>(overlays: &'a [Overlay], uplink: &'a Uplink) -> Vec<AcceleratedDevice<'a>> {
    let device =
        |overlay: &'a Overlay| AcceleratedDevice { spec: overlay.spec(), actual: overlay.device(), uplink };
    overlays.iter().map(device).collect()
}
