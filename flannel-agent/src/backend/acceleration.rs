//! BPF on the floor: wanted or not, loaded or not.

mod detached;
mod failed;

use std::future::pending;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use tracing::warn;

use crate::config::DataplaneMode;
use crate::dataplane::accelerator::{
    Accelerator, AcceleratorEvent, Carrier, FlowCache, Settings, have_tunnels,
};
use crate::dataplane::bpf::leases::Routes;
use crate::dataplane::kernel::Kernel;
use crate::lease::SubnetKey;
use crate::metrics::Repaired;
use crate::peer::Peer;
use crate::report::{REPORT, SlowPort};
use failed::Failed;

/// The accelerator of this node, if there is one. Without one everything here does nothing, and succeeds.
pub struct Acceleration {
    settings: Settings,
    state: State,
    failed: Failed,
}

enum State {
    /// Loading has not been tried yet.
    NotProbed,
    /// BPF is not wanted: why.
    Unwanted(&'static str),
    /// The kernel cannot load the programs: why.
    Absent(String),
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

    /// Loads and attaches the programs for these families, where they are wanted, or detaches an earlier agent's. In mode
    /// `auto` a warning is logged if they cannot be loaded.
    ///
    /// # Errors
    /// The programs cannot be loaded in mode `bpf`, or an earlier agent's cannot be removed.
    pub(super) async fn load(&mut self, carriers: &[Carrier<'_>], kernel: &Kernel) -> Result<()> {
        let start = || Accelerator::start(&self.settings, carriers, kernel);
        self.state = match (self.settings.mode, self.unwanted(carriers)) {
            (DataplaneMode::Bpf, Some(why)) => bail!("--dataplane bpf was asked for, but {why}"),
            (_, Some(why)) => State::Unwanted(why),
            (DataplaneMode::Bpf, None) => {
                State::Present(start().await.context("--dataplane bpf was asked for")?)
            }
            (DataplaneMode::Auto | DataplaneMode::Netlink, None) => match start().await {
                Ok(accelerator) => State::Present(accelerator),
                Err(error) => {
                    let why = format!("BPF is not available, {} all: {error:#}", floor(carriers));
                    warn!("{why}");
                    State::Absent(why)
                }
            },
        };
        if matches!(self.state, State::Present(_)) { Ok(()) } else { Accelerator::detach(&self.settings) }
    }

    /// Returns why no programs are wanted, if so.
    fn unwanted(&self, carriers: &[Carrier<'_>]) -> Option<&'static str> {
        match self.settings {
            Settings { mode: DataplaneMode::Netlink, .. } => {
                Some("the kernel's dataplane was chosen (--dataplane, or Backend.Dataplane)")
            }
            Settings { flow_cache: FlowCache::Off, .. } if !have_tunnels(carriers) => Some(
                "no flow is to skip the host stack (--flow-cache), and without tunnels the programs do nothing else",
            ),
            _ => None,
        }
    }

    /// Attaches the programs again: other programs have detached them, or have removed a device. If that fails, or happens
    /// again and again, detaches the rest, so that the floor carries all: what XDP has stripped only `underlay_ingress` can
    /// deliver. It is then tried again, as [`Self::changed`] reports.
    ///
    /// # Errors
    /// See [`Self::load`], which this is as long as they were never attached.
    pub(super) async fn heal(
        &mut self,
        carriers: &[Carrier<'_>],
        kernel: &Kernel,
        detached: bool,
    ) -> Result<()> {
        match self.state {
            State::NotProbed | State::Unwanted(_) | State::Absent(_) => {
                return self.load(carriers, kernel).await;
            }
            State::Present(_) if self.failed.lost() => {
                self.give_up(carriers, anyhow!(
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
        match Accelerator::start(&self.settings, carriers, kernel).await {
            Ok(accelerator) => {
                self.failed.attached();
                REPORT.repaired(Repaired::Programs, detached.into());
                self.state = State::Present(accelerator);
            }
            Err(error) => self.give_up(carriers, error),
        }
        Ok(())
    }

    /// Leaves all to the floor until the next try.
    fn give_up(&mut self, carriers: &[Carrier<'_>], why: Error) {
        let rest = Accelerator::detach(&self.settings);
        self.state = State::Failed;
        self.failed.again(
            &self.settings.pins,
            floor(carriers),
            [Some(why), rest.err()].into_iter().flatten(),
        );
    }

    /// Returns why packets do not take the way that was asked for.
    pub(super) fn shortcoming(&self) -> Option<String> {
        match &self.state {
            State::Present(accelerator) => accelerator.shortcoming(),
            State::Absent(why) => Some(why.clone()),
            State::Failed => Some(self.failed.why().to_owned()),
            State::NotProbed | State::Unwanted(_) => None,
        }
    }

    /// Returns why there are no programs; `None` if there are.
    pub(super) fn absence(&self) -> Option<String> {
        let why = match &self.state {
            State::Present(_) => return None,
            State::Unwanted(why) => *why,
            State::Absent(why) => why,
            State::Failed => self.failed.why(),
            State::NotProbed => "the programs are not loaded yet",
        };
        Some(why.to_owned())
    }

    /// See [`Accelerator::slow_ports`].
    pub(super) fn slow_ports(&self) -> Vec<SlowPort> {
        match &self.state {
            State::Present(accelerator) => accelerator.slow_ports(),
            State::NotProbed | State::Unwanted(_) | State::Absent(_) | State::Failed => Vec::new(),
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
            State::NotProbed | State::Unwanted(_) | State::Absent(_) | State::Failed => Ok(()),
        }
    }

    /// See [`Accelerator::add_peers`].
    pub(super) fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.add_peers(joined),
            State::NotProbed | State::Unwanted(_) | State::Absent(_) | State::Failed => Ok(true),
        }
    }

    /// See [`Accelerator::follow_interfaces`].
    pub(super) async fn follow_interfaces(&mut self, kernel: &Kernel) -> Vec<Error> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.follow_interfaces(kernel).await,
            State::NotProbed | State::Unwanted(_) | State::Absent(_) | State::Failed => Vec::new(),
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
            State::NotProbed | State::Unwanted(_) | State::Absent(_) | State::Failed => Vec::new(),
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
            State::NotProbed | State::Unwanted(_) | State::Absent(_) => pending().await,
        }
    }
}

/// Returns what carries packets without the programs.
fn floor(carriers: &[Carrier<'_>]) -> &'static str {
    if have_tunnels(carriers) { "the kernel's vxlan device carries" } else { "the host stack carries" }
}
