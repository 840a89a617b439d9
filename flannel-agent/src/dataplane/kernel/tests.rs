//! The floor in a real kernel. Each test has a network namespace of its own and needs root; without root it
//! fails.

mod namespace;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;

use self::namespace::{in_namespace, run};
use super::*;
use crate::dataplane::desired::NEXTHOPS_FROM;
use crate::mac::Mac;
use crate::peer::Peer;
use crate::uplink::{self, InUse, UplinkOptions};

/// Returns the desired device in the namespace that [`with_uplink`] made.
async fn spec(kernel: &Kernel) -> DeviceSpec {
    let uplink = uplink::choose(kernel.handle(), &UplinkOptions::default(), &InUse::default()).await.unwrap();
    DeviceSpec {
        name: "flannel.1".to_owned(),
        vni: 1,
        port: 8472,
        uplink_index: uplink.index,
        local: uplink.ipv4.unwrap().local.into(),
        mtu: uplink.mtu - 50,
        gbp: false,
        learning: false,
        mac: None,
    }
}

/// Sets up a node without flannel: eth0 with an address and the default route, eth1 with another address.
fn with_uplink() -> Kernel {
    run("ip link set lo up");
    run("ip link add eth0 type veth peer name far0");
    run("ip link add eth1 type veth peer name far1");
    for name in ["eth0", "eth1", "far0", "far1"] {
        run(&format!("ip link set {name} up"));
    }
    run("ip address add 192.168.64.3/24 dev eth0");
    run("ip address add 10.9.0.3/24 dev eth1");
    run("ip route add default via 10.9.0.1 dev eth1 metric 200");
    run("ip route add default via 192.168.64.1 dev eth0 metric 100");
    Kernel::new().unwrap()
}

async fn with_device() -> (Kernel, Device) {
    let kernel = with_uplink();
    let device = kernel.ensure_device(&spec(&kernel).await).await.unwrap();
    (kernel, device)
}

/// Returns the nth of many peers.
fn peer(n: u16) -> Peer {
    let [high, low] = n.to_be_bytes();
    Peer {
        subnet: IpNet::new(Ipv4Addr::new(10, high, low, 0).into(), 24).unwrap(),
        public_ip: Ipv4Addr::new(172, 16, high, low).into(),
        vtep_mac: Some(Mac([0x02, 0, 0, 0, high, low])),
    }
}

fn peer_v6(n: u16) -> Peer {
    let subnet = format!("fd44:0:0:{n:x}::/64").parse().unwrap();
    Peer { subnet, ..peer(n) }
}

/// Applies the difference to the desired state, and checks that the kernel has it afterwards.
async fn reach(kernel: &Kernel, device: &Device, desired: &Floor) {
    let changes = kernel.actual(device).await.unwrap().changes_to(desired);
    let errors = kernel.apply(device, changes).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(&kernel.actual(device).await.unwrap(), desired);
}

#[test]
fn the_device_is_as_flanneld_makes_it_and_is_adopted() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        let shown = run("ip -d link show flannel.1");
        let expected = "vxlan id 1 local 192.168.64.3 dev eth0 srcport 0 0 dstport 8472 nolearning l2miss ttl auto \
                        ageing 300 noudpcsum noudp6zerocsumtx noudp6zerocsumrx";
        assert!(shown.contains(expected), "{shown}");
        assert!(shown.contains("UP,LOWER_UP") && shown.contains("mtu 1450"), "{shown}");
        assert!(shown.contains(&device.mac.to_string()), "{shown}");
        assert_eq!(run("cat /proc/sys/net/ipv6/conf/flannel.1/accept_ra"), "0\n");
        for (family, device, solicit) in
            [("ipv4", "flannel.1", "3\n"), ("ipv6", "flannel.1", "3\n"), ("ipv4", "eth1", "0\n")]
        {
            let setting = format!("cat /proc/sys/net/{family}/neigh/{device}/app_solicit");
            assert_eq!(run(&setting), solicit, "{setting}");
        }
        assert_eq!(kernel.ensure_device(&spec(&kernel).await).await.unwrap(), device);
        assert_eq!(Kernel::new().unwrap().ensure_device(&spec(&kernel).await).await.unwrap(), device);
    });
}

