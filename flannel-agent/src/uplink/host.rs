//! Interfaces, their addresses and the default routes, as the kernel lists them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

use super::{Stack, Uplink, UplinkError, UplinkOptions};
use crate::lease::PublicIps;
use crate::netlink::address::{ip_of, is_link_local};
use crate::netlink::link::{self, Link};
use crate::netlink::route::{self, Hop, RouteAnswer, RouteQuery};

/// The interfaces and routes to choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// Default routes of the main table, best first.
    pub default_routes: Vec<DefaultRoute>,
    /// The next hop to the address of `--iface-can-reach`.
    pub can_reach: Option<Hop>,
}

/// An interface and its usable addresses, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its properties.
    pub link: Link,
    /// IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Whether it is for IPv6.
    pub v6: bool,
    /// Index of the interface it leads through.
    pub index: u32,
    /// Its metric. The lowest wins.
    pub metric: u32,
    /// The router; `None` if there is none or it has an address of the other family.
    pub gateway: Option<IpAddr>,
    /// The source of what the host sends by this route; `None` if that is not known.
    pub source: Option<IpAddr>,
}

/// What the node used before. It is kept as long as it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Index of the interface; `None` for the uplink of the last run, whose interface is known by the addresses.
    index: Option<u32>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl InUse {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    fn is_on(&self, interface: &Interface) -> bool {
        self.index.is_none_or(|index| index == interface.link.index)
    }

    /// Whether it is known from the last run alone.
    pub(super) const fn is_of_last_run(&self) -> bool {
        self.index.is_none()
    }
}

impl From<&Uplink> for InUse {
    /// A link-local IPv4 address gives way to any other.
    fn from(uplink: &Uplink) -> Self {
        let v4 = uplink.ipv4.map(|address| address.local).filter(|local| !local.is_link_local());
        Self { index: Some(uplink.index), v4, v6: uplink.ipv6.map(|address| address.local) }
    }
}

impl From<PublicIps> for InUse {
    /// The addresses that the node announced in its last run.
    fn from(announced: PublicIps) -> Self {
        Self { index: None, v4: announced.v4, v6: announced.v6 }
    }
}

impl Interface {
    /// Returns its addresses, IPv4 first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.ipv4.iter().copied().map(IpAddr::V4);
        ipv4.chain(self.ipv6.iter().copied().map(IpAddr::V6))
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.contains(&address),
            IpAddr::V6(address) => self.ipv6.contains(&address),
        }
    }

    /// Returns whether it has an address of each family. Peers cannot use a link-local IPv6 address.
    pub(super) fn serves(&self, stack: Stack) -> bool {
        (!stack.has_v4() || !self.ipv4.is_empty())
            && (!stack.has_v6() || self.ipv6.iter().any(is_announceable))
    }

    /// Returns whether it may be chosen without being named. A bridge has the addresses of its ports, and the port of a pod
    /// is one. DHCP clients give a link-local address, and a default route, to any port on which no server answers.
    pub(super) fn is_candidate(&self) -> bool {
        self.may_carry() && self.addresses().any(|address| !is_link_local(address))
    }

    /// Returns whether packets between nodes may leave by it: not by a bridge's port, and not by an interface of the pods'
    /// network.
    pub(super) fn may_carry(&self) -> bool {
        self.link.controller.is_none() && !is_of_pods(&self.link)
    }

    /// Moves this address to the front of its family.
    fn prefer(&mut self, preferred: IpAddr) {
        match preferred {
            IpAddr::V4(preferred) => self.ipv4.sort_by_key(|address| *address != preferred),
            IpAddr::V6(preferred) => self.ipv6.sort_by_key(|address| *address != preferred),
        }
    }
}

/// Whether peers can use the address: a link-local one means nothing without an interface.
pub(super) const fn is_announceable(address: &Ipv6Addr) -> bool {
    !address.is_unicast_link_local()
}

impl Host {
    /// Reads from the kernel what these options need.
    ///
    /// # Errors
    /// [`UplinkError::Netlink`] if a dump fails.
    pub(super) async fn read(handle: &Handle, options: &UplinkOptions) -> Result<Self, UplinkError> {
        let failed = |what| move |source| UplinkError::Netlink { what, source };
        // One dump after the other: the kernel refuses a second one on the same socket with EBUSY.
        let links = link::list(handle).await.map_err(failed("interfaces"))?;
        let addresses: Vec<_> =
            handle.address().get().execute().try_collect().await.map_err(failed("addresses"))?;
        let mut routes = Vec::new();
        for family in options.stack.families() {
            let listed: Vec<_> =
                route::list(handle, family, None).try_collect().await.map_err(failed("routes"))?;
            routes.extend(listed);
        }
        let mut host = Self::of(links, addresses, &routes);
        for route in &mut host.default_routes {
            route.ask_for_source(handle).await;
        }
        host.prefer_sources();
        if let Some(destination) = options.can_reach {
            let answer = route::look_up(handle, RouteQuery { destination, forwarded: None }).await;
            host.can_reach = match answer.map_err(failed("the route to --iface-can-reach"))? {
                RouteAnswer::Local(hop) | RouteAnswer::Out(hop) => Some(hop),
                RouteAnswer::Refused(_) => None,
            };
        }
        Ok(host)
    }

    /// Builds it from what the kernel lists. flannel's own devices have no address that could be used.
    pub(super) fn of(
        mut links: Vec<Link>,
        mut addresses: Vec<AddressMessage>,
        routes: &[RouteMessage],
    ) -> Self {
        links.sort_by_key(|link| link.index);
        let own: Vec<u32> = links.iter().filter(|link| is_of_pods(link)).map(|link| link.index).collect();
        addresses.retain(|address| is_usable(address) && !own.contains(&address.header.index));
        // A stable sort keeps the kernel's order among equals: primary addresses first.
        addresses.sort_by_key(drawbacks);
        let mut host = Self {
            interfaces: links.into_iter().map(|link| interface(link, &addresses)).collect(),
            default_routes: routes.iter().filter_map(default_route).collect(),
            can_reach: None,
        };
        host.default_routes.sort_by_key(|route| route.metric);
        host.prefer_sources();
        host
    }

