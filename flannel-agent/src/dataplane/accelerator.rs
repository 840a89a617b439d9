//! The accelerator: BPF on top of what the kernel itself carries packets with, vxlan devices or routes alone, if it is wanted and the kernel
//! has it.

mod carrier;
mod facts;
mod headroom;

use std::future::pending;
use std::panic::resume_unwind;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use flannel_common::event::Event;
use ipnet::IpNet;
use tokio::task::spawn_blocking;
use tokio::time::{Interval, interval};
use tracing::{info, warn};

use super::bpf::counters::PacketCounters;
use super::bpf::events::Events;
use super::bpf::leases::Routes;
use super::bpf::pins::Pins;
use super::bpf::{self, Bpf, Wanted, logs};
use super::capabilities;
use super::connections::ConnectionKeeper;
use super::kernel::{Kernel, Side};
use super::obstacle::Outer;
pub use super::watcher::FlowCache;
use super::watcher::{Watcher, WatcherEvent};
use super::xdp::XdpPlan;
use crate::config::{DataplaneMode, SourceCheck, SubnetRange, XdpMode};
use crate::memory;
use crate::metrics::{FailureKind, METRICS, Registration};
use crate::peer::Peer;
use crate::problem::{Pace, Problem};
use crate::report::SlowPort;
use crate::task::Task;
pub use carrier::{AcceleratedDevice, Carrier, have_tunnels};
use headroom::Headroom;

/// What the accelerator is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether BPF is wanted.
    pub mode: DataplaneMode,
    /// Whether flows that the host stack lets through unchanged skip it.
    pub flow_cache: FlowCache,
    /// Capacity for flows of one address family.
    pub max_flows: u32,
    /// Whether peers may have routes without a tunnel.
    pub direct_routing: bool,
    /// Where outer headers are stripped.
    pub xdp: XdpMode,
    /// Which packets are dropped because of their sender.
    pub source_check: SourceCheck,
    /// The networks of all pods, and how they are divided into nodes' subnets.
    pub ranges: Vec<SubnetRange>,
    /// The pins of the programs, maps and links.
    pub pins: Pins,
    /// Whether BPF programs log every packet.
    pub log_packets: bool,
}

/// Loaded programs at work.
pub struct Accelerator {
    bpf: Bpf,
    events: Events,
    watcher: Watcher,
    /// Looks after connections that skip the host stack, if any do.
    connections: Option<ConnectionKeeper>,
    /// The prefixes that nodes lease subnets from.
    leasable: Vec<IpNet>,
    /// The pods' bridges that have been asked for room in front of packets, where they get outer headers.
    headroom: Option<Headroom>,
    /// The uplink where programs of others may pass packets on unchecked, as logged last.
    preceded: Option<String>,
    /// Programs that may be an earlier agent's.
    _strays: Problem,
    /// Forwards what the programs log, if they log.
    _logs: Option<Task>,
    /// Whether pods may have other MACs since they were looked at: another namespace does not report them.
    may_have_moved: bool,
    /// When to look for what the kernel does not report.
    check: Interval,
    _counters: Registration,
}

/// What the accelerator reports.
#[derive(Clone, Copy, Debug)]
pub enum AcceleratorEvent {
    /// Pods or other interfaces may have come or gone, or the shortcut may be open or closed to all pods: others may have put
    /// something on the way of packets.
    Interfaces,
    /// The programs were detached by another program.
    Detached,
    /// A program reports a packet.
    Packet(Event),
}

/// Period of looking for what the kernel does not report: programs that were detached or attached, and settings that
/// were changed.
const CHECK: Duration = Duration::from_secs(1);

impl Accelerator {
    /// Loads and attaches the programs, on the maps and in place of the programs of an earlier agent.
    ///
    /// # Errors
    /// No privilege, no BPF filesystem, or the kernel refuses. What is attached by then stays.
    pub async fn start(settings: &Settings, carriers: &[Carrier<'_>], kernel: &Kernel) -> Result<Box<Self>> {
        let (mut bpf, strays) = load(settings, carriers, kernel).await.map_err(explain)?;
        let networks = settings.ranges.iter().map(|range| range.network).collect();
        let outer = carriers.iter().filter_map(outer).collect();
        let watcher = Watcher::open(kernel, settings.flow_cache, networks, outer)?;
        let events = Events::open(bpf.ebpf())?;
        let logs = settings.log_packets.then(|| logs::forward(bpf.ebpf())).transpose()?;
        let connections = (settings.flow_cache != FlowCache::Off)
            .then(|| ConnectionKeeper::new(settings.pins.clone(), settings.max_flows));
        let counters = METRICS.register(PacketCounters(settings.pins.clone()));
        let check = interval(CHECK);
        let leasable = settings.ranges.iter().flat_map(SubnetRange::prefixes).collect();
        Ok(Box::new(Self {
            bpf,
            events,
            watcher,
            connections,
            leasable,
            headroom: have_tunnels(carriers).then(|| Headroom::new(settings.pins.vni())),
            preceded: None,
            _strays: strays,
            _logs: logs,
            may_have_moved: false,
            check,
            _counters: counters,
        }))
    }

    /// Detaches the programs of this agent and of earlier ones, and removes their pins.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn detach(settings: &Settings) -> Result<()> {
        bpf::detach(&settings.pins)
    }

