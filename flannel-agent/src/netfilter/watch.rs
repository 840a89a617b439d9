//! Follows the rules that packets of the host itself meet.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::generation::Generation;
use super::reader;
use super::rules::Table;

/// Between two looks at the number of nftables' rule set.
const LOOK: Duration = Duration::from_secs(1);
/// Between two readings if legacy iptables, which has no such number, is in use, or a reading has failed.
const READ: Duration = Duration::from_secs(5);
/// A pause is at least this many times the reading before it: kube-proxy can have very many rules and change them often.
const SHARE: u32 = 10;

/// The rules, as far as they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// They are being read for the first time.
    #[default]
    Pending,
    /// They cannot be read.
    Unknown,
    /// These.
    Known(Arc<[Table]>),
}

impl Rules {
    fn or_unknown(self) -> Self {
        if self == Self::Pending { Self::Unknown } else { self }
    }
}

/// A task that reads the rules when they have changed. Nothing waits for it: iptables can be slow. Dropping it ends it.
#[derive(Debug)]
pub struct RuleWatch {
    rules: watch::Receiver<Rules>,
    task: JoinHandle<()>,
}

impl RuleWatch {
    /// Starts the task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start() -> Self {
        let (sender, rules) = watch::channel(Rules::Pending);
        Self { rules, task: tokio::spawn(run(sender)) }
    }

    /// Waits until the rules have changed. May be dropped and called again.
    pub async fn changed(&mut self) {
        if self.rules.changed().await.is_err() {
            pending::<()>().await;
        }
    }

    /// Returns the rules.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.rules.borrow().clone()
    }
}

impl Drop for RuleWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(sender: watch::Sender<Rules>) {
    let mut generation = Generation::default();
    // What was read last, and when.
    let mut last: Option<(Option<u32>, Instant)> = None;
    loop {
        let number = generation.get();
        let is_due = last.is_none_or(|(before, at)| {
            number != before || at.elapsed() >= READ && !reader::legacy_tables().is_empty()
        });
        if !is_due {
            sleep(LOOK).await;
            continue;
        }
        let begun = Instant::now();
        let read = reader::read().await;
        let (rules, pause) = match read {
            Ok(tables) => {
                last = Some((number, begun));
                (tables.map_or(Rules::Unknown, |tables| Rules::Known(tables.into())), LOOK)
            }
            Err(error) => {
                debug!("reading the rules for packets of the host itself: {error}");
                last = None;
                // What was read before may still be so.
                (sender.borrow().clone().or_unknown(), READ)
            }
        };
        sender.send_if_modified(|now| {
            let is_new = *now != rules;
            *now = rules;
            is_new
        });
        sleep(pause.max(begun.elapsed() * SHARE)).await;
    }
}
