//! Follows the rules that packets of the host itself meet.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::legacy::Digests;
use super::reader;
use super::rules::Table;
use super::stamp::{Stamp, Stamps};
use crate::task::Task;

/// Between two looks at the number of nftables' rule set.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at the tables of legacy iptables, which have no such number, and after one that has failed.
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
    _task: Task,
}

impl RuleWatch {
    /// Starts the task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start() -> Self {
        let (sender, rules) = watch::channel(Rules::Pending);
        Self { rules, _task: Task::spawn(run(sender)) }
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

async fn run(sender: watch::Sender<Rules>) {
    let mut last = Last::default();
    loop {
        if !last.is_over() {
            sleep(LOOK).await;
            continue;
        }
        let stamp = last.stamps.now();
        let begun = Instant::now();
        let read = reader::read().await;
        let (rules, pause) = match read {
            Ok(tables) => {
                let pause = if stamp.is_ok() { LOOK } else { READ };
                (last.stamp, last.looked) = (stamp.ok(), begun);
                (tables.map_or(Rules::Unknown, |tables| Rules::Known(tables.into())), pause)
            }
            Err(error) => {
                debug!("reading the rules for packets of the host itself: {error}");
                last.stamp = None;
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

/// What the rules were like when they were read last.
struct Last {
    stamps: Stamps,
    /// `None` if they have not been read, or cannot be told from others.
    stamp: Option<Stamp>,
    /// When legacy iptables was looked at.
    looked: Instant,
}

impl Default for Last {
    fn default() -> Self {
        Self { stamps: Stamps::default(), stamp: None, looked: Instant::now() }
    }
}

impl Last {
    /// Returns whether the rules may be others by now.
    fn is_over(&mut self) -> bool {
        let Some(stamp) = &self.stamp else { return true };
        if !self.stamps.nftables().is_ok_and(|now| now == stamp.nftables) {
            return true;
        }
        if self.looked.elapsed() < READ {
            return false;
        }
        self.looked = Instant::now();
        !Digests::read().is_ok_and(|now| now == stamp.legacy)
    }
}
