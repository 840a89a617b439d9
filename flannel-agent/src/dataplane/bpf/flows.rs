//! `FLOWS` and `FLOWS6`: the programs fill them. The agent removes the flows of ports that are gone, and looks at connections.

pub mod listed;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use aya::sys::SyscallError;
use flannel_common::address::{V4, V6};
use flannel_common::flow::{Flow, FlowKey, Names};

use super::batch::Batch;
use super::family::MapFamily;
use super::pins::Pins;
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

/// A TCP connection of a pod of this node that the programs know in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The pod's address and port.
    pub pod: SocketAddr,
    /// Where the pod sends to.
    pub remote: SocketAddr,
    /// When a packet of the pod has last passed the stack, in nanoseconds of the programs' clock.
    pub sent: u64,
    /// When a packet to the pod has.
    pub received: u64,
}

/// Entries of flows that a packet has proven lately, by address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// IPv4.
    pub v4: Counted,
    /// IPv6.
    pub v6: Counted,
}

/// Entries of one map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All entries.
    pub entries: usize,
    /// Flows that the host translates, each of which has two entries.
    pub translated: usize,
}

/// Passes the connections of an overlay on, some at a time. Returns how many flows of any kind a packet has proven since then.
///
/// # Errors
/// A map cannot be opened or read.
pub fn connections(pins: &Pins, since: u64, mut pass_on: impl FnMut(&[Connection])) -> Result<InUse> {
    Ok(InUse { v4: read::<V4>(pins, since, &mut pass_on)?, v6: read::<V6>(pins, since, &mut pass_on)? })
}

fn read<A: MapFamily>(pins: &Pins, since: u64, pass_on: &mut impl FnMut(&[Connection])) -> Result<Counted> {
    let (mut some, mut in_use) = (Vec::new(), Counted::default());
    batches::<A>(pins, |keys, flows| {
        some.clear();
        some.extend(keys.iter().zip(flows).filter_map(|(key, flow)| connection(key, flow)));
        for flow in flows.iter().filter(|flow| is_proven_since(flow, since)) {
            in_use.entries += 1;
            in_use.translated += usize::from(flow.names == Names::POD);
        }
        pass_on(&some);
    })?;
    Ok(in_use)
}

/// Passes the flows of one family on, many at a time.
fn batches<A: MapFamily>(pins: &Pins, pass_on: impl FnMut(&[FlowKey<A>], &[Flow<A>])) -> Result<()> {
    /// Many times as many as share a hash.
    const AT_ONCE: usize = 1024;
    let path = pins.path(A::FLOWS);
    let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    let batch = Batch::<FlowKey<A>, Flow<A>>::new(&map)?;
    batch.read(AT_ONCE, pass_on).with_context(|| format!("reading {}", A::FLOWS))
}

/// Passes the flows of one family on, one by one.
fn each<A: MapFamily>(pins: &Pins, mut pass_on: impl FnMut(&FlowKey<A>, &Flow<A>)) -> Result<()> {
    batches::<A>(pins, |keys, flows| keys.iter().zip(flows).for_each(|(key, flow)| pass_on(key, flow)))
}

fn is_proven_since<A: MapFamily>(flow: &Flow<A>, since: u64) -> bool {
    [flow.egress, flow.ingress].iter().any(|passage| passage.is_known() && passage.left >= since)
}

/// Returns the connection that has this name for its pod.
fn connection<A: MapFamily>(key: &FlowKey<A>, flow: &Flow<A>) -> Option<Connection> {
    let is_tcp = i32::from(key.protocol[0]) == libc::IPPROTO_TCP;
    let is_known = flow.egress.is_known() && flow.ingress.is_known();
    (is_tcp && is_known && flow.names.include(Names::POD)).then(|| Connection {
        pod: SocketAddr::new(key.pod.ip(), u16::from_be_bytes(key.pod_port)),
        remote: SocketAddr::new(key.remote.ip(), u16::from_be_bytes(key.remote_port)),
        sent: flow.egress.left,
        received: flow.ingress.left,
    })
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
