//! MTUs of routes to peers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use rtnetlink::Error;
use rtnetlink::packet_route::AddressFamily;

use super::Kernel;
use crate::netlink::route::{list_all, look_up_mtu, mtu_of};

impl Kernel {
    /// Returns the MTU in bytes of each route through this interface to one of the addresses, where the route has one of
    /// its own. On most nodes no route has, and then no address is looked up.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn route_mtus(
        &self,
        interface: u32,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<BTreeMap<IpAddr, u32>> {
        let mut mtus = BTreeMap::new();
        if !self.has_route_mtu(interface).await.context("listing the routes of the uplink")? {
            return Ok(mtus);
        }
        for address in addresses {
            let mtu = look_up_mtu(&self.handle, address, interface).await;
            let mtu = mtu.with_context(|| format!("looking up the MTU of the route to {address}"))?;
            mtus.extend(mtu.map(|mtu| (address, mtu)));
        }
        Ok(mtus)
    }

    async fn has_route_mtu(&self, interface: u32) -> Result<bool, Error> {
        let _dumping = self.dumping.lock().await;
        let mut found = false;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = list_all(&self.handle, family, interface);
            let has_mtu = |found, route| async move { Ok(found || mtu_of(&route).is_some()) };
            found = routes.try_fold(found, has_mtu).await?;
        }
        Ok(found)
    }
}
