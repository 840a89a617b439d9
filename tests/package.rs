//! The Debian package: installed, started by systemd from its own unit, used, upgraded, removed and purged. Needs root,
//! and says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::CommandFactory as _;
use flannel_agent::cli::Flags;
use flannel_tests::machine::Machine;
use flannel_tests::package::package;
use flannel_tests::shell::Shell;
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, Etcd, Pod, SubnetEnv, TestResult, eventually};

use crate::inspect;
use crate::overlay::{NETWORK, lines_of};

/// How long a restart may take, and how long the nodes may take to know each other.
const SOON: Duration = Duration::from_secs(10);
const SUBNET_FILE: &str = "/run/flannel/subnet.env";
const SETTINGS: &str = "/etc/default/flannel-agent";
/// What dpkg, and packages whose triggers it starts, keep about any package.
const RECORDS: [&str; 5] = ["run", "tmp", "var/cache", "var/lib/dpkg", "var/log"];

/// A node that has the package, and one that has an agent of the test bed. Fields are in the order in which they have to go.
struct Bed {
    pods: Vec<Pod>,
    machine: Machine,
    _peer: Agent,
    etcd: Etcd,
    cluster: Cluster,
}

impl Bed {
    fn new() -> Result<Self> {
        let cluster = Cluster::segment(2)?;
        let etcd = cluster.start_etcd()?;
        etcd.configure(NETWORK)?;
        let mut peer = Agent::builder(&cluster.nodes()[1]).etcd(&etcd).start()?;
        peer.wait_ready()?;
        let machine = Machine::boot(&cluster.nodes()[0])?;
        Ok(Self { pods: Vec::new(), machine, _peer: peer, etcd, cluster })
    }

    fn install(&self, package: &Path) -> Result<String> {
        fs::copy(package, self.machine.path("/tmp/package.deb"))
            .context("copy the package into the machine")?;
        self.machine.exec("dpkg --install /tmp/package.deb")
    }

    /// Appends a line to the unit's settings.
    fn set(&self, line: &str) -> Result<()> {
        let path = self.machine.path(SETTINGS);
        let settings = fs::read_to_string(&path).context("read the settings")?;
        fs::write(&path, format!("{settings}{line}\n")).context("write the settings")
    }

    /// Adds a pod to each node.
    fn add_pods(&mut self) -> Result<()> {
        let nodes = self.cluster.nodes();
        nodes[0].bridge(&SubnetEnv::read(&self.machine.path(SUBNET_FILE))?)?;
        self.pods = self.cluster.one_pod_each()?;
        Ok(())
    }

    fn wait_connected(&self) -> Result<()> {
        let (one, other) = (&self.pods[0], &self.pods[1]);
        eventually("the pods reach each other", SOON, || {
            ping(one, other.ip())?;
            ping(other, one.ip())
        })
        .map(drop)
    }

    /// Packets that the node's programs have carried: sent and received.
    fn carried(&self) -> Result<(u64, u64)> {
        inspect::carried(&self.cluster.nodes()[0])
    }

    fn property(&self, name: &str) -> Result<String> {
        let shown = self.machine.exec(&format!("systemctl show --value --property {name} flannel-agent"))?;
        Ok(shown.trim().to_owned())
    }
}

/// All files of the layer but those that dpkg keeps records in.
fn files(machine: &Machine) -> Result<BTreeSet<PathBuf>> {
    let layer = machine.layer();
    let mut files = BTreeSet::new();
    let mut folders = vec![layer.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            let name = path.strip_prefix(&layer)?.to_owned();
            if RECORDS.iter().any(|record| name.starts_with(record)) {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                files.insert(name);
            }
        }
    }
    Ok(files)
}

#[test]
#[ignore = "needs the package that `cargo xtask dist` makes; `cargo xtask test` runs it"]
fn a_node_lives_on_its_package_alone() -> TestResult {
    let package = package()?;
    let mut bed = Bed::new()?;
    let before = files(&bed.machine)?;
    install(&bed, &package)?;
    start(&mut bed)?;
    upgrade(&bed, &package)?;
    remove(&bed)?;
    bed.machine.exec("dpkg --purge flannel-agent")?;
    assert_eq!(files(&bed.machine)?, before, "files that are left");
    assert!(!bed.machine.path("/run/flannel").exists(), "/run/flannel is left");
    Ok(())
}

