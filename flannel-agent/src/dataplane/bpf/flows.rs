//! `FLOWS` from outside: the programs fill it, the agent takes out what has become wrong.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, MapError};
use aya::sys::SyscallError;
use flannel_common::flow::{Flow, FlowKey};

/// Forgets the flows of all bridge ports but these.
pub(super) fn keep(flows: &mut HashMap<MapData, FlowKey, Flow>, ports: &BTreeSet<u32>) -> Result<()> {
    // Entries may go while we look: that one is skipped, and the walk may start again from the first.
    let keys: Vec<_> = flows
        .iter()
        .filter_map(Result::ok)
        .filter_map(|(key, flow)| (!ports.contains(&flow.port.ifindex)).then_some(key))
        .collect();
    for key in keys {
        match flows.remove(&key) {
            Err(MapError::SyscallError(error)) if is_absent(&error) => {}
            removed => removed.context("removing a flow from FLOWS")?,
        }
    }
    Ok(())
}

fn is_absent(error: &SyscallError) -> bool {
    error.io_error.raw_os_error() == Some(libc::ENOENT)
}
