//! The table on the terminal.

use std::fmt::Write as _;

use super::changes::TIMES;
use super::sample::{Sample, Scale};

/// Returns one line per number of leases, with one column per figure.
pub(super) fn text(scales: &[Scale], rounds: u32) -> String {
    let mut text = format!("\n{:>8}", "leases");
    for (title, _) in Sample::COLUMNS {
        let _ = write!(text, "{title:>16}");
    }
    for scale in scales {
        let _ = write!(text, "\n{:>8}", scale.leases);
        for (_, value) in Sample::COLUMNS {
            let figure = scale.median(value);
            let _ =
                if figure.is_nan() { write!(text, "{:>16}", "-") } else { write!(text, "{figure:>16.1}") };
        }
    }
    let _ = writeln!(
        text,
        "\n\nmedians of {rounds} agents each; all leases: from the agent's start until kernel and maps have them; maps: \
         memory that the kernel has locked for them; status,\npeers: run time of these subcommands; join, \
         back, leave: from\nthe start of a write to the datastore until they have it, median of {TIMES} and more; event: of \
         all these, from the arrival of the\nAPI server's event"
    );
    text
}
