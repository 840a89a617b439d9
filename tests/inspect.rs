//! A node's state, read from outside: the kernel's tables as iproute2 prints them, and the pinned BPF objects.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use flannel_agent::dataplane::bpf::counters::{self, Counters};
use flannel_agent::dataplane::bpf::pins::{self, Pins};
use flannel_agent::mac::Mac;
use flannel_common::abi;
use flannel_common::address::{Address, V4, V6};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::lease::Lease;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::{Hook, MetricsKey, Outcome};
use flannel_tests::wait::{patiently, throughout};
use flannel_tests::{Node, Pod, eventually};

use crate::overlay::ensure_same;

/// The vxlan device of VNI 1.
pub(crate) const DEVICE: &str = "flannel.1";
pub(crate) const UPLINK: &str = "eth0";
/// Time limit for programs to be attached.
const ATTACHING: Duration = Duration::from_secs(15);
/// Longer than the agent waits between two changes that end proofs.
const QUIET: Duration = Duration::from_millis(300);
const DIRECTIONS: [&str; 2] = ["ingress", "egress"];

/// A node with a /24, as other nodes know it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) base: Ipv4Addr,
    pub(crate) public_ip: Ipv4Addr,
    pub(crate) mac: String,
}

impl Peer {
    /// Returns a node that exists only in the datastore, with subnet 10.5.`number`.0/24.
    pub(crate) fn fictional(number: u8) -> Self {
        Self {
            base: [10, 5, number, 0].into(),
            public_ip: [192, 168, 64, number].into(),
            mac: format!("c6:d2:32:6f:8f:{number:02x}"),
        }
    }

    /// Returns the node as the other nodes have to know it.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let subnet = node.subnet_env()?.subnet.context("a node without a subnet")?;
        let base = (subnet.addr.to_bits() & !1).into();
        Ok(Self { base, public_ip: node.ip(), mac: link(node, DEVICE)?.mac })
    }

    /// Returns the last part of its key in etcd, which is also the name of its file.
    pub(crate) fn name(&self) -> String {
        format!("{}-24", self.base)
    }

    /// Returns its key in etcd.
    pub(crate) fn key(&self) -> String {
        format!("{}/subnets/{}", flannel_tests::etcd::PREFIX, self.name())
    }

    /// Returns its value in etcd, as flannel writes it.
    pub(crate) fn value(&self) -> String {
        let Self { public_ip, mac, .. } = self;
        format!(
            r#"{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        )
    }

    /// Returns route, neighbour and FDB entry, as `ip` and `bridge` print them.
    fn floor(&self) -> [String; 3] {
        let Self { base, public_ip, mac } = self;
        [
            format!("{base}/24 via {base} onlink"),
            format!("{base} lladdr {mac} PERMANENT"),
            format!("{mac} dst {public_ip} self permanent"),
        ]
    }

    fn lease(&self) -> String {
        format!("{}/24 is {} at {}", self.base, self.mac, self.public_ip)
    }
}

/// Fails unless the node knows exactly these peers, in the kernel and, if it has BPF, in `LEASES` and `SUBNETS`.
pub(crate) fn ensure_knows(node: &Node, peers: &[Peer]) -> Result<()> {
    ensure_same(node.name(), &floor(node)?, &peers.iter().flat_map(Peer::floor).collect())?;
    if pins(node)?.path(abi::LEASES).exists() {
        let leases = peers.iter().map(Peer::lease).collect();
        let data =
            |name| Ok::<_, anyhow::Error>(Map::from_map_data(MapData::from_pin(pins(node)?.path(name))?)?);
        let all = LpmTrie::<_, V4, Lease<V4>>::try_from(data(abi::LEASES)?)?;
        ensure_same(node.name(), &shown(all.iter())?, &leases)?;
        let subnets = HashMap::<_, Key<V4>, Lease<V4>>::try_from(data(abi::SUBNETS)?)?;
        ensure_same(node.name(), &shown(subnets.iter())?, &leases)?;
    }
    Ok(())
}

/// Fails unless the node knows this peer among any others.
pub(crate) fn ensure_has(node: &Node, peer: &Peer) -> Result<()> {
    let known = floor(node)?;
    for line in peer.floor() {
        ensure!(known.contains(&line), "{} has no {line:?}", node.name());
    }
    let map = Map::from_map_data(MapData::from_pin(pins(node)?.path(abi::LEASES))?)?;
    let leases = shown(LpmTrie::<_, V4, Lease<V4>>::try_from(map)?.iter())?;
    ensure!(leases.contains(&peer.lease()), "{} has no lease {}", node.name(), peer.lease());
    Ok(())
}

