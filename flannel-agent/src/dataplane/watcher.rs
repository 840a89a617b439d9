//! Follows pods, and what others put on the way of their packets: decides what the programs carry, and what the kernel.

mod asking;
mod forwarding;
mod looks;
mod underlay;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tracing::{info, warn};

use super::bpf::Bpf;
use super::bpf::attach::PRIORITY;
use super::bpf::tcx::TcxPrograms;
use super::kernel::conntrack::{LiberalTracker, Proofs, TimeoutSettings, Timeouts};
use super::kernel::{Kernel, LinkWatch, Side};
use super::obstacle::{self, Closes, Direction, Interface, Obstacle, Outer, PodPort, Role};
use crate::peer::Peer;
use crate::report::SlowPort;
use forwarding::ForwardingWatch;
use looks::Looks;
use underlay::UnderlayWatch;

/// Keeps the programs attached to the ports of the pods that are there, and leaves to the kernel what others must see.
pub(super) struct Watcher {
    links: LinkWatch,
    /// Whether flows may take the shortcut.
    flow_cache: bool,
    subnets: Vec<IpNet>,
    tracker: LiberalTracker,
    /// The connection tracker's timeouts.
    timeouts: Timeouts,
    timeout_settings: TimeoutSettings,
    /// Why packets of the whole node are left to the kernel, as logged last.
    obstacles: Vec<Obstacle>,
    /// Why ports do not take the shortcut, by name, as logged last.
    closed_ports: BTreeMap<String, String>,
    /// The interfaces on the way of packets, and those beside the uplink where senders are checked.
    interfaces: Vec<u32>,
    /// The bridges among them that have ports.
    bridges: BTreeSet<u32>,
    /// What tcx ran there when they were looked at.
    tcx: TcxPrograms,
    /// Whether XDP ran there, by index. Left out are ports: for their other ends the kernel reports it.
    xdp: BTreeMap<u32, bool>,
    underlay: UnderlayWatch,
    forwarding: ForwardingWatch,
    /// The rules that look at each packet; `None` if flows pass them by all the same.
    looks: Option<Looks>,
}

/// Which flows may take the shortcut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowCache {
    /// None.
    Off,
    /// Those that no rule of a packet filter looks at packet by packet.
    On,
    /// Those as well.
    Forced,
}

/// What the watcher notices.
#[derive(Clone, Copy, Debug)]
pub(super) enum WatcherEvent {
    /// Pods may have come or gone, or others may have put something on an interface.
    Interfaces,
    /// Flows that are proven may have another way through the host stack now.
    Forwarding,
}

impl Watcher {
    /// Begins to listen for pods that come and go. `outer`: the outer packets of each vxlan device.
    pub(super) fn open(
        kernel: &Kernel,
        flow_cache: FlowCache,
        networks: Vec<IpNet>,
        outer: Vec<Outer>,
    ) -> Result<Self> {
        let mut timeout_settings = TimeoutSettings::default();
        Ok(Self {
            links: LinkWatch::open()?,
            flow_cache: flow_cache != FlowCache::Off,
            subnets: Vec::new(),
            tracker: LiberalTracker::default(),
            timeouts: timeout_settings.read(),
            timeout_settings,
            obstacles: Vec::new(),
            closed_ports: BTreeMap::new(),
            interfaces: Vec::new(),
            bridges: BTreeSet::new(),
            tcx: TcxPrograms::new(),
            xdp: BTreeMap::new(),
            underlay: UnderlayWatch::new(outer),
            forwarding: ForwardingWatch::open(kernel, networks.clone())?,
            looks: (flow_cache == FlowCache::On).then(|| Looks::new(networks)),
        })
    }

    /// Sets the other nodes.
    pub(super) fn set_peers(&mut self, peers: &[Peer]) {
        self.underlay.set_peers(peers);
        self.forwarding.set_peers(self.underlay.peers());
    }

    /// Adds other nodes.
    pub(super) fn add_peers(&mut self, joined: &[Peer]) {
        self.underlay.add_peers(joined);
        self.forwarding.set_peers(self.underlay.peers());
    }

