use super::super::bpf::flows::Counted;
use super::*;

const SECOND: u64 = 1_000_000_000;
/// A time of the programs' clock.
const NOW: u64 = 1000 * SECOND;
/// What the tracker's flags are after a handshake, but for what is looked at here.
const OTHER: u8 = 0x03;

const ROUND: Round =
    Round { now: NOW, proof: 10 * SECOND, judged: 0, established: 432_000, clear: MAXACK_SET };

/// A connection whose last packet of each side has passed the stack so many seconds ago.
fn connection(sent: u64, received: u64) -> Connection {
    let end = "10.5.1.2:80".parse().unwrap();
    Connection { pod: end, remote: end, sent: NOW - sent * SECOND, received: NOW - received * SECOND }
}

fn entry(timeout: u32, flags: u8) -> Entry {
    Entry { state: ESTABLISHED, timeout, flags: [OTHER | flags; 2] }
}

#[test]
fn what_is_wrong_about_a_connection_is_changed() {
    let set = BE_LIBERAL;
    let busy = Change { set, clear: MAXACK_SET, timeout: None };
    let idle = Change { clear: MAXACK_SET | UNACKNOWLEDGED, ..busy };
    for (description, connection, entry, expected) in [
        ("busy and new", connection(5, 6), entry(295, MAXACK_SET), Some(busy)),
        ("busy and right", connection(5, 6), entry(295, BE_LIBERAL | UNACKNOWLEDGED), None),
        (
            "busy, an acknowledgement was seen",
            connection(5, 6),
            entry(295, BE_LIBERAL | MAXACK_SET),
            Some(busy),
        ),
        ("one side busy", connection(5, 60), entry(295, BE_LIBERAL | UNACKNOWLEDGED), None),
        (
            "idle, to be forgotten early",
            connection(20, 21),
            entry(280, BE_LIBERAL | UNACKNOWLEDGED),
            Some(Change { timeout: Some(431_980), ..idle }),
        ),
        ("idle, as every other", connection(20, 21), entry(431_980, BE_LIBERAL), None),
        ("idle, rounded", connection(20, 21), entry(431_979, BE_LIBERAL), None),
        ("idle, longer than others", connection(20, 21), entry(500_000, BE_LIBERAL), None),
        ("idle, the flag alone", connection(20, 21), entry(431_980, BE_LIBERAL | UNACKNOWLEDGED), Some(idle)),
        ("no answer", connection(20, 60), entry(280, BE_LIBERAL | UNACKNOWLEDGED), None),
        ("no answer, and new", connection(20, 60), entry(280, UNACKNOWLEDGED), Some(busy)),
        ("ending", connection(20, 21), Entry { state: ESTABLISHED + 1, ..entry(100, MAXACK_SET) }, None),
    ] {
        assert_eq!(ROUND.change(&connection, &entry), expected, "{description}");
    }
}

#[test]
fn flags_of_either_side_count() {
    let one = |flags| Entry { flags, ..entry(295, 0) };
    let busy = connection(5, 6);
    for flags in [[BE_LIBERAL, 0], [0, BE_LIBERAL], [BE_LIBERAL, BE_LIBERAL | MAXACK_SET]] {
        assert!(ROUND.change(&busy, &one(flags)).is_some(), "{flags:?}");
    }
    assert_eq!(ROUND.change(&busy, &one([BE_LIBERAL; 2])), None);
    let lenient = Round { clear: 0, ..ROUND };
    assert_eq!(lenient.change(&busy, &one([BE_LIBERAL | MAXACK_SET; 2])), None, "resets are always valid");
}

#[test]
fn a_connection_that_stays_idle_is_looked_at_once() {
    let timeouts = Timeouts { udp: 30, tcp: 60, established: 432_000, shortest_established: 300 };
    let one = |now: u64| Round::new(timeouts, NOW + now * SECOND, None);
    let round = |now: u64, before: Option<u64>| Round::new(timeouts, NOW + now * SECOND, before.map(one));
    let idle = connection(0, 1);
    let seen = |round: Round| round.is_due(&idle) && round.is_idle(&idle);
    assert!(seen(round(60, None)) && seen(round(600, None)), "an agent has begun");
    assert!(!seen(round(9, Some(0))) && seen(round(69, Some(9))), "the proof ends in between");
    assert!(seen(round(11, Some(0))) && !seen(round(71, Some(11))), "the next round leaves it out");
    let soon = Round::new(Timeouts { tcp: 6, ..timeouts }, NOW + 9 * SECOND, Some(one(6)));
    assert!(seen(soon), "the proof has become shorter");
    let late = Connection { received: NOW + 2 * SECOND, ..idle };
    assert!(round(71, Some(11)).is_due(&late), "a packet has come since");
}

#[test]
fn rounds_are_often_enough_to_find_an_idle_connection_before_it_is_forgotten() {
    for shortest in [0, 1, 3, 6, 30, 100, 300, 432_000] {
        let timeouts =
            Timeouts { udp: 30, tcp: shortest, established: 432_000, shortest_established: shortest };
        let proof = Duration::from_millis(Proofs::within(&timeouts).tcp.into());
        let found = proof + period(&timeouts);
        assert!(found <= Duration::from_secs(shortest.into()) * 2 / 3, "{shortest}: after {found:?}");
    }
}

#[test]
fn a_full_map_of_flows_is_noted_until_half_of_it_is_free() {
    let mut keeper = ConnectionKeeper::new(Pins::new("/nowhere".as_ref(), 1), 1000);
    for (v4, v6, crowded) in
        [(749, 0, false), (750, 0, true), (500, 499, true), (499, 499, false), (0, 1000, true)]
    {
        let counted = |entries| Counted { entries, translated: 0 };
        keeper.note_flows(InUse { v4: counted(v4), v6: counted(v6) });
        assert_eq!(keeper.crowded, crowded, "{v4} and {v6} of 1000");
    }
}
