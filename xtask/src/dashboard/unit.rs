//! Values in the units of Grafana that the dashboard has.

/// Returns a value with its unit, as Grafana's unit of this name shows it, with three digits.
pub(super) fn show(unit: &str, value: f64) -> String {
    let (value, suffix) = match unit {
        "percentunit" => return format!("{} %", digits(value * 100.0)),
        "ns" => return time(value / 1e9),
        "s" => return time(value),
        "pps" => (value, "p/s"),
        "Bps" => (value, "B/s"),
        "reqps" => (value, "req/s"),
        "ops" => (value, "ops/s"),
        "wps" => (value, "wr/s"),
        _ => (value, ""),
    };
    let steps = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (by, letter) = steps.into_iter().find(|(by, _)| value >= *by).unwrap_or((1.0, ""));
    format!("{} {letter}{suffix}", digits(value / by)).trim_end().to_owned()
}

fn time(seconds: f64) -> String {
    let steps = [(3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")];
    let step = steps.into_iter().find(|(by, _)| seconds >= *by);
    step.map_or_else(|| "0".to_owned(), |(by, unit)| format!("{} {unit}", digits(seconds / by)))
}

/// Returns three significant digits, without a fraction that is zero.
fn digits(value: f64) -> String {
    let places = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_and_their_unit() {
        for (unit, value, expected) in [
            ("pps", 0.0, "0 p/s"),
            ("pps", 12_345.0, "12.3 kp/s"),
            ("Bps", 2.5e9, "2.5 GB/s"),
            ("percentunit", 0.9871, "98.7 %"),
            ("s", 86_000.0, "23.9 h"),
            ("s", 0.0042, "4.2 ms"),
            ("ns", 575.0, "575 ns"),
            ("short", 65_536.0, "65.5 k"),
            ("ops", 0.25, "0.25 ops/s"),
        ] {
            assert_eq!(show(unit, value), expected);
        }
    }
}
