//! `METRICS`: the number of packets by outcome and hook.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use flannel_common::abi;
use flannel_common::outcome::{Metrics, MetricsKey, Traffic};
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
