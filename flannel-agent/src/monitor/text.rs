//! A happening as a line for people.

use std::fmt;

use flannel_common::outcome::Outcome;

use crate::output::clean;
use crate::report::feed::{Happening, Kind, What};

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const MS_PER_DAY: u64 = 24 * 60 * 60 * 1000;

/// A line.
pub(super) struct Line<'a> {
    /// What it is about.
    pub(super) happening: &'a Happening,
    /// With colours for a terminal.
    pub(super) colour: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Happening { at, what } = self.happening;
        let (time, kind) = (at % MS_PER_DAY, what.kind());
        let (hours, minutes) = (time / 3_600_000, time / 60_000 % 60);
        let (seconds, milliseconds) = (time / 1000 % 60, time % 1000);
        let name = match colour_of(what).filter(|_| self.colour) {
            Some(colour) => format!("\x1b[{colour}m{:<9}\x1b[0m", kind.name()),
            None => format!("{:<9}", kind.name()),
        };
        let text = clean(&describe(what));
        writeln!(f, "{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03} {name} {text}")
    }
}

const fn colour_of(what: &What) -> Option<u8> {
    match what {
        What::Lease { held: false } | What::Datastore { connected: false, .. } => Some(YELLOW),
        _ => match what.kind() {
            Kind::Drop | Kind::Problem => Some(RED),
            Kind::Counted | Kind::Miss | Kind::LeftOut => Some(YELLOW),
            Kind::Repair | Kind::Lease | Kind::Datastore => Some(GREEN),
            Kind::Flow | Kind::Peer => None,
        },
    }
}

fn describe(what: &What) -> String {
    match what {
        What::Drop { outcome, source, node } => {
            let node = node.map_or_else(|| "this node".to_owned(), |node| node.to_string());
            format!("from {source} by {node}: {}", explained(outcome))
        }
        What::Miss { wanted, of } => match wanted.as_str() {
            "lease" => format!("no lease covers {of}, and a packet waits for it"),
            wanted => format!("the vxlan device has no {wanted} entry for {of}, and a packet waits for it"),
        },
        What::Counted { outcome, packets } => format!("{packets} packets: {}", explained(outcome)),
        What::Flow { protocol, pod, remote, behind, state } => {
            let behind = behind.map_or_else(String::new, |behind| format!(" ({behind})"));
            let state =
                if state == "proven" { "takes the shortcut" } else { "has ended, or passes the host stack" };
            format!("{protocol} {pod} <-> {remote}{behind} {state}")
        }
        What::Peer { change, subnet, public_ip, vtep_mac } => {
            let mac = vtep_mac.map_or_else(String::new, |mac| format!(" (MAC {mac})"));
            format!("{subnet} at {public_ip}{mac} has {}", change.name())
        }
        What::Lease { held: true } => "this node holds its lease".to_owned(),
        What::Lease { held: false } => "this node has lost its lease".to_owned(),
        What::Repair { text } => text.clone(),
        What::Problem { work, texts } => format!("{work}: {}", texts.join("; ")),
        What::Datastore { connected: true, .. } => "answers".to_owned(),
        What::Datastore { connected: false, why } => {
            format!("does not answer: {}", why.as_deref().unwrap_or("unknown"))
        }
        What::LeftOut { count } => format!("{count} lines are left out: they come faster than they are read"),
    }
}

/// Returns an outcome's name and meaning.
fn explained(name: &str) -> String {
    let help = Outcome::ALL.iter().find(|outcome| outcome.name() == name).map(|outcome| outcome.help());
    help.map_or_else(|| name.to_owned(), |help| format!("{name}: {help}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_kind_and_meaning() {
        let what = What::Drop {
            outcome: "looped-sender".to_owned(),
            source: [10, 5, 1, 2].into(),
            node: Some([192, 0, 2, 1].into()),
        };
        let happening = Happening { at: MS_PER_DAY * 20_000 + 3_723_004, what };
        let line = |colour| Line { happening: &happening, colour }.to_string();
        let expected = format!(
            "01:02:03.004 drop      from 10.5.1.2 by 192.0.2.1: looped-sender: {}\n",
            Outcome::LoopedSender.help()
        );
        assert_eq!(line(false), expected);
        assert_eq!(line(true), expected.replace("drop     ", "\x1b[31mdrop     \x1b[0m"));
    }

    #[test]
    fn a_text_of_others_does_not_reach_the_terminal_as_it_is() {
        let what = What::Repair { text: "a\x1b[2Jb\nc".to_owned() };
        let line = Line { happening: &Happening { at: 0, what }, colour: false }.to_string();
        assert!(!line.contains('\x1b') && line.lines().count() == 1, "{line:?}");
    }
}
