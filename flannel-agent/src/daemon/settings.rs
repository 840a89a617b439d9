//! What flags and network configuration ask for, in the terms of uplink, dataplane and lease. Pure.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cli::{Flags, Mode};
use crate::config::{Backend, NetworkConfig, VxlanConfig};
use crate::dataplane::bpf::pins::Pins;
use crate::dataplane::kernel::DeviceSpec;
use crate::dataplane::{Dataplane, Settings};
use crate::lease::etcd::{EtcdOptions, Login, TlsFiles};
use crate::lease::{LeaseAttrs, VxlanData};
use crate::mac::Mac;
use crate::uplink::{Uplink, UplinkOptions};

/// Bytes that VXLAN over IPv4 adds to a packet: outer IPv4, UDP and VXLAN headers, inner Ethernet header.
const ENCAPSULATION: u32 = 50;

/// The part of the configuration that this version serves.
pub(super) fn served(config: &NetworkConfig) -> Result<&VxlanConfig> {
    if config.ipv6.is_some() {
        bail!("the network configuration has EnableIPv6, which this version does not serve yet");
    }
    match &config.backend {
        Backend::Vxlan(vxlan) => Ok(vxlan),
        Backend::Other(name) => bail!("backend type {name:?} is not served by this version; it has: vxlan"),
    }
}

pub(super) fn etcd_options(flags: &Flags) -> EtcdOptions {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let file = |text: &String| given(text).map(PathBuf::from);
    let login = |user| Login { user, password: flags.etcd_password.clone() };
    EtcdOptions {
        endpoints: flags.etcd_endpoints.clone(),
        prefix: flags.etcd_prefix.clone(),
        tls: TlsFiles {
            ca: file(&flags.etcd_cafile),
            identity: file(&flags.etcd_certfile).zip(file(&flags.etcd_keyfile)),
        },
        login: given(&flags.etcd_username).map(login),
    }
}

pub(super) fn uplink_options(flags: &Flags, config: &NetworkConfig) -> UplinkOptions {
    UplinkOptions {
        ifaces: flags.iface.clone(),
        iface_regexes: flags.iface_regex.clone(),
        can_reach: flags.iface_can_reach,
        public_ip: flags.public_ip,
        public_ipv6: flags.public_ipv6,
        overlay: [config.ipv4, config.ipv6].into_iter().flatten().map(|range| range.network).collect(),
    }
}

pub(super) fn settings(
    flags: &Flags,
    vxlan: &VxlanConfig,
    uplink: &Uplink,
    mac: Option<Mac>,
) -> Result<Settings> {
    Ok(Settings {
        device: DeviceSpec {
            name: format!("flannel.{}", vxlan.vni),
            vni: vxlan.vni,
            port: vxlan.udp_port(),
            uplink_index: uplink.index,
            local: uplink.local_ip.into(),
            mtu: vxlan.mtu.unwrap_or(uplink.mtu).saturating_sub(ENCAPSULATION),
            gbp: vxlan.gbp,
            learning: vxlan.learning,
            mac,
        },
        uplink: uplink.clone(),
        mode: mode(flags, vxlan)?,
        flow_cache: flags.flow_cache.unwrap_or(vxlan.flow_cache),
        pins: Pins::new(&flags.bpffs, vxlan.vni),
        log_packets: flags.log_packets(),
    })
}

/// The flag, else the network's wish, else auto.
fn mode(flags: &Flags, vxlan: &VxlanConfig) -> Result<Mode> {
    use clap::ValueEnum as _;
    match (flags.dataplane, &vxlan.dataplane) {
        (Some(mode), _) => Ok(mode),
        (None, None) => Ok(Mode::default()),
        (None, Some(name)) => Mode::from_str(name, true).map_err(|_| {
            anyhow::anyhow!("Backend.Dataplane is {name:?}; it can be \"auto\", \"bpf\" or \"netlink\"")
        }),
    }
}

/// What the other nodes need to reach us.
pub(super) fn attributes(uplink: &Uplink, vxlan: &VxlanConfig, dataplane: &Dataplane) -> Result<LeaseAttrs> {
    let data = VxlanData { vni: Some(vxlan.vni), vtep_mac: dataplane.device().mac };
    Ok(LeaseAttrs {
        public_ip: Some(uplink.public_ip),
        public_ipv6: None,
        backend_type: "vxlan".to_owned(),
        backend_data: Some(serde_json::value::to_raw_value(&data)?),
        backend_v6_data: None,
    })
}
