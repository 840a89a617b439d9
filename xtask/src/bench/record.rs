//! The run as JSON.

use serde_json::{Map, Value, json};

use super::args::Args;
use super::machine::Machine;
use super::metric::Metric;
use super::series::{Series, find, metrics};
use super::variant::{BEST, LIMIT};

/// Returns everything that was measured, the machine and the parameters.
pub(super) fn json(args: &Args, machine: &Machine, series: &[Series]) -> String {
    let variants: Map<_, _> =
        series.iter().map(|one| (one.variant.name().to_owned(), of_variant(series, one))).collect();
    let measured = metrics(series);
    let record = json!({
        "machine": machine,
        "parameters": { "rounds": args.rounds, "seconds": args.seconds },
        "metrics": measured.iter().map(|metric| json!({ "name": metric, "title": metric.title() })).collect::<Vec<_>>(),
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
            "ratio_to_kernel": ratio(one.variant.rival()),
            "ratio_to_limit": ratio(LIMIT),
            "ratio_to_veth": ratio(BEST),
            "ratio_to_direct": one.variant.direct().and_then(ratio),
            "samples": one.of(metric),
        })
    };
    metrics(series).into_iter().map(of_metric).collect()
}
