//! Decides whether XDP strips outer headers: by the configuration, the driver, and what the interface accepts.

use anyhow::Result;
use tracing::{debug, info, warn};

use super::bpf::Bpf;
use super::bpf::xdp::AttachMode;
use super::kernel::driver;
use crate::config::XdpMode;

/// What to do on an uplink.
#[derive(Debug)]
pub(super) struct XdpPlan<'a> {
    mode: XdpMode,
    uplink: &'a str,
    /// The interface's driver; empty if the kernel does not name it.
    driver: String,
}

impl<'a> XdpPlan<'a> {
    /// Reads the interface's driver.
    pub(super) fn of(mode: XdpMode, uplink: &'a str) -> Self {
        Self { mode, uplink, driver: driver::of(uplink) }
    }

    /// Returns how to attach the program, if at all. `auto` is without: while anybody listens on the uplink by a packet socket, as tcpdump
    /// does, the kernel takes from packets what XDP says of them to TC (decision 101).
    pub(super) const fn attach_mode(&self) -> Option<AttachMode> {
        match self.mode {
            XdpMode::Native => Some(AttachMode::Native),
            XdpMode::Generic => Some(AttachMode::Generic),
            XdpMode::Auto | XdpMode::Off => None,
        }
    }

    /// Attaches the program. Where that is refused, TC strips the headers.
    ///
    /// # Errors
    /// An earlier agent's program cannot be detached.
    pub(super) fn carry_out(&self, bpf: &mut Bpf) -> Result<()> {
        let Self { mode, uplink, driver } = self;
        let Some(attach_mode) = self.attach_mode() else {
            debug!(uplink, driver, ?mode, "TC strips outer headers");
            return bpf.release_xdp(None);
        };
        match bpf.attach_xdp(attach_mode, uplink) {
            Ok(()) => info!(mode = %attach_mode, uplink, driver, "XDP strips outer headers"),
            Err(error) => warn!(
                "--xdp {attach_mode} is not possible on {uplink} (driver {driver}), TC strips outer headers: {error:#}"
            ),
        }
        Ok(())
    }
}
