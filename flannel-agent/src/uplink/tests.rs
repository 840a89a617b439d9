//! The choice of interface and address.

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

use super::pick::{self, Picked};
use super::*;
use crate::lease::PublicIps;
use crate::netlink::link::{Link, LinkKind, VxlanOptions};
use crate::netlink::route::Hop;

/// Chooses as the first run of a node does.
fn pick(host: &Host, options: &UplinkOptions) -> Result<Uplink, UplinkError> {
    pick::pick(host, options, &InUse::default()).map(|picked| picked.uplink)
}

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.to_owned(), mtu: 1500, up: true, ..Link::default() }
}

fn address(index: u32, ip: &str, scope: AddressScope, flags: AddressHeaderFlags) -> AddressMessage {
    let mut address = AddressMessage::default();
    address.header.index = index;
    address.header.scope = scope;
    address.header.flags = flags;
    address.attributes.push(AddressAttribute::Address(ip.parse().unwrap()));
    address
}

fn permanent(index: u32, ip: &str) -> AddressMessage {
    address(index, ip, AddressScope::Universe, AddressHeaderFlags::Permanent)
}

fn default_route(index: u32, metric: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Oif(index), RouteAttribute::Priority(metric)];
    route
}

/// eth0 with two addresses, eth1 with one, eth2 with none; eth1's default route has the lower metric.
fn host() -> Host {
    let links = [link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "eth2")];
    let addresses = vec![
        address(1, "127.0.0.1", AddressScope::Host, AddressHeaderFlags::Permanent),
        permanent(2, "192.168.64.3"),
        permanent(2, "192.168.64.4"),
        permanent(2, "fd00::3"),
        permanent(3, "10.0.0.3"),
    ];
    let mut elsewhere = default_route(2, 0);
    elsewhere.header.table = 100;
    let mut network = default_route(2, 0);
    network.header.destination_prefix_length = 8;
    Host::of(links.into(), addresses, &[elsewhere, network, default_route(2, 200), default_route(3, 100)])
}

fn options(ifaces: &[&str], public_ip: Option<&str>) -> UplinkOptions {
    let ifaces = ifaces.iter().map(|&iface| iface.to_owned()).collect();
    UplinkOptions { ifaces, public_ip: public_ip.map(|ip| ip.parse().unwrap()), ..UplinkOptions::default() }
}

