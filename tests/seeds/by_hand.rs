//! "k8s 二进制部署 八 (flannel)": etcd with certificates for both sides, a unit of systemd that runs flanneld, and Docker.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::agent_binary;
use flannel_tests::cluster::MGMT;
use flannel_tests::etcd::PREFIX;
use flannel_tests::machine::Machine;
use flannel_tests::{Agent, Cluster, Docker, Etcd, Node, SubnetEnv, TestResult, eventually, executable};

use super::{SMALL_SUBNETS, ensure_shows, ensure_small_subnet, rename_uplinks};
use crate::endpoint::{LOCALHOST, get};
use crate::inspect::{self, Peer};
use crate::store::etcd::certificates::Authority;

const SOON: Duration = Duration::from_secs(10);
const BIN: &str = "/usr/local/flannel/bin";
const SSL: &str = "/usr/local/flannel/ssl";
const SUBNET_FILE: &str = "/var/run/flannel/subnet.env";
const DOCKER_FILE: &str = "/var/run/flannel/docker_opts.env";
/// The ports of the text's three etcd servers, which here are one server's.
const PORTS: [u16; 3] = [2471, 2472, 2473];
/// The network that the text writes by etcdctl.
const CONFIG: &str = r#"{"Network":"10.1.0.0/16","SubnetLen":24,"SubnetMin":"10.1.10.0","SubnetMax":"10.1.90.0","Backend":{"Type":"vxlan"}}"#;
/// Subnets of the nodes in the text's list of routes.
const OTHERS: [u8; 8] = [15, 37, 51, 53, 65, 68, 72, 81];

/// A booted machine with the text's files. Fields are in the order of their drops.
struct Walk {
    machine: Machine,
    etcd: Etcd,
    cluster: Cluster,
}

impl Walk {
    /// Prepares etcd and the tree of files: `bin/flanneld`, `bin/mk-docker-opts.sh`, and `ssl` with three files.
    fn start() -> Result<Self> {
        let cluster = Cluster::segment(1)?;
        rename_uplinks(&cluster, "eth0", Ipv4Addr::new(172, 100, 102, 71))?;
        let machine = Machine::boot(&cluster.nodes()[0])?;
        for folder in [BIN, SSL] {
            fs::create_dir_all(machine.path(folder)).with_context(|| format!("create {folder}"))?;
        }
        let bin = machine.path(BIN);
        executable::copy(&agent_binary()?, &bin.join("flanneld"))?;
        symlink("flanneld", bin.join("mk-docker-opts.sh")).context("link mk-docker-opts.sh")?;
        let etcd = start_etcd(&cluster, &machine.path(SSL))?;
        Ok(Self { machine, etcd, cluster })
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes()[0]
    }

    /// Runs the text's etcdctl. etcd of today has only the v3 API, whose words are put and get.
    fn etcdctl(&self, line: &str) -> Result<String> {
        let files = format!("--cert {SSL}/flannel.crt --key {SSL}/flannel.key --cacert {SSL}/cacert.pem");
        self.machine.exec(&format!("etcdctl --endpoints {} {files} {line}", endpoints()))
    }

    fn read(&self, path: &str) -> Result<String> {
        self.machine.exec(&format!("cat {path}"))
    }
}

fn endpoints() -> String {
    PORTS.map(|port| format!("https://{MGMT}:{port}")).join(",")
}

/// "给flannel创建证书": etcd accepts only clients with a certificate of the cluster's authority.
fn start_etcd(cluster: &Cluster, ssl: &Path) -> Result<Etcd> {
    let authority = Authority::new(cluster.dir(), "ca")?;
    let (server, client) = (authority.issue(&MGMT.to_string())?, authority.issue("flannel")?);
    for (from, to) in
        [(&authority.file(), "cacert.pem"), (&client.cert, "flannel.crt"), (&client.key, "flannel.key")]
    {
        fs::copy(from, ssl.join(to)).with_context(|| format!("copy {to}"))?;
    }
    let file = |flag: &str, file: &Path| format!("--{flag}={}", file.display());
    let etcd =
        PORTS.iter().fold(Etcd::builder(), |etcd, port| etcd.client_url(format!("https://{MGMT}:{port}")));
    let etcd = etcd.arg("--client-cert-auth").arg(file("trusted-ca-file", &authority.file()));
    cluster.start_etcd_with(etcd.arg(file("cert-file", &server.cert)).arg(file("key-file", &server.key)))
}

