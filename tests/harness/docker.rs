//! Runs the real dockerd on a node, isolated from the machine's own.

mod api;
mod container;
mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cgroup;
use crate::cluster::Node;
use crate::failure::Errors;
use crate::netns::NetNs;
use crate::owner::MARK;
use crate::process::{self, Daemon};
use crate::require::require_commands;
use crate::wait::eventually;
use crate::workdir::Workdir;
use api::Api;
pub use container::Container;
use image::{IMAGE, Image};

const START_LIMIT: Duration = Duration::from_secs(30);
/// Hides the folders that dockerd and containerd use regardless of their flags, then runs dockerd.
const ALONE: &str = r#"
mkdir -p /etc/docker
for dir in /etc/docker /opt /run; do mount -t tmpfs none $dir; done
exec dockerd "$@"
"#;

/// A running dockerd with its containerd and containers. Dropping it kills them all and removes their files.
#[derive(Debug)]
pub struct Docker {
    daemon: Daemon,
    api: Api,
    image: Image,
    mark: String,
    dir: PathBuf,
    netns: Arc<NetNs>,
    containers: AtomicU32,
    _workdir: Arc<Workdir>,
}

impl Docker {
    /// Starts dockerd on a node with these options, and imports the image for its containers. Needs cgroups, as every
    /// dockerd does.
    pub fn start(node: &Node, options: &[&str]) -> Result<Self> {
        require_commands(&["dockerd", "busybox", "tar", "unshare"])?;
        let dir = node.dir().join("docker");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        forget_containerd(&dir)?;
        let mark = format!("{}-docker", node.netns().name());
        let name = format!("the dockerd of {}", node.name());
        let command = command(node.netns(), &mark, &dir, options);
        let mut docker = Self {
            image: Image::make(&dir)?,
            daemon: Daemon::start(&name, command, &dir.join("docker.log"))?,
            api: Api::new(dir.join("docker.sock")),
            mark,
            dir,
            netns: Arc::clone(node.netns()),
            containers: AtomicU32::new(0),
            _workdir: Arc::clone(&node.workdir),
        };
        docker.wait_ready().with_context(|| format!("start {name}; see its log for what is missing"))?;
        docker.api.import(IMAGE, docker.image.archive())?;
        Ok(docker)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let Self { daemon, api, .. } = self;
        let mut ended = Ok(());
        let ready = eventually("dockerd answers", START_LIMIT, || {
            ended = daemon.ensure_running();
            if ended.is_err() { Ok(()) } else { api.get("/version").map(drop) }
        });
        ended?;
        ready.with_context(|| self.daemon.tail())
    }

    /// Starts a container that serves its files over HTTP.
    pub fn start_web_server(&self) -> Result<Container> {
        let id = self.create(&[self.image.busybox(), "httpd", "-f", "-p", "80", "-h", "/"])?;
        let number = self.containers.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-container{number}", self.netns.name());
        Container::start(&self.api, &id, &name).with_context(|| self.daemon.tail())
    }

    /// Runs a shell command in a new container, waits for its end and returns its output. `$BUSYBOX` is the only program
    /// in the container.
    pub fn run(&self, line: &str) -> Result<String> {
        let id = self.create(&[self.image.busybox(), "sh", "-c", line])?;
        container::run(&self.api, &id).with_context(|| format!("`{line}` in a container"))
    }

    /// Loads the images in an archive, as `docker load` does.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let bytes = fs::read(archive).with_context(|| format!("read {}", archive.display()))?;
        self.api.load(&bytes)
    }

    /// Builds an image, as `docker build` does without BuildKit: from the archive of a context that has the Dockerfile, and
    /// arguments as an object of texts.
    pub fn build(&self, image: &str, context: &Path, arguments: &Value) -> Result<()> {
        let bytes = fs::read(context).with_context(|| format!("read {}", context.display()))?;
        self.api.build(image, &bytes, arguments).with_context(|| format!("{image} of {}", context.display()))
    }

    /// Returns the configuration of an image: its field `Config`, as `docker inspect` shows it.
    pub fn image_config(&self, image: &str) -> Result<Value> {
        Ok(self.api.get(&format!("/images/{image}/json"))?["Config"].take())
    }

    /// Runs a program of a loaded image in a new container, waits for its end and returns its output. `folders` are those of
    /// this machine that it sees, as `/on/the/machine:/in/the/container`.
    pub fn run_program(&self, image: &str, command: &[&str], folders: &[String]) -> Result<String> {
        let (program, arguments) = command.split_first().context("the command is empty")?;
        let container = json!({
            "Image": image,
            "Entrypoint": [program],
            "Cmd": arguments,
            "Env": [format!("{MARK}={}", self.mark)],
            "Tty": true,
            // What the firewall tools take to look at the container's own network.
            "HostConfig": {"Binds": folders, "CapAdd": ["NET_ADMIN", "NET_RAW"]},
        });
        container::run(&self.api, &self.create_of(&container)?)
            .with_context(|| format!("{command:?} in {image}"))
    }

    /// Returns the socket of its containerd.
    pub fn containerd(&self) -> PathBuf {
        self.dir.join("exec/containerd/containerd.sock")
    }

    fn create(&self, command: &[&str]) -> Result<String> {
        let busybox = format!("BUSYBOX={}", self.image.busybox());
        // By the mark the test bed finds its processes. With a terminal the log is plain text.
        let env = [format!("{MARK}={}", self.mark), busybox];
        self.create_of(&json!({"Image": IMAGE, "Cmd": command, "Env": env, "Tty": true}))
    }

    fn create_of(&self, container: &Value) -> Result<String> {
        let created = self.api.post("/containers/create", container)?;
        created["Id"].as_str().map(str::to_owned).with_context(|| format!("no container in {created}"))
    }

    /// Kills containerd, the shims and the containers, which outlive dockerd. Repeats, since one may start another.
    fn end_all(&self) -> Result<()> {
        while !process::end_marked(|mark, _| mark == self.mark)?.is_empty() {}
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let mut errors = Errors::default();
        errors.collect(self.daemon.kill());
        errors.collect(self.end_all());
        errors.collect(cgroup::remove(|name| name == self.mark));
        if let Err(error) = errors.into_result() {
            eprintln!("test bed: {error:#}");
        }
    }
}

/// Removes the run-time files of an earlier dockerd on this node. With a containerd.pid, the next one waits for that process.
fn forget_containerd(dir: &Path) -> Result<()> {
    let exec = dir.join("exec");
    if exec.exists() {
        fs::remove_dir_all(&exec).with_context(|| format!("remove {}", exec.display()))?;
    }
    Ok(())
}

/// Runs dockerd in a mount namespace of its own, so that its mounts end with its processes.
fn command(netns: &NetNs, mark: &str, dir: &Path, options: &[&str]) -> Command {
    let mut command = netns.command("unshare");
    command.env(MARK, mark).args(["--mount", "--propagation", "slave", "sh", "-ec", ALONE, "dockerd"]);
    command.arg("--data-root").arg(dir.join("data")).arg("--exec-root").arg(dir.join("exec"));
    command.arg("--host").arg(format!("unix://{}", dir.join("docker.sock").display()));
    command.arg("--pidfile").arg(dir.join("docker.pid"));
    // vfs works on every file system, and copying an image of 2 MB is faster than probing for other drivers.
    command.args(["--storage-driver", "vfs", "--log-level", "warn"]);
    // Not systemd's cgroups, which would put the containers beside those of the machine's own Docker.
    command.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", &format!("/{mark}")]);
    command.args(options);
    command
}
