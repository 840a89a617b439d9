//! Handles Ctrl-C in programs that hold a cluster: they wait for it, then drop the cluster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::wait::eventually;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

extern "C" fn note(_signal: c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Records SIGINT, SIGTERM and SIGHUP from now on instead of ending the process. Call it before building a cluster.
pub fn catch() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("handle {signal}"))?;
    }
    Ok(())
}

/// Returns true if a signal has come since [`catch`].
pub fn came() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Waits until a signal has come.
pub fn wait() -> Result<()> {
    eventually("a signal", FOREVER, || {
        ensure!(came(), "none yet");
        Ok(())
    })
}