/// "创建Unit": the text's unit with this bed's endpoints.
fn unit() -> String {
    format!(
        "[Unit]\nDescription=Etcd server\nAfter=network-online.target\nWants=network-online.target\n\n\
        [Service]\nType=notify\nExecStart={BIN}/flanneld \\\n\
        -etcd-cafile {SSL}/cacert.pem \\\n-etcd-certfile {SSL}/flannel.crt \\\n-etcd-keyfile {SSL}/flannel.key \\\n\
        -etcd-endpoints \"{}\" \\\n-ip-masq \\\n-healthz-port 300\n\
        ExecStartPost={BIN}/mk-docker-opts.sh -d {DOCKER_FILE}\n\n\
        [Install]\nRequiredBy=docker.service\nWantedBy=multi-user.target\n",
        endpoints()
    )
}

#[test]
fn the_walk_through_an_installation_by_hand_works_as_written() -> TestResult {
    let walk = Walk::start()?;
    walk.etcdctl(&format!("put {PREFIX}/config {CONFIG}"))?;
    let others = OTHERS.map(|subnet| Peer { base: [10, 1, subnet, 0].into(), ..Peer::fictional(subnet) });
    others.iter().try_for_each(|other| walk.etcd.put(&other.key(), &other.value()))?;
    // "vim /lib/systemd/system/flannel.service" and "systemctl start flannel"
    fs::write(walk.machine.path("/lib/systemd/system/flannel.service"), unit())?;
    walk.machine.exec("systemctl daemon-reload")?;
    walk.machine.exec("systemctl start flannel")?;
    let subnet = walk.read(SUBNET_FILE)?.parse::<SubnetEnv>()?.subnet.context("a subnet")?;
    let third = subnet.addr.octets()[2];
    assert!((10..=90).contains(&third) && !OTHERS.contains(&third), "{subnet} is free and within the range");
    device_and_routes(&walk, third)?;
    files(&walk, third)?;
    rules(&walk, third)?;
    assert_eq!(get(walk.node(), LOCALHOST, "/healthz")?.0, 200, "-healthz-port 300");
    docker(&walk, third)?;
    keys(&walk, third)?;
    Ok(())
}

/// `ip link list type vxlan`, `ip addr show dev flannel.1` and, with other nodes, `ip route list`.
fn device_and_routes(walk: &Walk, third: u8) -> Result<()> {
    let node = walk.node();
    ensure_shows(node, "ip link list type vxlan", &["flannel.1"])?;
    ensure_shows(
        node,
        "ip addr show dev flannel.1",
        &[
            "<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN group default",
            &format!("inet 10.1.{third}.0/32 scope global flannel.1"),
            "inet6 fe80::",
        ],
    )?;
    let routes = OTHERS.map(|other| format!("10.1.{other}.0/24 via 10.1.{other}.0 dev flannel.1 onlink"));
    eventually("the other nodes are known", SOON, || {
        ensure_shows(node, "ip route list", &routes.each_ref().map(String::as_str))
    })
}

