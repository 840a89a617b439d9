//! Forwards what the programs log (aya-log) to the agent's log.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use flannel_common::outcome::{Hook, Outcome};
use log::{Log, Metadata, Record};
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

use crate::task::Task;

/// Forwards log records until the task is dropped.
///
/// # Errors
/// The programs were loaded without logging.
pub fn forward(ebpf: &mut Ebpf) -> Result<Task> {
    let logger =
        EbpfLogger::init_with_logger(ebpf, Names).context("opening the log ring of the BPF programs")?;
    // SAFETY: the logger owns its ring's file descriptor, and returns the same one until it is dropped.
    let mut logger = unsafe { AsyncFd::register(logger) }?;
    Ok(Task::spawn(async move {
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

/// A log that replaces the numbers that programs log by names: hook and outcome of a run, with its bytes.
struct Names;

impl Log for Names {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        let text = named(&text).unwrap_or(text);
        debug!(target: "flannel_ebpf", "{text}");
    }

    fn flush(&self) {}
}

fn named(numbers: &str) -> Option<String> {
    let mut numbers = numbers.split(' ').map(|number| number.parse::<u32>().ok());
    let hook = Hook::from_number(numbers.next()??)?;
    let outcome = Outcome::from_number(numbers.next()??)?;
    Some(format!("{}: {} ({} bytes)", hook.program(), outcome.name(), numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names() {
        assert_eq!(named("0 6 98").as_deref(), Some("overlay_egress: no-lease (98 bytes)"));
        for other in ["", "0", "0 6", "0 6 x", "99 6 98", "0 999 98"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
