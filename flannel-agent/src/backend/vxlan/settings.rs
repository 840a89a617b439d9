//! Properties of devices and accelerator, made from options and network configuration. Pure.

use std::net::IpAddr;

use serde_json::value::RawValue;

use crate::backend::Setup;
use crate::config::VxlanConfig;
use crate::dataplane::accelerator::Settings;
use crate::dataplane::bpf::pins::Pins;
use crate::dataplane::kernel::DeviceSpec;
use crate::lease::VxlanData;
use crate::mac::Mac;

/// Bytes that VXLAN over IPv4 adds to a packet: outer IPv4, UDP and VXLAN headers, inner Ethernet header.
pub(crate) const ENCAPSULATION: u32 = 50;
/// The same over IPv6, whose header is 20 bytes longer.
pub(crate) const ENCAPSULATION_V6: u32 = 70;

/// Returns one device for each address family, IPv4 first.
pub(super) fn devices(setup: &Setup<'_, VxlanConfig>) -> Vec<DeviceSpec> {
    let Setup { config: VxlanConfig { vni, .. }, uplink, known, .. } = setup;
    let ipv4 = uplink.ipv4.map(|address| DeviceSpec {
        mac: known.and_then(|known| vtep_mac(known.backend_data.as_deref())),
        ..device(setup, format!("flannel.{vni}"), address.local.into(), ENCAPSULATION)
    });
    let ipv6 = uplink.ipv6.map(|address| DeviceSpec {
        mac: known.and_then(|known| vtep_mac(known.backend_v6_data.as_deref())),
        ..device(setup, format!("flannel-v6.{vni}"), address.local.into(), ENCAPSULATION_V6)
    });
    ipv4.into_iter().chain(ipv6).collect()
}

fn device(setup: &Setup<'_, VxlanConfig>, name: String, local: IpAddr, overhead: u32) -> DeviceSpec {
    let Setup { config, uplink, .. } = setup;
    DeviceSpec {
        name,
        vni: config.vni,
        port: config.udp_port(),
        uplink_index: uplink.index,
        local,
        mtu: config.mtu.unwrap_or(uplink.mtu).saturating_sub(overhead),
        gbp: config.gbp,
        learning: config.learning,
        mac: None,
    }
}

/// Returns the MAC that other nodes know, if they do.
fn vtep_mac(data: Option<&RawValue>) -> Option<Mac> {
    let data = VxlanData::parse(data?).ok()?;
    Some(data.vtep_mac)
}

/// Returns the accelerator's settings. The node's options win over the network configuration.
pub(super) fn accelerator(Setup { options, network, config, .. }: &Setup<'_, VxlanConfig>) -> Settings {
    Settings {
        mode: options.dataplane.unwrap_or(config.dataplane),
        flow_cache: options.flow_cache(config.flow_cache),
        max_flows: options.max_flows,
        direct_routing: config.direct_routing,
        xdp: options.xdp.unwrap_or(config.xdp),
        source_check: config.source_check,
        ranges: network.ranges().collect(),
        pins: Pins::new(&options.bpffs, config.vni),
        log_packets: options.log_packets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Options;
    use crate::config::{Backend, NetworkConfig};
    use crate::lease::LeaseAttrs;
    use crate::uplink::{NodeAddress, Uplink};

    const KNOWN: &str = r#"{"PublicIP":"192.168.64.3","BackendType":"vxlan","BackendData":{"VNI":7,
        "VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":7,"VtepMAC":"c6:d2:32:6f:8f:45"}}"#;

    /// Name, local address, MTU and MAC of each device.
    fn shown(config: &str, v4: bool, v6: bool, known: Option<&LeaseAttrs>) -> Vec<String> {
        let config = format!(r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "vxlan", {config}}}}}"#);
        let network = NetworkConfig::parse(&config).unwrap();
        let Backend::Vxlan(config) = &network.backend else { panic!("no vxlan") };
        let options = Options::default();
        let uplink = Uplink {
            name: "eth0".to_owned(),
            index: 2,
            mtu: 1500,
            ethernet: true,
            mac: None,
            ipv4: v4
                .then(|| NodeAddress { local: [192, 168, 64, 3].into(), public: [203, 0, 113, 9].into() }),
            ipv6: v6
                .then(|| ["fd00::3", "2001:db8::9"].map(|ip| ip.parse().unwrap()))
                .map(|[local, public]| NodeAddress { local, public }),
        };
        let setup = Setup { options: &options, network: &network, config, uplink: &uplink, known };
        let show = |device: &DeviceSpec| {
            let mac = device.mac.map_or_else(|| "any".to_owned(), |mac| mac.to_string());
            format!("{} {} {} {mac}", device.name, device.local, device.mtu)
        };
        devices(&setup).iter().map(show).collect()
    }

    #[test]
    fn each_family_has_a_device() {
        let known: LeaseAttrs = serde_json::from_str(KNOWN).unwrap();
        assert_eq!(shown(r#""VNI": 7"#, true, false, None), ["flannel.7 192.168.64.3 1450 any"]);
        assert_eq!(shown(r#""MTU": 1480"#, false, true, None), ["flannel-v6.1 fd00::3 1410 any"]);
        assert_eq!(
            shown(r#""VNI": 7"#, true, true, Some(&known)),
            ["flannel.7 192.168.64.3 1450 c6:d2:32:6f:8f:44", "flannel-v6.7 fd00::3 1430 c6:d2:32:6f:8f:45"]
        );
    }
}
