//! Faults: what others and failures do to a node, and what that costs pods that talk meanwhile, each way 500 datagrams a second. Each is
//! a test, and a row of the table that `cargo xtask test --faults` prints.

/// Lists faults, each with a test: its name, what happens, what that may cost, and how to do it to a node.
macro_rules! faults {
    ($($test:ident: $name:literal, $bound:ident, $happen:expr;)+) => {
        pub(super) const ALL: &[super::Fault] =
            &[$(super::Fault { name: $name, bound: super::Bound::$bound, happen: $happen }),+];

        $(
            #[test]
            fn $test() -> flannel_tests::TestResult {
                super::endure($name, super::Bound::$bound, $happen)
            }
        )+
    };
}

mod agent;
mod datastore;
mod device;
mod hook;
mod port;

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::fault::{Row, VARIABLE};
use flannel_tests::wait::patience;
use flannel_tests::{Node, Pod, TestResult, eventually};

use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::{Overlay, Streams};

/// Time limit until all is right again. The agent looks at everything every 60 s.
const REPAIR: Duration = Duration::from_secs(20);
/// Time for which pods talk before.
const BEFORE: Duration = Duration::from_millis(500);
/// Time for which they talk after: the agent looks at its programs every second.
const AFTER: Duration = Duration::from_millis(1500);

/// Time for which something is away.
const AWAY: Duration = Duration::from_secs(2);

/// All of them.
pub(crate) const ALL: [&[Fault]; 5] = [agent::ALL, datastore::ALL, device::ALL, hook::ALL, port::ALL];

/// Something that happens to the node with this number. It returns when whatever it has taken away for a while is back.
pub(crate) type Happen = fn(&mut Overlay, usize) -> Result<()>;

/// A fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) bound: Bound,
    pub(crate) happen: Happen,
}

/// What a fault may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// No datagram: neither a device nor a route on the way was taken away.
    Nothing,
    /// A gap of less than 200 ms: a port has moved.
    Moment,
    /// A gap of less than a second: what can be healed.
    Second,
}

impl Bound {
    /// Returns the longest gap, or `None` if no datagram may be lost.
    pub(crate) const fn gap(self) -> Option<Duration> {
        match self {
            Self::Nothing => None,
            Self::Moment => Some(Duration::from_millis(200)),
            Self::Second => Some(Duration::from_secs(1)),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "0 lost",
            Self::Moment => "200 ms",
            Self::Second => "1 s",
        }
    }
}

/// What has to be the same after a fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct State {
    device: String,
    addresses: String,
    programs: Vec<Vec<String>>,
}

/// Returns what a node has, with its pod's port. Fails while the vxlan device is down or has another MTU.
pub(crate) fn state(node: &Node, pod: &Pod) -> Result<State> {
    let link = node.exec(&format!("ip -o link show dev {DEVICE}"))?;
    ensure!([",UP,", "mtu 1450"].iter().all(|mark| link.contains(mark)), "{link}");
    let addresses = node.exec(&format!("ip -o -4 address show dev {DEVICE} scope global"))?;
    // Without the device's index.
    let addresses = addresses.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
    let programs = [UPLINK, DEVICE, pod.port()].map(|interface| inspect::programs(node, interface));
    Ok(State {
        device: inspect::link(node, DEVICE)?.mac,
        addresses,
        programs: programs.into_iter().collect::<Result<_>>()?,
    })
}

/// Lets something happen to the first of two nodes while their pods talk, and waits until all is as it was.
fn endure(fault: &str, bound: Bound, happen: Happen) -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    overlay.wait_plugged()?;
    let (before, peer) = (state(&overlay.nodes()[0], &overlay.pods[0][0])?, overlay.peer(1)?);
    let streams = overlay.streams()?;
    thread::sleep(BEFORE);

    let start = Instant::now();
    happen(&mut overlay, 0).context(fault.to_owned())?;
    let node = &overlay.nodes()[0];
    let is_right = || {
        inspect::ensure_knows(node, std::slice::from_ref(&peer))?;
        let now = state(node, &overlay.pods[0][0])?;
        ensure!(now == before, "{now:?}, not {before:?}");
        Ok(())
    };
    eventually(fault, REPAIR, is_right)?;
    let right = start.elapsed();
    thread::sleep(AFTER);
    eventually(fault, REPAIR, is_right).context("it was right, and is not any more")?;
    judge(fault, bound, streams, right)
}

/// Runs a command line on a node.
fn on(overlay: &Overlay, node: usize, line: &str) -> Result<()> {
    overlay.nodes()[node].exec(line).map(drop)
}

/// Ends the streams, writes the row, and checks the bound.
fn judge(fault: &str, bound: Bound, Streams { there, back }: Streams, right: Duration) -> TestResult {
    let reports = [there.stop()?, back.stop()?];
    let gap = reports.iter().map(|report| report.longest_gap).max().unwrap_or_default();
    let row = Row {
        fault: fault.to_owned(),
        bound: bound.name().to_owned(),
        sent: reports.iter().map(|report| report.sent).sum(),
        lost: reports.iter().map(|report| report.lost.len() as u64).sum(),
        gap,
        right,
    };
    write(&row)?;
    match bound.gap() {
        None => assert_eq!(row.lost, 0, "{row:?}"),
        Some(limit) => assert!(gap < patience(limit), "{row:?}"),
    }
    Ok(())
}

/// Adds the row to the file in [`VARIABLE`], if that is set.
fn write(row: &Row) -> Result<()> {
    let Some(file) = env::var_os(VARIABLE) else { return Ok(()) };
    let mut file =
        OpenOptions::new().append(true).create(true).open(file).context("open the table of faults")?;
    writeln!(file, "{}", serde_json::to_string(row)?).context("write the table of faults")
}
