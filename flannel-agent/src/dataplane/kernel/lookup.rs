//! What the kernel would do with one packet: its look-ups, one by one and without side effects.

use std::net::IpAddr;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use rtnetlink::Error;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};

use super::{Kernel, neighbour};
use crate::mac::Mac;
use crate::netlink::family_of;
use crate::netlink::link::{self, Link};
use crate::netlink::route::{self, RouteAnswer, RouteQuery};

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC, if it is known.
    pub mac: Option<Mac>,
    /// Its state, as `ip neigh` shows it.
    pub state: &'static str,
}

impl Kernel {
    /// Looks up the route of a packet (`ip route get`).
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn route(&self, query: RouteQuery) -> Result<RouteAnswer> {
        let answer = route::look_up(&self.handle, query).await;
        answer.with_context(|| format!("looking up the route to {}", query.destination))
    }

    /// Returns the interface with this index; `None` if there is none.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn link(&self, index: u32) -> Result<Option<Link>> {
        let link = link::by_index(&self.handle, index).await;
        link.with_context(|| format!("looking up interface {index}"))
    }

    /// Returns the neighbour entry of an address behind an interface (`ip neigh show ADDRESS dev ...`).
    ///
    /// # Errors
    /// The dump fails.
    pub async fn neighbour(&self, interface: u32, address: IpAddr) -> Result<Option<Neighbour>> {
        let entry = self.neighbour_entry(interface, address).await?;
        Ok(entry.map(|entry| Neighbour { mac: neighbour::mac(&entry), state: name_of(entry.header.state) }))
    }

    /// [`Self::neighbour`], as the kernel writes it.
    pub(super) async fn neighbour_entry(
        &self,
        interface: u32,
        address: IpAddr,
    ) -> Result<Option<NeighbourMessage>> {
        let by = NeighbourAttribute::IfIndex(interface);
        let entries = self.neighbours(family_of(address), 0, Some(by)).await.context("listing neighbours")?;
        let is_it = |entry: &NeighbourMessage| {
            entry.header.ifindex == interface && neighbour::destination(entry) == Some(address)
        };
        Ok(entries.into_iter().find(is_it))
    }

    /// Returns the node that a vxlan device sends frames for this MAC to (`bridge fdb show dev ...`).
    ///
    /// # Errors
    /// The dump fails.
    pub async fn tunnel_end(&self, device: u32, mac: Mac) -> Result<Option<IpAddr>> {
        let entries =
            self.neighbours(AddressFamily::Bridge, device, None).await.context("listing FDB entries")?;
        Ok(entries
            .iter()
            .filter(|entry| entry.header.ifindex == device && is_to(entry, mac))
            .find_map(neighbour::destination))
    }

    /// Returns the index of the port where a bridge has learnt this MAC (`bridge fdb show br ...`).
    ///
    /// # Errors
    /// The dump fails.
    pub async fn bridge_port(&self, bridge: u32, mac: Mac) -> Result<Option<u32>> {
        let by = NeighbourAttribute::Controller(bridge);
        let entries =
            self.neighbours(AddressFamily::Bridge, 0, Some(by)).await.context("listing FDB entries")?;
        let is_behind = |entry: &&NeighbourMessage| {
            is_to(entry, mac)
                && entry.header.state != NeighbourState::Permanent
                && entry.attributes.contains(&NeighbourAttribute::Controller(bridge))
        };
        Ok(entries.iter().find(is_behind).map(|entry| entry.header.ifindex))
    }

    /// Lists neighbours, or entries of FDBs, by one of their attributes. `device`: only those of this interface; 0 for all.
    pub(super) async fn neighbours(
        &self,
        family: AddressFamily,
        device: u32,
        by: Option<NeighbourAttribute>,
    ) -> Result<Vec<NeighbourMessage>, Error> {
        let _dumping = self.dumping.lock().await;
        let mut request = self.handle.neighbours().get().set_address_family(family);
        request.message_mut().header.ifindex = device;
        request.message_mut().attributes.extend(by);
        request.execute().try_collect().await
    }
}

fn is_to(entry: &NeighbourMessage, mac: Mac) -> bool {
    neighbour::mac(entry) == Some(mac)
}

const fn name_of(state: NeighbourState) -> &'static str {
    match state {
        NeighbourState::Incomplete => "incomplete",
        NeighbourState::Reachable => "reachable",
        NeighbourState::Stale => "stale",
        NeighbourState::Delay => "delay",
        NeighbourState::Probe => "probe",
        NeighbourState::Failed => "failed",
        NeighbourState::Noarp => "noarp",
        NeighbourState::Permanent => "permanent",
        _ => "unknown",
    }
}
