//! Filters on the clsact qdisc (`tc filter show`), which hold the programs where the kernel has no tcx.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::tc::TcMessage;

use super::Kernel;
use crate::dataplane::obstacle::Direction;

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
        let is_meant =
            |filter: &TcMessage| priority_of(filter) == priority && u32::from(filter.header.handle) == handle;
        Ok(filters(&self.handle, interface, direction).await?.iter().any(is_meant))
    }

    /// Returns the priority of the filter of the interface that is tried first in this direction, if there is one.
    ///
    /// # Errors
    /// The dump fails.
    pub async fn first_filter(&self, interface: u32, direction: Direction) -> Result<Option<u16>> {
        let _dumping = self.dumping.lock().await;
        Ok(priorities(&self.handle, interface, direction).await?.first().copied())
    }
}

/// Returns the priorities of the interface's filters in this direction, in the order in which they see packets.
pub(super) async fn priorities(handle: &Handle, interface: u32, direction: Direction) -> Result<Vec<u16>> {
    let filters = filters(handle, interface, direction).await?;
    let mut priorities: Vec<_> = filters.iter().map(priority_of).collect();
    priorities.sort_unstable();
    priorities.dedup();
    Ok(priorities)
}

async fn filters(handle: &Handle, interface: u32, direction: Direction) -> Result<Vec<TcMessage>> {
    let filters = handle.traffic_filter(interface.try_into()?).get();
    let filters = match direction {
        Direction::Ingress => filters.ingress(),
        Direction::Egress => filters.egress(),
    };
    let filters = filters.execute().try_collect().await;
    filters.with_context(|| format!("listing filters of interface {interface}"))
}

/// Returns the upper half of `tcm_info`. The lower half is the EtherType.
const fn priority_of(filter: &TcMessage) -> u16 {
    (filter.header.info >> 16) as u16
}
