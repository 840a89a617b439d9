//! Runs the real etcd server, in a namespace or on loopback.

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
use crate::wait::patiently;
use crate::workdir::Workdir;
pub use gateway::{Gateway, KeyValue};

/// Prefix of flannel's keys.
pub const PREFIX: &str = "/coreos.com/network";
const START_LIMIT: Duration = Duration::from_secs(15);
const CLIENT_PORT: u16 = 2379;
/// Leaves no room for any value.
const FULL: &str = "--quota-backend-bytes=1";

/// Flags of an etcd server before its start.
#[derive(Debug, Default)]
pub struct EtcdBuilder {
    args: Vec<String>,
    urls: Vec<String>,
}

impl EtcdBuilder {
    /// Adds a client URL. The test bed itself uses another one, without TLS.
    pub fn client_url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Adds a flag.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts it on free ports of this machine's loopback, with a folder of its own.
    pub fn start(self) -> Result<Etcd> {
        let tag = new_tag()?;
        let workdir = Arc::new(Workdir::create(&tag)?);
        // Both listeners are open until both ports are known, so that the ports differ.
        let (client, peer) = (free_port()?, free_port()?);
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let location = Location { netns: None, mark: tag, ip, client: client.1, peer: peer.1 };
        drop((client, peer));
        Etcd::launch(location, &workdir, self)
    }

    /// Starts it in a namespace, on one of the namespace's addresses.
    pub(crate) fn start_in(self, netns: &Arc<NetNs>, ip: IpAddr, workdir: &Arc<Workdir>) -> Result<Etcd> {
        let mark = netns.name().to_owned();
        let location =
            Location { netns: Some(Arc::clone(netns)), mark, ip, client: CLIENT_PORT, peer: CLIENT_PORT + 1 };
        Etcd::launch(location, workdir, self)
    }

    /// Starts `n` members of one etcd cluster in a namespace.
    pub(crate) fn start_members(
        netns: &Arc<NetNs>,
        ip: IpAddr,
        workdir: &Arc<Workdir>,
        n: u16,
    ) -> Result<Vec<Etcd>> {
        let mark = netns.name().to_owned();
        let location = |member: u16| {
            let client = CLIENT_PORT + 10 * member;
            Location { netns: Some(Arc::clone(netns)), mark: mark.clone(), ip, client, peer: client + 1 }
        };
        let cluster: Vec<_> =
            (0..n).map(|member| format!("m{member}=http://{ip}:{}", location(member).peer)).collect();
        let start = |member: u16| {
            let builder = Self::default().arg("--initial-cluster").arg(cluster.join(","));
            // Longer than a single member's timeouts: on a busy machine members answer each other late.
            let builder = builder.arg("--heartbeat-interval=50").arg("--election-timeout=500");
            let name = format!("m{member}");
            Etcd::spawn(location(member), &name, workdir, builder.arg("--name").arg(&name))
        };
        let mut members = (0..n).map(start).collect::<Result<Vec<_>>>()?;
        members.iter_mut().try_for_each(Etcd::wait_healthy)?;
        Ok(members)
    }
}

/// Namespace, address and ports of a server.
#[derive(Debug)]
struct Location {
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
    location: Location,
    builder: EtcdBuilder,
    dir: PathBuf,
    _workdir: Arc<Workdir>,
}

impl Etcd {
    /// Starts a server on loopback, for code under test that runs in this process.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Prepares a server with other flags.
    pub fn builder() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    fn launch(location: Location, workdir: &Arc<Workdir>, builder: EtcdBuilder) -> Result<Self> {
        let mut etcd = Self::spawn(location, "etcd", workdir, builder)?;
        etcd.wait_healthy()?;
        Ok(etcd)
    }

    fn spawn(location: Location, name: &str, workdir: &Arc<Workdir>, builder: EtcdBuilder) -> Result<Self> {
        require_commands(&["etcd"])?;
        let dir = workdir.subdir(name)?;
        let gateway = Gateway::new(location.netns.clone(), SocketAddr::new(location.ip, location.client));
        let daemon = Daemon::start(name, command(&location, &dir, &builder), &dir.join("etcd.log"))?;
        Ok(Self { daemon, gateway, location, builder, dir, _workdir: Arc::clone(workdir) })
    }

    fn wait_healthy(&mut self) -> Result<()> {
        let Self { daemon, gateway, .. } = self;
        let mut died = Ok(());
        patiently("etcd is healthy", START_LIMIT, || {
            died = daemon.ensure_running();
            if died.is_err() { Ok(()) } else { gateway.health() }
        })
        .with_context(|| self.daemon.tail())?;
        died
    }

