//! `METRICS`: the number of packets by outcome and hook, and what of it the flow cache has done. The kernel's own statistics of the
//! programs, where it keeps them.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::ProgramInfo;
use flannel_common::abi;
use flannel_common::outcome::{Hook, Metrics, MetricsKey, Outcome, Traffic};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::pins::Pins;

/// Traffic by outcome and hook, summed over all CPUs. Outcomes that have not occurred are absent.
pub type Counters = BTreeMap<MetricsKey, Traffic>;

/// Reads the pinned counters of an overlay. The agent need not run.
///
/// # Errors
/// No programs have been loaded for this overlay, or the map is not readable.
pub fn read(pins: &Pins) -> Result<Counters> {
    let path = pins.path(abi::METRICS);
    let data = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    sum(&PerCpuArray::try_from(Map::from_map_data(data)?)?)
}

/// Sums a map of counters over all CPUs.
///
/// # Errors
/// The map is not readable.
pub fn sum<T: std::borrow::Borrow<MapData>>(map: &PerCpuArray<T, Metrics>) -> Result<Counters> {
    let per_cpu = map.get(&0, 0).context("reading METRICS")?;
    let mut counters = Counters::new();
    for metrics in per_cpu.iter() {
        for (key, traffic) in MetricsKey::all().zip(metrics.traffic()) {
            if traffic.packets != 0 {
                let total: &mut Traffic = counters.entry(key).or_default();
                total.packets += traffic.packets;
                total.bytes += traffic.bytes;
            }
        }
    }
    Ok(counters)
}

/// What the flow cache has done for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheUse {
    /// The packet has skipped the host stack.
    Hit,
    /// The packet has passed the host stack, and has proven its flow.
    Proof,
    /// The packet goes or has gone through the host stack, and the outcome says why.
    Refusal,
}

impl CacheUse {
    /// Returns what the cache has done for packets that are counted so; `None` where it is not asked. A packet that is sent past
    /// the stack counts where that happens, and no second time where it leaves the node ([`Outcome::AfterShortcut`]).
    const fn of(key: MetricsKey) -> Option<Self> {
        match (key.outcome, key.hook) {
            (Outcome::Delivered, _) => Some(Self::Hit),
            (Outcome::Encapsulated | Outcome::Forwarded | Outcome::OnLink, Hook::PodEgress) => {
                Some(Self::Hit)
            }
            (Outcome::FlowProven, _) => Some(Self::Proof),
            (
                Outcome::FlowNew
                | Outcome::FlowStale
                | Outcome::FlowChanged
                | Outcome::FlowKept
                | Outcome::FlowCrowded
                | Outcome::FlowCacheOff
                | Outcome::TcpControl
                | Outcome::NotCacheable,
                _,
            ) => Some(Self::Refusal),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Proof => "proof",
            Self::Refusal => "refusal",
        }
    }
}

/// Collects the pinned counters of an overlay, and the kernel's statistics of its programs.
#[derive(Debug)]
pub struct PacketCounters(pub Pins);

impl Collector for PacketCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut counters = read(&self.0).unwrap_or_default();
        // Prometheus does not see the first packet of a counter that appears with it, and each that is dropped matters.
        for key in MetricsKey::all().filter(|key| key.outcome.is_drop()) {
            counters.entry(key).or_default();
        }
        encode_traffic(&mut encoder, &counters)?;
        encode_cache_use(&mut encoder, &counters)?;
        encode_programs(&mut encoder, &self.0)
    }
}

