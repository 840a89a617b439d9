//! vxlan: the kernel's devices as floor, and BPF on top of them.

mod floor;
mod overlay;
mod questions;
pub(crate) mod settings;

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use tracing::{info, warn};

use super::acceleration::Acceleration;
use super::route_mtus::RouteMtus;
use super::{Backend, Setup};
use crate::config::{BackendType, VxlanConfig};
use crate::dataplane::accelerator::{AcceleratedDevice, AcceleratorEvent, Carrier};
use crate::dataplane::bpf::leases::Routes;
use crate::dataplane::desired;
use crate::dataplane::kernel::Kernel;
use crate::lease::{LeaseAttrs, SubnetKey, VxlanData};
use crate::metrics::METRICS;
use crate::peer::Peer;
use crate::uplink::Uplink;
use floor::{FloorEvent, NodeFloor};
use overlay::Overlay;
use questions::{Question, Questions};

/// The overlay of this node.
pub struct Vxlan {
    kernel: Kernel,
    uplink: Uplink,
    floor: NodeFloor,
    acceleration: Acceleration,
    route_mtus: RouteMtus,
    own: Option<SubnetKey>,
    /// The peers that kernel and maps hold; `None` if that is not known.
    applied: Option<Vec<Peer>>,
    questions: Questions,
    due: Due,
}

/// What [`Vxlan::react`] has to do beside answering questions. Each step includes those before it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    #[default]
    Nothing,
    /// Pods or other interfaces have come or gone.
    Interfaces,
    /// The MTU of a route to a peer has changed.
    Peers,
    /// Devices, entries or direct routes were changed by another program.
    Repair,
    /// The programs were detached by another program.
    Attach,
}

impl Backend for Vxlan {
    type Config = VxlanConfig;

    async fn start(setup: Setup<'_, VxlanConfig>) -> Result<Self> {
        let acceleration = Acceleration::new(settings::accelerator(&setup));
        let kernel = Kernel::new()?;
        let mut vxlan = Self {
            floor: NodeFloor::start(&kernel, &setup).await?,
            route_mtus: RouteMtus::open(&kernel, setup.uplink.index)?,
            kernel,
            uplink: setup.uplink.clone(),
            acceleration,
            own: None,
            applied: None,
            questions: Questions::new(setup.network),
            due: Due::Nothing,
        };
        // An earlier agent's programs may be for a device that is gone. And a node that insists on BPF takes no subnet
        // without.
        if vxlan.acceleration.precedes_subnet() {
            vxlan.load_programs().await?;
        }
        Ok(vxlan)
    }

    fn attributes(&self) -> Result<LeaseAttrs> {
        let mut attrs = super::attributes(BackendType::Vxlan, &self.uplink);
        for overlay in self.floor.overlays() {
            let data = VxlanData { vni: Some(overlay.spec().vni), vtep_mac: overlay.device().mac };
            let data = Some(serde_json::value::to_raw_value(&data)?);
            if overlay.is_v6() { attrs.backend_v6_data = data } else { attrs.backend_data = data }
        }
        Ok(attrs)
    }

    /// Pods have one MTU for both families, so it is the smaller one.
    fn mtu(&self) -> u32 {
        self.floor.overlays().iter().map(|overlay| overlay.device().mtu).min().unwrap_or_default()
    }

    fn name(&self) -> &'static str {
        if self.acceleration.is_present() { "bpf" } else { "netlink" }
    }

    fn acceleration(&self) -> Option<&Acceleration> {
        Some(&self.acceleration)
    }

    fn acceleration_mut(&mut self) -> Option<(&mut Acceleration, &Kernel)> {
        Some((&mut self.acceleration, &self.kernel))
    }

    async fn set_subnet(&mut self, own: SubnetKey) -> Result<()> {
        self.floor.set_subnet(&self.kernel, own).await?;
        self.own = Some(own);
        self.applied = None;
        self.accelerate_own_subnets().await.iter().for_each(|error| warn!("{error:#}"));
        Ok(())
    }

    async fn accelerate(&mut self) -> Result<()> {
        if self.acceleration.is_probed() { Ok(()) } else { self.load_programs().await }
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let before = self.applied.replace(peers.to_vec());
        if let Some(joined) = before.and_then(|before| desired::added_peers(&before, peers))
            && let Some(errors) = self.add_peers(&joined).await
        {
            return errors;
        }
        self.apply_all(peers).await
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let detached = mem::take(&mut self.due) == Due::Attach;
        self.applied = None;
        let (mut errors, recreated) = self.floor.repair(&self.kernel).await;
        if detached || recreated {
            let carriers = carriers(self.floor.overlays(), &self.uplink);
            errors.extend(self.acceleration.heal(&carriers, &self.kernel, detached).await.err());
            errors.extend(self.programs_loaded().await);
        }
        errors.extend(self.apply(peers).await);
        errors.extend(self.acceleration.follow_interfaces(&self.kernel).await);
        errors
    }

    async fn changed(&mut self) {
        let Self { kernel, floor, acceleration, route_mtus, questions, due, .. } = self;
        loop {
            let work = tokio::select! {
                event = floor.changed() => match event {
                    FloorEvent::Broken => Some(Due::Repair),
                    FloorEvent::Miss(device, miss) => questions.add_miss(device, miss).then_some(Due::Nothing),
                },
                event = acceleration.changed(kernel) => match event {
                    AcceleratorEvent::Interfaces => Some(Due::Interfaces),
                    AcceleratorEvent::Detached => Some(Due::Attach),
                    AcceleratorEvent::Packet(packet) => questions.add_event(&packet).then_some(Due::Nothing),
                },
                () = route_mtus.changed() => Some(Due::Peers),
            };
            if let Some(work) = work {
                *due = work.max(*due);
                return;
            }
        }
    }

    async fn react(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let mut errors = match self.due {
            Due::Attach | Due::Repair => self.resync(peers).await,
            due @ (Due::Interfaces | Due::Peers) => {
                self.due = Due::Nothing;
                let mut errors = if due == Due::Peers { self.apply_all(peers).await } else { Vec::new() };
                errors.extend(self.acceleration.follow_interfaces(&self.kernel).await);
                errors
            }
            Due::Nothing => Vec::new(),
        };
        errors.extend(self.answer_questions().await);
        errors
    }

    fn wants_peers(&mut self) -> bool {
        self.questions.misses.ask_datastore()
    }

    async fn settle_questions(&mut self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        for question in self.questions.misses.take_asked() {
            let answered = self.answer(&question).await;
            METRICS.count_miss(question.kind(), answered.is_some());
            match answered {
                Some(answered) => {
                    self.questions.misses.answered();
                    errors.extend(answered.err());
                }
                None => {
                    info!(%question, "no lease answers a question of the kernel or the programs");
                    self.questions.misses.not_answered(question, Instant::now());
                }
            }
        }
        errors
    }
}