/// `--iface`, `--public-ip`, and what comes of them: interface, local IP, public IP.
type Case<'a> = (&'a [&'a str], Option<&'a str>, &'a str, &'a str, &'a str);

#[test]
fn interface_and_address_are_chosen() {
    let cases: [Case<'_>; 12] = [
        (&[], None, "eth1", "10.0.0.3", "10.0.0.3"),
        (&[""], None, "eth1", "10.0.0.3", "10.0.0.3"),
        (&[], Some("192.168.64.4"), "eth0", "192.168.64.4", "192.168.64.4"),
        (&[], Some("203.0.113.9"), "eth1", "10.0.0.3", "203.0.113.9"),
        (&["eth0"], None, "eth0", "192.168.64.3", "192.168.64.3"),
        (&["192.168.64.4"], None, "eth0", "192.168.64.4", "192.168.64.4"),
        (&["wlan0", "eth1"], None, "eth1", "10.0.0.3", "10.0.0.3"),
        (&["eth2", "eth1"], None, "eth1", "10.0.0.3", "10.0.0.3"),
        (&["fd00::3"], None, "eth0", "192.168.64.3", "192.168.64.3"),
        (&["eth0"], Some("192.168.64.4"), "eth0", "192.168.64.4", "192.168.64.4"),
        (&["192.168.64.3"], Some("192.168.64.4"), "eth0", "192.168.64.4", "192.168.64.4"),
        (&["eth0"], Some("203.0.113.9"), "eth0", "192.168.64.3", "203.0.113.9"),
    ];
    for (ifaces, public_ip, name, local, public) in cases {
        let uplink = pick(&host(), &options(ifaces, public_ip)).unwrap();
        let address = uplink.ipv4.unwrap();
        let addresses = (address.local.to_string(), address.public.to_string());
        assert_eq!(uplink.name, name, "{ifaces:?}");
        assert_eq!(addresses, (local.to_owned(), public.to_owned()), "{ifaces:?} {public_ip:?}");
    }
}

fn v6(stack: Stack, ifaces: &[&str], public: Option<&str>) -> UplinkOptions {
    let public_ipv6 = public.map(|ip| ip.parse().unwrap());
    UplinkOptions { stack, public_ipv6, ..options(ifaces, None) }
}

#[test]
fn each_family_that_is_wanted_has_its_ends() {
    let cases: [(UplinkOptions, Option<&str>, Option<&str>); 7] = [
        (options(&["eth0"], None), Some("192.168.64.3"), None),
        (v6(Stack::Dual, &["eth0"], None), Some("192.168.64.3"), Some("fd00::3")),
        (v6(Stack::V6, &["eth0"], None), None, Some("fd00::3")),
        (v6(Stack::V6, &["192.168.64.4"], None), None, Some("fd00::3")),
        (v6(Stack::V6, &["eth1", "eth0"], None), None, Some("fd00::3")),
        (
            v6(Stack::Dual, &["eth0"], Some("2001:db8::9")),
            Some("192.168.64.3"),
            Some("fd00::3, announced as 2001:db8::9"),
        ),
        (v6(Stack::Dual, &[], Some("fd00::3")), Some("192.168.64.3"), Some("fd00::3")),
    ];
    for (options, ipv4, ipv6) in cases {
        let uplink = pick(&host(), &options).unwrap();
        assert_eq!(uplink.ipv4.map(|address| address.to_string()).as_deref(), ipv4, "{options:?}");
        assert_eq!(uplink.ipv6.map(|address| address.to_string()).as_deref(), ipv6, "{options:?}");
    }
}

#[test]
fn a_missing_address_family_is_named() {
    let mut host = host();
    host.interfaces[2].ipv6.push("fe80::3".parse().unwrap());
    let cases = [
        (v6(Stack::Dual, &["eth1"], None), "interface eth1 has no usable IPv6 address"),
        (v6(Stack::Dual, &[], None), "interface eth1 has no usable IPv6 address"),
        (v6(Stack::V6, &["fe80::3"], None), "interface eth1 has no usable IPv6 address"),
        (v6(Stack::V6, &["eth2"], None), "interface eth2 has no usable IPv6 address"),
        (v6(Stack::Dual, &["eth2"], None), "interface eth2 has no usable IPv4 address"),
    ];
    for (options, message) in cases {
        let said = pick(&host, &options).unwrap_err().to_string();
        assert!(said.starts_with(message), "{said}");
    }
    host.default_routes.clear();
    let said = pick(&host, &v6(Stack::V6, &[], None)).unwrap_err().to_string();
    assert!(said.starts_with("no IPv6 default route shows which interface to use"), "{said}");
}

#[test]
fn better_addresses_come_first() {
    let secondary = AddressHeaderFlags::Permanent | AddressHeaderFlags::Secondary;
    let addresses = vec![
        address(2, "192.168.64.9", AddressScope::Universe, AddressHeaderFlags::Deprecated),
        address(2, "169.254.7.7", AddressScope::Link, AddressHeaderFlags::Permanent),
        address(2, "192.168.64.8", AddressScope::Universe, AddressHeaderFlags::empty()),
        address(2, "192.168.64.5", AddressScope::Universe, secondary),
        permanent(2, "192.168.64.3"),
    ];
    let host = Host::of(vec![link(2, "eth0")], addresses, &[]);
    let order: Vec<_> = host.interfaces[0].ipv4.iter().map(ToString::to_string).collect();
    assert_eq!(order, ["192.168.64.3", "192.168.64.8", "192.168.64.5", "169.254.7.7"]);
}

#[test]
fn errors_name_the_flags_that_were_tried_and_list_the_interfaces() {
    let list = "Interfaces: lo (no address), eth0 (192.168.64.3 192.168.64.4 fd00::3), eth1 (10.0.0.3), \
                eth2 (no address)";
    let no_route = Host { default_routes: Vec::new(), ..host() };
    let cases = [
        (
            no_route,
            options(&[], None),
            "no IPv4 default route shows which interface to use; name one by --iface",
        ),
        (
            host(),
            options(&["wlan0", "10.9.9.9"], None),
            "no interface matches --iface wlan0 or --iface 10.9.9.9",
        ),
        (
            host(),
            options(&["eth2"], None),
            "interface eth2 has no usable IPv4 address; add one, or name another interface by --iface",
        ),
    ];
    for (host, options, message) in cases {
        assert_eq!(pick(&host, &options).unwrap_err().to_string(), format!("{message}. {list}"));
    }
}

fn asked(ifaces: &[&str], regexes: &[&str]) -> UplinkOptions {
    let iface_regexes = regexes.iter().map(|regex| Regex::new(regex).unwrap()).collect();
    UplinkOptions { iface_regexes, ..options(ifaces, None) }
}

#[test]
fn an_expression_matches_addresses_before_names() {
    for (ifaces, regexes, name, local) in [
        (&[][..], &["^192\\.168\\."][..], "eth0", "192.168.64.3"),
        (&[], &["64\\.4$"], "eth0", "192.168.64.4"),
        (&[], &["^fd00:"], "eth0", "192.168.64.3"),
        (&[], &["eth[1-9]"], "eth1", "10.0.0.3"),
        (&[], &["(?i)ETH1"], "eth1", "10.0.0.3"),
        (&[], &["wlan", "^172\\.", "eth1"], "eth1", "10.0.0.3"),
        (&["wlan0", "eth2"], &["eth1"], "eth1", "10.0.0.3"),
        (&["eth0"], &["eth1"], "eth0", "192.168.64.3"),
    ] {
        let uplink = pick(&host(), &asked(ifaces, regexes)).unwrap();
        assert_eq!(
            (uplink.name.as_str(), uplink.ipv4.unwrap().local.to_string()),
            (name, local.to_owned()),
            "{regexes:?}"
        );
    }
}

#[test]
fn the_route_to_an_address_selects_the_uplink() {
    let hop = |interface, source: &str| Some(Hop { interface, source: source.parse().ok(), gateway: None });
    let reaching = |address: &str| UplinkOptions { can_reach: address.parse().ok(), ..options(&[], None) };
    for (can_reach, local) in [
        (hop(2, "192.168.64.4"), "192.168.64.4"),
        (hop(2, ""), "192.168.64.3"),
        (hop(3, "10.0.0.3"), "10.0.0.3"),
        (hop(2, "fd00::3"), "192.168.64.3"),
    ] {
        let host = Host { can_reach, ..host() };
        assert_eq!(pick(&host, &reaching("10.9.9.9")).unwrap().ipv4.unwrap().local.to_string(), local);
    }
    let nowhere = pick(&host(), &reaching("10.9.9.9")).unwrap_err().to_string();
    assert!(
        nowhere.starts_with("no interface matches --iface-can-reach 10.9.9.9. Interfaces: lo"),
        "{nowhere}"
    );
}

#[test]
fn of_several_matching_interfaces_the_one_in_use_is_taken_else_the_first() {
    let ask = |host: &Host, options: &UplinkOptions, in_use: Option<&str>| {
        let v4 = in_use.map(|ip| ip.parse().unwrap());
        let in_use = InUse::from(PublicIps { v4, v6: None });
        let Picked { uplink, passed_over } = pick::pick(host, options, &in_use).unwrap();
        let others = passed_over.map(|(flag, others)| (flag, list(&others)));
        (uplink.name, others)
    };
    let others = |flag: &str, others: &str| Some((flag.to_owned(), others.to_owned()));
    let eth = asked(&[], &["eth"]);
    assert_eq!(ask(&host(), &eth, None), ("eth0".to_owned(), others("--iface-regex eth", "eth1 (10.0.0.3)")));
    assert_eq!(
        ask(&host(), &eth, Some("10.0.0.3")),
        ("eth1".to_owned(), others("--iface-regex eth", "eth0 (192.168.64.3 192.168.64.4 fd00::3)"))
    );
    let mut twins = host();
    twins.interfaces[3].ipv4 = twins.interfaces[2].ipv4.clone();
    assert_eq!(
        ask(&twins, &options(&["10.0.0.3"], None), None),
        ("eth1".to_owned(), others("--iface 10.0.0.3", "eth2 (10.0.0.3)"))
    );
}

/// Chooses again while eth0 with 192.168.64.3 is in use.
fn chosen_again(host: &mut Host, options: &UplinkOptions) -> Result<String, UplinkError> {
    let current = Uplink { index: 2, ..pick(&self::host(), &self::options(&["eth0"], None)).unwrap() };
    let in_use = InUse::from(&current);
    host.prefer(&in_use);
    pick::pick(host, options, &in_use).map(|picked| picked.uplink.to_string())
}

#[test]
fn the_uplink_stays_as_long_as_it_is_up_and_has_its_address() {
    let none = options(&[], None);
    assert_eq!(chosen_again(&mut host(), &none).unwrap(), "eth0 (192.168.64.3)", "eth1 has a better route");
    let mut changed = host();
    changed.default_routes.retain(|route| route.index == 3);
    assert_eq!(chosen_again(&mut changed, &none).unwrap(), "eth0 (192.168.64.3)", "without a route");
    changed.interfaces[1].link.name = "uplink0".to_owned();
    assert_eq!(chosen_again(&mut changed, &none).unwrap(), "uplink0 (192.168.64.3)", "renamed");
    let by_name = options(&["eth0"], None);
    assert_eq!(chosen_again(&mut changed, &by_name).unwrap(), "uplink0 (192.168.64.3)", "renamed");
    assert!(pick(&changed, &by_name).is_err(), "after a restart");
    changed.interfaces[3].link.name = "eth0".to_owned();
    changed.interfaces[3].ipv4.push("10.1.0.3".parse().unwrap());
    assert_eq!(chosen_again(&mut changed, &by_name).unwrap(), "eth0 (10.1.0.3)", "the flag names another");
    changed.interfaces[1].ipv4.retain(|address| address.octets()[3] != 3);
    assert_eq!(chosen_again(&mut changed, &none).unwrap(), "eth1 (10.0.0.3)", "without its address");
    let mut changed = host();
    changed.interfaces[1].link.up = false;
    assert_eq!(chosen_again(&mut changed, &none).unwrap(), "eth1 (10.0.0.3)", "down");
    for named in [options(&["eth1"], None), options(&[], Some("10.0.0.3")), asked(&["eth1", "eth0"], &[])] {
        assert_eq!(chosen_again(&mut host(), &named).unwrap(), "eth1 (10.0.0.3)", "{named:?}");
    }
}

#[test]
fn a_restarted_agent_stays_with_the_uplink_that_it_announced() {
    let ask = |host: &Host, options: &UplinkOptions, v4: &str, v6: Option<&str>| {
        let in_use = InUse::from(PublicIps { v4: v4.parse().ok(), v6: v6.map(|ip| ip.parse().unwrap()) });
        let mut host = host.clone();
        host.prefer(&in_use);
        pick::pick(&host, options, &in_use).map(|picked| picked.uplink.to_string())
    };
    let none = options(&[], None);
    assert_eq!(ask(&host(), &none, "192.168.64.4", None).unwrap(), "eth0 (192.168.64.4)");
    assert_eq!(ask(&host(), &none, "192.168.64.99", None).unwrap(), "eth1 (10.0.0.3)", "it is gone");
    let mut down = host();
    down.interfaces[1].link.up = false;
    assert_eq!(ask(&down, &none, "192.168.64.4", None).unwrap(), "eth1 (10.0.0.3)");
    let dual = v6(Stack::Dual, &[], None);
    let mut host = host();
    host.interfaces[2].ipv6.push("fd01::3".parse().unwrap());
    host.interfaces[1].ipv6.clear();
    let said = ask(&host, &dual, "192.168.64.3", Some("fd00::3")).unwrap();
    assert_eq!(said, "eth1 (10.0.0.3, fd01::3)", "the network needs IPv6");
}

#[test]
fn ports_of_bridges_and_devices_of_the_pods_network_are_not_chosen() {
    let vxlan = LinkKind::Vxlan(VxlanOptions::default());
    let links = vec![
        Link { controller: Some(3), kind: LinkKind::Veth, ..link(2, "veth0") },
        Link { kind: LinkKind::Bridge, ..link(3, "cni0") },
        Link { kind: vxlan, ..link(4, "flannel.1") },
        Link { kind: LinkKind::Veth, peer_namespace: Some(0), ..link(5, "veth1") },
        link(6, "eth0"),
    ];
    let names: Vec<_> = links.iter().map(|link| link.name.clone()).collect();
    let own = |index: u32| match index {
        5 => "169.254.7.5".to_owned(),
        index => format!("172.20.0.{index}"),
    };
    let addresses: Vec<_> = (2..7).map(|index| permanent(index, &own(index))).collect();
    let routes: Vec<_> = (2..7).map(|index| default_route(index, index)).collect();
    let host = Host::of(links, addresses, &routes);
    assert_eq!(pick(&host, &options(&[], None)).unwrap().to_string(), "eth0 (172.20.0.6)");
    assert_eq!(pick(&host, &asked(&[], &["^172"])).unwrap().to_string(), "eth0 (172.20.0.6)");
    let alone = Host { default_routes: host.default_routes[..1].to_vec(), ..host.clone() };
    let said = pick(&alone, &options(&[], None)).unwrap_err().to_string();
    assert!(said.starts_with("no IPv4 default route shows"), "{said}");
    for (name, usable) in names.iter().zip([true, false, false, true, true]) {
        assert_eq!(pick(&host, &options(&[name], None)).is_ok(), usable, "{name} is named");
    }
}

#[test]
fn the_source_of_the_default_route_comes_before_an_address_of_a_service() {
    let addressed = |ip: &str, length: u8, permanent: bool| {
        let flags = if permanent { AddressHeaderFlags::Permanent } else { AddressHeaderFlags::empty() };
        let mut address = address(2, ip, AddressScope::Universe, flags);
        address.header.prefix_len = length;
        address
    };
    let first = |addresses: &[AddressMessage], source: Option<&str>| {
        let mut route = default_route(2, 0);
        route.attributes.extend(source.map(|ip: &str| {
            let source: Ipv4Addr = ip.parse().unwrap();
            RouteAttribute::PrefSource(rtnetlink::packet_route::route::RouteAddress::Inet(source))
        }));
        let host = Host::of(vec![link(2, "eth0")], addresses.to_vec(), &[route]);
        host.interfaces[0].addresses().next().unwrap().to_string()
    };
    let dhcp = addressed("192.168.64.3", 24, false);
    let other = addressed("192.168.65.9", 24, true);
    assert_eq!(first(&[addressed("192.168.64.9", 32, true), dhcp.clone()], None), "192.168.64.3");
    assert_eq!(first(&[other.clone(), dhcp.clone()], None), "192.168.65.9", "nothing shows which one");
    assert_eq!(first(&[other, dhcp], Some("192.168.64.3")), "192.168.64.3");
    // Google's cloud gives /32 by DHCP.
    let cloud = addressed("10.128.0.3", 32, false);
    assert_eq!(first(&[addressed("10.128.0.9", 32, true), cloud], None), "10.128.0.3");
    let dhcp6 = addressed("fd00::3", 128, false);
    assert_eq!(first(&[addressed("fd00::9", 128, true), dhcp6], None), "fd00::3");
}

#[test]
fn addresses_of_the_overlay_do_not_select_the_uplink() {
    let mut host = host();
    host.interfaces[3].ipv4.push("10.5.52.1".parse().unwrap());
    host.interfaces[3].ipv6.push("fd44:0:0:4b::1".parse().unwrap());
    let both = pick::pick(&host, &asked(&[], &["^10\\."]), &InUse::default()).unwrap();
    assert!(both.passed_over.is_some(), "a bridge and an uplink");
    host.ignore(&["10.5.0.0/16".parse().unwrap(), "fd44::/48".parse().unwrap()]);
    assert_eq!(pick(&host, &asked(&[], &["^10\\."])).unwrap().name, "eth1");
    assert_eq!(host.interfaces[3].addresses().next(), None);
}

#[test]
fn an_added_address_does_not_replace_the_current_one() {
    let of = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|ip| permanent(2, ip)).collect();
        Host::of(vec![link(2, "eth0")], addresses, &[])
    };
    let options = v6(Stack::Dual, &["eth0"], None);
    let chosen = |host: &Host| {
        let uplink = pick(host, &options).unwrap();
        (uplink.ipv4.unwrap().local.to_string(), uplink.ipv6.unwrap().local.to_string())
    };
    let current = pick(&of(&["192.168.64.3", "fd00::3"]), &options).unwrap();
    for (now, expected) in [
        (["192.168.64.9", "192.168.64.3", "fd00::9", "fd00::3"].as_slice(), ("192.168.64.3", "fd00::3")),
        (&["192.168.64.9", "fd00::9", "fd00::3"], ("192.168.64.9", "fd00::3")),
        (&["192.168.64.9", "192.168.64.3", "fd00::9"], ("192.168.64.3", "fd00::9")),
    ] {
        let mut host = of(now);
        host.prefer(&InUse::from(&current));
        assert_eq!(chosen(&host), (expected.0.to_owned(), expected.1.to_owned()), "{now:?}");
    }
    let mut host = of(&["192.168.64.3", "169.254.7.7", "fd00::3"]);
    host.prefer(&InUse::from(&pick(&of(&["169.254.7.7", "fd00::3"]), &options).unwrap()));
    assert_eq!(chosen(&host).0, "192.168.64.3", "a link-local address gives way");
}
