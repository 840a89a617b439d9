//! Options of the daemon's parts, made from flags and network configuration. Pure.

use std::path::PathBuf;
use std::time::Duration;

use crate::backend;
use crate::cli::{EtcdFlags, FirewallFlags, Flags, UplinkFlags};
use crate::config::NetworkConfig;
use crate::firewall::{self, RuleOptions};
use crate::lease::etcd::{EtcdOptions, Login, TlsFiles};
use crate::uplink::{Stack, UplinkOptions};

pub(super) fn etcd_options(flags: &EtcdFlags) -> EtcdOptions {
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

pub(super) fn backend_options(flags: &Flags) -> backend::Options {
    backend::Options {
        dataplane: flags.dataplane.dataplane,
        flow_cache: flags.dataplane.flow_cache,
        xdp: flags.dataplane.xdp,
        bpffs: flags.paths.bpffs.clone(),
        log_packets: flags.log.log_packets(),
    }
}

pub(super) fn uplink_options(flags: &UplinkFlags, config: &NetworkConfig) -> UplinkOptions {
    UplinkOptions {
        ifaces: flags.iface.clone(),
        iface_regexes: flags.iface_regex.clone(),
        can_reach: flags.iface_can_reach,
        stack: stack(config),
        public_ip: flags.public_ip,
        public_ipv6: flags.public_ipv6,
        pod_networks: config.networks().collect(),
    }
}

pub(super) fn firewall_options(flags: &FirewallFlags) -> firewall::Options {
    firewall::Options {
        rules: RuleOptions {
            masquerade: flags.ip_masq,
            fully_random: !flags.ip_masq_fully_random_disable,
            forward: flags.iptables_forward_rules,
        },
        blackhole_route: flags.ip_blackhole_route,
        resync: Duration::from_secs(flags.iptables_resync.max(1)),
    }
}

fn stack(config: &NetworkConfig) -> Stack {
    match (config.ipv4, config.ipv6) {
        (Some(_), Some(_)) => Stack::Dual,
        (None, Some(_)) => Stack::V6,
        (_, None) => Stack::V4,
    }
}
