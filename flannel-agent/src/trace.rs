//! `flannel-agent trace`: shows where a packet would go. Runs copies of the real BPF programs, with their own counters and
//! flow tables. Reads the kernel's tables and the rules of packet filters for what the host does. Sends nothing and changes nothing.

mod egress;
mod filter;
mod host;
mod ingress;
mod journey;
pub mod outer;
pub mod packet;
pub mod report;
mod service;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use nix::unistd::geteuid;

use crate::dataplane::bpf::dry_run::{DryRun, LONGEST_FRAME};
use crate::dataplane::bpf::pins::{self, Pins};
use crate::dataplane::kernel::Kernel;
use crate::lease::SubnetKey;
use crate::paths::Paths;
use crate::subnet_file;
use journey::Journey;
use packet::{Packet, Protocol};
use report::{Report, SCHEMA, TraceEnd, TraceStep};

/// The packet to trace, and the agent's paths on this node.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Trace {
    /// Source address: a pod, or a node.
    #[arg(long, value_name = "ADDRESS")]
    pub src: IpAddr,
    /// Destination address.
    #[arg(long, value_name = "ADDRESS")]
    pub dst: IpAddr,
    /// Payload: an ICMP echo request, a TCP segment in the middle of a connection, or a UDP datagram.
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "icmp")]
    pub proto: Protocol,
    /// Source port. With the ports of a real flow, the trace uses what the node knows of this flow.
    #[arg(long, value_name = "PORT", default_value_t = 40000)]
    pub sport: u16,
    /// Destination port, required for TCP and UDP.
    #[arg(long, value_name = "PORT")]
    pub dport: Option<u16>,
    /// Length of the IP packet, headers included.
    #[arg(long, value_name = "BYTES", default_value_t = 84)]
    pub size: u16,
    /// Public address of the node that sends the packet here. Default: the node that holds --src.
    #[arg(long, value_name = "ADDRESS")]
    pub sender: Option<IpAddr>,
    /// Destination to follow, if the packet's may be translated to one of several, such as the pods behind a service.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub to: Option<SocketAddr>,
    /// VNI of the overlay, required if programs of several overlays are pinned.
    #[arg(long, value_name = "VNI")]
    pub vni: Option<u32>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

const EXAMPLES: &str = "\
Examples:
  flannel-agent trace --src 10.244.1.5 --dst 10.244.7.9
  flannel-agent trace --src 10.244.1.5 --dst 10.244.7.9 --proto tcp --sport 41234 --dport 80 --size 1450
  flannel-agent trace --src 10.244.1.5 --dst 10.96.0.10 --proto udp --dport 53 --to 10.244.7.9:53
  flannel-agent trace --src 10.244.7.9 --dst 10.244.1.5 --sender 192.168.64.66 --json
  flannel-agent trace --src fd44:0:0:5a::2 --dst fd44:0:0:44::2 --proto udp --sport 38256 --dport 53";

/// Prints where the packet would go.
///
/// # Errors
/// - The options contradict each other.
/// - The packet does not pass this node.
/// - No agent has run here, or its programs or the kernel's tables cannot be read.
pub async fn run(options: &Trace) -> Result<()> {
    let report = trace(options).await;
    let report = if geteuid().is_root() { report? } else { report.context("this needs root")? };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

async fn trace(options: &Trace) -> Result<Report> {
    let packet = packet(options)?;
    let vni = vni(options)?;
    let file = subnet_file::read_previous(&options.paths.subnet_file);
    if vni.is_none() && file.is_none() {
        bail!(
            "no flannel-agent has run here: there are neither programs below {} nor a subnet in {}. Start one with \
             `flannel-agent --etcd-endpoints URL`. If its files are elsewhere, set --bpffs and --subnet-file",
            options.paths.bpffs.join(flannel_common::abi::PIN_DIR).display(),
            options.paths.subnet_file.display()
        );
    }
    let (programs, steps) = match vni {
        Some(vni) => (Some(DryRun::open(&Pins::new(&options.paths.bpffs, vni))?), vec![]),
        None => {
            (None, vec![TraceStep::note("no BPF programs are pinned here: the kernel carries all packets")])
        }
    };
    let own = file.iter().flat_map(SubnetKey::nets).collect();
    let journey = Journey {
        packet,
        sender: options.sender,
        kernel: Kernel::new()?,
        programs,
        steps,
        flow: None,
        to: options.to,
        tables: None,
        certain: true,
    };
    follow(journey, own).await
}

async fn follow(mut journey: Journey, mut own: Vec<IpNet>) -> Result<Report> {
    own.extend(journey.own_leases());
    let packet = journey.packet;
    let Packet { source, destination, .. } = packet;
    let end = if journey.sender.is_none() && journey.is_here(source, &own).await? {
        journey.egress().await?
    } else if journey.is_here(destination, &own).await? {
        journey.ingress().await?
    } else {
        bail!("{}", journey.explain_elsewhere(&own))
    };
    let vni = journey.programs.as_ref().map(|programs| programs.node().vni);
    if let Some(to) = journey.to.filter(|_| !matches!(end, TraceEnd::Lost { .. })) {
        bail!("--to {to}: nothing here translates the packet's destination");
    }
    let certain = journey.certain || matches!(end, TraceEnd::Lost { .. });
    Ok(Report { schema: SCHEMA, packet, vni, steps: journey.steps, end, certain })
}

/// Checks the options and makes the packet.
fn packet(options: &Trace) -> Result<Packet> {
    let Trace { src: source, dst: destination, proto: protocol, sport, dport, size: bytes, .. } = *options;
    ensure!(
        source.is_ipv4() == destination.is_ipv4(),
        "--src {source} and --dst {destination} are of different address families"
    );
    if let Some(sender) = options.sender {
        ensure!(
            sender.is_ipv4() == source.is_ipv4(),
            "--sender {sender}: a packet from {source} is sent over its own address family"
        );
    }
    let shortest = Packet::shortest(protocol, source);
    ensure!(bytes >= shortest, "--size {bytes}: the headers alone have {shortest} bytes");
    let longest = packet::longest(LONGEST_FRAME, source);
    ensure!(
        usize::from(bytes) <= longest,
        "--size {bytes}: the kernel runs programs on up to {longest} bytes"
    );
    let (source_port, destination_port) = match (protocol, dport) {
        (Protocol::Icmp, None) => (0, 0),
        (Protocol::Icmp, Some(_)) => bail!("--dport needs --proto tcp or --proto udp"),
        (_, Some(dport)) => (sport, dport),
        (_, None) => bail!("TCP and UDP need --dport"),
    };
    Ok(Packet { source, destination, protocol, source_port, destination_port, bytes })
}

/// Returns the VNI of the overlay whose programs to run; `None` if no programs are pinned.
fn vni(options: &Trace) -> Result<Option<u32>> {
    let folder = options.paths.bpffs.join(flannel_common::abi::PIN_DIR);
    let pinned = pins::vnis(&options.paths.bpffs).with_context(|| format!("reading {}", folder.display()))?;
    let listed = || pinned.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match (options.vni, &pinned[..]) {
        (None, []) => Ok(None),
        (None, [vni]) => Ok(Some(*vni)),
        (None, _) => {
            bail!("there are programs of several overlays, VNI {}: choose one by --vni", listed())
        }
        (Some(vni), pinned) if pinned.contains(&vni) => Ok(Some(vni)),
        (Some(vni), []) => bail!("there are no programs of VNI {vni} below {}", folder.display()),
        (Some(vni), _) => bail!("there are no programs of VNI {vni}, but of VNI {}", listed()),
    }
}
