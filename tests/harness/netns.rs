//! Network namespaces as guards.

mod sockets;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::failure::Errors;
use crate::owner::{MARK, new_tag};
use crate::process::{self, LIMIT, finish};

/// The folder in which `ip netns` keeps its names.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// A network namespace. One with a name is removed when dropped; `ip netns exec NAME` works on it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    handle: Arc<OwnedFd>,
    /// Whether it is removed when dropped.
    owned: bool,
}

impl NetNs {
    /// Creates a namespace named `fl<pid>-<n>-<label>`.
    pub fn new(label: &str) -> Result<Self> {
        Self::create(&format!("{}-{label}", new_tag()?))
    }

    pub(crate) fn create(name: &str) -> Result<Self> {
        let mut created = Self::create_all(&[name.to_owned()])?;
        created.pop().context("one namespace was asked for")
    }

    /// Creates several namespaces with one process.
    pub(crate) fn create_all(names: &[String]) -> Result<Vec<Self>> {
        let lines: String = names.iter().map(|name| format!("netns add {name}\n")).collect();
        let added = finish(Command::new("ip").args(["-batch", "-"]), &lines, LIMIT);
        // Opened before checking the result, so that guards remove what was created before a failure.
        let opened: Result<Vec<_>> = names.iter().map(|name| Self::open(name)).collect();
        added.context("make network namespaces")?;
        opened
    }

    /// Names the namespace of a process. Dropping it removes the name and ends the test bed's processes in it.
    pub(crate) fn attach(name: &str, pid: u64) -> Result<Self> {
        finish(Command::new("ip").args(["netns", "attach", name, &pid.to_string()]), "", LIMIT)?;
        Self::open(name)
    }

    /// Opens a namespace that something else owns, by its file. Dropping it changes nothing. Processes that are started
    /// in it are marked with `mark`.
    pub(crate) fn borrow(mark: &str, file: &Path) -> Result<Self> {
        let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
        Ok(Self { name: mark.to_owned(), handle: Arc::new(opened.into()), owned: false })
    }

    /// Opens a namespace by its name, without owning it.
    pub(crate) fn borrow_named(name: &str) -> Result<Self> {
        Self::borrow(name, &path_of(name))
    }

    fn open(name: &str) -> Result<Self> {
        let path = path_of(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let namespace = Self { name: name.to_owned(), handle: Arc::new(file.into()), owned: true };
        namespace.set(&[("net.ipv6.conf.all.accept_dad", "0"), ("net.ipv6.conf.default.accept_dad", "0")])?;
        Ok(namespace)
    }

    /// Returns its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of its file.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs a closure in a thread that has entered the namespace.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                self.enter()?;
                action()
            });
            entered.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Moves the calling thread, and only it, into the namespace.
    pub fn enter(&self) -> Result<()> {
        setns(&*self.handle, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", self.name))
    }

    /// Prepares a command that runs in the namespace, with the mounts of this process (`ip netns exec` hides bpffs).
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = Arc::clone(&self.handle);
        command.env(MARK, &self.name);
        // SAFETY: between fork and exec only setns is called, a bare system call that allocates nothing.
        unsafe { command.pre_exec(move || Ok(setns(&*handle, CloneFlags::CLONE_NEWNET)?)) };
        command
    }

    /// Runs a command line, split at spaces, and returns its standard output.
    pub fn exec(&self, line: &str) -> Result<String> {
        self.exec_with(line, "")
    }

    /// [`NetNs::exec`] with a standard input.
    pub fn exec_with(&self, line: &str, input: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("the command line is empty")?;
        finish(self.command(program).args(words), input, LIMIT).with_context(|| format!("in {}", self.name))
    }

    /// [`NetNs::exec`] of a command that prints JSON, such as `ip -j route`. Empty output gives `null`.
    pub fn exec_json(&self, line: &str) -> Result<Value> {
        let output = self.exec(line)?;
        let output = if output.trim().is_empty() { "null" } else { &output };
        serde_json::from_str(output).with_context(|| format!("`{line}` in {} printed no JSON", self.name))
    }

    /// Runs many `ip` command lines in one process.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        self.batch("ip", lines)
    }

    pub(crate) fn batch<S: AsRef<str>>(&self, program: &str, lines: &[S]) -> Result<()> {
        let input: String = lines.iter().flat_map(|line| [line.as_ref(), "\n"]).collect();
        let done = self.exec_with(&format!("{program} -batch -"), &input);
        done.map_err(|error| with_failed_line(error, lines)).map(drop)
    }

    /// Sets sysctls, in order. A key with slashes (`net/ipv4/conf/flannel.1/...`) may hold dots in its parts.
    pub fn set(&self, values: &[(&str, &str)]) -> Result<()> {
        self.run(|| values.iter().try_for_each(|(key, value)| set_sysctl(key, value)))
            .with_context(|| format!("in {}", self.name))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = remove(&self.name)
        {
            eprintln!("test bed: {error:#}");
        }
    }
}

/// Adds the failed line to an error of `ip -batch`, which has only its number.
fn with_failed_line<S: AsRef<str>>(error: anyhow::Error, lines: &[S]) -> anyhow::Error {
    let text = format!("{error:#}");
    let number =
        text.split("Command failed -:").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    match number.and_then(|number: usize| lines.get(number.checked_sub(1)?)) {
        Some(line) => error.context(format!("`{}`", line.as_ref())),
        None => error,
    }
}

fn set_sysctl(key: &str, value: &str) -> Result<()> {
    let key = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    let path = Path::new("/proc/sys").join(key);
    fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Ends the test bed's processes in the namespace and removes its name.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = path_of(name);
    let mut errors = Errors::default();
    if let Ok(namespace) = fs::metadata(&path) {
        errors.collect(process::end_marked(|_, pid| lives_in(pid, namespace.st_ino())));
    }
    // EINVAL: the name is no longer mounted, and still has to be unlinked.
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => drop(errors.collect(Err::<(), _>(error).context("unmount"))),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            errors.collect(Err::<(), _>(error).context("unlink"));
        }
        _ => {}
    }
    errors.into_result().with_context(|| format!("remove {}", path.display()))
}

fn lives_in(pid: u32, namespace: u64) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|own| own.st_ino() == namespace)
}
