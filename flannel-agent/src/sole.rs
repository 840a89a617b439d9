//! One agent for each network of a node: a second one would replace programs, devices and rules that the first repairs,
//! for ever.
//!
//! Each agent listens on an abstract unix socket of the network namespace. The kernel lets one process have a name, tells
//! the others who that is, and frees it when the process ends, however that ends.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::unistd::geteuid;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::task::Task;

/// How long a new agent waits for the one before it to end: both run for a moment when one replaces the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Says that this process serves a network, until it is dropped.
#[derive(Debug)]
#[must_use = "another agent may serve the network when this is dropped"]
pub struct Sole(#[expect(dead_code, reason = "it holds the socket")] Option<Task>);

impl Sole {
    /// Waits some seconds until no other agent of this network namespace serves `network`: "vxlan 1".
    ///
    /// # Errors
    /// Another agent still does, or the kernel refuses the socket.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn take(network: &str) -> Result<Self> {
        let name = format!("flannel-agent {network}");
        let bind = || std::future::ready(listen(&name));
        let bound = once_free(&format!("another flannel-agent serves the network {network}"), bind).await;
        match bound {
            Ok(listener) => Ok(Self(Some(Task::spawn(hang_up(listener))))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let owner =
                    Owner::of(&name).with_context(|| format!("asking who holds the unix socket @{name}"))?;
                owner.ensure_no_agent(network)?;
                warn!(
                    pid = owner.pid,
                    user = owner.user,
                    "the unix socket @{name} is held by a user who cannot run an agent; going on without it"
                );
                Ok(Self(None))
            }
            Err(error) => Err(error).with_context(|| format!("binding the unix socket @{name}")),
        }
    }
}

/// Returns the process ID of the agent that serves `network` in this network namespace, if one does; 0 if this process's PID namespace
/// does not contain it.
#[must_use]
pub fn holder(network: &str) -> Option<i32> {
    let owner = Owner::of(&format!("flannel-agent {network}")).ok()?;
    owner.ensure_no_agent(network).is_err().then_some(owner.pid)
}

/// Binds an address as soon as it is free. If it is in use, says so (`used`), and waits some seconds for the agent before
/// this one to end.
///
/// # Errors
/// It is still in use, or the kernel refuses it for another reason.
pub async fn once_free<T, F: Future<Output = io::Result<T>>>(
    used: &str,
    bind: impl Fn() -> F,
) -> io::Result<T> {
    let end = Instant::now() + PATIENCE;
    let mut said = false;
    loop {
        match bind().await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                if !said {
                    warn!("{used}: waiting up to {} s for that to end", PATIENCE.as_secs());
                    said = true;
                }
                sleep(PAUSE).await;
            }
            bound => return bound,
        }
    }
}

fn listen(name: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes the connections of those who ask, so that there is always room for one more.
async fn hang_up(listener: UnixListener) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return debug!("waiting for connections of other agents: {error}"),
    };
    loop {
        if let Err(error) = listener.accept().await {
            debug!("a connection of another agent: {error}");
            sleep(PATIENCE).await;
        }
    }
}

/// The process that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    /// 0 if this process's PID namespace does not contain it.
    pid: i32,
    user: u32,
}

impl Owner {
    /// Asks the kernel, which keeps what was so when the process began to listen.
    fn of(name: &str) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(asking.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
        let credentials = getsockopt(&asking, PeerCredentials)?;
        Ok(Self { pid: credentials.pid(), user: credentials.uid() })
    }

    /// Any user may take a name. Only root, or the user of this process, can run an agent.
    fn ensure_no_agent(self, network: &str) -> Result<()> {
        if ![0, geteuid().as_raw()].contains(&self.user) {
            return Ok(());
        }
        let other =
            if self.pid == 0 { "in another container".to_owned() } else { format!("pid {}", self.pid) };
        bail!(
            "another flannel-agent ({other}) serves the network {network} on this node. Each would replace the other's \
             programs for ever. Stop one of them (systemctl stop flannel-agent, or delete its pod or container); a second \
             network needs another VNI"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_taken_once_and_its_owner_is_named_however_often_one_asks() {
        let name = &format!("test {}", std::process::id());
        let first = Sole::take(name).await.unwrap();
        let other = Sole::take(&format!("{name} beside")).await.unwrap();
        for _ in 0..1000 {
            let owner = Owner::of(&format!("flannel-agent {name}")).unwrap();
            assert_eq!(owner.pid.unsigned_abs(), std::process::id());
            tokio::task::yield_now().await;
        }
        let waiting = tokio::spawn({
            let name = name.clone();
            async move { Sole::take(&name).await }
        });
        sleep(2 * PAUSE).await;
        assert!(!waiting.is_finished());
        assert_eq!(holder(name), Some(std::process::id().cast_signed()));
        drop(first);
        drop(waiting.await.unwrap().unwrap());
        assert_eq!(holder(&format!("{name} nowhere")), None);
        drop(other);
    }
    #[test]
    fn only_root_or_the_same_user_can_run_an_agent() {
        let user = geteuid().as_raw();
        for (user, is_agent) in [(0, true), (user, true), (user + 1, false)] {
            let said = Owner { pid: 7, user }.ensure_no_agent("vxlan 1");
            assert_eq!(said.is_err(), is_agent, "{said:?}");
        }
        let said = Owner { pid: 7, user }.ensure_no_agent("vxlan 1").unwrap_err().to_string();
        assert!(said.contains("(pid 7) serves the network vxlan 1"), "{said}");
    }
}
