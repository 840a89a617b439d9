//! Options of the daemon's parts, made from flags and network configuration. Pure.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::backend;
use crate::cli::{EtcdFlags, Flags, KubeFlags, UplinkFlags};
use crate::config::NetworkConfig;
use crate::firewall::{self, RuleOptions};
use crate::lease::PublicIps;
use crate::lease::etcd::{EtcdOptions, Login, Password, TlsFiles};
use crate::lease::kube::{KubeOptions, NodeName};
use crate::uplink::{Stack, UplinkOptions};

pub(super) fn etcd_options(flags: &EtcdFlags) -> EtcdOptions {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let file = |text: &String| given(text).map(PathBuf::from);
    let password = file(&flags.etcd_password_file)
        .map_or_else(|| Password::Given(flags.etcd_password.clone()), Password::File);
    let login = |user| Login { user, password };
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

/// Also reads the environment: the downward API of Kubernetes names the node, or the pod.
pub(super) fn kube_options(flags: &KubeFlags) -> Result<KubeOptions> {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let node = match (variable("NODE_NAME"), variable("POD_NAMESPACE"), variable("POD_NAME")) {
        (Some(name), _, _) => NodeName::Given(name),
        (None, Some(namespace), Some(name)) => NodeName::OfPod { namespace, name },
        _ => bail!("--kube-subnet-mgr needs NODE_NAME in the environment, or POD_NAME and POD_NAMESPACE"),
    };
    Ok(KubeOptions {
        api_url: given(&flags.kube_api_url),
        kubeconfig: given(&flags.kubeconfig_file).map(PathBuf::from),
        annotation_prefix: flags.kube_annotation_prefix.clone(),
        net_config: flags.net_config_path.clone(),
        clear_network_unavailable: flags.set_node_network_unavailable,
        node,
    })
}

/// Returns where the leases come from, as the file of what is last known has it.
pub(super) fn datastore(flags: &Flags) -> String {
    match &flags.leases.local_subnet_mgr {
        Some(dir) => format!("files {}", dir.display()),
        None if flags.kube.kube_subnet_mgr => format!("kubernetes {}", flags.kube.kube_annotation_prefix),
        None => format!("etcd {}", flags.etcd.etcd_prefix),
    }
}

pub(super) fn backend_options(flags: &Flags) -> backend::Options {
    backend::Options {
        dataplane: flags.dataplane.dataplane,
        flow_cache: flags.dataplane.flow_cache,
        max_flows: flags.dataplane.max_flows,
        xdp: flags.dataplane.xdp,
        bpffs: flags.paths.bpffs.clone(),
        log_packets: flags.log.log_packets(),
        cloud_resync: Duration::from_secs(flags.cloud.cloud_resync),
    }
}

/// `given`: the node's addresses that an administrator has entered in the datastore.
pub(super) fn uplink_options(flags: &UplinkFlags, config: &NetworkConfig, given: PublicIps) -> UplinkOptions {
    UplinkOptions {
        ifaces: flags.iface.clone(),
        iface_regexes: flags.iface_regex.clone(),
        can_reach: flags.iface_can_reach,
        stack: stack(config),
        public_ip: given.v4.or(flags.public_ip),
        public_ipv6: given.v6.or(flags.public_ipv6),
        pod_networks: config.leasable().collect(),
    }
}

pub(super) fn firewall_options(Flags { firewall: flags, kube, .. }: &Flags) -> firewall::Options {
    firewall::Options {
        rules: RuleOptions {
            masquerade: flags.ip_masq,
            fully_random: !flags.ip_masq_fully_random_disable,
            forward: flags.iptables_forward_rules,
        },
        blackhole_route: flags.ip_blackhole_route,
        has_services: kube.kube_subnet_mgr,
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
