use super::super::super::rules::{Owner, RuleOptions, chains};
use super::*;

const ALL: RuleOptions = RuleOptions { masquerade: true, fully_random: true, forward: true };

/// The rules that flanneld writes for 10.5.1.0/24 of 10.5.0.0/16, as `iptables -S` prints them.
const MASQ: [&str; 6] = [
    "-m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN",
    "-s 10.5.1.0/24 -d 10.5.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN",
    "-s 10.5.0.0/16 -d 10.5.1.0/24 -m comment --comment \"flanneld masq\" -j RETURN",
    "! -s 10.5.0.0/16 -d 10.5.1.0/24 -m comment --comment \"flanneld masq\" -j RETURN",
    "-s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
    "! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
];
const NETWORK: &str = "10.5.0.0/16";
const MASQ_JUMP: &str = "-m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG";
const FOREIGN: &str = "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE";

fn rules(options: RuleOptions, network: &str, subnet: &str, purpose: Purpose) -> Vec<Rule> {
    let chains = chains(options, network.parse().unwrap(), subnet.parse().unwrap());
    chains.into_iter().find(|chain| chain.purpose == purpose).unwrap().rules
}

fn texts(options: RuleOptions, network: &str, subnet: &str, purpose: Purpose) -> Vec<String> {
    let rules = rules(options, network, subnet, purpose);
    rules.iter().map(|rule| Layout::of(purpose).text(rule)).collect()
}

#[test]
fn the_rules_are_the_ones_that_flanneld_writes() {
    let v4 = |options, purpose| texts(options, "10.5.0.0/16", "10.5.1.0/24", purpose);
    assert_eq!(v4(ALL, Purpose::Masquerade), MASQ);
    assert_eq!(
        v4(ALL, Purpose::Forward),
        [
            "-s 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT",
            "-d 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT",
        ]
    );
    let predictable = v4(RuleOptions { fully_random: false, ..ALL }, Purpose::Masquerade);
    assert_eq!(predictable, MASQ.map(|rule| rule.trim_end_matches(" --random-fully")));
    assert_eq!(v4(RuleOptions { masquerade: false, ..ALL }, Purpose::Masquerade), [""; 0]);
    assert_eq!(v4(RuleOptions { forward: false, ..ALL }, Purpose::Forward), [""; 0]);
}

#[test]
fn ipv6_has_the_same_rules() {
    assert_eq!(
        texts(ALL, "fd44::/48", "fd44:0:0:4b::/64", Purpose::Masquerade),
        [
            "-m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN",
            "-s fd44:0:0:4b::/64 -d fd44::/48 -m comment --comment \"flanneld masq\" -j RETURN",
            "-s fd44::/48 -d fd44:0:0:4b::/64 -m comment --comment \"flanneld masq\" -j RETURN",
            "! -s fd44::/48 -d fd44:0:0:4b::/64 -m comment --comment \"flanneld masq\" -j RETURN",
            "-s fd44::/48 ! -d ff00::/8 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
            "! -s fd44::/48 -d fd44::/48 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
        ]
    );
}

fn own(network: &str) -> Owner<'static> {
    Owner::Networks(vec![network.parse().unwrap()].leak())
}

