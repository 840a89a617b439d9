//! Binds a host's end of the traffic to a CPU.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{Host, Served};
use crate::netns::NetNs;

/// A host whose end of the traffic runs on one CPU, so that measurements do not depend on the scheduler.
#[derive(Clone, Copy)]
pub struct OnCpu<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// The CPU, from 0.
    pub cpu: usize,
}

impl Host for OnCpu<'_> {
    fn netns(&self) -> &NetNs {
        self.host.netns()
    }

    fn ip(&self) -> IpAddr {
        self.host.ip()
    }

    fn service(&self) -> Option<Served> {
        self.host.service()
    }

    fn cpu(&self) -> Option<usize> {
        Some(self.cpu)
    }
}

/// Binds the calling thread to the host's CPU. The thread must end with the traffic.
pub(super) fn bind_thread(host: &dyn Host) -> Result<()> {
    match set_of(host)? {
        Some(cpus) => Ok(sched_setaffinity(Pid::from_raw(0), &cpus).context("bind a thread to its CPU")?),
        None => Ok(()),
    }
}

/// Returns whether the two ends may wait without sleeping: each has a CPU of its own.
pub(super) fn may_spin(from: &dyn Host, to: &dyn Host) -> bool {
    from.cpu().zip(to.cpu()).is_some_and(|(from, to)| from != to)
}

fn set_of(host: &dyn Host) -> Result<Option<CpuSet>> {
    let Some(cpu) = host.cpu() else { return Ok(None) };
    let mut cpus = CpuSet::new();
    cpus.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    Ok(Some(cpus))
}
