use super::*;

fn parse(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text).unwrap()
}

fn v4(text: &str) -> SubnetRange {
    parse(text).ipv4.unwrap()
}

fn error_of(text: &str) -> String {
    NetworkConfig::parse(text).unwrap_err().to_string()
}

/// A configuration as guides to flannel print it, and what they say it means.
struct Guide {
    text: &'static str,
    subnet_len: u8,
    first: &'static str,
    last: &'static str,
    /// How many nodes can have a subnet.
    count: u128,
    backend: &'static str,
    direct_routing: bool,
}

const fn guide(text: &'static str, subnet_len: u8, range: [&'static str; 2], count: u128) -> Guide {
    Guide {
        text,
        subnet_len,
        first: range[0],
        last: range[1],
        count,
        backend: "vxlan",
        direct_routing: false,
    }
}

#[test]
fn examples_of_guides_mean_what_the_guides_say() {
    let guides = [
        // "1425 subnets of 4096 addresses".
        Guide {
            backend: "udp",
            ..guide(
                r#"{ "Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
                     "Backend": { "Type": "udp", "Port": 7890 } }"#,
                20,
                ["10.10.0.0", "10.99.0.0"],
                1425,
            )
        },
        // "Without bounds up to 10.255.240.0/20, 2^12 subnets"; flannel leaves the first out.
        guide(
            r#"{ "Network": "10.0.0.0/8", "SubnetLen": 20, "Backend": { "Type": "vxlan" } }"#,
            20,
            ["10.0.16.0", "10.255.240.0"],
            (1 << 12) - 1,
        ),
        // "81 subnets".
        guide(
            r#"{ "Network": "10.1.0.0/16", "SubnetLen": 24, "SubnetMin": "10.1.10.0", "SubnetMax": "10.1.90.0",
                 "Backend": { "Type": "vxlan" } }"#,
            24,
            ["10.1.10.0", "10.1.90.0"],
            81,
        ),
        // "With 23 there are 510 usable addresses", and fewer subnets.
        guide(
            r#"{ "Network": "10.1.0.0/16", "SubnetLen": 23, "SubnetMin": "10.1.10.0", "SubnetMax": "10.1.90.0",
                 "Backend": { "Type": "vxlan" } }"#,
            23,
            ["10.1.10.0", "10.1.90.0"],
            41,
        ),
        // "In most cases the defaults will do"; "a /16 serves 255 nodes, a /8 more than 60 000".
        guide(
            r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan" } }"#,
            24,
            ["10.1.1.0", "10.1.255.0"],
            255,
        ),
        guide(
            r#"{"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}}"#,
            24,
            ["10.0.1.0", "10.255.255.0"],
            65_535,
        ),
        // "From 10.244.10.0 on, so that 0 to 9 are not used", up to 100.
        guide(
            r#"{"Network": "10.244.0.0/16", "SubnetMin": "10.244.10.0", "SubnetMax": "10.244.100.0",
                "Backend": {"Type": "vxlan"}}"#,
            24,
            ["10.244.10.0", "10.244.100.0"],
            91,
        ),
        // Their spelling of DirectRouting.
        Guide {
            direct_routing: true,
            ..guide(
                "{\n \"Network\": \"10.244.0.0/16\",\n \"Backend\": {\n \"Type\": \"vxlan\",\n \"Directrouting\": true\n }\n}\n",
                24,
                ["10.244.1.0", "10.244.255.0"],
                255,
            )
        },
    ];
    for Guide { text, subnet_len, first, last, count, backend, direct_routing } in guides {
        let config = parse(text);
        let range = config.ipv4.unwrap();
        assert_eq!((range.subnet_len, range.count()), (subnet_len, count), "{text}");
        assert_eq!(
            (range.min.to_string(), range.max.to_string()),
            (first.to_owned(), last.to_owned()),
            "{text}"
        );
        assert_eq!(
            (config.backend.kind().name(), config.ipv6, config.nftables),
            (backend, None, false),
            "{text}"
        );
        let vxlan = VxlanConfig { direct_routing, ..VxlanConfig::default() };
        assert!(
            backend != "vxlan" || config.backend == Backend::Vxlan(vxlan),
            "{text}: {:?}",
            config.backend
        );
    }
}

