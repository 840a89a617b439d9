//! `flannel-agent counters`: how many packets the BPF programs have seen, and what became of them.

use std::cmp::Reverse;
use std::fmt;
use std::mem::replace;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use flannel_common::outcome::{MetricsKey, Traffic};
use serde::Serialize;
use tokio::time::sleep;

use crate::dataplane::bpf::counters::{self, Counters};
use crate::dataplane::bpf::pins::{self, Pins};
use crate::paths::Paths;
use crate::watch::{Form, PERIOD, show_all};

/// Version of the JSON. It rises when a field goes or gets another meaning.
const SCHEMA: u32 = 1;

/// Shows how many packets the BPF programs have seen on this node, and what became of them, the most frequent first; with --watch what has come
/// in each second.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowCounters {
    /// How it is shown.
    #[command(flatten)]
    pub form: Form,
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// Prints the counters of each overlay of this node. The agent need not run.
///
/// # Errors
/// No programs are pinned, or their counters cannot be read.
pub async fn run(options: &ShowCounters) -> Result<()> {
    let bpffs = &options.paths.bpffs;
    let form = options.form;
    let mut before = None;
    let listing = async || {
        if form.watch { news(bpffs, &mut before).await } else { Ok(Listing::of(read(bpffs)?, None)) }
    };
    show_all(form, listing).await
}

/// Counters by VNI, and when they were read.
type Reading = (Vec<(u32, Counters)>, Instant);

/// Returns what has come since the last time; the first time, in one period.
async fn news(bpffs: &Path, before: &mut Option<Reading>) -> Result<Listing> {
    let read = || Ok::<_, anyhow::Error>((read(bpffs)?, Instant::now()));
    let last = match before {
        Some(last) => last,
        None => {
            let first = before.insert(read()?);
            sleep(PERIOD).await;
            first
        }
    };
    let (before, then) = replace(last, read()?);
    let (all, now) = last;
    let news = all.iter().map(|(vni, counters)| {
        let before = before.iter().find(|(known, _)| known == vni).map(|(_, counters)| counters);
        (*vni, before.map_or_else(|| counters.clone(), |before| since(before, counters)))
    });
    Ok(Listing::of(news.collect(), Some(now.duration_since(then).as_secs_f64())))
}

/// Returns what has come since then. Maps that were made anew begin at 0.
fn since(before: &Counters, now: &Counters) -> Counters {
    let is_new = before.iter().any(|(key, old)| now.get(key).is_none_or(|new| new.packets < old.packets));
    let news = now.iter().map(|(key, new)| {
        let old = before.get(key).filter(|_| !is_new).copied().unwrap_or_default();
        (*key, Traffic { packets: new.packets - old.packets, bytes: new.bytes.saturating_sub(old.bytes) })
    });
    news.filter(|(_, traffic)| traffic.packets > 0).collect()
}

/// Reads the counters of each overlay.
fn read(bpffs: &Path) -> Result<Vec<(u32, Counters)>> {
    let counters = |vni| {
        let counters = counters::read(&Pins::new(bpffs, vni)).with_context(|| {
            format!(
                "the counters of {}: those of another version are read by its own flannel-agent",
                pins::title(vni)
            )
        })?;
        Ok((vni, counters))
    };
    pins::overlays(bpffs)?.into_iter().map(counters).collect()
}

/// Returns the counters in the order in which they are shown.
fn overlays(all: Vec<(u32, Counters)>) -> Vec<Overlay> {
    let overlay = |(vni, counters): (u32, Counters)| {
        let mut counters: Vec<_> = counters.into_iter().map(Row::of).collect();
        counters.sort_by_key(|row| Reverse(row.packets));
        Overlay { vni, counters }
    };
    all.into_iter().map(overlay).collect()
}

#[derive(Debug, Serialize)]
struct Listing {
    schema: u32,
    /// In how many seconds these packets have come; `None` if all of them are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    overlays: Vec<Overlay>,
}

#[derive(Debug, Serialize)]
struct Overlay {
    vni: u32,
    counters: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    program: &'static str,
    outcome: &'static str,
    /// What happens to such a packet: `carried`, `floor`, `foreign` or `dropped`.
    verdict: &'static str,
    packets: u64,
    bytes: u64,
    help: &'static str,
}

impl Listing {
    fn of(all: Vec<(u32, Counters)>, seconds: Option<f64>) -> Self {
        Self { schema: SCHEMA, seconds, overlays: overlays(all) }
    }
}

impl Row {
    fn of((MetricsKey { outcome, hook }, Traffic { packets, bytes }): (MetricsKey, Traffic)) -> Self {
        let verdict = outcome.verdict().name();
        let (program, outcome, help) = (hook.program(), outcome.name(), outcome.help());
        Self { program, outcome, verdict, packets, bytes, help }
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seconds) = self.seconds {
            writeln!(f, "in {seconds:.1} s")?;
        }
        for Overlay { vni, counters } in &self.overlays {
            writeln!(f, "{}", pins::title(*vni))?;
            for Row { program, outcome, packets, bytes, help, .. } in counters {
                writeln!(f, "{packets:>12} packets {bytes:>15} bytes  {program:<16} {outcome:<17} {help}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flannel_common::outcome::{Hook, Outcome};

    use super::*;

    fn counters(counted: &[(Outcome, u64)]) -> Counters {
        let traffic = |packets| Traffic { packets, bytes: 100 * packets };
        let key = |outcome| MetricsKey { outcome, hook: Hook::PodEgress };
        counted.iter().map(|(outcome, packets)| (key(*outcome), traffic(*packets))).collect()
    }

    #[test]
    fn what_has_come_since_is_without_what_has_not() {
        let before = counters(&[(Outcome::Encapsulated, 10), (Outcome::FlowNew, 3)]);
        let now = counters(&[(Outcome::Encapsulated, 15), (Outcome::FlowNew, 3), (Outcome::TooBig, 1)]);
        let expected = counters(&[(Outcome::Encapsulated, 5), (Outcome::TooBig, 1)]);
        assert_eq!(since(&before, &now), expected);
        assert_eq!(since(&now, &before), before, "the map was made anew");
    }

    #[test]
    fn the_most_frequent_come_first() {
        let all = vec![(7, counters(&[(Outcome::Encapsulated, 1), (Outcome::FlowNew, 30)]))];
        assert_eq!(Listing::of(all.clone(), Some(1.04)).to_string().lines().next(), Some("in 1.0 s"));
        let text = Listing::of(all, None).to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "VNI 7");
        assert!(
            lines[1].starts_with("          30 packets            3000 bytes  pod_egress       flow-new"),
            "{text}"
        );
        assert_eq!(lines.len(), 3);
    }
}
