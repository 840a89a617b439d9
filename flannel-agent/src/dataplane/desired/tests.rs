use super::*;

fn peer(subnet: &str, public_ip: &str, mac: u8) -> Peer {
    Peer {
        subnet: subnet.parse().unwrap(),
        public_ip: public_ip.parse().unwrap(),
        vtep_mac: Some(Mac([0xc6, 0, 0, 0, 0, mac])),
    }
}

fn one() -> Peer {
    peer("10.1.15.0/24", "192.168.64.2", 2)
}

#[test]
fn a_peer_is_a_route_a_neighbour_and_an_fdb_entry() {
    for (subnet, base, public_ip) in
        [("10.1.15.0/24", "10.1.15.0", "192.168.64.2"), ("fd44:0:0:4b::/64", "fd44:0:0:4b::", "fd00::2")]
    {
        let peer = peer(subnet, public_ip, 2);
        let floor = Floor::of(std::slice::from_ref(&peer), true);
        let base: IpAddr = base.parse().unwrap();
        assert_eq!(floor.routes, Table::from([(peer.subnet, Via::Gateway(base))]));
        let mac = peer.vtep_mac.unwrap();
        assert_eq!(floor.neighbours, Table::from([(base, mac)]));
        assert_eq!(floor.fdb, Table::from([(mac, peer.public_ip)]));
    }
}

/// As many peers as need nexthop objects.
fn crowd() -> Vec<Peer> {
    let subnet = |n: usize| format!("10.{}.{}.0/24", n / 256, n % 256);
    (0..NEXTHOPS_FROM).map(|n| peer(&subnet(n), "192.168.64.2", 2)).collect()
}

#[test]
fn many_routes_have_nexthop_objects_where_the_kernel_has_them() {
    let (mut crowd, other) = (crowd(), peer("fd44:0:0:4b::/64", "fd00::2", 2));
    let via = |floor: &Floor, peer: &Peer| *floor.routes.get(&peer.subnet).unwrap();
    let IpAddr::V4(gateway) = crowd[0].subnet.network() else { panic!() };
    crowd.push(other.clone());
    let floor = Floor::of(&crowd, true);
    assert_eq!(via(&floor, &crowd[0]), Via::Nexthop(gateway));
    assert_eq!(via(&floor, &other), Via::Gateway(other.subnet.network()));
    assert_eq!(floor.nexthops.len(), NEXTHOPS_FROM);
    for plain in [Floor::of(&crowd, false), Floor::of(&crowd[1..], true)] {
        assert!(plain.nexthops.is_empty());
        assert_eq!(via(&plain, &crowd[1]), Via::Gateway(crowd[1].subnet.network()));
    }
}

#[test]
fn a_peer_on_the_link_has_a_direct_route_and_nothing_else() {
    let far = peer("10.1.16.0/24", "192.168.65.3", 3);
    let (near_v6, far_v6) = (peer("fd44:0:0:1::/64", "fd00::2", 4), peer("fd44:0:0:2::/64", "fd01::3", 5));
    let peers = [one(), far.clone(), near_v6.clone(), far_v6.clone()];
    let direct = |peer: &Peer| (peer.subnet, peer.public_ip);
    for (on_link, near, tunnelled) in [
        (vec![], vec![], peers.to_vec()),
        (vec!["192.168.64.2"], vec![one()], vec![far.clone(), near_v6.clone(), far_v6.clone()]),
        (vec!["192.168.64.2", "fd00::2"], vec![one(), near_v6], vec![far, far_v6]),
        (vec!["192.168.64.2", "fd00::2", "192.168.65.3", "fd01::3"], peers.to_vec(), vec![]),
    ] {
        let on_link = on_link.into_iter().map(|ip| ip.parse().unwrap()).collect();
        let expected = Ways { direct: near.iter().map(direct).collect(), tunnelled };
        assert_eq!(Ways::to(&peers, &on_link), expected, "{on_link:?}");
    }
}

