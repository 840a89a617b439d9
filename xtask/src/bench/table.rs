//! The table on the terminal.

use std::fmt::Write as _;

use super::metric::Metric;
use super::series::{Series, find};
use super::variant::{BEST, RIVAL};

/// Returns one block per metric, with one line per variant.
pub(super) fn text(series: &[Series], rounds: u32, seconds: u32) -> String {
    let mut text = String::new();
    for metric in Metric::ALL {
        let columns = ["median", &format!("x {}", RIVAL.name()), &format!("x {}", BEST.name()), "min .. max"];
        let _ = writeln!(text, "\n{}", metric.title());
        let _ = writeln!(text, "{}", line("", columns));
        for one in series {
            let (min, max) = one.range(metric);
            let ratio = |variant| ratio(series, one, variant, metric);
            let range = format!("{} .. {}", metric.show(min), metric.show(max));
            let columns = [&metric.show(one.median(metric)), &ratio(RIVAL), &ratio(BEST), &range];
            let _ = writeln!(text, "{}", line(one.variant.name(), columns.map(String::as_str)));
        }
    }
    let _ = writeln!(
        text,
        "\nmedians over {rounds} interleaved rounds of {seconds} s; a ratio is the median of the rounds' ratios"
    );
    text
}

fn line(name: &str, [median, rival, best, range]: [&str; 4]) -> String {
    format!("  {name:<14}{median:>10}{rival:>16}{best:>10}{range:>22}")
}

/// Returns the ratio to a variant as text, or a dash if that was not measured.
pub(super) fn ratio(series: &[Series], one: &Series, to: super::variant::Variant, metric: Metric) -> String {
    find(series, to).map_or("-".to_owned(), |other| format!("{:.2}", one.ratio_to(other, metric)))
}