    /// Removes the addresses inside these networks.
    pub(super) fn ignore(&mut self, networks: &[IpNet]) {
        let stays = |address: IpAddr| !networks.iter().any(|network| network.contains(&address));
        for interface in &mut self.interfaces {
            interface.ipv4.retain(|address| stays((*address).into()));
            interface.ipv6.retain(|address| stays((*address).into()));
        }
    }

    /// Moves the source of each interface's best default route to the front of its addresses. An address that was added for
    /// a service, and moves to another node with it, is hardly ever that.
    pub(super) fn prefer_sources(&mut self) {
        for DefaultRoute { index, source, .. } in self.default_routes.iter().rev() {
            let through = self.interfaces.iter_mut().find(|interface| interface.link.index == *index);
            if let Some((interface, source)) = through.zip(*source) {
                interface.prefer(source);
            }
        }
    }

    /// Moves the node's current addresses to the front, so that an added address does not replace them. (The
    /// kernel lists the newest IPv6 address first.)
    pub(super) fn prefer(&mut self, in_use: &InUse) {
        for interface in self.interfaces.iter_mut().filter(|interface| in_use.is_on(interface)) {
            in_use.addresses().for_each(|address| interface.prefer(address));
        }
    }

    /// Returns the interface that is in use, if it is up and still has one of the node's addresses.
    pub(super) fn in_use(&self, in_use: &InUse) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| {
            interface.link.up
                && in_use.is_on(interface)
                && in_use.addresses().any(|address| interface.has(address))
        })
    }

    pub(super) fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.link.index == index)
    }
}

impl DefaultRoute {
    /// Asks the kernel which source it uses, where the route itself does not say it. An IPv6 router has a link-local address,
    /// and so would have the answer.
    async fn ask_for_source(&mut self, handle: &Handle) {
        let (None, Some(destination @ IpAddr::V4(_))) = (self.source, self.gateway) else { return };
        let answer = route::look_up(handle, RouteQuery { destination, forwarded: None }).await;
        if let Ok(RouteAnswer::Out(hop)) = answer
            && hop.interface == self.index
        {
            self.source = hop.source;
        }
    }
}

/// The bridge of pods, as the CNI plugin `bridge` names it.
const POD_BRIDGE: &str = "cni0";

/// Whether the interface is one of the pods' network: packets between nodes never leave by it.
fn is_of_pods(link: &Link) -> bool {
    link.is_flannel_device() || link.name == POD_BRIDGE
}

fn interface(link: Link, addresses: &[AddressMessage]) -> Interface {
    let mut interface = Interface { link, ..Interface::default() };
    for address in addresses.iter().filter(|address| address.header.index == interface.link.index) {
        match ip_of(address) {
            Some(IpAddr::V4(address)) => interface.ipv4.push(address),
            Some(IpAddr::V6(address)) => interface.ipv6.push(address),
            None => {}
        }
    }
    interface
}

fn is_usable(message: &AddressMessage) -> bool {
    let deprecated = message.header.flags.contains(AddressHeaderFlags::Deprecated);
    let reachable = |ip: IpAddr| !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified();
    !deprecated && ip_of(message).is_some_and(reachable)
}

/// The sort key of an address; false sorts first. Preferred are addresses of global scope, then not
/// link-local, then neither secondary nor temporary (IPv4 and IPv6 share that flag), then not added for a service, then
/// permanent.
fn drawbacks(message: &AddressMessage) -> [bool; 5] {
    let flags = message.header.flags;
    let ip = ip_of(message);
    let whole = ip.is_some_and(|ip| message.header.prefix_len == if ip.is_ipv4() { 32 } else { 128 });
    let permanent = flags.contains(AddressHeaderFlags::Permanent);
    [
        message.header.scope != AddressScope::Universe,
        ip.is_none_or(is_link_local),
        flags.contains(AddressHeaderFlags::Secondary),
        // keepalived and kube-vip add /32 and /128. DHCP does so too, but not for ever.
        whole && permanent,
        !permanent,
    ]
}

fn default_route(route: &RouteMessage) -> Option<DefaultRoute> {
    let header = &route.header;
    let everywhere = header.destination_prefix_length == 0 && header.kind == RouteType::Unicast;
    let wanted = everywhere && header.table == RouteHeader::RT_TABLE_MAIN;
    let v6 = header.address_family == AddressFamily::Inet6;
    let mut found = DefaultRoute { v6, index: 0, metric: 0, gateway: None, source: None };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(through) => found.index = *through,
            RouteAttribute::MultiPath(hops) => {
                let first = hops.first()?;
                found.index = first.interface_index;
                found.gateway = first.attributes.iter().find_map(gateway);
            }
            RouteAttribute::Priority(value) => found.metric = *value,
            RouteAttribute::PrefSource(source) => found.source = route::ip_of(source),
            attribute => found.gateway = found.gateway.or_else(|| gateway(attribute)),
        }
    }
    (wanted && found.index != 0).then_some(found)
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => route::ip_of(address),
        _ => None,
    }
}

/// Lists interfaces for an error message.
pub(super) fn list(interfaces: &[Interface]) -> String {
    interfaces.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses().map(|address| address.to_string()).collect();
        let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(" ") };
        write!(f, "{} ({addresses})", self.link.name)
    }
}
