//! Decides whether XDP strips outer headers: by the configuration, the driver, and what the interface accepts.

use anyhow::Result;
use tracing::{debug, info, warn};

use super::bpf::Bpf;
use super::bpf::attach::Mechanism;
use super::bpf::xdp::AttachMode;
use super::kernel::driver::Driver;
use crate::config::XdpMode;

/// Drivers of virtual machines' network cards. They get aggregates from their host, and with XDP they no longer do.
const PARAVIRTUAL: [&str; 4] = ["virtio_net", "vmxnet3", "hv_netvsc", "vif"];

/// What to do on an uplink.
#[derive(Debug)]
pub(super) struct XdpPlan<'a> {
    mode: XdpMode,
    uplink: &'a str,
    driver: Driver,
}

impl<'a> XdpPlan<'a> {
    /// Reads the interface's driver.
    pub(super) fn of(mode: XdpMode, uplink: &'a str) -> Self {
        Self { mode, uplink, driver: Driver::of(uplink) }
    }

    /// Returns how to attach the program, if at all.
    pub(super) fn attach_mode(&self) -> Option<AttachMode> {
        wanted(self.mode, &self.driver)
    }

    /// Attaches the program. Where that is refused, TC strips the headers.
    ///
    /// # Errors
    /// An earlier agent's program cannot be detached.
    pub(super) fn carry_out(&self, bpf: &mut Bpf, mechanism: Mechanism) -> Result<()> {
        let Self { mode, uplink, driver: Driver { name: driver, .. } } = self;
        let lasts = *mode != XdpMode::Auto || is_lasting(mechanism);
        let Some(attach_mode) = self.attach_mode().filter(|_| lasts) else {
            debug!(uplink, driver, ?mode, "TC strips outer headers");
            return bpf.release_xdp(None);
        };
        match bpf.attach_xdp(attach_mode, uplink) {
            Ok(()) => info!(mode = %attach_mode, uplink, driver, "XDP strips outer headers"),
            Err(error) if *mode == XdpMode::Auto => {
                info!("TC strips outer headers: no XDP on {uplink} (driver {driver}): {error:#}");
            }
            Err(error) => warn!(
                "--xdp {attach_mode} is not possible on {uplink} (driver {driver}), TC strips outer headers: {error:#}"
            ),
        }
        Ok(())
    }
}

/// Returns whether `underlay_ingress`, which stripped packets need, stays attached: other programs may delete the shared
/// clsact qdisc.
fn is_lasting(mechanism: Mechanism) -> bool {
    mechanism == Mechanism::Tcx
}

/// Returns how to attach the program. `auto` does so on real network cards only: on veth and other virtual interfaces XDP
/// disables the offloads that make TCP fast.
fn wanted(mode: XdpMode, driver: &Driver) -> Option<AttachMode> {
    let pays = driver.hardware && !PARAVIRTUAL.contains(&driver.name.as_str());
    match mode {
        XdpMode::Native => Some(AttachMode::Native),
        XdpMode::Generic => Some(AttachMode::Generic),
        XdpMode::Auto => pays.then_some(AttachMode::Native),
        XdpMode::Off => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_native_xdp_on_real_network_cards_only() {
        let (native, generic) = (Some(AttachMode::Native), Some(AttachMode::Generic));
        for (name, hardware, auto) in [
            ("ixgbe", true, native),
            ("mlx5_core", true, native),
            ("virtio_net", true, None),
            ("veth", false, None),
            ("bonding", false, None),
            ("", false, None),
        ] {
            let driver = Driver { name: name.to_owned(), hardware };
            for (mode, expected) in [
                (XdpMode::Auto, auto),
                (XdpMode::Native, native),
                (XdpMode::Generic, generic),
                (XdpMode::Off, None),
            ] {
                assert_eq!(wanted(mode, &driver), expected, "{mode:?} with {name}");
            }
        }
    }
}
