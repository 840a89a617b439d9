//! What flags and network configuration ask for, in the terms of device and accelerator. Pure.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use clap::ValueEnum as _;
use serde_json::value::RawValue;

use crate::backend::Setup;
use crate::cli::{Flags, Mode};
use crate::config::VxlanConfig;
use crate::dataplane::accelerator::Settings;
use crate::dataplane::bpf::pins::Pins;
use crate::dataplane::kernel::DeviceSpec;
use crate::lease::VxlanData;
use crate::mac::Mac;

/// Bytes that VXLAN over IPv4 adds to a packet: outer IPv4, UDP and VXLAN headers, inner Ethernet header.
const ENCAPSULATION: u32 = 50;
/// The same over IPv6, whose header is 20 bytes longer.
const ENCAPSULATION_V6: u32 = 70;

/// One device for each address family, IPv4 first.
pub(super) fn devices(setup: &Setup<'_, VxlanConfig>) -> Vec<DeviceSpec> {
    let Setup { config: VxlanConfig { vni, .. }, uplink, known, .. } = setup;
    let ipv4 = uplink.ipv4.map(|ends| DeviceSpec {
        mac: known.and_then(|known| vtep_mac(known.backend_data.as_deref())),
        ..device(setup, format!("flannel.{vni}"), ends.local.into(), ENCAPSULATION)
    });
    let ipv6 = uplink.ipv6.map(|ends| DeviceSpec {
        mac: known.and_then(|known| vtep_mac(known.backend_v6_data.as_deref())),
        ..device(setup, format!("flannel-v6.{vni}"), ends.local.into(), ENCAPSULATION_V6)
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

/// The MAC that the others know, if they do.
fn vtep_mac(data: Option<&RawValue>) -> Option<Mac> {
    let data: VxlanData = serde_json::from_str(data?.get()).ok()?;
    Some(data.vtep_mac)
}

pub(super) fn accelerator(Setup { flags, config, .. }: &Setup<'_, VxlanConfig>) -> Result<Settings> {
    Ok(Settings {
        mode: mode(flags, config)?,
        flow_cache: flags.flow_cache.unwrap_or(config.flow_cache),
        source_check: config.source_check,
        pins: Pins::new(&flags.bpffs, config.vni),
        log_packets: flags.log_packets(),
    })
}

/// The flag, else the network's wish, else auto.
fn mode(flags: &Flags, config: &VxlanConfig) -> Result<Mode> {
    match (flags.dataplane, &config.dataplane) {
        (Some(mode), _) => Ok(mode),
        (None, None) => Ok(Mode::default()),
        (None, Some(name)) => Mode::from_str(name, true).map_err(|_| {
            anyhow!("Backend.Dataplane is {name:?}; it can be \"auto\", \"bpf\" or \"netlink\"")
        }),
    }
}
