//! The shape of what a command prints: what stays when other numbers, addresses and times come out of another run.

use std::sync::LazyLock;

use regex_lite::Regex;

/// A line that stands for any number of lines, and the end of a line that stands for the rest of it.
const LEFT_OUT: &str = "...";
/// What is replaced, one after the other, and by what.
const PLACEHOLDERS: [(&str, &str); 8] = [
    (r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "MAC"),
    (r"\b\d+\.\d+\.\d+\.\d+\b", "ADDRESS"),
    (r"\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b", "ADDRESS"),
    (r"\b(?:[0-9a-f]{1,4}:)+:(?:[0-9a-f]{1,4}\b(?::[0-9a-f]{1,4}\b)*)?", "ADDRESS"),
    // Hexadecimal numbers without `0x` are long.
    (r"\b0x[0-9a-f]+\b|\b[0-9a-f]{8,}\b|\d+(?:\.\d+)?", "N"),
    (r"\bN (?:ns|µs|ms|s|min|h|d)\b(?: N (?:ns|µs|ms|s|min|h|d)\b)*", "TIME"),
    (r"(\S) +", "$1 "),
    (r"^\s+", " "),
];

/// Returns the shape of a line: numbers, addresses, MACs and times become placeholders, and several spaces are one.
/// Names keep their letters: `veth3` becomes `vethN`.
pub(super) fn shape(line: &str) -> String {
    static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        PLACEHOLDERS.iter().map(|(pattern, by)| (Regex::new(pattern).unwrap(), *by)).collect()
    });
    let line = line.trim_end().to_owned();
    RULES.iter().fold(line, |line, (pattern, by)| pattern.replace_all(&line, *by).into_owned())
}

/// Returns why shown lines do not have the shapes of real ones: each shown line needs a real one, and each real line a shown one
/// unless a line `...` says that some are left out. ` ...` at the end of a line stands for the rest of it. Order and number of
/// lines of a shape may differ, since they depend on addresses.
pub(super) fn difference(shown: &str, real: &str) -> Option<String> {
    let (shown, real) = (shapes(shown), shapes(real));
    let (left_out, shown): (Vec<_>, Vec<_>) = shown.into_iter().partition(|line| line.trim() == LEFT_OUT);
    let stale: Vec<_> = shown.iter().filter(|line| !real.iter().any(|real| fits(line, real))).collect();
    let is_new = |real: &&String| left_out.is_empty() && !shown.iter().any(|line| fits(line, real));
    let new: Vec<_> = real.iter().filter(is_new).collect();
    if shown.is_empty() {
        return Some("nothing is shown".to_owned());
    }
    (!stale.is_empty() || !new.is_empty())
        .then(|| format!("no longer printed: {stale:#?}; not shown: {new:#?}"))
}

/// Returns the shapes of lines that are not empty.
fn shapes(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.trim().is_empty()).map(shape).collect()
}

fn fits(shown: &str, real: &str) -> bool {
    shown.strip_suffix(LEFT_OUT).map_or(shown == real, |start| real.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_becomes_a_placeholder() {
        for (line, expected) in [
            (
                "agent        runs for 21 s (pid 6709, version 0.1.0), ready",
                "agent runs for TIME (pid N, version N.N), ready",
            ),
            (
                "10.5.43.0/24   192.168.64.1  02:4f:6e:9c:11:5a ends in 23 h 59 min, own",
                "ADDRESS/N ADDRESS MAC ends in TIME, own",
            ),
            ("  at 02:4f:6e:9c:11:5a.", " at MAC."),
            (
                "fd44:0:0:5a::2 port 1 -> fd00::, [fd00::1]:80 10.5.1.2:80",
                "ADDRESS port N -> ADDRESS, [ADDRESS]:N ADDRESS:N",
            ),
            (
                "overlay_egress   flannel.1, 41 runs, 4483 ns each",
                "overlay_egress flannel.N, N runs, TIME each",
            ),
            (
                "41: sched_cls  name pod_egress  tag 3b185187f1855c4c  gpl",
                "N: sched_cls name pod_egress tag N gpl",
            ),
            ("id 0xff, 14:36:05.672 miss", "id N, N:N:N miss"),
            ("packets      98.6 % shortcut", "packets N % shortcut"),
            ("a face: dead", "a face: dead"),
        ] {
            assert_eq!(shape(line), expected);
        }
    }

    #[test]
    fn shown_lines_of_the_same_shape_fit() {
        let real = "vxlan 1  works\n\npeers  2 vxlan\n   10.5.1.0/24 up\n   10.5.2.0/24 up\nend: it is so\n";
        for shown in [
            real,
            "vxlan 7  works\npeers  3 vxlan\n   10.5.9.0/24 up\nend: it is so\n",
            "vxlan 1  works\n...\nend: it is so\n",
            "...\n   10.5.1.0/24 up\nend: it ...\n",
            "vxlan 1  works\npeers    2  vxlan\n   10.5.1.0/24 up\nend: ...\n",
        ] {
            assert_eq!(difference(shown, real), None, "{shown}");
        }
    }

    #[test]
    fn lines_that_are_stale_or_lacking_do_not_fit() {
        let real = "vxlan 1  works\npeers  2 vxlan\n   10.5.1.0/24 up\nend: it is so\n";
        for shown in [
            "",
            "...\n",
            "vxlan 1  works\n",
            "peers  2 vxlan\n   10.5.1.0/24 up\nend: it is so\n",
            "vxlan 1  works\npeers  2 vxlan\n   10.5.1.0/24 down\nend: it is so\n",
            "vxlan 1  works\npeers  2 vxlan\n10.5.1.0/24 up\nend: it is so\n",
            "vxlan 1  works\npeers  two vxlan\n   10.5.1.0/24 up\nend: it is so\n",
            "vxlan 1  works\npeers  2 vxlan\n   10.5.1.0 up\nend: it is so\n",
            "vxlan 1  works\npeers  2 vxlan\n   10.5.1.0/24 up\nend: it is so\nmore\n",
            "vxlan 1  works\n...\nend: it is not so\n",
            "vxlan 1  does ...\n...\n",
        ] {
            assert!(difference(shown, real).is_some(), "{shown}");
        }
        let table = "name    sent     received\nflow1   1.5 s    -\n";
        assert_eq!(difference("name  sent  received\nflow7   2 min 3.1 s -\n", table), None);
        for shown in ["name  received\nflow1  -\n", "name  sent  received\nflow1   1.5 s\n"] {
            assert!(difference(shown, table).is_some(), "{shown}");
        }
    }
}