/// Returns the routes, neighbours and FDB entries of the vxlan device, as `ip` and `bridge` print them.
pub(crate) fn floor(node: &Node) -> Result<BTreeSet<String>> {
    let commands = [
        format!("ip -4 route show dev {DEVICE}"),
        format!("ip -4 neigh show dev {DEVICE}"),
        format!("bridge fdb show dev {DEVICE}"),
    ];
    let mut lines = BTreeSet::new();
    for command in commands {
        lines.extend(node.exec(&command)?.lines().map(|line| line.trim().to_owned()));
    }
    Ok(lines)
}

/// Prints the peers' leases among these entries.
fn shown(entries: impl Iterator<Item = Result<(Key<V4>, Lease<V4>), MapError>>) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for entry in entries {
        let (key, Lease { public_ip, vtep_mac, flags, .. }) = entry?;
        let (subnet, public_ip) = (Ipv4Addr::from(key.data()), Ipv4Addr::from(public_ip));
        if flags == 0 {
            lines.insert(format!("{subnet}/{} is {} at {public_ip}", key.prefix_len(), Mac(vtep_mac)));
        }
    }
    Ok(lines)
}

/// Returns the pins of the node's BPF objects.
pub(crate) fn pins(node: &Node) -> Result<Pins> {
    let bpffs = node.bpffs()?;
    let routed = pins::vnis(bpffs)?.into_iter().find(|vni| pins::is_routed(*vni));
    Ok(Pins::new(bpffs, routed.unwrap_or(1)))
}

/// Reads `CONFIG`.
pub(crate) fn node_config(node: &Node) -> Result<NodeConfig> {
    let data = MapData::from_pin(pins(node)?.path(abi::CONFIG))?;
    Ok(Array::<_, NodeConfig>::try_from(Map::from_map_data(data)?)?.get(&0, 0)?)
}

/// Reads `METRICS`.
pub(crate) fn metrics(node: &Node) -> Result<Counters> {
    counters::read(&pins(node)?)
}

/// Returns how many runs at this hook had this outcome.
pub(crate) fn packets(node: &Node, hook: Hook, outcome: Outcome) -> Result<u64> {
    Ok(metrics(node)?.get(&MetricsKey { outcome, hook }).map_or(0, |traffic| traffic.packets))
}

/// Returns how many packets the programs have wrapped and unwrapped, through the host stack and past it.
pub(crate) fn carried(node: &Node) -> Result<(u64, u64)> {
    let (wrapped, unwrapped) = through_stack(node)?;
    let (sent, delivered) = shortcut(node)?;
    Ok((wrapped + sent, unwrapped + delivered))
}

/// Returns how many packets the programs have wrapped and unwrapped past the host stack.
pub(crate) fn shortcut(node: &Node) -> Result<(u64, u64)> {
    let sent = packets(node, Hook::PodEgress, Outcome::Encapsulated)?;
    Ok((sent, packets(node, Hook::UnderlayIngress, Outcome::Delivered)?))
}

/// Exchanges of a flow that takes the shortcut, as [`ensure_shortcut`] wants them.
pub(crate) struct Round {
    /// How many there are.
    pub(crate) exchanges: u64,
    /// How many packets of each direction have to skip the host stack.
    pub(crate) least: u64,
    /// Time limit for the flow to be proven.
    pub(crate) within: Duration,
}

/// Waits until a round of exchanges takes the shortcut in both directions. An exchange that fails ends the waiting.
/// `past_stack`: how many packets have skipped the host stack so far, from pods and to them.
pub(crate) fn ensure_shortcut(
    Round { exchanges, least, within }: Round,
    past_stack: impl Fn() -> Result<(u64, u64)>,
    mut exchange: impl FnMut() -> Result<()>,
) -> Result<()> {
    eventually("the flow takes the shortcut", within, || {
        let before = past_stack()?;
        if let Err(error) = (0..exchanges).try_for_each(|_| exchange()) {
            return Ok(Err(error));
        }
        let now = past_stack()?;
        let (sent, received) = (now.0 - before.0, now.1 - before.1);
        ensure!(
            sent >= least && received >= least,
            "of {exchanges} exchanges {sent} packets were sent past the stack and {received} received"
        );
        Ok(Ok(()))
    })?
}

