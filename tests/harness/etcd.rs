//! The real etcd server, on a namespace's address or on loopback.

mod base64;
mod gateway;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::netns::NetNs;
use crate::owner::{MARK, new_tag};
use crate::process::{Daemon, LIMIT, finish};
use crate::require::require_commands;
use crate::store::Datastore;
use crate::wait::eventually;
use crate::workdir::Workdir;
pub use gateway::{Entry, Gateway};

/// Where flannel keeps its keys.
pub const PREFIX: &str = "/coreos.com/network";
const START_LIMIT: Duration = Duration::from_secs(15);
const CLIENT_PORT: u16 = 2379;

/// How an etcd server is to be started.
#[derive(Debug, Default)]
pub struct EtcdBuilder {
    args: Vec<String>,
    urls: Vec<String>,
}

impl EtcdBuilder {
    /// Serves clients here, too: the test bed's own requests go to a URL without TLS.
    pub fn client_url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Adds a flag of etcd's.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts it on free ports of this machine's loopback, with a folder of its own.
    pub fn start(self) -> Result<Etcd> {
        let tag = new_tag()?;
        let workdir = Arc::new(Workdir::create(&tag)?);
        // Both are held until both are known, so that they differ.
        let (client, peer) = (free_port()?, free_port()?);
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let place = Place { netns: None, mark: tag, ip, client: client.1, peer: peer.1 };
        drop((client, peer));
        Etcd::launch(place, &workdir, self)
    }

    /// Starts it in a namespace, on an address that is there.
    pub(crate) fn start_in(self, netns: &Arc<NetNs>, ip: IpAddr, workdir: &Arc<Workdir>) -> Result<Etcd> {
        let mark = netns.name().to_owned();
        let place =
            Place { netns: Some(Arc::clone(netns)), mark, ip, client: CLIENT_PORT, peer: CLIENT_PORT + 1 };
        Etcd::launch(place, workdir, self)
    }

    /// Starts so many members of one cluster in a namespace.
    pub(crate) fn start_members(
        netns: &Arc<NetNs>,
        ip: IpAddr,
        workdir: &Arc<Workdir>,
        n: u16,
    ) -> Result<Vec<Etcd>> {
        let mark = netns.name().to_owned();
        let place = |member: u16| {
            let client = CLIENT_PORT + 10 * member;
            Place { netns: Some(Arc::clone(netns)), mark: mark.clone(), ip, client, peer: client + 1 }
        };
        let cluster: Vec<_> =
            (0..n).map(|member| format!("m{member}=http://{ip}:{}", place(member).peer)).collect();
        let start = |member: u16| {
            let builder = Self::default().arg("--initial-cluster").arg(cluster.join(","));
            // Members wait for each other on a busy machine.
            let builder = builder.arg("--heartbeat-interval=50").arg("--election-timeout=500");
            let name = format!("m{member}");
            Etcd::spawn(place(member), &name, workdir, builder.arg("--name").arg(&name))
        };
        let mut members = (0..n).map(start).collect::<Result<Vec<_>>>()?;
        members.iter_mut().try_for_each(Etcd::wait_healthy)?;
        Ok(members)
    }
}

#[derive(Debug)]
struct Place {
    netns: Option<Arc<NetNs>>,
    mark: String,
    ip: IpAddr,
    client: u16,
    peer: u16,
}

/// A running etcd server. Dropping it kills it.
#[derive(Debug)]
pub struct Etcd {
    daemon: Daemon,
    gateway: Gateway,
    place: Place,
    builder: EtcdBuilder,
    dir: PathBuf,
    _workdir: Arc<Workdir>,
}

