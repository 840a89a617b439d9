//! The table on the terminal.

use std::fmt::Write as _;

use super::metric::Metric;
use super::series::{Series, find, metrics};
use super::variant::{BEST, LIMIT, Variant};

/// Returns one block per metric, with one line per variant.
pub(super) fn text(series: &[Series], rounds: u32, seconds: u32) -> String {
    let mut text = String::new();
    for metric in metrics(series) {
        let [limit, best] = [LIMIT, BEST].map(|variant| format!("x {}", variant.name()));
        let columns = ["median", "x kernel", &limit, &best, "x direct", "min .. max"];
        let _ = writeln!(text, "\n{}", metric.title());
        let _ = writeln!(text, "{}", line("", columns));
        for one in series {
            let (min, max) = one.range(metric);
            let ratio = |variant| ratio(series, one, variant, metric);
            let [kernel, limit, best] = one.variant.references().map(ratio);
            let direct = one.variant.direct().map_or("-".to_owned(), ratio);
            let range = format!("{} .. {}", metric.show(min), metric.show(max));
            let columns = [&metric.show(one.median(metric)), &kernel, &limit, &best, &direct, &range];
            let _ = writeln!(text, "{}", line(one.variant.name(), columns.map(String::as_str)));
        }
    }
    let _ = writeln!(
        text,
        "\nmedians over {rounds} interleaved rounds of {seconds} s; a ratio is the median of the rounds' ratios, and says \
         how many times as good: above 1 means faster, or less CPU time.\n\
         x kernel: what the kernel does with the same traffic, which is kernel-vxlan, kernel-vxlan-service for a service, host-gw for \
         agent-host-gw, and routed for agent-routed; x direct: a service's own variant without the service."
    );
    text
}

fn line(name: &str, [median, kernel, limit, best, direct, range]: [&str; 6]) -> String {
    format!("  {name:<21}{median:>10}{kernel:>10}{limit:>10}{best:>10}{direct:>10}{range:>22}")
}

/// Returns the ratio to a variant as text, or a dash if that was not measured.
pub(super) fn ratio(series: &[Series], one: &Series, to: Variant, metric: Metric) -> String {
    find(series, to).map_or("-".to_owned(), |other| format!("{:.2}", one.ratio_to(other, metric)))
}
