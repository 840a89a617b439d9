//! The run as JSON.

use serde_json::{Map, Value, json};

use super::args::Args;
use super::machine::Machine;
use super::metric::Metric;
use super::series::{Series, find};
use super::variant::{BEST, LIMIT};

/// Returns everything that was measured, the machine and the parameters.
pub(super) fn json(args: &Args, machine: &Machine, series: &[Series]) -> String {
    let variants: Map<_, _> =
        series.iter().map(|one| (one.variant.name().to_owned(), of_variant(series, one))).collect();
    let record = json!({
        "machine": machine,
        "parameters": { "rounds": args.rounds, "seconds": args.seconds },
        "metrics": Metric::ALL.map(|metric| json!({ "name": metric, "title": metric.title() })),
        "variants": variants,
    });
    format!("{record:#}\n")
}

fn of_variant(series: &[Series], one: &Series) -> Value {
    let of_metric = |metric: Metric| {
        let (min, max) = one.range(metric);
        let ratio = |to| find(series, to).map(|other| one.ratio_to(other, metric));
        json!({
            "metric": metric,
            "median": one.median(metric),
            "min": min,
            "max": max,
            "ratio_to_kernel_vxlan": ratio(one.variant.rival()),
            "ratio_to_limit": ratio(LIMIT),
            "ratio_to_veth": ratio(BEST),
            "ratio_to_direct": one.variant.direct().and_then(ratio),
            "samples": one.of(metric),
        })
    };
    Metric::ALL.map(of_metric).into_iter().collect()
}