    /// Returns the URL for `--etcd-endpoints`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.gateway.address())
    }

    /// Returns the client for reads and writes.
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
    pub fn get_prefix(&self, prefix: &str) -> Result<Vec<KeyValue>> {
        self.gateway.prefix(prefix)
    }

    /// Reads the leases and reservations of all nodes.
    pub fn subnets(&self) -> Result<Vec<KeyValue>> {
        self.get_prefix(&format!("{PREFIX}/subnets/"))
    }

    /// Removes a key; it is an error if there is none.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.gateway.delete(key)
    }

    /// Compacts all history up to now, which cancels watches that are behind.
    pub fn compact(&self) -> Result<()> {
        self.gateway.compact()
    }

    /// Runs `etcdctl` with arguments split at spaces.
    pub fn ctl(&self, line: &str) -> Result<String> {
        let mut command = self.location.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint()]).args(line.split_whitespace());
        finish(&mut command, "", LIMIT)
    }

    /// Pauses the process by SIGSTOP: connections stay open and nothing answers.
    pub fn stop(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGSTOP)
    }

    /// Continues a paused process, and waits until it answers.
    pub fn cont(&mut self) -> Result<()> {
        self.daemon.signal(Signal::SIGCONT)?;
        self.wait_healthy()
    }

    /// Kills it. Its data stays for [`Etcd::restart`].
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Kills it if it runs, and starts it again with its data.
    pub fn restart(&mut self) -> Result<()> {
        self.start_again()?;
        self.wait_healthy()
    }

    fn start_again(&mut self) -> Result<()> {
        self.kill()?;
        let command = command(&self.location, &self.dir, &self.builder);
        self.daemon = Daemon::start("etcd", command, &self.dir.join("etcd.log"))?;
        Ok(())
    }

    /// Kills it if it runs, and starts it again as one whose database is full: it refuses all writes.
    pub fn fill(&mut self) -> Result<()> {
        self.builder.args.push(FULL.to_owned());
        self.restart()?;
        // It finds out at the first write.
        ensure!(self.put("full", "").is_err(), "etcd still takes writes");
        Ok(())
    }

    /// Ends [`Etcd::fill`].
    pub fn make_room(&mut self) -> Result<()> {
        self.builder.args.retain(|arg| arg != FULL);
        self.start_again()?;
        // Until then it says that it is not healthy.
        patiently("etcd takes writes again", START_LIMIT, || self.ctl("alarm disarm"))?;
        self.wait_healthy()
    }

    /// Kills it and starts it again without its data.
    pub fn restart_empty(&mut self) -> Result<()> {
        self.kill()?;
        fs::remove_dir_all(self.dir.join("data")).context("remove etcd's data")?;
        self.restart()
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Returns its process ID.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }
}

impl Datastore for Etcd {
    fn flags(&self) -> Vec<String> {
        vec![format!("--etcd-endpoints={}", self.endpoint())]
    }

    fn configure(&self, json: &str) -> Result<()> {
        self.configure(json)
    }

    fn show(&self) -> String {
        let netns = self.location.netns.as_ref().map(|netns| format!("ip netns exec {} ", netns.name()));
        format!("{}etcdctl --endpoints {} get --prefix {PREFIX}", netns.unwrap_or_default(), self.endpoint())
    }
}

impl Location {
    fn command(&self, program: &str) -> Command {
        let mut command =
            self.netns.as_ref().map_or_else(|| Command::new(program), |netns| netns.command(program));
        command.env(MARK, &self.mark);
        command
    }
}

fn command(location: &Location, dir: &std::path::Path, builder: &EtcdBuilder) -> Command {
    let client = format!("http://{}", SocketAddr::new(location.ip, location.client));
    let peer = format!("http://{}", SocketAddr::new(location.ip, location.peer));
    let mut command = location.command("etcd");
    command.arg("--data-dir").arg(dir.join("data"));
    let listen = [std::slice::from_ref(&client), &builder.urls].concat().join(",");
    command.args(["--listen-client-urls", &listen, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    // Short timeouts: a single member elects itself and waits for no other.
    command.args(["--heartbeat-interval", "10", "--election-timeout", "50"]);
    command.args(["--max-txn-ops", "2000", "--logger", "zap", "--log-level", "warn"]);
    command.args(&builder.args);
    command
}

/// Returns a free port of loopback. It stays free while the listener is kept.
pub(crate) fn free_port() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    let port = listener.local_addr()?.port();
    ensure!(port != 0, "no free port");
    Ok((listener, port))
}
