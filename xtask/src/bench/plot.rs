//! The picture: a panel of horizontal bars per metric, for light and dark pages.

use std::fmt::Write as _;

use super::machine::Machine;
use super::metric::Metric;
use super::series::{Series, metrics};
use super::table::ratio;
use super::variant::{BEST, Carrier, LIMIT, Variant};
use crate::svg::{self, text};

const WIDTH: f64 = 800.0;
const MARGIN: f64 = 20.0;
/// Where bars begin, right of their names, and the length of the longest. Values are right of it.
const BARS: f64 = 160.0;
const LONGEST: f64 = 370.0;
const ROW: f64 = 26.0;
const BAR: f64 = 16.0;
const TITLE: f64 = 44.0;

const LIGHT: &str = "\
    .other { fill: #8c959f } .kernel { fill: #57606a } .bpf { fill: #1a7f64 } .limit { fill: #6fb7a3 } \
    .range { stroke: currentColor; stroke-width: 1.5 }";
const DARK: &str = "\
    .other { fill: #6e7681 } .kernel { fill: #adb5bd } .bpf { fill: #3fb996 } .limit { fill: #2b6f5c }";

/// Draws the picture. Bars are medians, and the lines on them reach from the smallest sample to the largest.
pub(super) fn svg(machine: &Machine, series: &[Series]) -> String {
    let panel = TITLE + ROW * series.len() as f64;
    let metrics = metrics(series);
    let height = panel * metrics.len() as f64 + 2.0 * MARGIN + ROW;
    let mut svg = svg::start(WIDTH, height, "Throughput by variant", LIGHT, DARK);
    for (number, metric) in metrics.into_iter().enumerate() {
        draw_panel(&mut svg, MARGIN + panel * number as f64, metric, series);
    }
    let Machine { kernel, processor, cpus, .. } = machine;
    let about = format!(
        "medians and ranges; ratios: how many times as good; Linux {kernel}, {cpus} x {processor}, all nodes on this machine"
    );
    text(&mut svg, "small", MARGIN, height - MARGIN, &about);
    svg::end(&mut svg);
    svg
}

fn draw_panel(svg: &mut String, top: f64, metric: Metric, series: &[Series]) {
    let [limit, best] = [LIMIT, BEST].map(Variant::name);
    let heading = format!("{}  (x kernel, x {limit}, x {best})", metric.title());
    text(svg, "title", MARGIN, top + TITLE / 2.0, &heading);
    let largest = series.iter().map(|one| one.range(metric).1).fold(f64::MIN_POSITIVE, f64::max);
    for (row, one) in series.iter().enumerate() {
        let y = top + TITLE - BAR / 2.0 + ROW * row as f64;
        text(svg, "", MARGIN, y + BAR - 4.0, one.variant.name());
        draw_bar(svg, y, LONGEST / largest, metric, one);
        let ratios = one.variant.references().map(|to| ratio(series, one, to, metric)).join(", ");
        let value = format!("{}  ({ratios})", metric.show(one.median(metric)));
        text(svg, "", BARS + LONGEST + 10.0, y + BAR - 4.0, &value);
    }
}

fn draw_bar(svg: &mut String, y: f64, scale: f64, metric: Metric, one: &Series) {
    let class = match one.variant.carrier() {
        Carrier::Uplink => "other",
        Carrier::KernelDevice | Carrier::Flowtable => "kernel",
        Carrier::BarePrograms { .. } => "limit",
        Carrier::Programs | Carrier::Shortcut | Carrier::UntunnelledShortcut => "bpf",
    };
    let (min, max) = one.range(metric);
    let (width, middle) = (one.median(metric) * scale, y + BAR / 2.0);
    let (left, right) = (BARS + min * scale, BARS + max * scale);
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{BARS}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\n\
         <line class=\"range\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>"
    );
}
