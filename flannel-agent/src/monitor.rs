//! `flannel-agent monitor`: what happens on this node, as it happens.

mod counted;
mod flows;
mod listen;
pub mod pcap;
mod tap;
mod text;

use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::spawn;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use ipnet::IpNet;

use crate::flows::network;
use crate::output::{colours, print};
use crate::paths::Paths;
use crate::report::feed::{Happening, Kind, What};
use counted::Counted;
use flows::ActiveFlows;
use pcap::{Recorded, Recording};
use text::Line;

/// Period of reading counters and flows.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows what happens on this node from now on, a line for each, until Ctrl-C: dropped packets, packets that wait for a peer, flows
/// that take the shortcut, peers that join and leave, repairs, problems, and the datastore. Times are UTC.
///
/// The running agent tells it, and reports at most 50 packets a second and CPU; further ones are counted. Without an agent, flows and
/// counted packets are shown.
#[derive(Clone, Debug, clap::Args)]
pub struct Monitor {
    /// Only these kinds, separated by commas.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<Kind>,
    /// Only what is about this address, or one in this network: of a pod, a peer or its subnet.
    #[arg(long, value_name = "ADDRESS", value_parser = network)]
    pub address: Option<IpNet>,
    /// Print each line as JSON.
    #[arg(long)]
    pub json: bool,
    /// Packets that are written.
    #[command(flatten)]
    pub recorded: Recorded,
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// Shows what happens, and writes packets if that is wanted. Ends when the reader has gone away.
///
/// # Errors
/// The output or the file cannot be written, or packets cannot be copied.
pub fn run(options: &Monitor) -> Result<()> {
    let Some(to) = &options.recorded.pcap else { return show(options) };
    let mut recording = Recording::start(to, &options.recorded, options.address, &options.paths)?;
    if to == Path::new("-") {
        return recording.run(|| false);
    }
    let shown = options.clone();
    let lines = spawn(move || show(&shown));
    recording.run(|| lines.is_finished())?;
    // Otherwise it ends with the process.
    if lines.is_finished() {
        lines.join().map_err(|_| anyhow!("a bug: the lines have panicked"))?
    } else {
        Ok(())
    }
}

/// Prints what happens. Ends when the reader has gone away.
fn show(options: &Monitor) -> Result<()> {
    let mut counted = Counted::new(&options.paths.bpffs);
    let mut flows = options.shows(Kind::Flow).then(|| ActiveFlows::new(&options.paths.bpffs));
    let agent = listen::start(options.paths.feed());
    let colour = colours();
    let mut next = Instant::now() + PERIOD;
    loop {
        let happenings = match until(&agent, next) {
            Some(happening) => {
                counted.told(&happening.what);
                vec![happening]
            }
            None => {
                next += PERIOD;
                let flows = flows.as_mut().map(ActiveFlows::changes).unwrap_or_default();
                counted.rest().into_iter().chain(flows).map(Happening::now).collect()
            }
        };
        for happening in happenings.iter().filter(|happening| options.wants(&happening.what)) {
            let is_read = if options.json {
                print(&format_args!("{}\n", serde_json::to_string(happening)?))?
            } else {
                print(&Line { happening, colour })?
            };
            if !is_read {
                return Ok(());
            }
        }
    }
}

/// Waits until the agent tells something, or this time comes.
fn until(agent: &Receiver<Happening>, next: Instant) -> Option<Happening> {
    match agent.recv_timeout(next.saturating_duration_since(Instant::now())) {
        Ok(happening) => Some(happening),
        Err(RecvTimeoutError::Timeout) => None,
        // The thread that listens does not end.
        Err(RecvTimeoutError::Disconnected) => {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            None
        }
    }
}

impl Monitor {
    fn shows(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.contains(&kind)
    }

    fn wants(&self, what: &What) -> bool {
        let is_about = |net: IpNet| match what {
            What::Peer { subnet, public_ip, .. } => {
                net.contains(public_ip) || net.contains(subnet) || subnet.contains(&net)
            }
            what => addresses(what).iter().any(|address| net.contains(address)),
        };
        self.shows(what.kind()) && self.address.is_none_or(is_about)
    }
}

/// Returns the addresses that it is about.
fn addresses(what: &What) -> Vec<IpAddr> {
    match what {
        What::Drop { source, node, .. } => [Some(*source), *node].into_iter().flatten().collect(),
        What::Miss { of, .. } => of.parse().into_iter().collect(),
        What::Flow { pod, remote, behind, .. } => {
            [Some(*pod), Some(*remote), *behind].into_iter().flatten().map(|end| end.ip()).collect()
        }
        What::Peer { public_ip, .. } => vec![*public_ip],
        What::Counted { .. }
        | What::Lease { .. }
        | What::Repair { .. }
        | What::Problem { .. }
        | What::Datastore { .. }
        | What::LeftOut { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::feed::Change;

    fn monitor(only: &[Kind], address: Option<&str>) -> Monitor {
        let address = address.map(|address| network(address).unwrap());
        let paths = Paths { subnet_file: "s".into(), bpffs: "b".into() };
        let recorded = Recorded { pcap: None, pcap_rate: 1, pcap_length: 64 };
        Monitor { only: only.to_vec(), address, json: false, recorded, paths }
    }

    #[test]
    fn what_is_not_asked_for_is_left_out() {
        let dropped = What::Drop {
            outcome: "forged-sender".to_owned(),
            source: [10, 5, 1, 2].into(),
            node: Some([192, 0, 2, 1].into()),
        };
        let peer = What::Peer {
            change: Change::Left,
            subnet: "10.5.1.0/24".parse().unwrap(),
            public_ip: [192, 0, 2, 1].into(),
            vtep_mac: None,
        };
        let lease = What::Lease { held: true };
        let rows: [(&[Kind], Option<&str>, [bool; 3]); 6] = [
            (&[], None, [true, true, true]),
            (&[Kind::Peer, Kind::Lease], None, [false, true, true]),
            (&[], Some("192.0.2.1"), [true, true, false]),
            (&[], Some("10.5.1.9"), [false, true, false]),
            (&[], Some("10.5.0.0/16"), [true, true, false]),
            (&[Kind::Drop], Some("10.5.2.0/24"), [false, false, false]),
        ];
        for (only, address, expected) in rows {
            let monitor = monitor(only, address);
            assert_eq!(
                [&dropped, &peer, &lease].map(|what| monitor.wants(what)),
                expected,
                "{only:?} {address:?}"
            );
        }
    }
}
