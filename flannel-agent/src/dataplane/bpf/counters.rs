//! `METRICS`: the number of packets by outcome and hook.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuHashMap};
use flannel_common::abi;
use flannel_common::outcome::{Hook, MetricsKey, Outcome, Traffic};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

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
    sum(&PerCpuHashMap::try_from(Map::from_map_data(data)?)?)
}

/// Sums a counter map over all CPUs.
///
/// # Errors
/// The map is not readable.
pub fn sum<T: std::borrow::Borrow<MapData>>(map: &PerCpuHashMap<T, [u32; 2], Traffic>) -> Result<Counters> {
    let mut counters = Counters::new();
    for entry in map.iter() {
        let ([outcome, hook], per_cpu) = entry.context("reading METRICS")?;
        // Unknown numbers are of a later version.
        if let (Some(outcome), Some(hook)) = (Outcome::from_number(outcome), Hook::from_number(hook)) {
            let total = per_cpu.iter().fold(Traffic::default(), |sum, cpu| Traffic {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
            });
            counters.insert(MetricsKey { outcome, hook }, total);
        }
    }
    Ok(counters)
}

/// Collects the pinned counters of an overlay as the metric `packets`.
#[derive(Debug)]
pub struct PacketCounters(pub Pins);

impl Collector for PacketCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Packets that the BPF programs have seen, by outcome";
        let mut family = encoder.encode_descriptor("packets", help, None, MetricType::Counter)?;
        for (key, traffic) in read(&self.0).unwrap_or_default() {
            let labels = [("outcome", key.outcome.name()), ("program", key.hook.program())];
            ConstCounter::new(traffic.packets).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