/// subnet.env, and docker_opts.env as mk-docker-opts.sh makes it.
fn files(walk: &Walk, third: u8) -> Result<()> {
    let gateway = format!("10.1.{third}.1/24");
    let env = walk.read(SUBNET_FILE)?;
    let expected = format!(
        "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET={gateway}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    );
    ensure!(env == expected, "subnet.env: {env}");
    let options = walk.read(DOCKER_FILE)?;
    ensure!(options == docker_file(&gateway), "docker_opts.env: {options}");
    Ok(())
}

fn docker_file(gateway: &str) -> String {
    format!(
        "DOCKER_OPT_BIP=\"--bip={gateway}\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n\
        DOCKER_OPTS=\" --bip={gateway} --ip-masq=false --mtu=1450\"\n"
    )
}

/// What -ip-masq adds. flannel has a chain of its own for it today, and two rules for the text's first.
fn rules(walk: &Walk, third: u8) -> Result<()> {
    let own = format!("10.1.{third}.0/24");
    let rules = walk.node().exec("iptables -t nat -S FLANNEL-POSTRTG")?;
    let masq = r#"-m comment --comment "flanneld masq""#;
    for rule in [
        format!("-s {own} -d 10.1.0.0/16 {masq} -j RETURN"),
        format!("-s 10.1.0.0/16 -d {own} {masq} -j RETURN"),
        format!("-s 10.1.0.0/16 ! -d 224.0.0.0/4 {masq} -j MASQUERADE"),
        format!("! -s 10.1.0.0/16 -d {own} {masq} -j RETURN"),
        format!("! -s 10.1.0.0/16 -d 10.1.0.0/16 {masq} -j MASQUERADE"),
    ] {
        ensure!(rules.contains(&rule), "no {rule} in {rules}");
    }
    Ok(())
}

/// "改一下docker的启动参数": Docker's own bridge, and docker0 after a start with the options of the file.
fn docker(walk: &Walk, third: u8) -> Result<()> {
    let (node, text) = (walk.node(), walk.read(DOCKER_FILE)?);
    let before = Docker::start(node, &[])?;
    ensure_shows(
        node,
        "ip addr show dev docker0",
        &["inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0"],
    )?;
    drop(before);
    let options =
        text.lines().find_map(|line| line.strip_prefix("DOCKER_OPTS=")).context("no DOCKER_OPTS")?;
    let options = options.trim_matches('"');
    let _after = Docker::start(node, &options.split_whitespace().collect::<Vec<_>>())?;
    let address = format!("inet 10.1.{third}.1/24 brd 10.1.{third}.255 scope global docker0");
    ensure_shows(node, "ip addr show dev docker0", &[&address])
}

/// `etcdctl ls` and `etcdctl get`.
fn keys(walk: &Walk, third: u8) -> Result<()> {
    let key = format!("{PREFIX}/subnets/10.1.{third}.0-24");
    let keys = walk.etcdctl(&format!("get --prefix --keys-only {PREFIX}"))?;
    for key in [&format!("{PREFIX}/config"), &key] {
        ensure!(keys.lines().any(|line| line == key), "no {key} in {keys}");
    }
    let value = walk.etcdctl(&format!("get --print-value-only {key}"))?;
    let mac = inspect::link(walk.node(), "flannel.1")?.mac;
    let expected = format!(
        r#"{{"PublicIP":"172.100.102.71","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    );
    ensure!(value.trim() == expected, "{value} instead of {expected}");
    Ok(())
}

#[test]
fn subnets_of_4096_addresses_become_the_texts_files() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    // "只是把Type改成了vxlan, 去掉了port": with vxlan and without the port.
    etcd.configure(
        &SMALL_SUBNETS.replace("\"Type\": \"udp\",", "\"Type\": \"vxlan\"").replace("\"Port\": 7890", ""),
    )?;
    let node = &cluster.nodes()[0];
    let mut agent = Agent::builder(node).etcd(&etcd).arg("-ip-masq").start()?;
    let gateway = agent.wait_ready()?.subnet.context("a subnet")?.to_string();
    ensure_small_subnet(node)?;
    let options = node.dir().join("docker_opts.env");
    let command = [node.subnet_file(), options.clone()].map(|path| path.display().to_string()).join(" -d ");
    node.exec(&format!("{} docker-opts -f {command}", agent_binary()?.display()))?;
    assert_eq!(fs::read_to_string(options)?, docker_file(&gateway));
    Ok(())
}
