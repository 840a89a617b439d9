//! `flannel-agent counters`: how many packets the BPF programs have seen, and what became of them.

use anyhow::{Context as _, Result, ensure};
use flannel_common::abi;
use flannel_common::outcome::{MetricsKey, Traffic};

use crate::dataplane::bpf::counters::{self, Counters};
use crate::dataplane::bpf::pins::{self, Pins};
use crate::paths::Paths;

/// Shows how many packets the BPF programs have seen on this node, and what became of them, the most frequent first.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowCounters {
    /// Where this node's things are.
    #[command(flatten)]
    pub paths: Paths,
}

/// Prints the counters of each overlay of this node. The agent need not run.
///
/// # Errors
/// No programs are pinned, or their counters cannot be read.
pub fn run(options: &ShowCounters) -> Result<()> {
    let folder = options.paths.bpffs.join(abi::PIN_DIR);
    let vnis = pins::vnis(&options.paths.bpffs).with_context(|| format!("reading {}", folder.display()))?;
    ensure!(
        !vnis.is_empty(),
        "there are no programs below {}: the kernel carries all packets, or no agent has run here. If its files are elsewhere, \
         set --bpffs",
        folder.display()
    );
    for vni in vnis {
        let counters = counters::read(&Pins::new(&options.paths.bpffs, vni)).with_context(|| {
            format!("the counters of VNI {vni}: those of another version are read by its own flannel-agent")
        })?;
        println!("VNI {vni}");
        sorted(counters).iter().for_each(|(key, traffic)| println!("{}", line(*key, *traffic)));
    }
    Ok(())
}

fn sorted(counters: Counters) -> Vec<(MetricsKey, Traffic)> {
    let mut sorted: Vec<_> = counters.into_iter().collect();
    sorted.sort_by_key(|(_, traffic)| std::cmp::Reverse(traffic.packets));
    sorted
}

fn line(MetricsKey { outcome, hook }: MetricsKey, Traffic { packets, bytes }: Traffic) -> String {
    let (program, name, help) = (hook.program(), outcome.name(), outcome.help());
    format!("{packets:>12} packets {bytes:>15} bytes  {program:<16} {name:<17} {help}")
}
