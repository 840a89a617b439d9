use super::*;
use crate::lease::kube::annotations::Prefix;
use crate::lease::kube::node::Object;

/// A managed node, with the hour of its creation.
fn node(name: &str, hour: u8, cidr: &str, ip: &str) -> NodeView {
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","creationTimestamp":"2021-03-04T{hour:02}:00:00Z","annotations":{{
            "flannel.alpha.coreos.com/kube-subnet-manager":"true","flannel.alpha.coreos.com/backend-type":"host-gw",
            "flannel.alpha.coreos.com/public-ip":"{ip}"}}}},"spec":{{"podCIDRs":[{cidr}]}}}}"#
    );
    let object: Object<'_> = serde_json::from_str(&json).unwrap();
    NodeView::new(&object, &Prefix::new("flannel.alpha.coreos.com").unwrap())
}

fn value(ip: &str) -> String {
    format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

fn lease(key: &str, node: &str, value: &str) -> RawLease {
    RawLease {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
        node: Some(node.into()),
        end: LeaseEnd::Never,
    }
}

/// The nodes as this one sees them, which is `own` with 10.244.0.0/24 and 192.168.0.1.
fn nodes() -> Nodes {
    let attrs = serde_json::from_str(&value("192.168.0.1")).unwrap();
    Nodes::new(OwnNode { name: "own".into(), subnet: "10.244.0.0-24".parse().unwrap(), attrs })
}

const OWN: &str = r#""10.244.0.0/24""#;
const A: &str = r#""10.244.1.0/24""#;
const B: &str = r#""10.244.2.0/24""#;

#[test]
fn a_list_is_a_snapshot_with_the_oldest_node_first() {
    let mut nodes = nodes();
    let all = vec![
        node("a", 9, A, "192.168.0.2"),
        node("b", 8, B, "192.168.0.3"),
        node("own", 7, OWN, "192.168.0.1"),
    ];
    let leases = vec![
        lease("10.244.0.0-24", "own", &value("192.168.0.1")),
        lease("10.244.2.0-24", "b", &value("192.168.0.3")),
        lease("10.244.1.0-24", "a", &value("192.168.0.2")),
    ];
    let changes = nodes.replace(all);
    assert_eq!(changes, Changes { updates: vec![LeaseUpdate::Snapshot(leases)], problems: Vec::new() });
}

#[test]
fn a_node_that_says_the_same_changes_nothing() {
    let mut nodes = nodes();
    nodes.replace(vec![node("a", 9, A, "192.168.0.2")]);
    assert_eq!(nodes.put(node("a", 9, A, "192.168.0.2")), Changes::default());
}

#[test]
fn a_node_that_joins_moves_and_leaves_is_an_update_each() {
    let mut nodes = nodes();
    let put = |ip| LeaseUpdate::Put(lease("10.244.1.0-24", "a", &value(ip)));
    assert_eq!(nodes.put(node("a", 9, A, "192.168.0.2")).updates, [put("192.168.0.2")]);
    assert_eq!(nodes.put(node("a", 9, A, "192.168.0.9")).updates, [put("192.168.0.9")]);
    assert_eq!(
        nodes.put(node("a", 9, B, "192.168.0.9")).updates,
        [
            LeaseUpdate::Delete("10.244.1.0-24".into()),
            LeaseUpdate::Put(lease("10.244.2.0-24", "a", &value("192.168.0.9")))
        ]
    );
    assert_eq!(nodes.remove("a").updates, [LeaseUpdate::Delete("10.244.2.0-24".into())]);
    assert_eq!(nodes.remove("a"), Changes::default());
}

#[test]
fn of_two_nodes_with_one_subnet_the_older_has_it_in_any_order() {
    let (old, young) = (node("y-old", 8, A, "192.168.0.2"), node("x-young", 9, A, "192.168.0.3"));
    for order in [[&old, &young], [&young, &old]] {
        let mut nodes = nodes();
        let mut problems = Vec::new();
        for node in order {
            problems.extend(nodes.put(node.clone()).problems);
        }
        assert_eq!(nodes.leases(), [lease("10.244.1.0-24", "y-old", &value("192.168.0.2"))]);
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        for words in ["y-old and x-young have the same podCIDR 10.244.1.0/24", "Delete the node x-young"] {
            assert!(problem.message.contains(words), "{}", problem.message);
        }
        assert!(!problem.notify);
        // Once: not for each change of either node.
        assert_eq!(nodes.put(node("x-young", 9, A, "192.168.0.4")).problems, []);
        // The other one has it as soon as it is alone.
        let updates = nodes.remove("y-old").updates;
        assert_eq!(updates, [LeaseUpdate::Put(lease("10.244.1.0-24", "x-young", &value("192.168.0.4")))]);
    }
}

#[test]
fn the_own_subnet_stays_the_own_one() {
    let mut nodes = nodes();
    nodes.put(node("own", 7, OWN, "192.168.0.1"));
    let changes = nodes.put(node("older", 1, OWN, "192.168.0.5"));
    assert_eq!(changes.updates, []);
    let [problem] = changes.problems.as_slice() else { panic!("{changes:?}") };
    assert!(problem.notify && problem.message.contains("older and own"), "{}", problem.message);
}

#[test]
fn anything_else_in_the_own_node_is_damage() {
    let mut nodes = nodes();
    nodes.put(node("own", 7, OWN, "192.168.0.1"));
    let damaged = [LeaseUpdate::Put(lease("10.244.0.0-24", "own", ""))];
    assert_eq!(nodes.put(node("own", 7, OWN, "192.168.0.77")).updates, damaged);
    let lost = [LeaseUpdate::Delete("10.244.0.0-24".into())];
    assert_eq!(nodes.put(node("own", 7, B, "192.168.0.1")).updates, lost);
}

#[test]
fn a_node_without_a_subnet_harms_no_other_and_is_reported_once() {
    let mut nodes = nodes();
    nodes.put(node("a", 9, A, "192.168.0.2"));
    let problems = nodes.put(node("b", 9, "", "192.168.0.3")).problems;
    assert!(problems.len() == 1 && problems[0].message.contains("the node b has no podCIDR"), "{problems:?}");
    assert_eq!(nodes.put(node("b", 9, "", "192.168.0.4")), Changes::default());
    assert_eq!(nodes.leases().len(), 1);
}
