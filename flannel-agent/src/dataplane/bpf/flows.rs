//! `FLOWS` and `FLOWS6`: the programs fill them, and the agent removes the flows of ports that are gone.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use aya::sys::SyscallError;
use flannel_common::address::{V4, V6};
use flannel_common::flow::{Flow, FlowKey};

use super::family::MapFamily;
use super::take;

/// The maps of flows of both address families.
pub(super) struct Flows {
    v4: HashMap<MapData, FlowKey<V4>, Flow<V4>>,
    v6: HashMap<MapData, FlowKey<V6>, Flow<V6>>,
}

impl Flows {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        let v4 = HashMap::try_from(take(ebpf, V4::FLOWS)?)?;
        let v6 = HashMap::try_from(take(ebpf, V6::FLOWS)?)?;
        Ok(Self { v4, v6 })
    }

    /// Removes the flows of all bridge ports but these.
    pub(super) fn keep(&mut self, ports: &BTreeSet<u32>) -> Result<()> {
        keep(&mut self.v4, ports)?;
        keep(&mut self.v6, ports)
    }
}

fn keep<A: MapFamily>(
    flows: &mut HashMap<MapData, FlowKey<A>, Flow<A>>,
    ports: &BTreeSet<u32>,
) -> Result<()> {
    // The programs may remove an entry during the walk. It is skipped then, and the walk may begin again.
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