#[test]
fn mtu_mac_and_state_are_repaired_in_place() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        run("ip link set flannel.1 down mtu 1400");
        let mac = Mac([0x02, 0, 0, 0, 0, 9]);
        let wanted = DeviceSpec { mac: Some(mac), ..spec(&kernel).await };
        let healed = kernel.ensure_device(&wanted).await.unwrap();
        assert_eq!(healed, Device { mac, ..device });
        assert!(run("ip link show flannel.1").contains("UP,LOWER_UP"));
    });
}

#[test]
fn an_unfitting_device_is_replaced_by_one_with_its_mac() {
    in_namespace(async || {
        let (kernel, first) = with_device().await;
        let mut wanted = spec(&kernel).await;
        let mut last = first.index;
        let changes: [fn(&mut DeviceSpec); 4] = [
            |spec| spec.port = 4789,
            |spec| spec.gbp = true,
            |spec| spec.learning = true,
            |spec| spec.local = IpAddr::from([192, 168, 64, 4]),
        ];
        for change in changes {
            change(&mut wanted);
            let device = kernel.ensure_device(&wanted).await.unwrap();
            assert_eq!(device.mac, first.mac);
            assert_ne!(device.index, last, "{wanted:?}");
            last = device.index;
        }
        let shown = run("ip -d link show flannel.1");
        assert!(shown.contains("local 192.168.64.4") && shown.contains("dstport 4789"), "{shown}");
        assert!(shown.contains("gbp") && !shown.contains("nolearning"), "{shown}");
    });
}

#[test]
fn a_device_of_another_kind_is_replaced() {
    in_namespace(async || {
        let kernel = with_uplink();
        run("ip link add flannel.1 type bridge");
        kernel.ensure_device(&spec(&kernel).await).await.unwrap();
        assert!(run("ip -d link show flannel.1").contains("vxlan id 1"));
    });
}

#[test]
fn the_ipv6_underlay_has_a_device_of_its_own() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        let (name, local) = ("flannel-v6.1".to_owned(), "fd00::3".parse().unwrap());
        let wanted = DeviceSpec { name, local, mtu: 1430, ..spec(&kernel).await };
        let device_v6 = kernel.ensure_device(&wanted).await.unwrap();
        assert_eq!(kernel.ensure_device(&wanted).await.unwrap(), device_v6);
        assert_eq!(kernel.ensure_device(&spec(&kernel).await).await.unwrap(), device);
        let shown = run("ip -d link show flannel-v6.1");
        assert!(shown.contains("local fd00::3 dev eth0") && shown.contains("mtu 1430"), "{shown}");
        let peer = Peer { public_ip: "fd00::4".parse().unwrap(), ..peer_v6(7) };
        reach(&kernel, &device_v6, &Floor::of(&[peer], true)).await;
        assert!(
            run("bridge fdb show dev flannel-v6.1").contains("02:00:00:00:00:07 dst fd00::4 self permanent")
        );
    });
}

#[test]
fn a_rival_for_vni_or_port_is_named() {
    in_namespace(async || {
        let kernel = with_uplink();
        run("ip link add other type vxlan id 1 dev eth0 dstport 8472");
        let error = kernel.ensure_device(&spec(&kernel).await).await.unwrap_err();
        assert!(format!("{error:#}").contains("other already has VNI 1 on UDP port 8472"), "{error:#}");
        run("ip link del other");
        let _holder = UdpSocket::bind("0.0.0.0:8472").unwrap();
        let error = kernel.ensure_device(&spec(&kernel).await).await.unwrap_err();
        assert!(format!("{error:#}").contains("UDP port 8472 is taken"), "{error:#}");
    });
}

#[test]
fn the_device_has_one_address_of_each_family() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        for address in
            ["10.5.51.0/32", "10.5.52.0/32", "10.5.52.0/32", "fd44:0:0:4b::/128", "fd44:0:0:4c::/128"]
        {
            kernel.ensure_address(device.index, address.parse().unwrap()).await.unwrap();
        }
        let shown = run("ip address show dev flannel.1");
        assert_eq!(shown.matches("inet ").count(), 1, "{shown}");
        assert!(shown.contains("inet 10.5.52.0/32 scope global flannel.1"), "{shown}");
        assert!(shown.contains("inet6 fd44:0:0:4c::/128 scope global"), "{shown}");
        assert!(!shown.contains("fd44:0:0:4b::") && shown.contains("inet6 fe80::"), "{shown}");
    });
}

