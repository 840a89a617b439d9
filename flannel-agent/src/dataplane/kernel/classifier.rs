//! Filters on the clsact qdisc (`tc filter show`), which hold the programs where the kernel has no tcx.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::tc::TcMessage;

use super::Kernel;

/// A direction of packets at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received packets.
    Ingress,
    /// Sent packets.
    Egress,
}

impl Kernel {
    /// Whether the interface has a filter of this priority and handle in this direction.
    ///
    /// # Errors
    /// The dump fails.
    pub async fn has_filter(
        &self,
        interface: u32,
        direction: Direction,
        priority: u16,
        handle: u32,
    ) -> Result<bool> {
        let _dumping = self.dumping.lock().await;
        let filters = self.handle.traffic_filter(interface.try_into()?).get();
        let filters = match direction {
            Direction::Ingress => filters.ingress(),
            Direction::Egress => filters.egress(),
        };
        let filters: Vec<_> = filters
            .execute()
            .try_collect()
            .await
            .with_context(|| format!("listing filters of interface {interface}"))?;
        let is_meant = |filter: &TcMessage| {
            priority_of(filter) == u32::from(priority) && u32::from(filter.header.handle) == handle
        };
        Ok(filters.iter().any(is_meant))
    }
}

/// Returns the upper half of `tcm_info`. The lower half is the EtherType.
const fn priority_of(filter: &TcMessage) -> u32 {
    filter.header.info >> 16
}
