//! Command lines and unit files from guides to flanneld.

use std::path::Path;

use super::*;

/// Output of `ps` in a guide to flannel in Kubernetes.
const KUBERNETES: &str = "/opt/bin/flanneld --ip-masq --kube-subnet-mgr";

/// Unit file in a guide to flannel without Kubernetes.
const UNIT: &str = r#"
[Unit]
Description=Etcd server
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStart=/usr/local/flannel/bin/flanneld \
-etcd-cafile /usr/local/flannel/ssl/cacert.pem \
-etcd-certfile /usr/local/flannel/ssl/flannel.crt \
-etcd-keyfile /usr/local/flannel/ssl/flannel.key \
-etcd-endpoints "https://172.100.102.71:2379,https://172.100.102.72:2379,https://172.100.102.73:2379" \
-ip-masq \
-healthz-port 300
ExecStartPost=/usr/local/flannel/bin/mk-docker-opts.sh -d /var/run/flannel/docker_opts.env

[Install]
RequiredBy=docker.service
WantedBy=multi-user.target
"#;

/// The flags that `flanneld -help` lists.
const FLANNELD: [&str; 32] = [
    "etcd-endpoints",
    "etcd-prefix",
    "etcd-keyfile",
    "etcd-certfile",
    "etcd-cafile",
    "etcd-username",
    "etcd-password",
    "iface",
    "iface-regex",
    "iface-can-reach",
    "subnet-file",
    "public-ip",
    "public-ipv6",
    "subnet-lease-renew-margin",
    "ip-masq",
    "ip-masq-fully-random-disable",
    "kube-subnet-mgr",
    "kube-api-url",
    "kube-annotation-prefix",
    "kubeconfig-file",
    "version",
    "healthz-ip",
    "healthz-port",
    "iptables-resync",
    "iptables-forward-rules",
    "ip-blackhole-route",
    "net-config-path",
    "set-node-network-unavailable",
    "v",
    "vmodule",
    "log_backtrace_at",
    "help",
];

/// Splits a command line as systemd does: at blanks, without quotes.
fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(|word| word.trim_matches('"').into()).collect()
}

fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let start = unit.find(&format!("\n{key}=")).unwrap() + key.len() + 2;
    unit[start..].split_inclusive("\n").next().unwrap().trim()
}

fn parse(line: &str) -> Flags {
    Flags::parse_from_go(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn flanneld_in_kubernetes() {
    let flags = parse(KUBERNETES);
    assert!(flags.firewall.ip_masq && flags.kube.kube_subnet_mgr && flags.command.is_none());
    assert_eq!(flags.health.healthz_port, 0);
}

#[test]
fn flanneld_in_a_systemd_unit() {
    let unit = UNIT.replace("\\\n", " ");
    let flags = parse(setting(&unit, "ExecStart"));
    assert_eq!(
        [flags.etcd.etcd_cafile, flags.etcd.etcd_certfile, flags.etcd.etcd_keyfile],
        ["cacert.pem", "flannel.crt", "flannel.key"].map(|file| format!("/usr/local/flannel/ssl/{file}"))
    );
    let endpoints = [71, 72, 73].map(|host| format!("https://172.100.102.{host}:2379"));
    assert_eq!(flags.etcd.etcd_endpoints, endpoints);
    assert_eq!((flags.firewall.ip_masq, flags.health.healthz_port), (true, 300));
}

#[test]
fn mk_docker_opts_in_a_systemd_unit() {
    let (_, flags) = setting(UNIT, "ExecStartPost").split_once(' ').unwrap();
    let flags = parse(&format!("flannel-agent docker-opts {flags}"));
    let Some(Command::DockerOpts(options)) = flags.command else { panic!("another command") };
    assert_eq!(options.docker_env, Path::new("/var/run/flannel/docker_opts.env"));
    assert_eq!(options.flannel_env, Path::new("/run/flannel/subnet.env"));
    assert_eq!((options.individual, options.combined, options.no_ip_masq), (false, false, false));
}

#[test]
fn short_flags_of_a_subcommand_can_be_joined() {
    let flags = parse("flannel-agent docker-opts -imf /tmp/a -kFOO");
    let Some(Command::DockerOpts(options)) = flags.command else { panic!("another command") };
    assert_eq!((options.individual, options.combined, options.no_ip_masq), (true, false, true));
    assert_eq!((options.flannel_env.as_path(), options.combined_key.as_str()), (Path::new("/tmp/a"), "FOO"));
}

#[test]
fn a_subcommand_refuses_flags_of_the_daemon() {
    assert!(Flags::parse_from_go(words("flannel-agent -ip-masq docker-opts")).is_err());
}

#[test]
fn an_empty_value_is_ignored() {
    let flags = parse("flanneld -public-ip= --iface-can-reach= -iface= --etcd-endpoints=http://a/?b=");
    assert_eq!(
        (flags.uplink.public_ip, flags.uplink.iface_can_reach, flags.uplink.iface.len()),
        (None, None, 0)
    );
    assert_eq!(flags.etcd.etcd_endpoints, ["http://a/?b="]);
}

#[test]
fn booleans_are_spelled_as_in_go() {
    for (value, expected) in [
        ("true", true),
        ("1", true),
        ("T", true),
        ("TRUE", true),
        ("0", false),
        ("f", false),
        ("False", false),
    ] {
        assert_eq!(parse(&format!("flanneld -ip-masq={value}")).firewall.ip_masq, expected, "{value}");
    }
}

#[test]
fn every_flag_of_flanneld_exists_and_every_flag_has_a_variable() {
    let mut command = Flags::command();
    command.build();
    let longs: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    for flag in FLANNELD {
        assert!(longs.contains(&flag), "-{flag}");
    }
    for arg in command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
        let long = arg.get_long().unwrap();
        let variable = format!("FLANNELD_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(variable.as_str()), "{long}");
    }
}