/// Returns how many packets the programs have wrapped and unwrapped, which passed the host stack.
pub(crate) fn through_stack(node: &Node) -> Result<(u64, u64)> {
    let sent = packets(node, Hook::OverlayEgress, Outcome::Encapsulated)?;
    Ok((sent, packets(node, Hook::UnderlayIngress, Outcome::Decapsulated)?))
}

/// Reads `FLOWS`.
pub(crate) fn flows(node: &Node) -> Result<BTreeMap<FlowKey<V4>, Flow<V4>>> {
    flows_in(node, abi::FLOWS)
}

/// Reads `FLOWS6`.
pub(crate) fn flows6(node: &Node) -> Result<BTreeMap<FlowKey<V6>, Flow<V6>>> {
    flows_in(node, abi::FLOWS6)
}

fn flows_in<A: Address + aya::Pod>(node: &Node, map: &str) -> Result<BTreeMap<FlowKey<A>, Flow<A>>> {
    let data = MapData::from_pin(pins(node)?.path(map))?;
    let flows = HashMap::<_, FlowKey<A>, Flow<A>>::try_from(Map::from_map_data(data)?)?;
    flows.iter().map(|entry| Ok(entry?)).collect()
}

/// Index and MAC of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u64,
    pub(crate) mac: String,
}

pub(crate) fn link(node: &Node, interface: &str) -> Result<Link> {
    let links = node.netns().exec_json(&format!("ip -j link show dev {interface}"))?;
    let (index, mac) = (links[0]["ifindex"].as_u64(), links[0]["address"].as_str());
    Ok(Link { index: index.context("no index")?, mac: mac.context("no MAC")?.to_owned() })
}

/// IDs of the link or filter that holds a program on its hook, and of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) link: u64,
    pub(crate) program: u64,
}

/// Lists the agent's programs on hooks: those of pinned links by the pin's name, those of filters by interface and direction.
/// Those of `side_ingress` are left out: which other interfaces there are depends on the machine.
pub(crate) fn attached(node: &Node) -> Result<BTreeMap<String, Attached>> {
    let names = std::fs::read_dir(pins(node)?.path(""))?.map(|pin| Ok(pin?.file_name().into_string()));
    let names = names.collect::<Result<Vec<_>>>()?.into_iter().flatten();
    let names = names.filter(|name| name.contains("_link") && !name.starts_with(Hook::SideIngress.program()));
    let links = names.map(|name| Ok((name.clone(), attached_by(node, &name)?)));
    let mut attached: BTreeMap<_, _> = links.collect::<Result<_>>()?;
    let shown = node.netns().exec_json("ip -j link show")?;
    for interface in shown.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str()) {
        for direction in DIRECTIONS {
            let filters = filters(node, interface, direction)?.into_iter();
            let filters = filters.filter(|(_, name)| !name.starts_with(Hook::SideIngress.program()));
            attached.extend(filters.map(|(filter, _)| (format!("{interface} {direction}"), filter)));
        }
    }
    Ok(attached)
}

/// Waits until the programs are attached to a pod's port. What the plugin made for a node's first pod ends proofs, also a moment later:
/// that is over as well.
pub(crate) fn wait_plugged(node: &Node, pod: &Pod) -> Result<()> {
    patiently("the pod's port has its programs", ATTACHING, || {
        let programs = programs(node, pod.port())?;
        ensure!(programs == ["pod_egress", "pod_ingress"], "there are {programs:?}");
        Ok(())
    })?;
    let generation = || Ok::<_, anyhow::Error>(node_config(node)?.generation);
    patiently("proofs are no longer ended", ATTACHING, || {
        let before = generation()?;
        throughout("the generation stays", QUIET, || {
            ensure!(generation()? == before, "it has been raised");
            Ok(())
        })
    })
}

/// [`attached`], once there are this many. Those of pods' ports come after READY.
pub(crate) fn attached_all(node: &Node, number: usize) -> Result<BTreeMap<String, Attached>> {
    patiently("all programs are attached", ATTACHING, || {
        let attached = attached(node)?;
        ensure!(attached.len() == number, "{} instead of {number}: {attached:?}", attached.len());
        Ok(attached)
    })
}

