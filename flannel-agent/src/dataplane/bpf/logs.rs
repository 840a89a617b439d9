//! What the programs log (aya-log), into the agent's own log.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Forwards log records for as long as the agent runs.
///
/// # Errors
/// The programs were loaded without logging.
pub fn forward(ebpf: &mut Ebpf) -> Result<()> {
    let logger = EbpfLogger::init(ebpf).context("opening the log ring of the BPF programs")?;
    // SAFETY: the logger owns its ring's file descriptor and gives out the same one until it is dropped.
    let mut logger = unsafe { AsyncFd::register(logger) }?;
    tokio::spawn(async move {
        loop {
            match logger.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => return warn!(%error, "no more logs from the BPF programs"),
            }
        }
    });
    Ok(())
}
