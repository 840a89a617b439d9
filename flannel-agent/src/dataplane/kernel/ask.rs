//! Requests for neighbours by the kernel (ARP, neighbour solicitation), at a time of the agent's choice.

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{Kernel, neighbour};
use crate::dataplane::forwarding::Returned;

impl Kernel {
    /// Makes the kernel ask a pod for its MAC at once, which tells the pod that of its gateway. Returns whether there is no reason to ask
    /// (again): `asked` says that it was done before, and the pod has answered since.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn ask_for(&self, pod: Returned, asked: bool) -> Result<bool> {
        let Returned { bridge, address, mac } = pod;
        if let Some(entry) = self.neighbour_entry(bridge, address).await? {
            let has_moved = neighbour::mac(&entry).is_some_and(|now| now != mac);
            match entry.header.state {
                NeighbourState::Permanent | NeighbourState::Noarp => return Ok(true),
                NeighbourState::Reachable if asked => return Ok(true),
                _ if has_moved => return Ok(true),
                _ => {}
            }
        }
        let request = self.handle.neighbours().add(bridge, address).state(NeighbourState::Probe);
        let request = request.link_layer_address(&mac.0).replace();
        request.execute().await.with_context(|| format!("asking for {address}"))?;
        Ok(false)
    }
}