/// Waits until each of these links has another program. Those of pods' ports get it after READY. Fails if a link is another one.
pub(crate) fn wait_replaced(node: &Node, before: &BTreeMap<String, Attached>) -> Result<()> {
    patiently("all programs are replaced", ATTACHING, || {
        let after = attached(node)?;
        ensure!(after.keys().eq(before.keys()), "{after:?}");
        for (name, old) in before {
            ensure!(old.link == after[name].link, "{name} was replaced");
            ensure!(old.program != after[name].program, "the program of {name} was not replaced");
        }
        Ok(())
    })
}

fn attached_by(node: &Node, name: &str) -> Result<Attached> {
    let link = pinned(node, "link", name)?;
    let number = |field: &str| link[field].as_u64().with_context(|| format!("no {field} in {link}"));
    Ok(Attached { link: number("id")?, program: number("prog_id")? })
}

/// Returns the ID of a pinned map.
pub(crate) fn map_id(node: &Node, name: &str) -> Result<u64> {
    pinned(node, "map", name)?["id"].as_u64().context("a map without an ID")
}

/// Returns the capacity of a pinned map.
pub(crate) fn map_entries(node: &Node, name: &str) -> Result<u64> {
    pinned(node, "map", name)?["max_entries"].as_u64().context("a map without a size")
}

fn pinned(node: &Node, kind: &str, name: &str) -> Result<serde_json::Value> {
    let path = pins(node)?.path(name);
    let shown = node.netns().exec_json(&format!("bpftool -j {kind} show pinned {}", path.display()))?;
    Ok(if shown.is_array() { shown[0].clone() } else { shown })
}

/// Returns the mode and ID of the XDP program on an interface, if it has one.
pub(crate) fn xdp(node: &Node, interface: &str) -> Result<Option<(&'static str, u64)>> {
    /// linux/if_link.h: `XDP_ATTACHED_DRV`, `XDP_ATTACHED_SKB`.
    const MODES: [&str; 3] = ["none", "native", "generic"];
    let links = node.netns().exec_json(&format!("ip -j link show dev {interface}"))?;
    let xdp = &links[0]["xdp"];
    let attached = xdp["mode"].as_u64().zip(xdp["prog"]["id"].as_u64());
    Ok(attached.map(|(mode, program)| (MODES[mode as usize], program)))
}

/// Lists the filters in one direction of an interface, with the names of their programs.
pub(crate) fn filters(node: &Node, interface: &str, direction: &str) -> Result<Vec<(Attached, String)>> {
    let shown = node.netns().exec_json(&format!("tc -j filter show dev {interface} {direction}"))?;
    let filters = shown.as_array().into_iter().flatten().filter_map(|filter| {
        let (link, program) = (filter["pref"].as_u64()?, &filter["options"]["prog"]);
        Some((Attached { link, program: program["id"].as_u64()? }, program["name"].as_str()?.to_owned()))
    });
    Ok(filters.collect())
}

/// Lists the names of the TC programs on an interface, attached by tcx or as filters.
pub(crate) fn programs(node: &Node, interface: &str) -> Result<Vec<String>> {
    let mut names = tcx_programs(node, interface)?;
    for direction in DIRECTIONS {
        names.extend(filters(node, interface, direction)?.into_iter().map(|(_, name)| name));
    }
    Ok(names)
}

/// Returns whether this kernel has tcx (Linux 6.6). Without it the query is invalid.
pub(crate) fn has_tcx() -> Result<bool> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Err(ProgramError::SyscallError(error)) if error.io_error.kind() == ErrorKind::InvalidInput => {
            Ok(false)
        }
        queried => queried.map(|_| true).context("query the programs on lo"),
    }
}

/// Lists the names of the programs that tcx runs on an interface.
pub(crate) fn tcx_programs(node: &Node, interface: &str) -> Result<Vec<String>> {
    Ok(tcx_ids(node, interface)?.into_iter().map(|(name, _)| name).collect())
}

/// Lists the names of the programs that tcx runs on an interface, with their IDs.
pub(crate) fn tcx_ids(node: &Node, interface: &str) -> Result<Vec<(String, u32)>> {
    if !has_tcx()? {
        return Ok(Vec::new());
    }
    node.netns().run(|| {
        let mut found = Vec::new();
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) = SchedClassifier::query_tcx(interface, direction)?;
            let named = programs
                .iter()
                .filter_map(|program| program.name_as_str().map(|name| (name.to_owned(), program.id())));
            found.extend(named);
        }
        Ok(found)
    })
}
