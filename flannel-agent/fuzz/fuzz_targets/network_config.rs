//! The network configuration: `<prefix>/config` in etcd, and net-conf.json.
#![no_main]

use std::net::IpAddr;

use flannel_agent::config::{Backend, NetworkConfig, SubnetRange, number};
use flannel_fuzz::check_error;
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let config = match NetworkConfig::parse(text) {
        Ok(config) => config,
        Err(error) => return check_error(&error),
    };
    assert!(config.ipv4.is_some() || config.ipv6.is_some(), "no address family");
    for (range, longest) in [(config.ipv4, 30), (config.ipv6, 126)] {
        range.inspect(|range| check_range(range, longest));
    }
    assert!(config.ipv4.is_none_or(|range| range.network.addr().is_ipv4()));
    assert!(config.ipv6.is_none_or(|range| range.network.addr().is_ipv6()));
    match &config.backend {
        Backend::Vxlan(vxlan) => {
            assert!(vxlan.vni < 1 << 24, "VNI {}", vxlan.vni);
            assert_ne!(vxlan.port, Some(0), "no port is written as 0");
            assert_ne!(vxlan.udp_port(), 0);
            assert_ne!(vxlan.mtu, Some(0), "no MTU is written as 0");
        }
        Backend::Udp(udp) => assert_ne!(udp.port, 0),
        Backend::AwsVpc(aws) => assert!(aws.route_tables.iter().all(|table| !table.is_empty())),
        Backend::HostGw | Backend::Alloc | Backend::Gce | Backend::AliVpc(_) => {}
    }
    let written = config.to_json().to_string();
    assert_eq!(NetworkConfig::parse(&written).as_ref(), Ok(&config), "read back from {written}");
    assert_eq!(config.changes(&config), []);
});

/// Checks that every subnet of the range is inside the network, whole, and not the network's first one by default.
fn check_range(range: &SubnetRange, longest: u8) {
    let SubnetRange { network, subnet_len, min, max } = *range;
    assert_eq!(network, network.trunc(), "host bits in the network");
    assert!(network.prefix_len() > 0 || !network.addr().is_unspecified(), "a network of all addresses");
    assert!(subnet_len >= network.prefix_len() + 2, "fewer than four subnets in {network}");
    assert!(subnet_len <= longest, "no room for two devices in a /{subnet_len}");
    assert!(number(min) <= number(max), "{min} to {max}");
    for base in [min, max] {
        let subnet = IpNet::new(base, subnet_len).expect("a subnet of the network's family");
        assert_eq!(subnet.network(), base, "{base} is not where a /{subnet_len} begins");
        assert!(network.contains(&subnet), "{subnet} is outside {network}");
        assert!(range.fits(subnet) && range.can_hold(subnet), "{subnet}");
        assert_eq!(range.subnet_at(number(base)), Some(subnet));
    }
    let size = range.subnet_size();
    assert_eq!(number(max) - number(min), (range.count() - 1) * size);
    assert_eq!(range.subnet_mask(), IpNet::new(min, subnet_len).expect("a subnet").netmask());
    check_prefixes(range, number(min), number(max) + (size - 1));
}

/// Checks that the prefixes cover the range from the first to the last address without a gap. Only the network's first subnet, which
/// is not leased, may come before it.
fn check_prefixes(range: &SubnetRange, first: u128, last: u128) {
    let prefixes = range.prefixes();
    let address = |address: IpAddr| number(address);
    let begin = prefixes.first().map(|net| address(net.network())).expect("a prefix");
    let end = prefixes.last().map(|net| address(net.broadcast())).expect("a prefix");
    let with_first_subnet = begin + range.subnet_size() == first && begin == number(range.network.network());
    assert!(begin == first || with_first_subnet, "the prefixes begin at {begin:#x}");
    assert_eq!(end, last, "the prefixes end too early or too late");
    for pair in prefixes.windows(2) {
        assert_eq!(address(pair[0].broadcast()) + 1, address(pair[1].network()), "a gap or an overlap");
    }
}