/// Installs the package. The unit is enabled, and does not start before somebody has entered the datastore.
fn install(bed: &Bed, package: &Path) -> Result<()> {
    let printed = bed.install(package)?;
    assert!(printed.contains(SETTINGS), "the place for the datastore is named: {printed}");
    assert_eq!(bed.property("UnitFileState")?, "enabled");
    assert_eq!(bed.property("ActiveState")?, "inactive");
    let version = bed.machine.exec("flannel-agent --version")?;
    let installed = bed.machine.exec("dpkg-query --show --showformat=${Version} flannel-agent")?;
    assert_eq!(version.trim(), format!("flannel-agent {installed}"));
    let files = bed.machine.exec("dpkg --listfiles flannel-agent")?;
    let command = Flags::command();
    let of_subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    let of_subcommands = of_subcommands.map(|subcommand| format!("flannel-agent-{}", subcommand.get_name()));
    let pages: Vec<_> = of_subcommands.chain(["flannel-agent".to_owned()]).collect();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        assert!(files.contains(&format!("/usr/share/man/man8/{page}.8.gz")), "{page}: {files}");
    }
    for shell in &Shell::ALL {
        let completions = format!("/usr/share/{}", shell.completions);
        assert!(files.lines().any(|file| file == completions), "{completions}: {files}");
        assert_eq!(complete(bed, shell, "stat")?, "status", "{}", shell.name);
    }
    // They keep other programs from the agent's devices.
    for settings in [
        "/usr/lib/systemd/network/10-flannel.link",
        "/usr/lib/systemd/network/10-flannel.network",
        "/usr/lib/NetworkManager/conf.d/flannel.conf",
    ] {
        assert!(files.lines().any(|file| file == settings), "{settings}: {files}");
    }
    Ok(())
}

/// Returns what a shell makes of the beginning of a subcommand after the Tab key.
fn complete(bed: &Bed, shell: &Shell, beginning: &str) -> Result<String> {
    let script = Path::new("/tmp").join(shell.name);
    let text = shell.script;
    fs::write(bed.machine.path(&script.to_string_lossy()), text).context("write the script")?;
    let arguments = shell.arguments(&script, Path::new("/usr/share")).join(" ");
    Ok(bed.machine.exec(&format!("env {arguments} flannel-agent {beginning}"))?.trim().to_owned())
}

/// Starts the unit, which has privileges for everything, and sends traffic.
fn start(bed: &mut Bed) -> Result<()> {
    let endpoints = format!("FLANNELD_ETCD_ENDPOINTS={}", bed.etcd.endpoint());
    bed.set(&format!("{endpoints}\nFLANNELD_DATAPLANE=bpf"))?;
    bed.machine.exec("systemctl start flannel-agent")?;
    assert_eq!(bed.etcd.subnets()?.len(), 2, "a lease for each node");
    bed.add_pods()?;
    bed.wait_connected()?;
    let (sent, received) = bed.carried()?;
    assert!(sent > 0 && received > 0, "BPF carries: {sent} sent, {received} received");
    let options = fs::read_to_string(bed.machine.path("/run/flannel/docker_opts.env"))?;
    let gateway = SubnetEnv::read(&bed.machine.path(SUBNET_FILE))?.subnet.context("the node has a subnet")?;
    assert!(options.contains(&format!("--bip={gateway}")), "{options}");
    assert!(options.contains("--ip-masq=false"), "the agent masquerades: {options}");
    let journal = bed.machine.exec("journalctl --unit flannel-agent --output cat")?;
    assert_eq!(lines_of(&journal, "WARN"), [""; 0]);
    Ok(())
}

/// Installs the package again. The agent is restarted with the same settings.
fn upgrade(bed: &Bed, package: &Path) -> Result<()> {
    let first = bed.property("MainPID")?;
    bed.install(package)?;
    eventually("the agent runs again", SOON, || {
        let (state, pid) = (bed.property("ActiveState")?, bed.property("MainPID")?);
        ensure!(state == "active" && pid != first, "{state}, process {pid}");
        Ok(())
    })?;
    assert!(fs::read_to_string(bed.machine.path(SETTINGS))?.contains("FLANNELD_DATAPLANE=bpf"));
    bed.wait_connected()
}

/// Removes the package. The agent ends, and the pods keep their network.
fn remove(bed: &Bed) -> Result<()> {
    let printed = bed.machine.exec("dpkg --remove flannel-agent")?;
    assert!(printed.contains("flannel-agent cleanup"), "what stays is named: {printed}");
    assert_eq!(bed.property("ActiveState")?, "inactive");
    let carried = bed.carried()?;
    bed.wait_connected()?;
    assert!(bed.carried()? > carried, "BPF carries");
    Ok(())
}
