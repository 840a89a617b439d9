//! The choice of interface and address.

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

use super::pick::pick;
use super::*;
use crate::netlink::link::Link;
use crate::netlink::route::Hop;

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.to_owned(), mtu: 1500, ..Link::default() }
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
    assert_eq!(order, ["192.168.64.3", "192.168.64.5", "192.168.64.8", "169.254.7.7"]);
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
fn several_matching_interfaces_are_an_error_that_names_them() {
    let refused = |host: &Host, options: &UplinkOptions| pick(host, options).unwrap_err().to_string();
    assert_eq!(
        refused(&host(), &asked(&[], &["eth"])),
        "several interfaces match --iface-regex eth: eth0 (192.168.64.3 192.168.64.4 fd00::3), eth1 (10.0.0.3); \
         choose one, for instance by --iface"
    );
    let mut twins = host();
    twins.interfaces[3].ipv4 = twins.interfaces[2].ipv4.clone();
    assert_eq!(
        refused(&twins, &options(&["10.0.0.3"], None)),
        "several interfaces match --iface 10.0.0.3: eth1 (10.0.0.3), eth2 (10.0.0.3); choose one, for \
         instance by --iface"
    );
}

#[test]
fn addresses_of_the_overlay_do_not_select_the_uplink() {
    let mut host = host();
    host.interfaces[3].ipv4.push("10.5.52.1".parse().unwrap());
    host.interfaces[3].ipv6.push("fd44:0:0:4b::1".parse().unwrap());
    assert!(pick(&host, &asked(&[], &["^10\\."])).is_err(), "a bridge and an uplink");
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
        host.prefer(&current);
        assert_eq!(chosen(&host), (expected.0.to_owned(), expected.1.to_owned()), "{now:?}");
    }
    let mut host = of(&["192.168.64.3", "169.254.7.7", "fd00::3"]);
    host.prefer(&pick(&of(&["169.254.7.7", "fd00::3"]), &options).unwrap());
    assert_eq!(chosen(&host).0, "192.168.64.3", "a link-local address gives way");
}
