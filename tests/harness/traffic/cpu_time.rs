//! The CPU time that traffic costs.
//!
//! A veth has no queue: the thread that sends a packet also takes it through both nodes, up to the receiving socket. So its CPU time
//! is that of both nodes. The kernel leaves some of this work to its threads `ksoftirqd`, if there is much.

use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result, ensure};

/// Returns the CPU time of the calling thread, in user and kernel mode.
pub(super) fn of_thread() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a timespec, which lives through the call.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(read == 0, "read a thread's CPU time: {}", io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}

/// Returns the CPU time of all threads `ksoftirqd` since the machine was started; nothing where they are hidden, as in a container.
pub(super) fn of_softirq_threads() -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for process in fs::read_dir("/proc").context("list the processes")? {
        let folder = process?.path();
        // A process may end at any time.
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            let times = fs::read_to_string(folder.join("schedstat")).context("read a thread's CPU time")?;
            sum += Duration::from_nanos(times.split(' ').next().unwrap_or_default().parse()?);
        }
    }
    Ok(sum)
}