#[test]
fn a_leased_subnet_fits_the_guide_s_range() {
    let range = v4(
        r#"{ "Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0" }"#,
    );
    assert_eq!(range.subnet_size(), 4096);
    assert!(range.fits("10.12.16.0/20".parse().unwrap()));
}

#[test]
fn prefixes_cover_what_can_be_leased_and_nothing_else() {
    for (keys, expected) in [
        (r#""Network": "10.5.0.0/16""#, "10.5.0.0/16"),
        (r#""Network": "10.0.0.0/8", "SubnetMin": "10.0.1.0""#, "10.0.0.0/8"),
        (
            r#""Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0""#,
            "10.10.0.0/15 10.12.0.0/14 10.16.0.0/12 10.32.0.0/11 10.64.0.0/11 10.96.0.0/15 10.98.0.0/16 10.99.0.0/20",
        ),
        (r#""Network": "10.0.0.0/8", "SubnetMin": "10.7.7.0", "SubnetMax": "10.7.7.0""#, "10.7.7.0/24"),
        (r#""Network": "10.5.0.0/16", "SubnetMin": "10.5.0.0", "SubnetMax": "10.5.1.0""#, "10.5.0.0/23"),
        (r#""Network": "255.255.0.0/16", "SubnetMin": "255.255.254.0""#, "255.255.254.0/23"),
    ] {
        let config = parse(&format!("{{{keys}}}"));
        let prefixes: Vec<_> = config.leasable().map(|prefix| prefix.to_string()).collect();
        assert_eq!(prefixes.join(" "), expected, "{keys}");
    }
    for (keys, expected) in [
        (r#""IPv6Network": "fd44::/48""#, "10.5.0.0/16 fd44::/48"),
        (
            r#""IPv6Network": "fd44::/32", "IPv6SubnetMin": "fd44:0:10::", "IPv6SubnetMax": "fd44:0:2f:ffff::""#,
            "10.5.0.0/16 fd44:0:10::/44 fd44:0:20::/44",
        ),
    ] {
        let config = parse(&format!(r#"{{"Network": "10.5.0.0/16", "EnableIPv6": true, {keys}}}"#));
        let prefixes: Vec<_> = config.leasable().map(|prefix| prefix.to_string()).collect();
        assert_eq!(prefixes.join(" "), expected, "{keys}");
    }
}

#[test]
fn keys_are_read_in_any_case() {
    let config = parse(
        r#"{ "network": "10.5.7.9/16", "ENABLEIPV6": true, "ipv6network": "fd44:0:0:40::/56", "enableNFTables": true,
             "Unknown": [1], "SubnetLen": 20, "subnetlen": 26, "SubnetMin": null,
             "backend": { "type": "VXLAN", "vni": 7, "port": 4789, "mtu": 1480, "gbp": true, "learning": true,
                          "directRouting": true, "dataplane": "NetLink", "FlowCache": false, "xdp": "generic", "SourceCheck": "Off" } }"#,
    );
    let ipv4 = config.ipv4.unwrap();
    assert_eq!((ipv4.network.to_string(), ipv4.subnet_len), ("10.5.0.0/16".into(), 26));
    let ipv6 = config.ipv6.unwrap();
    assert_eq!((ipv6.min.to_string(), ipv6.max.to_string()), ("fd44:0:0:1::".into(), "fd44:0:0:ff::".into()));
    assert!(config.nftables);
    let vxlan = VxlanConfig {
        vni: 7,
        port: Some(4789),
        mtu: Some(1480),
        gbp: true,
        learning: true,
        direct_routing: true,
        dataplane: DataplaneMode::Netlink,
        flow_cache: false,
        xdp: XdpMode::Generic,
        source_check: SourceCheck::Off,
    };
    assert_eq!(config.backend, Backend::Vxlan(vxlan));
}

#[test]
fn the_message_about_a_value_is_one_line_that_is_not_long() {
    let long = "x".repeat(10_000);
    for (keys, expected) in [
        (r#""SubnetLen": [1,\n 2]"#.replace("\\n", "\n"), "SubnetLen is [1, 2]; allowed: "),
        ("\"SubnetLen\": \"\u{7f}\"".to_owned(), "SubnetLen is \"?\"; allowed: "),
        (format!(r#""SubnetMin": "{long}""#), "SubnetMin is \"xxx"),
    ] {
        let error = NetworkConfig::parse(&format!(r#"{{"Network": "10.5.0.0/16", {keys}}}"#)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(expected), "{text}");
        assert!(text.len() < 300 && !text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn defaults_follow_the_size_of_the_network() {
    for (network, len, min, max) in [
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
        ("10.3.0.0/22", 24, "10.3.1.0", "10.3.3.0"),
        ("10.3.0.0/23", 25, "10.3.0.128", "10.3.1.128"),
        ("10.3.0.0/28", 30, "10.3.0.4", "10.3.0.12"),
        ("255.255.0.0/16", 24, "255.255.1.0", "255.255.255.0"),
    ] {
        let range = v4(&format!(r#"{{"Network": "{network}", "SubnetMin": "0.0.0.0", "SubnetLen": 0}}"#));
        assert_eq!(range.subnet_len, len, "{network}");
        assert_eq!((range.min.to_string(), range.max.to_string()), (min.into(), max.into()), "{network}");
    }
    for (network, len, min) in [
        ("fc00::/48", 64, "fc00:0:0:1::"),
        ("fc00::/62", 64, "fc00:0:0:1::"),
        ("fc00::/63", 65, "fc00::8000:0:0:0"),
        ("fc00::/124", 126, "fc00::4"),
    ] {
        let text = format!(r#"{{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "{network}"}}"#);
        let range = parse(&text).ipv6.unwrap();
        assert_eq!((range.subnet_len, range.min.to_string()), (len, min.to_string()), "{network}");
    }
}

#[test]
fn a_missing_backend_is_udp_and_port_zero_leaves_the_port_to_the_kernel() {
    assert_eq!(parse(r#"{"Network": "10.1.0.0/16"}"#).backend, Backend::Udp(UdpConfig { port: 8285 }));
    let config = parse(r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "Port": 0, "MTU": 0}}"#);
    assert_eq!(config.backend, Backend::Vxlan(VxlanConfig::default()));
}

#[test]
fn errors_name_key_value_and_what_is_allowed() {
    for (text, message) in [
        ("[]", "the network config is not a JSON object: invalid type: sequence"),
        ("{", "the network config is not a JSON object: EOF"),
        ("{}", "Network is missing; allowed: an IPv4 network"),
        (r#"{"Network": "10.1.0.0"}"#, "Network is \"10.1.0.0\"; allowed: an IPv4 network"),
        (r#"{"Network": 10}"#, "Network is 10; allowed"),
        (r#"{"Network": "fd00::/48"}"#, "Network is \"fd00::/48\"; allowed: an IPv4 network"),
        (r#"{"Network": "0.0.0.0/0"}"#, "Network is 0.0.0.0/0; allowed"),
        (
            r#"{"Network": "10.1.0.0/29"}"#,
            "Network is 10.1.0.0/29; allowed: a network of at least four subnets, /28",
        ),
        (r#"{"Network": "10.1.0.0/32"}"#, "Network is 10.1.0.0/32; allowed"),
        (r#"{"Network": "10.1.0.0/16", "SubnetLen": 31}"#, "SubnetLen is 31; allowed: 18 to 30"),
        (r#"{"Network": "10.1.0.0/16", "SubnetLen": 17}"#, "SubnetLen is 17; allowed: 18 to 30"),
        (
            r#"{"Network": "10.1.0.0/16", "SubnetLen": 240}"#,
            "SubnetLen is 240; allowed: a whole number from 0",
        ),
        (r#"{"Network": "10.1.0.0/16", "SubnetLen": -1}"#, "SubnetLen is -1; allowed: a whole number from 0"),
        (r#"{"Network": "10.1.0.0/16", "SubnetLen": "24"}"#, "SubnetLen is \"24\"; allowed"),
        (
            r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.2.0.0"}"#,
            "SubnetMin is 10.2.0.0; allowed: the base address of a /24 inside 10.1.0.0/16",
        ),
        (r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.1.5.1"}"#, "SubnetMin is 10.1.5.1; allowed"),
        (r#"{"Network": "10.1.0.0/16", "SubnetMax": "10.1.5.128"}"#, "SubnetMax is 10.1.5.128; allowed"),
        (
            r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.1.9.0", "SubnetMax": "10.1.5.0"}"#,
            "SubnetMax is 10.1.5.0; allowed: an address not below SubnetMin, which is 10.1.9.0",
        ),
        (r#"{"Network": "10.1.0.0/16", "EnableIPv6": true}"#, "IPv6Network is missing"),
        (
            r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMin": "fd00::"}"#,
            "IPv6SubnetMin is fd00::; allowed: the base address of a /64 inside fc00::/48",
        ),
        (
            r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMax": "fc00::1"}"#,
            "IPv6SubnetMax is fc00::1; allowed: the base address of a /64",
        ),
        (
            r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/48",
                "IPv6SubnetMin": "fc00:0:0:9::", "IPv6SubnetMax": "fc00:0:0:5::"}"#,
            "IPv6SubnetMax is fc00:0:0:5::; allowed: an address not below IPv6SubnetMin",
        ),
        (
            r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/125"}"#,
            "IPv6Network is fc00::/125; allowed: a network of at least four subnets, /124",
        ),
        (
            r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "::/0"}"#,
            "IPv6Network is ::/0; allowed",
        ),
        (
            r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetLen": 127}"#,
            "IPv6SubnetLen is 127; allowed: 50 to 126",
        ),
        (r#"{"EnableIPv4": false}"#, "EnableIPv4 is false and EnableIPv6 is not true"),
        (r#"{"EnableIPv4": "no"}"#, "EnableIPv4 is \"no\"; allowed: true or false"),
        (r#"{"Network": "10.1.0.0/16", "Backend": "vxlan"}"#, "Backend is \"vxlan\"; allowed: a JSON object"),
        (
            r#"{"Network": "10.1.0.0/16", "Backend": {}}"#,
            "Backend.Type is missing; allowed: vxlan, host-gw, udp, alloc, aws-vpc, gce or ali-vpc",
        ),
        (
            r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "Wireguard"}}"#,
            "Backend.Type is \"Wireguard\"; allowed: vxlan, host-gw, udp, alloc, aws-vpc, gce or ali-vpc",
        ),
        (
            r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "udp", "Port": 0}}"#,
            "Backend.Port is 0; allowed: a whole number from 1 to 65535",
        ),
        (
            r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "VNI": 16777216}}"#,
            "Backend.VNI is 16777216; allowed: a whole number from 0 to 16777215",
        ),
        (
            r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "Port": 70000}}"#,
            "Backend.Port is 70000; allowed: a whole number from 0 to 65535",
        ),
        (
            r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "Dataplane": "warp"}}"#,
            "Backend.Dataplane is \"warp\"; allowed: auto, bpf or netlink",
        ),
        (
            r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "XDP": true}}"#,
            "Backend.XDP is true; allowed: auto, native, generic or off",
        ),
        (
            r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "SourceCheck": "on"}}"#,
            "Backend.SourceCheck is \"on\"; allowed: pods, strict or off",
        ),
    ] {
        let said = error_of(text);
        assert!(said.starts_with(message), "{text}\n said {said}\n want {message}");
    }
}

#[test]
fn a_node_can_hold_subnets_of_the_network_with_the_right_length() {
    let config = r#"{"Network": "10.5.0.0/16", "SubnetMax": "10.5.63.0", "EnableIPv6": true,
        "IPv6Network": "fd44::/48"}"#;
    let config = NetworkConfig::parse(config).unwrap();
    for (subnet, expected) in [
        ("10.5.1.0/24", true),
        ("10.5.77.0/24", true),
        ("10.5.1.0/25", false),
        ("10.5.0.0/16", false),
        ("10.6.1.0/24", false),
        ("fd44:0:0:4b::/64", true),
        ("fd44:0:0:4b::/80", false),
        ("fd45:0:0:4b::/64", false),
    ] {
        let ours = config.ranges().any(|range| range.can_hold(subnet.parse().unwrap()));
        assert_eq!(ours, expected, "{subnet}");
    }
}