    /// Returns why packets of the whole node are left to the kernel, as logged already.
    pub fn shortcoming(&self) -> Option<String> {
        self.watcher.shortcoming()
    }

    /// Returns the ports of pods that do not take the shortcut, as logged already.
    pub fn slow_ports(&self) -> Vec<SlowPort> {
        self.watcher.slow_ports()
    }

    /// Sets the node's own subnets, with the next [`Self::apply`]: the node's pods are in them, and no other node may send
    /// from them.
    pub fn set_own_subnets(&mut self, subnets: &[IpNet]) {
        subnets.iter().for_each(|subnet| self.bpf.leases.set_own(*subnet, &self.leasable));
        self.watcher.set_subnets(subnets);
    }

    /// Makes the maps hold exactly these peers, and then lets the programs check senders.
    ///
    /// # Errors
    /// A map cannot be written. The floor carries what is missing.
    pub fn apply(&mut self, peers: &[Peer], routes: Routes<'_>) -> Result<()> {
        self.watcher.set_peers(peers);
        let replaced = self.bpf.leases.apply(peers, routes);
        // Flows to a node that has changed leave the host stack in another way.
        if !matches!(replaced, Ok(false)) {
            end_proofs(&mut self.bpf);
        }
        replaced?;
        self.bpf.config.enable_sender_check()
    }

    /// Adds these peers to the maps. Returns false if that is not possible, and all peers are to be applied.
    ///
    /// # Errors
    /// As of [`Self::apply`].
    pub fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        self.watcher.add_peers(joined);
        self.bpf.leases.add_peers(joined)
    }

    /// Waits for the next change. It may be dropped and called again; no change gets lost.
    pub async fn changed(&mut self, kernel: &Kernel) -> AcceleratorEvent {
        let Self { bpf, events, watcher, connections, may_have_moved, check, .. } = self;
        loop {
            tokio::select! {
                event = watcher.changed(kernel) => match event {
                    WatcherEvent::Interfaces => return AcceleratorEvent::Interfaces,
                    WatcherEvent::Forwarding => {
                        end_proofs(bpf);
                        *may_have_moved = true;
                        continue;
                    }
                },
                event = events.next() => return AcceleratorEvent::Packet(event),
                _ = check.tick() => {}
            }
            // What follows needs pins.
            if !bpf.is_attached(kernel).await {
                return AcceleratorEvent::Detached;
            }
            if let Some(connections) = connections {
                connections.keep(watcher.timeouts()).await;
            }
            if watcher.follow_tracker() {
                return AcceleratorEvent::Interfaces;
            }
            if std::mem::take(may_have_moved) || watcher.has_silently_changed(kernel, bpf).await {
                return AcceleratorEvent::Interfaces;
            }
        }
    }

    /// Makes the ports of the pods that are there take the shortcut, and senders be checked at all other interfaces. The packets of
    /// other pods pass the host stack. Leaves to the kernel what programs and queues of others must see. The programs are attached
    /// by [`Self::attach_next`].
    pub async fn follow_interfaces(&mut self, kernel: &Kernel) -> Vec<anyhow::Error> {
        let sides = match self.sides(kernel).await {
            Ok(sides) => sides,
            Err(error) => return vec![error],
        };
        let left = self.bpf.leave_sides(&sides);
        let mut errors = self.watcher.follow_pods(kernel, &mut self.bpf, &sides).await;
        errors.extend(left.err());
        self.bpf.follow_sides(&sides, kernel).await;
        while self.bpf.has_waiting() && !self.bpf.may_wait() {
            errors.extend(self.bpf.attach_next().err());
        }
        errors.extend(self.follow_order(kernel).await.err());
        self.headroom.iter_mut().for_each(|headroom| headroom.follow(self.watcher.bridges()));
        errors
    }

    /// Returns whether interfaces wait for [`Self::attach_next`]. Until then, packets of pods pass the host stack, or are copied to be
    /// wrapped.
    pub fn has_waiting(&self) -> bool {
        self.bpf.has_waiting() || self.headroom.as_ref().is_some_and(Headroom::is_waiting)
    }

    /// Attaches the programs to the next interface that waits for them. Bridges come last.
    pub async fn attach_next(&mut self, kernel: &Kernel) -> Vec<anyhow::Error> {
        if !self.bpf.has_waiting() {
            if let Some(headroom) = &mut self.headroom {
                headroom.make_next(kernel).await;
            }
            return Vec::new();
        }
        let is_side = self.bpf.has_waiting_sides();
        let mut errors: Vec<_> = self.bpf.attach_next().err().into_iter().collect();
        // All of them are attached again when the next check has seen it.
        if !errors.is_empty() && !self.bpf.is_attached(kernel).await {
            return Vec::new();
        }
        if is_side {
            errors.extend(self.follow_order(kernel).await.err());
        }
        errors
    }

    /// Lists the interfaces beside the uplink where senders are to be checked.
    async fn sides(&self, kernel: &Kernel) -> Result<Vec<Side>> {
        if self.bpf.checks_senders() {
            kernel.sides(&self.bpf.own_interfaces()).await
        } else {
            Ok(Vec::new())
        }
    }

    /// Drops what no program has checked, unless programs of others may take packets before the agent's see them. Says once
    /// if that is so. Does not begin with it while an interface waits for its check, whose packets would be dropped.
    async fn follow_order(&mut self, kernel: &Kernel) -> Result<()> {
        let preceded = self.bpf.preceded(kernel).await;
        if preceded.is_some() || !self.bpf.has_waiting_sides() {
            self.bpf.config.set_only_checked(preceded.is_none())?;
        }
        if preceded != self.preceded {
            match &preceded {
                Some(interface) => warn!(
                    interface,
                    "a TC program or filter of others comes before the agent's (bpftool net, tc filter show dev {interface} \
                     ingress): packets to addresses other than the public one reach pods without a check of their sender. \
                     Attach it after the agent's; filters need a priority above 8472"
                ),
                None => {
                    info!("no program of others comes before the agent's any more: all senders are checked");
                }
            }
            self.preceded = preceded;
        }
        Ok(())
    }
}