fn owned(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

fn masq() -> (Layout, Vec<Rule>) {
    let rules = rules(ALL, "10.5.0.0/16", "10.5.1.0/24", Purpose::Masquerade);
    (Layout::of(Purpose::Masquerade), rules)
}

#[test]
fn a_node_without_rules_gets_all_of_them_at_once() {
    let (layout, rules) = masq();
    let present = Present { hook: owned(&[FOREIGN]), chain: None };
    let lines = layout.changes(&present, &rules, own(NETWORK));
    assert_eq!(lines.first().unwrap(), ":FLANNEL-POSTRTG - [0:0]");
    assert_eq!(lines.last().unwrap(), &format!("-A POSTROUTING {MASQ_JUMP}"));
    assert_eq!(
        after(&present, &lines),
        Present { hook: owned(&[FOREIGN, MASQ_JUMP]), chain: Some(owned(&MASQ)) }
    );
}

#[test]
fn right_rules_are_not_rewritten() {
    let (layout, rules) = masq();
    let listed = |chain, rules: &[&str]| -> String {
        rules.iter().map(|rule| format!("-A {chain} {rule}\n")).collect()
    };
    let hook = format!("-P POSTROUTING ACCEPT\n{}", listed("POSTROUTING", &[FOREIGN, MASQ_JUMP, FOREIGN]));
    let chain = format!("-N FLANNEL-POSTRTG\n{}", listed("FLANNEL-POSTRTG", &MASQ));
    assert_eq!(layout.changes(&layout.parse(&hook, Some(&chain)), &rules, own(NETWORK)), [""; 0]);
    assert_eq!(layout.changes(&layout.parse("-P POSTROUTING ACCEPT\n", None), &[], own(NETWORK)), [""; 0]);
}

#[test]
fn a_missing_rule_is_added_by_one_line() {
    let (layout, rules) = masq();
    for (missing, rule) in MASQ.iter().enumerate() {
        let mut chain = owned(&MASQ);
        chain.remove(missing);
        let present = Present { hook: owned(&[MASQ_JUMP]), chain: Some(chain) };
        let lines = layout.changes(&present, &rules, own(NETWORK));
        assert_eq!(lines.len(), 1, "{rule}: {lines:?}");
        assert_eq!(after(&present, &lines).chain, Some(owned(&MASQ)), "{rule}");
    }
}

#[test]
fn wrong_rules_are_repaired_and_other_programs_rules_stay() {
    let (layout, rules) = masq();
    let [a, b, c, d, e, f] = MASQ;
    let old = "-s 10.5.7.0/24 -d 10.5.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN";
    for (name, chain, expected) in [
        ("empty", vec![], vec![a, b, c, d, e, f]),
        ("a rule for another subnet", vec![a, old, c, d, e, f], vec![a, b, c, d, e, f]),
        ("reverse order", vec![f, e, d, c, b, a], vec![a, b, c, d, e, f]),
        ("duplicate rules", vec![a, b, a, b, c, d, c, e, f], vec![a, b, c, d, e, f]),
        ("a foreign rule at the start", vec![FOREIGN, a, b, c, e, f], vec![FOREIGN, a, b, c, d, e, f]),
        ("a foreign rule in between", vec![a, b, FOREIGN, c, d, e], vec![a, b, FOREIGN, c, d, e, f]),
        ("foreign rules alone", vec![FOREIGN, FOREIGN], vec![FOREIGN, FOREIGN, a, b, c, d, e, f]),
    ] {
        let present = Present { hook: owned(&[MASQ_JUMP, FOREIGN, MASQ_JUMP]), chain: Some(owned(&chain)) };
        let made = after(&present, &layout.changes(&present, &rules, own(NETWORK)));
        assert_eq!(made.chain, Some(owned(&expected)), "{name}");
        assert_eq!(made.hook, [FOREIGN, MASQ_JUMP], "{name}");
        assert_eq!(layout.changes(&made, &rules, own(NETWORK)), [""; 0], "{name}");
    }
}

#[test]
fn without_rules_the_chain_and_the_jumps_to_it_are_removed() {
    let layout = Layout::of(Purpose::Masquerade);
    let present = Present {
        hook: owned(&["-j FLANNEL-POSTRTG", FOREIGN, MASQ_JUMP]),
        chain: Some(owned(&[MASQ[0], FOREIGN])),
    };
    let made = after(&present, &layout.changes(&present, &[], own(NETWORK)));
    assert_eq!(made, Present { hook: owned(&[FOREIGN]), chain: None });
}

#[test]
fn networks_share_the_chain_and_the_rule_for_kube_proxy_s_mark() {
    let layout = Layout::of(Purpose::Masquerade);
    let first = rules(ALL, "10.5.0.0/16", "10.5.1.0/24", Purpose::Masquerade);
    let second = rules(ALL, "10.6.0.0/16", "10.6.1.0/24", Purpose::Masquerade);
    let (of_first, of_second) = (own("10.5.0.0/16"), own("10.6.0.0/16"));
    let alone = after(&Present::default(), &layout.changes(&Present::default(), &first, of_first));
    let both = after(&alone, &layout.changes(&alone, &second, of_second));
    let text = |rules: &[Rule]| rules.iter().map(|rule| layout.text(rule)).collect::<Vec<_>>();
    let expected = [text(&first), text(&second)[1..].to_vec()].concat();
    assert_eq!(both, Present { hook: owned(&[MASQ_JUMP]), chain: Some(expected.clone()) });
    for (rules, owner) in [(&first, of_first), (&second, of_second)] {
        assert_eq!(layout.changes(&both, rules, owner), [""; 0], "{owner:?} is not content");
    }
    // Whichever agent sees the damage first, the other one has nothing to do then.
    for damage in 0..expected.len() {
        for (one, other) in
            [((&first, of_first), (&second, of_second)), ((&second, of_second), (&first, of_first))]
        {
            let mut present = both.clone();
            present.chain.as_mut().unwrap().remove(damage);
            for (rules, owner) in [one, other] {
                present = after(&present, &layout.changes(&present, rules, owner));
            }
            for (rules, owner) in [one, other] {
                assert_eq!(
                    layout.changes(&present, rules, owner),
                    [""; 0],
                    "{damage}: {owner:?} is not content"
                );
            }
            let mark = &present.chain.as_ref().unwrap()[0];
            assert_eq!(mark, MASQ[0], "{damage}");
        }
    }
    // One leaves, and then the other.
    let left = after(&both, &layout.changes(&both, &[], of_first));
    assert_eq!(left, Present { hook: owned(&[MASQ_JUMP]), chain: Some(text(&second)) });
    let empty = after(&left, &layout.changes(&left, &[], of_second));
    assert_eq!(empty, Present { hook: Vec::new(), chain: None });
    assert_eq!(after(&both, &layout.changes(&both, &[], Owner::Everyone)), empty);
}

/// Applies the lines as iptables-restore does.
fn after(present: &Present, lines: &[String]) -> Present {
    let mut made = present.clone();
    for line in lines {
        if line.starts_with(':') {
            made.chain = Some(Vec::new());
            continue;
        }
        let (verb, rest) = line.split_once(' ').unwrap();
        let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
        let rules = if chain == "POSTROUTING" { &mut made.hook } else { made.chain.as_mut().unwrap() };
        match verb {
            "-A" => rules.push(rule.to_owned()),
            "-D" => drop(rules.remove(rules.iter().position(|present| present == rule).unwrap())),
            "-F" => rules.clear(),
            "-X" => {
                assert!(rules.is_empty(), "{lines:?}");
                made.chain = None;
            }
            "-I" => {
                let (number, rule) = rule.split_once(' ').unwrap();
                rules.insert(number.parse::<usize>().unwrap() - 1, rule.to_owned());
            }
            other => panic!("{other} in {lines:?}"),
        }
    }
    made
}