#[test]
fn entries_are_written_as_flanneld_writes_them_and_are_read_back() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        let mut peers: Vec<_> = (1..=300).map(peer).collect();
        peers.extend((301..=310).map(peer_v6));
        reach(&kernel, &device, &Floor::of(&peers, true)).await;
        let route = run("ip -d route show 10.0.7.0/24");
        assert_eq!(
            route.trim(),
            "unicast 10.0.7.0/24 via 10.0.7.0 dev flannel.1 proto boot scope global onlink"
        );
        let route = run("ip -6 route show fd44:0:0:12d::/64");
        assert!(route.contains("via fd44:0:0:12d:: dev flannel.1") && route.contains("onlink"), "{route}");
        assert!(run("ip neigh show 10.0.7.0").contains("dev flannel.1 lladdr 02:00:00:00:00:07 PERMANENT"));
        assert!(
            run("bridge fdb show dev flannel.1").contains("02:00:00:00:00:07 dst 172.16.0.7 self permanent")
        );
    });
}

#[test]
fn changes_and_removals_reach_the_kernel_and_can_be_repeated() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        reach(&kernel, &device, &Floor::of(&[peer(1), peer(2), peer_v6(3)], true)).await;
        let moved = Peer { public_ip: peer(9).public_ip, ..peer(1) };
        let renewed = Peer { vtep_mac: peer(8).vtep_mac, ..peer(2) };
        let before = kernel.actual(&device).await.unwrap();
        reach(&kernel, &device, &Floor::of(&[moved, renewed], true)).await;
        let shown = run("bridge fdb show dev flannel.1");
        assert_eq!(shown.matches("02:00:00:00:00:01").count(), 1, "{shown}");
        for _ in 0..2 {
            let errors = kernel.apply(&device, before.changes_to(&Floor::default())).await;
            assert!(errors.is_empty(), "{errors:?}");
        }
        reach(&kernel, &device, &Floor::default()).await;
        run("ip link del flannel.1");
        assert!(kernel.apply(&device, before.changes_to(&Floor::default())).await.is_empty());
        assert!(kernel.actual(&device).await.is_err());
    });
}

#[test]
fn entries_of_other_programs_are_not_read() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        run("ip route add 10.77.0.0/24 dev flannel.1");
        run("ip route add 10.78.0.0/24 via 10.78.0.0 dev flannel.1 onlink proto static");
        run("ip route add 10.79.0.0/24 via 10.79.0.0 dev flannel.1 onlink table 100");
        run("ip route add 10.80.0.0/24 via 192.168.64.1 dev eth0 onlink");
        run("ip neigh add 10.77.0.1 lladdr 02:00:00:00:77:00 dev flannel.1 nud reachable");
        run("ip neigh add 192.168.64.1 lladdr 02:00:00:00:77:01 dev eth0");
        run("bridge fdb append 00:00:00:00:00:00 dst 172.16.0.1 dev flannel.1");
        assert_eq!(kernel.actual(&device).await.unwrap(), Floor::default());
    });
}

#[test]
fn a_refusal_is_named_and_does_not_stop_the_rest() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        let multicast =
            Peer { vtep_mac: Some(Mac([0; 6])), public_ip: "fd00::1".parse().unwrap(), ..peer(1) };
        let changes = Floor::default().changes_to(&Floor::of(&[multicast, peer(2)], true));
        let errors = kernel.apply(&device, changes).await;
        let text: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
        assert_eq!(text.len(), 1, "{text:?}");
        assert!(text[0].starts_with("setting FDB entry 00:00:00:00:00:00 to fd00::1: "), "{text:?}");
        assert_eq!(kernel.actual(&device).await.unwrap().fdb, Floor::of(&[peer(2)], true).fdb);
    });
}

#[test]
fn the_uplink_is_chosen() {
    in_namespace(async || {
        let kernel = with_uplink();
        run("ip address add 192.168.64.4/24 dev eth0");
        let cases = [
            (&[][..], None, "eth0", "192.168.64.3"),
            (&["eth1"], None, "eth1", "10.9.0.3"),
            (&["10.9.0.3"], None, "eth1", "10.9.0.3"),
            (&["eth0"], Some("192.168.64.4"), "eth0", "192.168.64.4"),
        ];
        for (ifaces, public, name, local) in cases {
            let ifaces = ifaces.iter().map(|&iface| iface.to_owned()).collect();
            let public_ip = public.map(|ip: &str| ip.parse().unwrap());
            let options = UplinkOptions { ifaces, public_ip, ..UplinkOptions::default() };
            let uplink = uplink::choose(kernel.handle(), &options, &InUse::default()).await.unwrap();
            assert_eq!(
                (uplink.name.as_str(), uplink.ipv4.unwrap().local.to_string().as_str()),
                (name, local)
            );
            assert_eq!(uplink.mtu, 1500);
        }
        run("ip route flush table main");
        let error =
            uplink::choose(kernel.handle(), &UplinkOptions::default(), &InUse::default()).await.unwrap_err();
        assert!(error.to_string().contains("eth1 (10.9.0.3 fe80::"), "{error}");
    });
}

