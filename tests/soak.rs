//! The soak: eight nodes whose pods talk all the time, while at random faults happen, pods come and go, and leases come and go.
//! `cargo xtask soak` runs it, and says how long.

mod resources;

use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use flannel_tests::fault::{SOAK_SECONDS, SOAK_SEED};
use flannel_tests::traffic::{Steady, ping};
use flannel_tests::wait::patience;
use flannel_tests::{AgentBuilder, TestResult, Topology, eventually};

use crate::faults::{self, Bound, Fault};
use crate::inspect::{self, Peer};
use crate::overlay::Overlay;
use resources::Resources;

const NODES: usize = 8;
/// Time between two datagrams of a stream.
const PACE: Duration = Duration::from_millis(5);
/// Time limit until all is right after a step.
const REPAIR: Duration = Duration::from_secs(30);

/// The kernel's time until it asks for a neighbour again (`retrans_time_ms`): a request for an address can get lost while a pod's port is
/// away for a moment. In so many steps that happens.
const ASKED_AGAIN: Duration = Duration::from_millis(1000);
/// Time for which pods talk after a step.
const AFTER: Duration = Duration::from_millis(300);

/// What happens in a step.
enum Step {
    Fault(&'static Fault, usize),
    /// Another pod of a node comes, talks, and goes.
    Pod(usize),
    /// Nodes that exist only in the datastore come and go.
    Leases,
}

impl Step {
    fn random(random: &mut Rng) -> Self {
        // What is mounted over keeps the programs that are pinned below it.
        let faults = faults::ALL.into_iter().flatten().filter(|fault| !fault.name.contains("mounted over"));
        let faults: Vec<_> = faults.collect();
        match random.u8(..10) {
            0..2 => Self::Pod(random.usize(..NODES)),
            2 => Self::Leases,
            _ => Self::Fault(faults[random.usize(..faults.len())], random.usize(..NODES)),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Fault(fault, node) => format!("node{}: {}", node + 1, fault.name),
            Self::Pod(node) => format!("node{}: a pod comes and goes", node + 1),
            Self::Leases => "leases come and go".to_owned(),
        }
    }

    /// Returns the node that it happens to, and the longest gap that may be there. Streams between others lose nothing.
    fn bound(&self) -> Option<(usize, Duration)> {
        match self {
            Self::Fault(Fault { bound: Bound::Nothing, .. }, _) | Self::Pod(_) | Self::Leases => None,
            Self::Fault(fault, node) => Some((*node, fault.bound.gap()?)),
        }
    }