#[test]
fn changes_lead_from_any_state_to_any_other() {
    let moved = Peer { public_ip: "192.168.64.9".parse().unwrap(), ..one() };
    let reborn = Peer { vtep_mac: Some(Mac([0xc6, 0, 0, 0, 0, 9])), ..one() };
    let other = peer("10.1.16.0/24", "192.168.64.3", 3);
    let states =
        [vec![], vec![one()], vec![moved], vec![reborn], vec![one(), other.clone()], vec![other], crowd()];
    for from in &states {
        for to in &states {
            let (mut from, to) = (Floor::of(from, true), Floor::of(to, true));
            let FloorChanges { routes, nexthops, neighbours, fdb } = from.changes_to(&to);
            apply(&mut from.nexthops, nexthops);
            apply(&mut from.routes, routes);
            apply(&mut from.neighbours, neighbours);
            apply(&mut from.fdb, fdb);
            assert_eq!(from, to);
            assert!(from.changes_to(&to).is_empty());
        }
    }
}

fn apply<K: Ord + Clone, V: Clone>(table: &mut Table<K, V>, changes: Changes<K, V>) {
    let mut entries: BTreeMap<K, V> = table.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, _) in changes.remove {
        assert!(entries.remove(&key).is_some(), "removed an entry that does not exist");
    }
    entries.extend(changes.set);
    *table = entries.into_iter().collect();
}

#[test]
fn reported_entries_agree_with_the_desired_ones_or_contradict_them() {
    const DEVICE: u32 = 7;
    let (peer, floor) = (one(), Floor::of(&[one()], true));
    let (gateway, mac, node) = (peer.subnet.network(), peer.vtep_mac.unwrap(), peer.public_ip);
    let (via, other_via) = (Via::Gateway(gateway), Via::Gateway("192.168.64.1".parse().unwrap()));
    let (other_subnet, other_mac) = ("10.9.9.0/24".parse().unwrap(), Mac([2, 0, 0, 0, 0, 9]));
    for (entry, expected) in [
        (Observed::Route(peer.subnet, Some((DEVICE, via))), false),
        (Observed::Route(peer.subnet, Some((DEVICE, other_via))), true),
        (Observed::Route(peer.subnet, Some((8, via))), true),
        (Observed::Route(peer.subnet, None), true),
        (Observed::Route(other_subnet, None), false),
        (Observed::RouteGone(peer.subnet, (DEVICE, via)), true),
        (Observed::RouteGone(peer.subnet, (8, other_via)), false),
        (Observed::Neighbour(DEVICE, gateway, Some(mac)), false),
        (Observed::Neighbour(DEVICE, gateway, Some(other_mac)), true),
        (Observed::Neighbour(DEVICE, gateway, None), true),
        (Observed::Neighbour(8, gateway, None), false),
        (Observed::Fdb(DEVICE, mac, Some(node)), false),
        (Observed::Fdb(DEVICE, mac, None), true),
        (Observed::Fdb(DEVICE, other_mac, None), false),
    ] {
        assert_eq!(floor.is_contradicted_by(DEVICE, &entry), expected, "{entry:?}");
    }
}

#[test]
fn questions_of_the_kernel_are_answered_from_the_peers() {
    let (peer, other) = (one(), peer("10.1.16.0/24", "192.168.64.3", 3));
    let floor = Floor::of(&[peer.clone(), other.clone()], true);
    let mac = peer.vtep_mac.unwrap();
    let neighbour = |address: &str| floor.answer(&Miss::Neighbour(address.parse().unwrap()));
    for address in ["10.1.15.0", "10.1.15.7", "10.1.15.255"] {
        assert_eq!(neighbour(address), Some(Answer::Neighbour(address.parse().unwrap(), mac)));
    }
    for unknown in ["10.1.14.255", "10.1.17.0", "9.0.0.1", "fd44::1"] {
        assert_eq!(neighbour(unknown), None, "{unknown}");
    }
    assert_eq!(floor.answer(&Miss::Fdb(mac)), Some(Answer::Fdb(mac, peer.public_ip)));
    assert_eq!(floor.answer(&Miss::Fdb(Mac([2; 6]))), None);
}

#[test]
fn only_what_differs_is_written() {
    let other = peer("10.1.16.0/24", "192.168.64.3", 3);
    let (before, after) = (Floor::of(&[one()], true), Floor::of(&[one(), other.clone()], true));
    let changes = before.changes_to(&after);
    assert_eq!(
        changes.routes,
        Changes { set: vec![(other.subnet, Via::Gateway(other.subnet.network()))], remove: vec![] }
    );
    let moved = Peer { public_ip: "192.168.64.9".parse().unwrap(), ..one() };
    let changes = before.changes_to(&Floor::of(&[moved], true));
    assert!(changes.routes.is_empty() && changes.neighbours.is_empty());
    assert_eq!(changes.fdb.set.len(), 1);
}
