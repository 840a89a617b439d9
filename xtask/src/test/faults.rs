//! `cargo xtask test --faults`: what each fault costs pods that talk, as a table.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, process};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::fault::{Row, VARIABLE};

use super::Tries;
use crate::workspace::target;

/// The tests that write rows, as a part of their names.
const TESTS: &str = "faults::";

/// Runs the faults one after the other, so that none is measured while another keeps the processors busy, and prints their rows, also if
/// some of them cost too much.
pub(super) fn run() -> Result<()> {
    let file = target()?.join(format!("faults-{}.jsonl", process::id()));
    let arguments = [TESTS, "--test-threads=1"].map(str::to_owned);
    let run = super::run_tests(&arguments, &[], &[(VARIABLE, file.as_os_str())], Tries::One);
    let rows = read(&file);
    // There is none if no test has ended.
    let _ = fs::remove_file(&file);
    print!("{}", table(&rows?));
    run.map(drop)
}

fn read(file: &Path) -> Result<Vec<Row>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("no fault has written to {}", file.display()))?;
    let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>();
    let rows = rows.with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(!rows.is_empty(), "{} is empty", file.display());
    Ok(rows)
}

/// Returns the rows by what they may cost.
fn table(rows: &[Row]) -> String {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by_key(|row| (&row.bound, &row.fault));
    let width = rows.iter().map(|row| row.fault.chars().count()).max().unwrap_or_default();
    let mut text =
        format!("\n{:<width$}{:>9}{:>8}{:>8}{:>9}{:>9}\n", "fault", "bound", "sent", "lost", "gap", "right");
    for Row { fault, bound, sent, lost, gap, right } in rows {
        let (gap, right) = (gap.as_millis(), right.as_millis());
        let _ = writeln!(text, "{fault:<width$}{bound:>9}{sent:>8}{lost:>8}{gap:>6} ms{right:>6} ms");
    }
    text.push_str(
        "\nsent, lost: datagrams of both directions, 500 a second each. gap: the longest time between two arrivals. right: from \
         the fault until devices, entries and programs are as before.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_bounds() {
        let row = |fault: &str, bound: &str, lost| Row {
            fault: fault.to_owned(),
            bound: bound.to_owned(),
            sent: 1000,
            lost,
            gap: Duration::from_millis(38),
            right: Duration::from_millis(1207),
        };
        let text = table(&[row("device deleted", "1 s", 18), row("agent killed", "0 lost", 0)]);
        let lines: Vec<_> = text.lines().skip(1).take(3).collect();
        let expected = [
            "fault             bound    sent    lost      gap    right",
            "agent killed     0 lost    1000       0    38 ms  1207 ms",
            "device deleted      1 s    1000      18    38 ms  1207 ms",
        ];
        assert_eq!(lines, expected);
    }
}