impl Etcd {
    /// Starts a server on loopback, for code under test that runs in this process.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// A server with flags of its own.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    fn launch(place: Place, workdir: &Arc<Workdir>, builder: EtcdBuilder) -> Result<Self> {
        let mut etcd = Self::spawn(place, "etcd", workdir, builder)?;
        etcd.wait_healthy()?;
        Ok(etcd)
    }

    fn spawn(place: Place, name: &str, workdir: &Arc<Workdir>, builder: EtcdBuilder) -> Result<Self> {
        require_commands(&["etcd"])?;
        let dir = workdir.subdir(name)?;
        let gateway = Gateway::new(place.netns.clone(), SocketAddr::new(place.ip, place.client));
        let daemon = Daemon::start(name, command(&place, &dir, &builder), &dir.join("etcd.log"))?;
        Ok(Self { daemon, gateway, place, builder, dir, _workdir: Arc::clone(workdir) })
    }

    fn wait_healthy(&mut self) -> Result<()> {
        let Self { daemon, gateway, .. } = self;
        let mut died = Ok(());
        eventually("etcd is healthy", START_LIMIT, || {
            died = daemon.ensure_running();
            if died.is_err() { Ok(()) } else { gateway.health() }
        })
        .with_context(|| self.daemon.tail())?;
        died
    }

    /// The URL for `--etcd-endpoints`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.gateway.address())
    }

    /// Reads and writes.
    pub fn kv(&self) -> &Gateway {
        &self.gateway
    }

    /// Writes the network's configuration.
    pub fn configure(&self, json: &str) -> Result<()> {
        self.put(&format!("{PREFIX}/config"), json)
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.gateway.put(key, value)
    }

    /// Reads a key's value.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(self.gateway.entry(key)?.map(|entry| entry.value))
    }

    /// Reads all keys that begin with a prefix, in order.
    pub fn get_prefix(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.gateway.prefix(prefix)
    }

    /// The leases (and reservations) of all nodes.
    pub fn subnets(&self) -> Result<Vec<Entry>> {
        self.get_prefix(&format!("{PREFIX}/subnets/"))
    }

    /// Removes a key; it is an error if there is none.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.gateway.delete(key)
    }

    /// Forgets all history up to now: watches that are behind are told that they were compacted away.
    pub fn compact(&self) -> Result<()> {
        self.gateway.compact()
    }

    /// Runs `etcdctl` with arguments split at blanks.
    pub fn ctl(&self, line: &str) -> Result<String> {
        let mut command = self.place.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint()]).args(line.split_whitespace());
        finish(&mut command, "", LIMIT)
    }

    /// Stops the process where it stands: connections stay open and nothing answers.
    pub fn stop(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGSTOP)
    }

    /// Lets a stopped process go on, and waits until it answers.
    pub fn cont(&mut self) -> Result<()> {
        self.daemon.signal(Signal::SIGCONT)?;
        self.wait_healthy()
    }

    /// Kills it. Its data stays for [`Etcd::restart`].
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Kills it if need be and starts it again with its data.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let command = command(&self.place, &self.dir, &self.builder);
        self.daemon = Daemon::start("etcd", command, &self.dir.join("etcd.log"))?;
        self.wait_healthy()
    }

    /// Kills it and starts it again without its data.
    pub fn restart_empty(&mut self) -> Result<()> {
        self.kill()?;
        fs::remove_dir_all(self.dir.join("data")).context("remove etcd's data")?;
        self.restart()
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }
}

impl Datastore for Etcd {
    fn flag(&self) -> String {
        format!("--etcd-endpoints={}", self.endpoint())
    }

    fn configure(&self, json: &str) -> Result<()> {
        self.configure(json)
    }

    fn show(&self) -> String {
        let netns = self.place.netns.as_ref().map(|netns| format!("ip netns exec {} ", netns.name()));
        format!("{}etcdctl --endpoints {} get --prefix {PREFIX}", netns.unwrap_or_default(), self.endpoint())
    }
}

impl Place {
    fn command(&self, program: &str) -> Command {
        let mut command =
            self.netns.as_ref().map_or_else(|| Command::new(program), |netns| netns.command(program));
        command.env(MARK, &self.mark);
        command
    }
}

fn command(place: &Place, dir: &std::path::Path, builder: &EtcdBuilder) -> Command {
    let client = format!("http://{}", SocketAddr::new(place.ip, place.client));
    let peer = format!("http://{}", SocketAddr::new(place.ip, place.peer));
    let mut command = place.command("etcd");
    command.arg("--data-dir").arg(dir.join("data"));
    let listen = [std::slice::from_ref(&client), &builder.urls].concat().join(",");
    command.args(["--listen-client-urls", &listen, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    // A single member has nobody to wait for when it elects itself.
    command.args(["--heartbeat-interval", "10", "--election-timeout", "50"]);
    command.args(["--max-txn-ops", "2000", "--logger", "zap", "--log-level", "warn"]);
    command.args(&builder.args);
    command
}

fn free_port() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    let port = listener.local_addr()?.port();
    ensure!(port != 0, "no free port");
    Ok((listener, port))
}
