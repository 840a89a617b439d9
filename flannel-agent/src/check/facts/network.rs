//! What is derived from the status of a network, from the leases that the agent knew, and from the kernel's interfaces. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::backend::vxlan::settings::{ENCAPSULATION, ENCAPSULATION_V6};
use crate::check::judge::host::Interfaces;
use crate::check::judge::leases::OwnNode;
use crate::check::judge::managers::Managed;
use crate::check::judge::mtu::Mtus;
use crate::check::judge::others::ExpectedDevice;
use crate::check::judge::peers::Paths;
use crate::check::probe::Target;
use crate::config::{Backend, BackendType, UdpConfig};
use crate::lease::{LastKnown, PublicIps};
use crate::netfilter::judge::passage::{self, Passage, Route};
use crate::netfilter::rules::Table;
use crate::netlink::link::Link;
use crate::probe::{address_in, gateway};
use crate::status::agent::Agent;
use crate::status::model::{NetworkStatus, Role, Way};

/// UDP port of the tunnel where nothing says another one.
const PORT: u16 = 8472;
/// What the udp backend adds to a packet, in bytes: IPv4 and UDP headers.
const UDP_ENCAPSULATION: u32 = 28;

/// A network, and what is known of it.
pub(in crate::check) struct Network {
    pub(in crate::check) status: NetworkStatus,
    pub(in crate::check) known: Option<LastKnown>,
    /// The pods' bridges, by subnet.
    pub(in crate::check) bridges: Vec<(IpNet, Link)>,
}

/// The interfaces and addresses of this node.
pub(in crate::check) struct Host {
    pub(in crate::check) links: Vec<Link>,
    pub(in crate::check) addresses: Vec<IpAddr>,
}

impl Host {
    fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

impl Network {
    pub(in crate::check) fn subnets(&self) -> Vec<IpNet> {
        self.status.subnets.iter().filter_map(|subnet| subnet.parse().ok()).collect()
    }

    pub(in crate::check) fn is_vxlan(&self) -> bool {
        self.status.backend.as_deref() == Some("vxlan")
    }

    pub(in crate::check) fn is_kubernetes(&self) -> bool {
        self.status.datastore.as_ref().is_some_and(|name| name.starts_with("kubernetes"))
    }

    /// Returns whether packets are to be carried by BPF, unless somebody has chosen otherwise.
    pub(in crate::check) fn wants_bpf(&self) -> bool {
        let is_chosen = self.status.without_bpf.as_ref().is_some_and(|why| why.contains("was chosen"));
        self.is_vxlan() && !is_chosen
    }

    pub(in crate::check) fn has_direct(&self) -> bool {
        self.status.peers.iter().any(|peer| peer.way == Way::OnLink)
    }

    /// Returns the VNI by the network's name, or by those of its devices.
    fn vni(&self) -> Option<u32> {
        let name = self.status.network.as_deref().and_then(|name| name.strip_prefix("vxlan "));
        let devices = self.status.devices.iter().filter(|device| device.role == Role::Overlay);
        let mut by_device = devices.filter_map(|device| device.name.rsplit_once('.')?.1.parse().ok());
        name.and_then(|vni| vni.parse().ok()).or_else(|| by_device.next())
    }

    /// Returns the name of the vxlan device of an address family.
    fn overlay(&self, v6: bool) -> Option<String> {
        let vni = self.vni().filter(|_| self.is_vxlan())?;
        Some(format!("{}.{vni}", if v6 { "flannel-v6" } else { "flannel" }))
    }

    /// Returns the UDP port of the tunnel, if there is one.
    pub(in crate::check) fn port(&self, host: &Host) -> Option<u16> {
        let of_device = || {
            let overlays = [false, true].into_iter().filter_map(|v6| self.overlay(v6));
            overlays.filter_map(|name| Some(host.by_name(&name)?.vxlan()?.port)).next()
        };
        self.known_port().or_else(of_device).or_else(|| self.is_vxlan().then_some(PORT))
    }

    /// Returns the UDP port by the network's configuration.
    fn known_port(&self) -> Option<u16> {
        match &self.known.as_ref()?.network.backend {
            Backend::Vxlan(vxlan) => Some(vxlan.udp_port()),
            Backend::Udp(UdpConfig { port }) => Some(*port),
            Backend::HostGw | Backend::Alloc | Backend::AwsVpc(_) | Backend::Gce | Backend::AliVpc(_) => None,
        }
    }

