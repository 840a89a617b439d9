//! etcd and kube-apiserver, without anything else of a control plane.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Binaries, Client, certificates, kubeconfig};
use crate::cluster::MGMT;
use crate::etcd::{Etcd, free_port};
use crate::owner::{MARK, new_tag};
use crate::process::{Daemon, LIMIT, finish};
use crate::wait::eventually;
use crate::workdir::Workdir;

const START_LIMIT: Duration = Duration::from_secs(60);
/// The address of the service `kubernetes`.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const SERVICES: &str = "10.96.0.0/16";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The server that all tests share.
static SHARED: Mutex<Option<Arc<ApiServer>>> = Mutex::new(None);

/// A kube-apiserver with an etcd of its own, on this machine's loopback. RBAC decides. Dropping it ends both.
#[derive(Debug)]
pub struct ApiServer {
    server: Mutex<Daemon>,
    client: Client,
    start: Start,
    rules: OnceLock<Value>,
    _proxy: Daemon,
    _etcd: Etcd,
    _workdir: Workdir,
}

/// What it takes to start it, the first time and again.
#[derive(Debug)]
struct Start {
    binaries: Binaries,
    tag: String,
    folder: PathBuf,
    etcd: String,
    port: u16,
}

impl ApiServer {
    /// Returns the server that all tests of this process share. The first call starts it.
    pub fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = &*shared {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(Self::start()?);
        // SAFETY: the function takes no arguments, and lives as long as the process.
        let registered = unsafe { libc::atexit(end_shared) };
        ensure!(registered == 0, "cannot ask for a call at the end of the process");
        *shared = Some(Arc::clone(&server));
        Ok(server)
    }

    /// Starts one for a single test, and waits until it is ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&Binaries::find()?)
    }

    /// [`ApiServer::start`] with these programs.
    pub fn start_with(binaries: &Binaries) -> Result<Self> {
        let tag = new_tag()?;
        let workdir = Workdir::create(&tag)?;
        let folder = workdir.path().to_owned();
        certificates::make(&folder, MGMT, SERVICE)?;
        // Nothing of it has to survive the machine.
        let etcd = Etcd::builder().arg("--unsafe-no-fsync").start()?;
        let port = free_port()?.1;
        let start = Start { binaries: binaries.clone(), tag, folder, etcd: etcd.endpoint(), port };
        let (proxy, client) = start.proxy()?;
        let server = Mutex::new(start.server()?);
        let server = Self {
            server,
            client,
            start,
            rules: OnceLock::new(),
            _proxy: proxy,
            _etcd: etcd,
            _workdir: workdir,
        };
        server.wait_ready()?;
        Ok(server)
    }

    /// Returns the client of an administrator.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns its address on loopback.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.start.port).into()
    }

    /// Returns the certificate of the authority that signed its own.
    pub fn authority(&self) -> PathBuf {
        self.start.folder.join("ca.crt")
    }

    /// Kills it. Its data stays in etcd.
    pub fn kill(&self) -> Result<()> {
        self.lock().kill()
    }

    /// Kills it if it runs, starts it again, and waits until it is ready.
    pub fn restart(&self) -> Result<()> {
        self.kill()?;
        *self.lock() = self.start.server()?;
        self.wait_ready()
    }

    /// Pauses it: connections stay open, and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.lock().signal(Signal::SIGSTOP)
    }

    /// Ends a pause.
    pub fn resume(&self) -> Result<()> {
        self.lock().signal(Signal::SIGCONT)
    }

    /// Creates or changes the objects in a manifest, as users do.
    pub fn apply(&self, manifest: &Path) -> Result<()> {
        self.kubectl(&["apply", "--filename", &manifest.to_string_lossy()], "").map(drop)
    }

    /// Runs kubectl with these arguments and this standard input, and returns its standard output.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        finish(self.start.kubectl()?.args(arguments), input, LIMIT)
    }

    /// Returns the rules of flannel's ClusterRole, as the project's manifest has them.
    pub(super) fn flannel_rules(&self) -> Result<&Value> {
        if self.rules.get().is_none() {
            let rules = self.read_rules()?;
            return Ok(self.rules.get_or_init(|| rules));
        }
        self.rules.get().context("the rules have been read")
    }

    /// Reads the manifest without creating its objects.
    fn read_rules(&self) -> Result<Value> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kube-flannel.yml");
        let arguments =
            ["create", "--dry-run=client", "--output=json", "--filename", &manifest.to_string_lossy()];
        let text = self.kubectl(&arguments, "")?;
        let objects = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let objects = objects.collect::<serde_json::Result<Vec<_>>>().context("kubectl prints JSON")?;
        let role = objects.into_iter().find(|object| object["kind"] == "ClusterRole");
        Ok(role.context("the manifest has no ClusterRole")?["rules"].take())
    }

    fn wait_ready(&self) -> Result<()> {
        let mut ended = Ok(());
        eventually("the API server is ready", START_LIMIT, || {
            ended = self.lock().ensure_running();
            if ended.is_err() { Ok(()) } else { self.client.ready() }
        })
        .with_context(|| self.lock().tail())?;
        ended
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Daemon> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the shared server: values in statics are not dropped.
extern "C" fn end_shared() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Start {
    fn server(&self) -> Result<Daemon> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut command = self.command("kube-apiserver");
        command.arg(format!("--etcd-servers={}", self.etcd));
        command.args(["--bind-address=127.0.0.1", &format!("--secure-port={}", self.port)]);
        command.arg(format!("--client-ca-file={}", file("ca.crt")));
        command.arg(format!("--tls-cert-file={}", file("apiserver.crt")));
        command.arg(format!("--tls-private-key-file={}", file("apiserver.key")));
        command.arg(format!("--cert-dir={}", self.folder.display()));
        command.arg(format!("--service-account-issuer={ISSUER}"));
        command.arg(format!("--service-account-key-file={}", file("accounts.pub")));
        command.arg(format!("--service-account-signing-key-file={}", file("accounts.key")));
        command.arg(format!("--service-cluster-ip-range={SERVICES}"));
        command.args(["--authorization-mode=RBAC", "--allow-privileged=true"]);
        // Nodes with a podCIDR of each family.
        command.arg("--feature-gates=IPv6DualStack=true");
        // There is no service for it.
        command.arg("--endpoint-reconciler-type=none");
        Daemon::start("kube-apiserver", command, &self.folder.join("kube-apiserver.log"))
    }

    /// Starts the proxy through which the test bed itself asks, without TLS.
    fn proxy(&self) -> Result<(Daemon, Client)> {
        let socket = self.folder.join("proxy");
        let mut command = self.kubectl()?;
        command.arg("proxy").arg(format!("--unix-socket={}", socket.display()));
        let proxy = Daemon::start("kubectl proxy", command, &self.folder.join("proxy.log"))?;
        Ok((proxy, Client::new(socket)))
    }

    /// Prepares a kubectl with an administrator's certificate.
    fn kubectl(&self) -> Result<Command> {
        let kubeconfig = self.folder.join("kubeconfig");
        if !kubeconfig.exists() {
            self.write_kubeconfig(&kubeconfig)?;
        }
        let mut command = self.command("kubectl");
        command.arg("--kubeconfig").arg(kubeconfig);
        Ok(command)
    }

    fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        let file = |name: &str| self.folder.join(name);
        let server = format!("https://127.0.0.1:{}", self.port);
        let user = json!({"client-certificate": file("admin.crt"), "client-key": file("admin.key")});
        kubeconfig::write(path, &server, &file("ca.crt"), &user)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.path(program));
        command.env(MARK, &self.tag);
        command
    }
}
