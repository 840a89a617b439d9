//! What figures depend on: the machine, and the CPUs that send and receive.

use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::utsname::uname;
use nix::unistd::Pid;
use serde::Serialize;

use crate::phase;

/// Facts about the machine, for the record.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// Kernel release.
    pub(super) kernel: String,
    /// Processor model.
    pub(super) processor: String,
    /// Logical CPUs that this process may use.
    pub(super) cpus: usize,
    /// Load average of the minute before the run.
    pub(super) load: f64,
    /// The CPU of the sending process, which also takes packets to the receiving socket.
    pub(super) sender_cpu: usize,
    /// The CPU of the receiving process.
    pub(super) receiver_cpu: usize,
}

impl Machine {
    /// Reads them from this machine.
    pub(super) fn read() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("read which CPUs this process may use")?;
        let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        let sender_cpu = cpus.next().context("no CPU may be used")?;
        Ok(Self {
            kernel: uname().context("read the kernel's release")?.release().to_string_lossy().into_owned(),
            processor: processor(),
            cpus: available_parallelism().map_or(1, usize::from),
            load: load()?,
            sender_cpu,
            receiver_cpu: cpus.next().unwrap_or(sender_cpu),
        })
    }

    /// Prints what makes the figures doubtful.
    pub(super) fn warn(&self) {
        if self.sender_cpu == self.receiver_cpu {
            phase::note("one CPU for sender and receiver: bulk and flood will be slow");
        }
        if self.load > 0.5 {
            let load = self.load;
            phase::note(&format!(
                "the machine is busy (load {load}): absolute figures are too low, and ratios less exact"
            ));
        }
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split(' ').next().context("/proc/loadavg is empty")?;
    first.parse().with_context(|| format!("/proc/loadavg says {first:?}"))
}