    /// Returns the uplink of an address family.
    fn uplink<'a>(&self, host: &'a Host, v6: bool) -> Option<&'a Link> {
        let vxlan = self.overlay(v6).and_then(|name| host.by_name(&name)?.vxlan());
        let of_device =
            vxlan.and_then(|vxlan| host.links.iter().find(|link| link.index == vxlan.uplink_index));
        let device = self.status.devices.iter().find(|device| device.role == Role::Uplink);
        let said = match &self.status.agent {
            Agent::Answers { report } => report.carrying.as_ref(),
            Agent::Silent { .. } | Agent::Absent | Agent::Closed { .. } => None,
        };
        let said = said.and_then(|carrying| carrying.uplink.split(' ').next());
        of_device.or_else(|| host.by_name(device.map(|device| device.name.as_str()).or(said)?))
    }

    /// Returns the interfaces of each address family of the node's subnets.
    pub(in crate::check) fn interfaces(&self, host: &Host) -> Vec<Interfaces> {
        let of = |subnet: &IpNet| {
            let v6 = subnet.addr().is_ipv6();
            let bridge = self.bridges.iter().find(|(of, _)| of == subnet);
            Interfaces {
                v6,
                overlay: self.overlay(v6).filter(|name| host.by_name(name).is_some()),
                uplink: self.uplink(host, v6).map(|link| link.name.clone()),
                bridge: bridge.map(|(_, link)| link.name.clone()),
            }
        };
        self.subnets().iter().map(of).collect()
    }

    /// Returns the links that packets of other nodes pass.
    pub(in crate::check) fn links(&self, host: &Host) -> Vec<Link> {
        let mut links: Vec<Link> = Vec::new();
        for Interfaces { overlay, uplink, .. } in self.interfaces(host) {
            for link in [overlay, uplink].into_iter().flatten().filter_map(|name| host.by_name(&name)) {
                if !links.iter().any(|known| known.index == link.index) {
                    links.push(link.clone());
                }
            }
        }
        links
    }

    /// Returns what the tunnel adds to a packet, in bytes.
    fn overhead(&self, v6: bool) -> u32 {
        match (self.status.backend.as_deref(), v6) {
            (Some("vxlan"), false) => ENCAPSULATION,
            (Some("vxlan"), true) => ENCAPSULATION_V6,
            (Some("udp"), _) => UDP_ENCAPSULATION,
            _ => 0,
        }
    }

    pub(in crate::check) fn mtus(&self, host: &Host) -> Mtus {
        let of = |name: &String| Some((name.clone(), host.by_name(name)?.mtu));
        let interfaces = self.interfaces(host);
        let uplink =
            |of_family: &Interfaces| Some((of(of_family.uplink.as_ref()?)?, self.overhead(of_family.v6)));
        let mut bridges: Vec<_> =
            self.bridges.iter().map(|(_, link)| (link.name.clone(), link.mtu)).collect();
        bridges.dedup();
        Mtus {
            pods: self.status.mtu,
            overlays: interfaces.iter().filter_map(|family| of(family.overlay.as_ref()?)).collect(),
            uplinks: interfaces.iter().filter_map(uplink).collect(),
            bridges,
        }
    }

    pub(in crate::check) fn expected_devices(&self) -> Vec<ExpectedDevice> {
        let device = |subnet: &IpNet| {
            let name = self.overlay(subnet.addr().is_ipv6())?;
            Some(ExpectedDevice { name, vni: self.vni()?, port: self.known_port() })
        };
        self.subnets().iter().filter_map(device).collect()
    }

    /// Returns the interfaces that other programs are to leave alone.
    pub(in crate::check) fn managed(&self, host: &Host) -> Vec<Managed> {
        let mut managed = Vec::new();
        for Interfaces { overlay, bridge, .. } in self.interfaces(host) {
            managed.extend(overlay.map(|name| Managed { name, types: ["vxlan", "vxlan"] }));
            managed.extend(bridge.map(|name| Managed { name, types: ["bridge", "bridge"] }));
        }
        managed.dedup();
        managed
    }

    pub(in crate::check) fn own(&self, host: &Host) -> OwnNode {
        let overlays: Vec<_> =
            [false, true].into_iter().filter_map(|v6| host.by_name(&self.overlay(v6)?)).collect();
        let announced = self.known.as_ref().and_then(|known| known.node.attrs.as_ref());
        let announced: Vec<_> =
            announced.map(PublicIps::from).iter().flat_map(PublicIps::addresses).collect();
        let local = overlays.iter().filter_map(|link| link.vxlan()?.local).collect();
        OwnNode {
            addresses: if announced.is_empty() { local } else { announced },
            macs: overlays.iter().filter_map(|link| link.mac).collect(),
        }
    }

    /// Returns what rules do with packets between pods of this node and of others, the worst of both directions.
    pub(in crate::check) fn forwarded(&self, host: &Host, tables: &[Table]) -> Passage {
        let prefixes: Vec<IpNet> = self.status.prefixes.iter().filter_map(|net| net.parse().ok()).collect();
        let mut worst = Passage::Open;
        for (subnet, family) in self.subnets().iter().zip(self.interfaces(host)) {
            let others: Vec<_> =
                prefixes.iter().filter(|net| net.addr().is_ipv6() == family.v6).copied().collect();
            let (own, bridge) = (std::slice::from_ref(subnet), family.bridge.as_deref());
            let far = if self.is_vxlan() { &family.overlay } else { &family.uplink }.as_deref();
            for (sources, destinations, from, to) in
                [(own, &others[..], bridge, far), (&others[..], own, far, bridge)]
            {
                let packets = passage::Packets {
                    route: Route::Through,
                    sources,
                    destinations,
                    udp_port: None,
                    from,
                    to,
                };
                worst = worst.max(passage::passage(tables, packets));
            }
        }
        worst
    }

    /// Returns what rules do with the tunnel's packets that arrive, and with those that leave.
    pub(in crate::check) fn tunnelled(&self, host: &Host, port: u16, tables: &[Table]) -> [Passage; 2] {
        let own = self.own(host).addresses;
        let mut worst = [Passage::Open, Passage::Open];
        for v6 in self.subnets().iter().map(|subnet| subnet.addr().is_ipv6()) {
            let of_family = |address: &IpAddr| address.is_ipv6() == v6;
            let peers = self.status.peers.iter().map(|peer| peer.public_ip).filter(of_family);
            let peers: Vec<_> = peers.map(IpNet::from).collect();
            let own: Vec<_> = own.iter().copied().filter(of_family).map(IpNet::from).collect();
            let uplink = self.uplink(host, v6).map(|link| link.name.as_str());
            let (udp_port, is_known) = (Some(port), !peers.is_empty() && !own.is_empty());
            if !is_known {
                continue;
            }
            let received = passage::Packets {
                route: Route::In,
                sources: &peers,
                destinations: &own,
                udp_port,
                from: uplink,
                to: None,
            };
            let sent = passage::Packets {
                route: Route::Out,
                sources: &own,
                destinations: &peers,
                from: None,
                to: uplink,
                ..received
            };
            for (worst, packets) in worst.iter_mut().zip([received, sent]) {
                let found = passage::passage(tables, packets);
                if found > *worst {
                    *worst = found;
                }
            }
        }
        worst
    }

    /// Returns whether BPF takes the tunnel's packets before rules see them.
    pub(in crate::check) fn is_early(&self, host: &Host) -> bool {
        let uplinks = self.interfaces(host).into_iter().filter_map(|family| family.uplink);
        let attached = self.status.programs.iter().filter(|program| program.program == "underlay_ingress");
        let attached: Vec<_> = attached.flat_map(|program| &program.interfaces).collect();
        !attached.is_empty() && uplinks.into_iter().all(|uplink| attached.contains(&&uplink))
    }

    pub(in crate::check) fn paths(&self, host: &Host) -> Paths {
        let v6 = self.subnets().first().is_some_and(|subnet| subnet.addr().is_ipv6());
        Paths {
            port: self.port(host),
            overhead: u16::try_from(self.overhead(v6)).unwrap_or_default(),
            have_addresses: self.status.backend.as_deref().is_none_or(BackendType::name_has_device),
        }
    }

    /// Returns the other nodes to probe.
    pub(in crate::check) fn targets(&self, host: &Host) -> Vec<Target> {
        let paths = self.paths(host);
        let own = self.own(host).addresses;
        let subnets = self.subnets();
        let has = |address: &IpAddr| host.addresses.contains(address);
        let target = |peer: &crate::status::model::PeerStatus| {
            let subnet: IpNet = peer.subnet.parse().ok()?;
            let v6 = subnet.addr().is_ipv6();
            let is_other =
                !subnets.contains(&subnet) && !own.contains(&peer.public_ip) && !has(&peer.public_ip);
            let own = subnets.iter().find(|own| own.addr().is_ipv6() == v6)?;
            (is_other && peer.way != Way::Other).then(|| Target {
                subnet,
                public_ip: peer.public_ip,
                way: peer.way,
                from: [own.network(), gateway(*own)].into_iter().find(has),
                to: address_in(subnet, paths.have_addresses),
                full: self.status.mtu.and_then(|mtu| u16::try_from(mtu).ok()),
            })
        };
        self.status.peers.iter().filter_map(target).collect()
    }
}
