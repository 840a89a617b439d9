//! On which CPU a host's end of the traffic works.

use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::Host;
use crate::netns::NetNs;

/// A host whose end of the traffic keeps to one CPU, so that measurements do not depend on the scheduler.
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

    fn cpu(&self) -> Option<usize> {
        Some(self.cpu)
    }
}

/// Keeps the calling thread, which must be one that ends with the traffic, to the host's CPU.
pub(super) fn settle_thread(host: &dyn Host) -> Result<()> {
    match set_of(host)? {
        Some(cpus) => Ok(sched_setaffinity(Pid::from_raw(0), &cpus).context("keep a thread to its CPU")?),
        None => Ok(()),
    }
}

/// Keeps the process that the command will start to the host's CPU.
pub(super) fn settle_process(host: &dyn Host, command: &mut Command) -> Result<()> {
    if let Some(cpus) = set_of(host)? {
        let settle = move || Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?);
        // SAFETY: between fork and exec only a bare system call is made, which allocates nothing.
        unsafe { command.pre_exec(settle) };
    }
    Ok(())
}

fn set_of(host: &dyn Host) -> Result<Option<CpuSet>> {
    let Some(cpu) = host.cpu() else { return Ok(None) };
    let mut cpus = CpuSet::new();
    cpus.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    Ok(Some(cpus))
}
