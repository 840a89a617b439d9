//! What the programs log (aya-log), into the agent's own log.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tracing::warn;

/// Forwards log records until the task is dropped.
///
/// # Errors
/// The programs were loaded without logging.
pub fn forward(ebpf: &mut Ebpf) -> Result<JoinHandle<()>> {
    let logger = EbpfLogger::init(ebpf).context("opening the log ring of the BPF programs")?;
    let mut logger = AsyncFd::new(logger)?;
    Ok(tokio::spawn(async move {
        loop {
            match logger.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => return warn!(%error, "no more logs from the BPF programs"),
            }
        }
    }))
}