    fn happen(&self, overlay: &mut Overlay) -> Result<()> {
        match self {
            Self::Fault(fault, node) => (fault.happen)(overlay, *node),
            Self::Pod(node) => {
                let pod = overlay.nodes()[*node].add_pod()?;
                let other = &overlay.pods[(node + 1) % NODES][0];
                eventually("the pod reaches another node's", REPAIR, || {
                    ping(&pod, other.ip()).and(ping(other, pod.ip()))
                })?;
                Ok(())
            }
            Self::Leases => {
                let peers = [90, 91].map(Peer::fictional);
                peers.iter().try_for_each(|peer| overlay.etcd.put(&peer.key(), &peer.value()))?;
                let knows =
                    |peers: &[Peer]| eventually("the nodes follow", REPAIR, || knows_all(overlay, peers));
                knows(&peers)?;
                peers.iter().try_for_each(|peer| overlay.etcd.delete(&peer.key()))?;
                knows(&[])
            }
        }
    }
}

/// Fails unless each node knows all others, and these.
fn knows_all(overlay: &Overlay, more: &[Peer]) -> Result<()> {
    let peers = (0..NODES).map(|node| overlay.peer(node)).collect::<Result<Vec<_>>>()?;
    overlay.nodes().iter().zip(0..).try_for_each(|(node, own)| {
        let others = peers.iter().zip(0..).filter(|(_, other)| *other != own).map(|(peer, _)| peer);
        inspect::ensure_knows(node, &others.chain(more).cloned().collect::<Vec<_>>())
    })
}

/// Starts a stream from each node's pod to the next one's.
fn ring(overlay: &Overlay) -> Result<Vec<Steady>> {
    let pod = |node: usize| &overlay.pods[node % NODES][0];
    (0..NODES).map(|node| Steady::start(pod(node), pod(node + 1), PACE)).collect()
}

/// Ends the streams. Returns how many datagrams were sent and lost. Fails if a gap was too long or one was lost elsewhere.
fn judge(streams: Vec<Steady>, step: &Step) -> Result<(u64, u64)> {
    let (mut sent, mut lost) = (0, 0);
    for (from, stream) in streams.into_iter().enumerate() {
        let report = stream.stop()?;
        sent += report.sent;
        lost += report.lost.len() as u64;
        match step.bound() {
            Some((node, gap)) if node == from || node == (from + 1) % NODES => {
                let longest = report.longest_gap;
                ensure!(longest < patience(gap + ASKED_AGAIN), "from node{}: a gap of {longest:?}", from + 1);
            }
            _ => ensure!(report.lost.is_empty(), "from node{}: datagrams were lost: {report:?}", from + 1),
        }
    }
    Ok((sent, lost))
}

fn number(variable: &str) -> Result<u64> {
    let text =
        env::var(variable).with_context(|| format!("{variable} is not set: run `cargo xtask soak`"))?;
    text.parse().with_context(|| format!("{variable} is not a number: {text}"))
}

#[test]
#[ignore = "`cargo xtask soak` runs it"]
fn pods_talk_whatever_happens() -> TestResult {
    let (time, seed) = (Duration::from_secs(number(SOAK_SECONDS)?), number(SOAK_SEED)?);
    let mut random = Rng::with_seed(seed);
    // Leases that vanish together are held; those of a step before may be among them.
    let hold = |agent: AgentBuilder| agent.arg("--lease-hold=5");
    let flags = ["--dataplane=bpf"; NODES];
    let mut overlay = Overlay::start_with(Topology::segment(NODES), &flags, 1, hold)?;
    overlay.wait_plugged()?;
    let states = |overlay: &Overlay| {
        let nodes = overlay.nodes().iter().zip(&overlay.pods);
        nodes.map(|(node, pods)| faults::state(node, &pods[0])).collect::<Result<Vec<_>>>()
    };
    let (before, used) = (states(&overlay)?, Resources::of(&overlay)?);

    let (start, mut steps, mut sent, mut lost) = (Instant::now(), 0, 0, 0);
    while start.elapsed() < time {
        let step = Step::random(&mut random);
        let (name, began, streams) = (step.name(), Instant::now(), ring(&overlay)?);
        step.happen(&mut overlay).with_context(|| format!("seed {seed}, step {steps}: {name}"))?;
        eventually(&name, REPAIR, || {
            knows_all(&overlay, &[])?;
            let now = states(&overlay)?;
            ensure!(now == before, "{now:?}, not {before:?}");
            Ok(())
        })
        .with_context(|| format!("seed {seed}, step {steps}"))?;
        let took = began.elapsed();
        thread::sleep(AFTER);
        let (of_step, lost_in_step) =
            judge(streams, &step).with_context(|| format!("seed {seed}, step {steps}: {name}"))?;
        println!(
            "{:>6.1} s  {name}: {lost_in_step} of {of_step} lost, {} ms",
            start.elapsed().as_secs_f64(),
            took.as_millis()
        );
        (steps, sent, lost) = (steps + 1, sent + of_step, lost + lost_in_step);
    }
    println!("seed {seed}: {steps} steps in {:?}; {lost} of {sent} datagrams lost", start.elapsed());
    // The kernel frees programs, maps and links some time after their end.
    let now = eventually("nothing has grown", REPAIR, || {
        let now = Resources::of(&overlay)?;
        now.ensure_not_above(&used)?;
        Ok(now)
    })?;
    println!("before: {used}\nafter:  {now}");
    Ok(())
}
