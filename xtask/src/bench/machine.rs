//! The machine, as far as figures depend on it, and which CPUs the traffic works on.

use std::fs;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::utsname::uname;
use nix::unistd::Pid;
use serde::Serialize;

use crate::phase;

/// Facts for the record.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// Kernel release.
    pub(super) kernel: String,
    /// Processor model.
    pub(super) processor: String,
    /// Logical CPUs that we may use.
    pub(super) cpus: usize,
    /// Processes that wanted a CPU in the minute before the run.
    pub(super) load: f64,
    /// The CPU of the sending end, which also does the whole way to the receiving socket.
    pub(super) sender_cpu: usize,
    /// The CPU of the receiving end.
    pub(super) receiver_cpu: usize,
}

impl Machine {
    pub(super) fn look() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask which CPUs we may use")?;
        let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        let sender_cpu = cpus.next().context("no CPU may be used")?;
        Ok(Self {
            kernel: uname().context("ask for the kernel's release")?.release().to_string_lossy().into_owned(),
            processor: processor(),
            cpus: available_parallelism().map_or(1, usize::from),
            load: load()?,
            sender_cpu,
            receiver_cpu: cpus.next().unwrap_or(sender_cpu),
        })
    }

    /// Says what makes the figures doubtful.
    pub(super) fn warn(&self) {
        if self.sender_cpu == self.receiver_cpu {
            phase::note("one CPU for sender and receiver: bulk and flood will be slow");
        }
        if self.load > 0.5 {
            let load = self.load;
            phase::note(&format!("the machine is busy (load {load}): trust ratios, and those with care"));
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
