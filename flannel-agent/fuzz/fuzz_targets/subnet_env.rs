//! subnet.env, which an agent reads when it starts again and the CNI plugin reads for each pod.
#![no_main]

use flannel_agent::cni::delegate_config;
use flannel_agent::config::NetworkConfig;
use flannel_agent::env_file::assignments;
use flannel_agent::subnet_file::{parse_networks, parse_subnet, render};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

const CNI: &str = r#"{"cniVersion":"1.0.0","name":"cbr0","type":"flannel"}"#;

fuzz_target!(|text: &str| {
    let variables: Vec<_> = assignments(text).collect();
    for (key, value) in &variables {
        assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{key:?}");
        assert!(!value.contains('\n'), "{value:?} is of two lines");
    }
    // Assignments that were written again are the same. Values with spaces at their ends need quotes.
    let written: String = variables.iter().map(|(key, value)| format!("{key}=\"{value}\"\n")).collect();
    assert_eq!(assignments(&written).collect::<Vec<_>>(), variables);

    let networks = parse_networks(text);
    let subnet = parse_subnet(text);
    check_delegate(text);
    let (Some(key), [network, ..]) = (subnet, &networks[..]) else { return };
    let family = match network {
        IpNet::V4(_) => format!(r#""Network": "{network}""#),
        IpNet::V6(_) => format!(r#""EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "{network}""#),
    };
    let Ok(config) = NetworkConfig::parse(&format!("{{{family}}}")) else { return };
    // What is written for this subnet is read back.
    let file = render(&config, true, key, 1450);
    let of_family = |net: &IpNet| net.addr().is_ipv4() == network.addr().is_ipv4();
    let kept: Vec<_> = key.nets().filter(of_family).collect();
    assert_eq!(
        parse_subnet(&file).map(|key| key.nets().collect::<Vec<_>>()).unwrap_or_default(),
        kept,
        "{file}"
    );
    if !kept.is_empty() {
        assert_eq!(parse_networks(&file), [network.trunc()], "{file}");
        assert!(delegate_config(variable, CNI, &file).is_ok(), "the CNI plugin refuses {file}");
    }
});

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "CNI_COMMAND" => "ADD",
        "CNI_CONTAINERID" => "c1",
        "CNI_NETNS" => "/var/run/netns/c1",
        "CNI_IFNAME" => "eth0",
        "CNI_PATH" => "/opt/cni/bin",
        _ => return None,
    };
    Some(value.to_owned())
}

/// Checks that the CNI plugin makes a configuration with the file's subnet, or says in one line that it cannot.
fn check_delegate(text: &str) {
    let Ok(config) = delegate_config(variable, CNI, text) else { return };
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let ranges = config["ipam"]["ranges"].as_array().expect("ranges");
    assert!(!ranges.is_empty(), "no range for pods");
    for range in ranges {
        let subnet: IpNet = range[0]["subnet"].as_str().and_then(|net| net.parse().ok()).expect("a subnet");
        assert_eq!(subnet, subnet.trunc());
    }
}