fn encode_traffic(encoder: &mut DescriptorEncoder<'_>, counters: &Counters) -> fmt::Result {
    let labels = |key: &MetricsKey| {
        [
            ("outcome", key.outcome.name()),
            ("verdict", key.outcome.verdict().name()),
            ("program", key.hook.program()),
        ]
    };
    let help = "Runs of the BPF programs, by outcome; each packet or aggregate (GSO, GRO) is a run.";
    let mut family = encoder.encode_descriptor("packets", help, None, MetricType::Counter)?;
    for (key, traffic) in counters {
        ConstCounter::new(traffic.packets).encode(family.encode_family(&labels(key))?)?;
    }
    let help = "Bytes of the frames that the BPF programs have seen, before they changed them, by outcome.";
    let mut family = encoder.encode_descriptor("packet", help, Some(&Unit::Bytes), MetricType::Counter)?;
    for (key, traffic) in counters {
        ConstCounter::new(traffic.bytes).encode(family.encode_family(&labels(key))?)?;
    }
    Ok(())
}

fn encode_cache_use(encoder: &mut DescriptorEncoder<'_>, counters: &Counters) -> fmt::Result {
    let help = "Those of flannel_packets that the flow cache has let past the host stack (hit), that prove a flow (proof), or that \
        it leaves to the host stack (refusal).";
    let mut family = encoder.encode_descriptor("flow_cache_packets", help, None, MetricType::Counter)?;
    for (key, traffic) in counters {
        if let Some(cached) = CacheUse::of(*key) {
            let labels =
                [("result", cached.name()), ("outcome", key.outcome.name()), ("program", key.hook.program())];
            ConstCounter::new(traffic.packets).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Shows what the kernel has measured of the programs: nothing, unless someone has it do so (`kernel.bpf_stats_enabled`). It costs
/// time with each packet, so the agent does not ask for it.
fn encode_programs(encoder: &mut DescriptorEncoder<'_>, pins: &Pins) -> fmt::Result {
    let measured = |hook: &Hook| {
        let info = ProgramInfo::from_pin(pins.path(hook.program())).ok()?;
        (info.run_count() > 0).then(|| (hook.program(), info))
    };
    let programs: Vec<_> = Hook::ALL.iter().filter_map(measured).collect();
    if programs.is_empty() {
        return Ok(());
    }
    let help = "Runs of a program that the kernel has measured (kernel.bpf_stats_enabled).";
    let mut family = encoder.encode_descriptor("program_runs", help, None, MetricType::Counter)?;
    for (program, info) in &programs {
        let labels = [("program", *program)];
        ConstCounter::new(info.run_count()).encode(family.encode_family(&labels)?)?;
    }
    let help = "Time that the runs in flannel_program_runs have taken.";
    let mut family =
        encoder.encode_descriptor("program_run", help, Some(&Unit::Seconds), MetricType::Counter)?;
    for (program, info) in &programs {
        let labels = [("program", *program)];
        ConstCounter::new(info.run_time().as_secs_f64()).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_past_the_stack_is_one_hit() {
        let of = |outcome, hook| CacheUse::of(MetricsKey { outcome, hook });
        for (outcome, hook, expected) in [
            (Outcome::Encapsulated, Hook::PodEgress, Some(CacheUse::Hit)),
            (Outcome::Encapsulated, Hook::OverlayEgress, None),
            (Outcome::Forwarded, Hook::PodEgress, Some(CacheUse::Hit)),
            (Outcome::OnLink, Hook::PodEgress, Some(CacheUse::Hit)),
            (Outcome::AfterShortcut, Hook::OverlayEgress, None),
            (Outcome::AfterShortcut, Hook::UnderlayEgress, None),
            (Outcome::Delivered, Hook::UnderlayIngress, Some(CacheUse::Hit)),
            (Outcome::Delivered, Hook::OverlayIngress, Some(CacheUse::Hit)),
            (Outcome::HandedOver, Hook::UnderlayXdp, None),
            (Outcome::FlowProven, Hook::PodIngress, Some(CacheUse::Proof)),
            (Outcome::FlowNew, Hook::PodEgress, Some(CacheUse::Refusal)),
            (Outcome::ForgedSender, Hook::OverlayIngress, None),
        ] {
            assert_eq!(of(outcome, hook), expected, "{outcome:?} at {hook:?}");
        }
    }
}
