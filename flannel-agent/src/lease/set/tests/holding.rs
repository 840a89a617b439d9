//! Leases that vanish together stay for a while; a single one does not.

use super::*;

const LENGTH: Duration = Duration::from_secs(300);

/// A set under test, and the time in it.
struct Bed {
    set: LeaseSet,
    now: Instant,
}

fn key(n: usize) -> String {
    format!("10.5.{}.0-24", n + 1)
}

/// The entry of node `n`; number 0 is the own one.
fn entry(n: usize) -> RawLease {
    lease(&key(n), &value(&format!("192.168.0.{}", n + 1), MAC))
}

fn snapshot(nodes: impl IntoIterator<Item = usize>) -> LeaseUpdate {
    LeaseUpdate::Snapshot(nodes.into_iter().map(entry).collect())
}

impl Bed {
    /// Knows the own lease and those of `nodes` others.
    fn new(nodes: usize) -> Self {
        let mut bed = Self { set: set().holding(LENGTH), now: Instant::now() };
        assert_eq!(bed.apply([snapshot(0..=nodes)]), Settled::default());
        bed
    }

    fn apply(&mut self, updates: impl IntoIterator<Item = LeaseUpdate>) -> Settled {
        for update in updates {
            assert_eq!(self.set.apply(update), []);
        }
        self.set.settle(self.now)
    }

    fn delete(&mut self, nodes: impl IntoIterator<Item = usize>) -> Settled {
        self.apply(nodes.into_iter().map(|n| LeaseUpdate::Delete(key(n))))
    }

    fn pass(&mut self, seconds: u64) -> Settled {
        self.now += Duration::from_secs(seconds);
        self.set.settle(self.now)
    }

    /// The numbers of the other nodes, and how many of them are held.
    fn known(&self) -> (Vec<usize>, usize) {
        let number = |peer: &Peer| (1..100).find(|n| peer.subnet.to_string() == key(*n).replace('-', "/"));
        (self.set.peers().iter().filter_map(number).collect(), self.set.held())
    }
}

fn held(held: usize) -> Settled {
    Settled { held, let_go: 0 }
}

fn let_go(let_go: usize) -> Settled {
    Settled { held: 0, let_go }
}

#[test]
fn single_removals_act_at_once() {
    let mut bed = Bed::new(6);
    for n in 1..=6 {
        assert_eq!(bed.delete([n]), held(0));
        assert_eq!(bed.known(), ((n + 1..=6).collect(), 0));
        bed.pass(10);
    }
}

#[test]
fn a_few_that_vanish_together_or_a_small_part_act_at_once() {
    for (nodes, gone) in [(1, 1), (3, 3), (9, 4), (60, 29)] {
        let mut bed = Bed::new(nodes);
        assert_eq!(bed.delete(1..=gone), held(0), "{gone} of {nodes}");
        assert_eq!(bed.known(), ((gone + 1..=nodes).collect(), 0), "{gone} of {nodes}");
    }
}

#[test]
fn a_large_part_that_vanishes_together_is_held_until_its_time_is_over() {
    for vanish in [
        |bed: &mut Bed| bed.delete(1..=5),
        |bed: &mut Bed| bed.apply([snapshot([0, 6, 7, 8])]),
        // The first few are let go, and come back once it is clear that they are not the only ones.
        |bed: &mut Bed| {
            assert_eq!(bed.delete(1..=3), held(0));
            assert_eq!(bed.known(), ((4..=8).collect(), 0));
            bed.pass(9);
            bed.delete(4..=5)
        },
    ] {
        let mut bed = Bed::new(8);
        assert_eq!(vanish(&mut bed), held(5));
        assert_eq!(bed.known(), ((1..=8).collect(), 5));
        assert_eq!(bed.set.next_end(), Some(bed.now + LENGTH));
        // Repeated news change nothing.
        assert_eq!(bed.apply([snapshot([0, 6, 7, 8]), LeaseUpdate::Delete(key(2))]), held(0));
        assert_eq!(bed.pass(299), held(0));
        assert_eq!(bed.known(), ((1..=8).collect(), 5));
        assert_eq!(bed.pass(1), let_go(5));
        assert_eq!((bed.known(), bed.set.next_end()), (((6..=8).collect(), 0), None));
        assert_eq!(bed.pass(1), held(0));
    }
}

#[test]
fn leases_that_vanish_one_after_the_other_are_all_held() {
    let mut bed = Bed::new(8);
    let held: usize = (1..=6)
        .map(|n| {
            bed.pass(1);
            bed.delete([n]).held
        })
        .sum();
    assert_eq!((held, bed.known()), (6, ((1..=8).collect(), 6)));
    bed.pass(11);
    assert_eq!(bed.delete([7]).held, 0, "one that vanishes later is on its own");
}

