//! `FLOWS` and `FLOWS6` from outside: the programs fill it, the agent takes out what has become wrong.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, MapError};
use aya::sys::SyscallError;
use flannel_common::flow::{Flow, FlowKey};

use super::family::Family;

/// Forgets the flows of all bridge ports but these.
pub(super) fn keep<A: Family>(
    flows: &mut HashMap<MapData, FlowKey<A>, Flow>,
    ports: &BTreeSet<u32>,
) -> Result<()> {
    // Entries may go while we look: that one is skipped, and the walk may start again from the first.
    let keys: Vec<_> = flows
        .iter()
        .filter_map(Result::ok)
        .filter_map(|(key, flow)| (!ports.contains(&flow.port.ifindex)).then_some(key))
        .collect();
    for key in keys {
        match flows.remove(&key) {
            Err(MapError::SyscallError(error)) if is_absent(&error) => {}
            removed => removed.with_context(|| format!("removing a flow from {}", A::FLOWS))?,
        }
    }
    Ok(())
}

fn is_absent(error: &SyscallError) -> bool {
    error.io_error.raw_os_error() == Some(libc::ENOENT)
}
