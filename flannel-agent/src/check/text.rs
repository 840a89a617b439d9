//! Formats what was found as text.

use std::fmt::{self, Display};

use super::model::{Finding, Level, ProbedPeer, Report};
use crate::output::printable;

/// So many other nodes are shown.
const SHOWN: usize = 8;

/// The text of a report.
pub(super) struct Text<'a> {
    pub(super) report: &'a Report,
    /// Whether marks have colours.
    pub(super) colour: bool,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.report.findings {
            self.write(f, finding)?;
        }
        let peers = &self.report.peers;
        peers.iter().take(SHOWN).try_for_each(|peer| writeln!(f, "          {peer}"))?;
        match peers.len().saturating_sub(SHOWN) {
            0 => {}
            more => writeln!(f, "          and {more} more: --json lists all")?,
        }
        writeln!(f, "{}", self.summary())
    }
}

impl Text<'_> {
    fn write(&self, f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
        let Finding { title, level, found, remedy, network, .. } = finding;
        let network = network.as_ref().map(|name| format!(" ({})", printable(name))).unwrap_or_default();
        writeln!(f, "{} {title}{network}: {}", self.mark(*level), printable(found))?;
        remedy
            .iter()
            .flat_map(|text| text.lines())
            .try_for_each(|line| writeln!(f, "          {}", printable(line)))
    }

    /// Returns the level in brackets, as wide as the longest one.
    fn mark(&self, level: Level) -> String {
        let colour = match level {
            Level::Ok => 32,
            Level::Note => 36,
            Level::Warning => 33,
            Level::Error => 31,
        };
        let mark = format!("{:<9}", format!("[{}]", level.name()));
        if self.colour { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark }
    }

    fn summary(&self) -> String {
        let count = |level| self.report.findings.iter().filter(|finding| finding.level == level).count();
        let plural = |number: usize| if number == 1 { "" } else { "s" };
        let [ok, notes, warnings, errors] = [Level::Ok, Level::Note, Level::Warning, Level::Error].map(count);
        format!(
            "{errors} error{}, {warnings} warning{}, {notes} note{}, {ok} ok",
            plural(errors),
            plural(warnings),
            plural(notes)
        )
    }
}

impl Display for ProbedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subnet, public_ip, way, sent, answered, .. } = self;
        write!(f, "{subnet:<18} {:<15} {:<7} {answered}/{sent}", public_ip.to_string(), way.name())?;
        if let Some(times) = self.round_trip_us {
            let [min, median, max] = [times.min, times.median, times.max].map(milliseconds);
            write!(f, ", {min}/{median}/{max} ms")?;
        }
        match self.longest_answered {
            Some(bytes) => write!(f, ", up to {bytes} bytes"),
            None => Ok(()),
        }
    }
}

/// Returns microseconds as milliseconds with two digits behind the point.
pub(super) fn milliseconds(microseconds: u64) -> String {
    let hundredths = microseconds / 10;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Check, RoundTrips};
    use super::*;
    use crate::status::model::Way;

    #[test]
    fn a_finding_is_a_line_and_its_remedy_is_indented_below() {
        let peer = ProbedPeer {
            subnet: "10.5.2.0/24".to_owned(),
            public_ip: [192, 168, 64, 2].into(),
            way: Way::Vxlan,
            sent: 5,
            answered: 4,
            round_trip_us: Some(RoundTrips { min: 95, median: 1_230, max: 21_000 }),
            full_bytes: Some(1450),
            longest_answered: Some(1350),
            underlay_answers: true,
        };
        let mut mtu = Check::Mtu.error("too\x1blarge", "one\ntwo");
        mtu.network = Some("vxlan 7".to_owned());
        let report = Report::of(vec![Check::Clock.ok("synchronised"), mtu], vec![peer; SHOWN + 1]);
        let text = Text { report: &report, colour: false }.to_string();
        let start = "[error]   MTU of this node's interfaces (vxlan 7): too?large\n          one\n          two\n\
                     [ok]      Clock: synchronised\n\
                     \x20         10.5.2.0/24        192.168.64.2    vxlan   4/5, 0.09/1.23/21.00 ms, up to 1350 bytes\n";
        assert!(text.starts_with(start), "{text}");
        assert!(
            text.ends_with("          and 1 more: --json lists all\n1 error, 0 warnings, 0 notes, 1 ok\n"),
            "{text}"
        );
        let coloured = Text { report: &report, colour: true }.to_string();
        assert!(coloured.starts_with("\x1b[31m[error]  \x1b[0m MTU"), "{coloured:?}");
    }
}