impl Vxlan {
    /// Loads and attaches the programs, or detaches an earlier agent's.
    async fn load_programs(&mut self) -> Result<()> {
        self.acceleration.load(&carriers(self.floor.overlays(), &self.uplink), &self.kernel).await?;
        self.programs_loaded().await.iter().for_each(|error| warn!("{error:#}"));
        Ok(())
    }

    /// The programs may be new ones, which know nothing.
    async fn programs_loaded(&mut self) -> Vec<anyhow::Error> {
        self.applied = None;
        self.accelerate_own_subnets().await
    }

    /// Tells the programs of the own subnets, once there are any, and of the ports of the pods there.
    async fn accelerate_own_subnets(&mut self) -> Vec<anyhow::Error> {
        let Some(own) = self.own else { return Vec::new() };
        self.acceleration.set_own_subnets(own);
        self.acceleration.follow_interfaces(&self.kernel).await
    }

    /// Computes and writes everything for these peers. The maps come before kernel entries are removed: what the programs
    /// send over IPv6 depends on both.
    async fn apply_all(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let Self { kernel, floor, acceleration, route_mtus, .. } = self;
        let (ways, mut errors) = floor.prepare(kernel, peers).await;
        let mtus = route_mtus.read(kernel, addresses(peers)).await.unwrap_or_else(|error| {
            errors.push(error);
            const { &BTreeMap::new() }
        });
        // All peers: one on the link may still send through the overlay.
        errors.extend(acceleration.apply(peers, Routes { direct: &ways.direct, mtus }).err());
        errors.extend(floor.apply(kernel, &ways).await);
        errors
    }

    /// Adds these peers to what is there. Returns `None` if that is not possible, and [`Self::apply_all`] is needed.
    async fn add_peers(&mut self, joined: &[Peer]) -> Option<Vec<anyhow::Error>> {
        if !self.route_mtus.is_empty() {
            return None;
        }
        self.route_mtus.add(addresses(joined));
        let mut errors = self.floor.add_peers(&self.kernel, joined).await?;
        match self.acceleration.add_peers(joined) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => errors.push(error),
        }
        Some(errors)
    }

    /// Answers what kernel and programs have asked, as far as peers are known. The rest waits for the datastore.
    async fn answer_questions(&mut self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        for question in self.questions.misses.take_new() {
            match self.answer(&question).await {
                Some(answered) => {
                    METRICS.count_miss(question.kind(), true);
                    errors.extend(answered.err());
                }
                None => self.questions.misses.put_back(question, Instant::now()),
            }
        }
        errors
    }

    /// Answers a question if a peer is the answer.
    async fn answer(&self, question: &Question) -> Option<Result<()>> {
        match question {
            Question::Kernel(device, miss) => self.floor.answer(&self.kernel, *device, miss).await,
            // The maps have every peer's subnet already.
            Question::Pod(pod) => {
                let peers = self.applied.as_ref()?;
                peers.iter().any(|peer| peer.subnet.contains(pod)).then_some(Ok(()))
            }
        }
    }
}

/// Returns what carries packets of each family.
fn carriers<'a>(overlays: &'a [Overlay], uplink: &'a Uplink) -> Vec<Carrier<'a>> {
    let carrier = |overlay: &'a Overlay| Carrier {
        local: overlay.spec().local,
        uplink,
        device: Some(AcceleratedDevice { spec: overlay.spec(), actual: overlay.device() }),
    };
    overlays.iter().map(carrier).collect()
}

/// Returns where outer packets go.
fn addresses(peers: &[Peer]) -> impl Iterator<Item = IpAddr> {
    peers.iter().map(|peer| peer.public_ip)
}