#[test]
fn an_empty_namespace_has_no_uplink() {
    in_namespace(async || {
        let kernel = Kernel::new().unwrap();
        let error =
            uplink::choose(kernel.handle(), &UplinkOptions::default(), &InUse::default()).await.unwrap_err();
        assert!(error.to_string().ends_with("Interfaces: lo (no address)"), "{error}");
    });
}

#[test]
fn very_many_routes_use_nexthop_objects_which_are_removed_with_them() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        assert!(kernel.has_nexthops().await);
        let peers: Vec<_> = (1..=NEXTHOPS_FROM as u16).map(peer).collect();
        // Another program's object, with the number of the first peer's object.
        run("ip nexthop add id 167772416 via 192.168.64.1 dev eth0");
        let crowd = Floor::of(&peers, true);
        let changes = kernel.actual(&device).await.unwrap().changes_to(&crowd);
        assert!(kernel.apply(&device, changes).await.is_empty());
        let route = |subnet: &str| run(&format!("ip route show {subnet}")).trim().to_owned();
        assert_eq!(route("10.0.1.0/24"), "10.0.1.0/24 via 10.0.1.0 dev flannel.1 onlink");
        assert_eq!(route("10.0.2.0/24"), "10.0.2.0/24 nhid 167772672 via 10.0.2.0 dev flannel.1 onlink");
        run("ip nexthop del id 167772416");
        reach(&kernel, &device, &crowd).await;
        assert!(route("10.0.1.0/24").contains("nhid"));
        reach(&kernel, &device, &Floor::of(&peers[1..], true)).await;
        assert_eq!(route("10.0.2.0/24"), "10.0.2.0/24 via 10.0.2.0 dev flannel.1 onlink");
        assert_eq!(run("ip nexthop show"), "");
        reach(&kernel, &device, &crowd).await;
        reach(&kernel, &device, &Floor::default()).await;
        assert_eq!(run("ip nexthop show"), "");
    });
}

/// Returns the prefix length of the next route that a subscription reports.
async fn next_route(subscription: &mut Notifications) -> u8 {
    match subscription.next().await {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            route.header.destination_prefix_length
        }
        other => panic!("no new route: {other:?}"),
    }
}

#[test]
fn subscriptions_leave_out_what_they_do_not_need() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        let groups = [MulticastGroup::Ipv4Route];
        let mut of_others = kernel.changes_by_others(&groups).unwrap();
        let mut of_defaults = Notifications::subscribe_without(Some(Omit::RoutesToSubnets), &groups).unwrap();
        let mut of_all = Notifications::subscribe(&groups).unwrap();
        reach(&kernel, &device, &Floor::of(&[peer(1)], false)).await;
        run("ip route add 10.99.0.0/16 via 192.168.64.1 dev eth0");
        run("ip route add default via 192.168.64.9 dev eth0 metric 50");
        for (subscription, expected) in
            [(&mut of_all, &[24, 16, 0][..]), (&mut of_others, &[16, 0]), (&mut of_defaults, &[0])]
        {
            for length in expected {
                assert_eq!(next_route(subscription).await, *length);
            }
        }
    });
}

/// flanneld needs 8.7 s. The limit allows for a debug build on a busy machine.
#[test]
fn ten_thousand_peers_take_seconds() {
    in_namespace(async || {
        let (kernel, device) = with_device().await;
        let desired = Floor::of(&(1..=10_000).map(peer).collect::<Vec<_>>(), true);
        for (what, goal) in [("written", &desired), ("removed", &Floor::default())] {
            let changes = kernel.actual(&device).await.unwrap().changes_to(goal);
            let start = Instant::now();
            let errors = kernel.apply(&device, changes).await;
            let applied = start.elapsed();
            assert!(errors.is_empty(), "{:?}", errors.first());
            assert_eq!(&kernel.actual(&device).await.unwrap(), goal);
            println!("10 000 peers {what} in {applied:?}, read back in {:?}", start.elapsed() - applied);
            assert!(applied < Duration::from_secs(8), "{what} in {applied:?}");
        }
    });
}
