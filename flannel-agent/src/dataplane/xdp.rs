//! Whether outer headers are taken off by XDP: what was asked for, what pays, and what the interface says to it.

use anyhow::Result;
use tracing::{debug, info, warn};

use super::bpf::Bpf;
use super::bpf::attach::Mechanism;
use super::bpf::xdp::Mode;
use super::kernel::driver::Driver;
use crate::config::XdpMode;

/// Drivers of virtual machines' NICs. They get aggregates from their host, which they give up for XDP.
const PARAVIRTUAL: [&str; 4] = ["virtio_net", "vmxnet3", "hv_netvsc", "vif"];

/// What is to be done on an uplink.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    wish: XdpMode,
    uplink: &'a str,
    driver: Driver,
}

impl<'a> Plan<'a> {
    /// For this interface.
    pub(super) fn of(wish: XdpMode, uplink: &'a str) -> Self {
        Self { wish, uplink, driver: Driver::of(uplink) }
    }

    /// How the program is to be attached, if at all.
    pub(super) fn mode(&self) -> Option<Mode> {
        wanted(self.wish, &self.driver)
    }

    /// Attaches the program. Where that is refused, TC goes on taking the headers off.
    ///
    /// # Errors
    /// An earlier agent's program cannot be taken off.
    pub(super) fn carry_out(&self, bpf: &mut Bpf, mechanism: Mechanism) -> Result<()> {
        let Self { wish, uplink, driver: Driver { name: driver, .. } } = self;
        let Some(mode) = self.mode().filter(|_| *wish != XdpMode::Auto || is_lasting(mechanism)) else {
            debug!(uplink, driver, ?wish, "outer headers are taken off in TC");
            return bpf.release_xdp(None);
        };
        match bpf.attach_xdp(mode, uplink) {
            Ok(()) => info!(%mode, uplink, driver, "outer headers are taken off by XDP"),
            Err(error) if *wish == XdpMode::Auto => {
                info!("outer headers are taken off in TC: no XDP on {uplink} (driver {driver}): {error:#}");
            }
            Err(error) => warn!(
                "--xdp {mode} is not possible on {uplink} (driver {driver}), outer headers are taken off in TC: {error:#}"
            ),
        }
        Ok(())
    }
}

/// Whether what waits for stripped packets in TC stays there: everybody's clsact qdisc is sometimes somebody's to delete.
fn is_lasting(mechanism: Mechanism) -> bool {
    mechanism == Mechanism::Tcx
}

/// By itself only where a NIC does it: on veth and other virtual interfaces XDP ends the offloads that make TCP fast.
fn wanted(wish: XdpMode, driver: &Driver) -> Option<Mode> {
    let pays = driver.hardware && !PARAVIRTUAL.contains(&driver.name.as_str());
    match wish {
        XdpMode::Native => Some(Mode::Native),
        XdpMode::Generic => Some(Mode::Generic),
        XdpMode::Auto => pays.then_some(Mode::Native),
        XdpMode::Off => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdp_is_native_where_it_pays_and_else_on_demand() {
        let (native, generic) = (Some(Mode::Native), Some(Mode::Generic));
        for (name, hardware, auto) in [
            ("ixgbe", true, native),
            ("mlx5_core", true, native),
            ("virtio_net", true, None),
            ("veth", false, None),
            ("bonding", false, None),
            ("", false, None),
        ] {
            let driver = Driver { name: name.to_owned(), hardware };
            for (wish, expected) in [
                (XdpMode::Auto, auto),
                (XdpMode::Native, native),
                (XdpMode::Generic, generic),
                (XdpMode::Off, None),
            ] {
                assert_eq!(wanted(wish, &driver), expected, "{wish:?} with {name}");
            }
        }
    }
}