/// Ends all proofs. After a failure they hold until their time is over.
fn end_proofs(bpf: &mut Bpf) {
    if let Err(error) = bpf.config.end_proofs() {
        warn!("{error:#}; flows may have their old way for up to 10 s");
    }
}

fn outer(Carrier { local, uplink, device }: &Carrier<'_>) -> Option<Outer> {
    let port = device.as_ref()?.spec.port;
    Some(Outer { local: *local, port, uplink: uplink.index, uplink_name: uplink.name.clone() })
}

/// Without the capabilities for BPF these are the reason, and what the verifier says is not.
fn explain(error: anyhow::Error) -> anyhow::Error {
    match capabilities::missing_for_bpf() {
        Some(missing) => {
            let error = format!("{error:#}");
            anyhow!("the agent does not have {missing}: {}", error.lines().next().unwrap_or_default())
        }
        None => error,
    }
}

async fn load(settings: &Settings, carriers: &[Carrier<'_>], kernel: &Kernel) -> Result<(Bpf, Problem)> {
    carriers.iter().try_for_each(ensure_supported)?;
    let node = facts::facts(settings, carriers)?;
    let xdp = carriers.first().map(|carrier| XdpPlan::of(settings.xdp, &carrier.uplink.name));
    let mode = xdp.as_ref().and_then(XdpPlan::attach_mode);
    let Settings { max_flows, log_packets: log, .. } = *settings;
    let wanted = Wanted { node, max_flows, xdp: mode.is_some(), log };
    let pins = settings.pins.clone();
    let mut bpf = aside(move || Bpf::load(pins, wanted)).await?;
    bpf.release_xdp(mode)?;
    let over = "no program may be an earlier agent's any more";
    let mut strays = Problem::new(FailureKind::Programs, over, Pace::STEADY);
    strays.observed(bpf.detach_strays(kernel).await?);
    let places = facts::places(carriers, node.direct_routing != 0);
    let (mut bpf, attached) = aside(move || {
        let attached = bpf.attach(&places);
        (bpf, attached)
    })
    .await;
    if attached.is_err() {
        // Programs of an earlier agent may be left at the vxlan device alone, where nothing has a note any more.
        bpf.config.set_only_checked(false)?;
    }
    let mechanism = attached?;
    for Carrier { uplink, device, .. } in carriers {
        let overlay = device.as_ref().map(|device| &device.spec.name);
        info!(%mechanism, overlay, uplink = uplink.name, "BPF programs attached");
    }
    xdp.map_or(Ok(()), |xdp| xdp.carry_out(&mut bpf, mechanism))?;
    // Parsing the kernel's BTF took some 20 MB.
    memory::release();
    Ok((bpf, strays))
}

/// Runs work in another thread. The kernel takes its time for the programs, and the firewall's rules are written meanwhile.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends.
            Err(_) => pending().await,
        },
    }
}

fn ensure_supported(Carrier { uplink, device, .. }: &Carrier<'_>) -> Result<()> {
    if device.is_some_and(|device| device.spec.learning) {
        bail!("the BPF programs do not learn, which the network's Backend asks for with Learning");
    }
    if !uplink.ethernet {
        bail!("the uplink {} has no Ethernet header, which the BPF programs expect", uplink.name);
    }
    Ok(())
}