#[test]
fn a_list_that_is_suddenly_empty_empties_nothing() {
    for nodes in [1, 2, 3, 50] {
        let mut bed = Bed::new(nodes);
        assert_eq!(bed.apply([snapshot([])]), held(nodes));
        assert_eq!(bed.known(), ((1..=nodes).collect(), nodes));
        assert_eq!(bed.set.standing(PublicIps::default()), Standing::Lost(Loss::Gone));
    }
}

#[test]
fn a_wiped_datastore_empties_nothing_even_where_the_own_lease_is_back_already() {
    let mut bed = Bed::new(2);
    assert_eq!(bed.delete([0, 1]), held(1));
    assert_eq!(bed.apply([LeaseUpdate::Put(entry(0))]), held(0));
    assert_eq!(bed.delete([2]), held(1));
    assert_eq!(bed.known(), (vec![1, 2], 2));
}

#[test]
fn those_that_are_not_back_yet_in_a_wiped_datastore_are_held() {
    let mut bed = Bed::new(7);
    assert_eq!(bed.apply([snapshot([1, 2, 4, 5, 6, 7])]), held(1));
    assert_eq!(bed.known(), ((1..=7).collect(), 1));
    assert_eq!(bed.apply([LeaseUpdate::Put(entry(0)), LeaseUpdate::Put(entry(3))]), held(0));
    assert_eq!(bed.known(), ((1..=7).collect(), 0));
}

#[test]
fn one_that_vanished_before_the_own_lease_stays_gone() {
    let mut bed = Bed::new(7);
    assert_eq!(bed.delete([7]), held(0));
    bed.pass(1);
    assert_eq!(bed.delete([0]), held(0));
    assert_eq!(bed.known(), ((1..=6).collect(), 0));
    bed.pass(1);
    assert_eq!(bed.delete([6]), held(1), "one that follows");
    assert_eq!(bed.known(), ((1..=6).collect(), 1));
}

#[test]
fn a_lease_that_comes_back_is_no_longer_held() {
    let mut bed = Bed::new(5);
    bed.apply([snapshot([])]);
    assert_eq!(bed.apply([LeaseUpdate::Put(entry(2)), snapshot([0, 2, 3])]), held(0));
    assert_eq!(bed.known(), ((1..=5).collect(), 3));
    // And when it vanishes alone, that acts at once.
    bed.pass(20);
    assert_eq!(bed.delete([2]), held(0));
    assert_eq!(bed.known(), (vec![1, 3, 4, 5], 3));
    assert_eq!(bed.pass(300), let_go(3));
    assert_eq!(bed.known(), (vec![3], 0));
}

#[test]
fn a_held_lease_gives_way_to_one_with_addresses_of_its_subnet() {
    for newcomer in ["10.5.3.0-25", "10.5.2.0-23"] {
        let mut bed = Bed::new(6);
        bed.apply([snapshot([])]);
        let overlapped = if newcomer.ends_with("25") { vec![2] } else { vec![1, 2] };
        assert_eq!(bed.apply([put(newcomer, &value("192.168.0.77", MAC))]), held(0));
        let left: Vec<usize> = (1..=6).filter(|n| !overlapped.contains(n)).collect();
        assert_eq!(bed.known(), (left.clone(), left.len()), "{newcomer}");
        assert!(peers(&bed.set).iter().any(|peer| peer.contains("192.168.0.77")), "{newcomer}");
    }
}

#[test]
fn a_lease_that_vanished_and_whose_subnet_is_taken_does_not_come_back() {
    let mut bed = Bed::new(4);
    assert_eq!(bed.delete([1]), held(0));
    assert_eq!(bed.apply([put("10.5.2.0-25", &value("192.168.0.77", MAC))]), held(0));
    assert_eq!(bed.delete([2, 3, 4]), held(3));
    assert_eq!(bed.known(), (vec![2, 3, 4], 3));
}

#[test]
fn leases_and_holds_stay_when_the_node_takes_another_subnet() {
    let mut bed = Bed::new(5);
    bed.apply([snapshot([5])]);
    let config = config(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#);
    bed.set = bed.set.of_node(&config, key(2).parse().unwrap());
    assert_eq!(bed.known().0, [1, 3, 4, 5], "a held lease with the own subnet");
    assert_eq!(bed.pass(300), let_go(4));
    assert_eq!(bed.known(), (vec![5], 0));
}

#[test]
fn a_length_of_zero_turns_holding_off() {
    let mut bed = Bed::new(9);
    bed.set = bed.set.holding(Duration::ZERO);
    assert_eq!(bed.apply([snapshot([])]), held(0));
    assert_eq!(bed.known(), (vec![], 0));
}

#[test]
fn entries_are_those_of_the_other_nodes_with_their_values() {
    let mut bed = Bed::new(3);
    bed.apply([snapshot([])]);
    assert_eq!(bed.set.entries(), [entry(1), entry(2), entry(3)]);
}