    /// Returns why packets of the whole node are left to the kernel.
    pub(super) fn shortcoming(&self) -> Option<String> {
        let reasons: Vec<_> = self.obstacles.iter().map(Obstacle::to_string).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Returns the ports that do not take the shortcut, and why.
    pub(super) fn slow_ports(&self) -> Vec<SlowPort> {
        let slow = |(port, why): (&String, &String)| SlowPort { port: port.clone(), why: why.clone() };
        self.closed_ports.iter().map(slow).collect()
    }

    /// Sets the subnets of this node's pods.
    pub(super) fn set_subnets(&mut self, subnets: &[IpNet]) {
        self.subnets = subnets.to_vec();
    }

    /// Waits for the next event. It may be dropped and called again; no change gets lost.
    pub(super) async fn changed(&mut self, kernel: &Kernel) -> WatcherEvent {
        tokio::select! {
            // First, since it knows the port of each pod by the changes before.
            biased;
            () = self.forwarding.changed(kernel), if self.flow_cache => WatcherEvent::Forwarding,
            () = self.links.changed() => WatcherEvent::Interfaces,
            () = self.underlay.changed() => WatcherEvent::Interfaces,
        }
    }

    /// Sets the connection tracker again if another program has set it back, and reads its timeouts: the kernel does not report
    /// changes. Returns whether that changes which flows may skip the host stack, or for how long.
    pub(super) fn follow_tracker(&mut self) -> bool {
        if !self.flow_cache {
            return false;
        }
        let before = std::mem::replace(&mut self.timeouts, self.timeout_settings.read());
        let proofs = Proofs::within(&self.timeouts);
        let differ = proofs != Proofs::within(&before);
        if differ {
            let Proofs { tcp, udp, translated } = proofs;
            info!(
                tcp,
                udp,
                translated,
                "timeouts of the connection tracker have changed: proofs of flows hold so many ms"
            );
        }
        self.tracker.keep() || differ
    }

    /// Returns the bridges of the pods, as seen last.
    pub(super) const fn bridges(&self) -> &BTreeSet<u32> {
        &self.bridges
    }

    /// Returns the connection tracker's timeouts, as read last.
    pub(super) const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Returns whether others have attached or detached programs by links of tcx or XDP, which the kernel does not report, or
    /// have changed what the host's own packets meet.
    pub(super) async fn has_silently_changed(&mut self, kernel: &Kernel, bpf: &Bpf) -> bool {
        // While the agent attaches its own programs, each step would look like that.
        let is_settled = !bpf.has_waiting();
        if is_settled && bpf.tcx_programs(self.interfaces.iter().copied()).is_ok_and(|now| now != self.tcx) {
            return true;
        }
        for (interface, before) in &self.xdp {
            if kernel.has_xdp(*interface).await.is_ok_and(|now| now != *before) {
                return true;
            }
        }
        self.underlay.has_silently_changed(kernel).await
    }

    /// Attaches the programs to the ports of the pods that are there, and tells them what is left to the kernel. `sides`: where senders
    /// are checked.
    pub(super) async fn follow_pods(
        &mut self,
        kernel: &Kernel,
        bpf: &mut Bpf,
        sides: &[Side],
    ) -> Vec<anyhow::Error> {
        let interfaces = match self.survey(kernel, bpf, sides).await {
            Ok(interfaces) => interfaces,
            Err(error) => return vec![error],
        };
        let mut errors = Vec::new();
        errors.extend(self.underlay.look(kernel).await.err());
        let mut obstacles = obstacle::obstacles(&interfaces);
        obstacles.extend_from_slice(self.underlay.obstacles());
        if self.flow_cache {
            self.tracker.keep();
            obstacles.extend(self.tracker.strict().map(strict_conntrack));
        }
        errors.extend(self.keep_in_stack(&interfaces, bpf).err());
        self.log(&obstacles);
        self.obstacles = obstacles;
        let closes = self.obstacles.iter().fold(Closes::default(), |all, one| all.and(one.closes));
        errors.extend(bpf.config.set_floor(closes.floor()).err());
        errors.extend(bpf.config.set_proofs(Proofs::within(&self.timeouts)).err());
        let ports = obstacle::ports(&interfaces);
        self.log_ports(&ports);
        errors.extend(bpf.follow(if closes.shortcut { &[] } else { &ports }));
        errors
    }

    /// Keeps flows in the host stack if a rule there looks at each of their packets.
    fn keep_in_stack(&mut self, interfaces: &[Interface], bpf: &mut Bpf) -> Result<()> {
        let kept = match &mut self.looks {
            Some(looks) => {
                let names = interfaces.iter().filter(|interface| interface.role != Role::Port);
                let names = names.map(|interface| interface.name.clone()).collect();
                let Some(kept) = looks.follow(&self.underlay.rules(), names) else { return Ok(()) };
                kept
            }
            None => BTreeSet::new(),
        };
        if bpf.kept.set(&kept)? { bpf.config.end_proofs() } else { Ok(()) }
    }

    /// Returns the interfaces on the way of pods' packets. Without the shortcut nothing passes by what pods have.
    async fn survey(&mut self, kernel: &Kernel, bpf: &Bpf, sides: &[Side]) -> Result<Vec<Interface>> {
        let subnets = if self.flow_cache { &self.subnets[..] } else { &[] };
        let mut interfaces = kernel.survey(subnets, &bpf.interfaces(), PRIORITY).await?;
        let on_way = interfaces.iter().map(|interface| interface.index);
        self.interfaces = on_way.chain(sides.iter().map(|side| side.index)).collect();
        self.bridges = bridges_with_ports(&interfaces);
        let without_ports = interfaces.iter().filter(|interface| interface.role != Role::Port);
        self.forwarding.set_on_way(without_ports.clone().map(|interface| interface.index));
        self.xdp = without_ports.map(|interface| (interface.index, interface.xdp)).collect();
        self.tcx = bpf.tcx_programs(self.interfaces.iter().copied()).context("asking what tcx runs")?;
        for interface in &mut interfaces {
            // tcx runs before filters.
            let of = |direction| self.tcx.get(&(interface.index, direction)).into_iter().flatten().copied();
            interface.ingress.splice(0..0, of(Direction::Ingress));
            interface.egress.splice(0..0, of(Direction::Egress));
        }
        Ok(interfaces)
    }

    /// Logs each reason once when it comes, and once when it has gone.
    fn log(&self, now: &[Obstacle]) {
        for come in now.iter().filter(|obstacle| !self.obstacles.contains(obstacle)) {
            warn!("{come}");
        }
        for gone in self.obstacles.iter().filter(|obstacle| !now.contains(obstacle)) {
            info!("no longer so: {gone}");
        }
    }

    fn log_ports(&mut self, ports: &[PodPort]) {
        let before = std::mem::take(&mut self.closed_ports);
        for PodPort { name: port, shortcut, .. } in ports {
            match (shortcut, before.get(port)) {
                (Ok(_), Some(_)) => info!(port, "flows of this pod may skip the host stack again"),
                (Ok(_), None) => {}
                (Err(thing), known) => {
                    let thing = thing.to_string();
                    if known != Some(&thing) {
                        info!(port, "packets of this pod go through the host stack: {thing}");
                    }
                    self.closed_ports.insert(port.clone(), thing);
                }
            }
        }
    }
}

/// A bridge without ports has the MTU that its next port brings, so it is left alone.
fn bridges_with_ports(interfaces: &[Interface]) -> BTreeSet<u32> {
    if interfaces.iter().all(|interface| interface.role != Role::Port) {
        return BTreeSet::new();
    }
    let bridges = interfaces.iter().filter(|interface| interface.role == Role::Bridge);
    bridges.map(|bridge| bridge.index).collect()
}

/// Returns the reason that the connection tracker is, if it does not accept flows that skip it.
fn strict_conntrack(why: &str) -> Obstacle {
    Obstacle { what: format!("connection tracking is strict: {why}"), closes: Closes::SHORTCUT }
}
