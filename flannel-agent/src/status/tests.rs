//! States and their texts, from fixed values.

use super::agent::Agent;
use super::model::{
    Device, Drop, NetworkStatus, PeerStatus, ProgramStatus, Role, SCHEMA, State, Status, Traffic, Way,
};
use super::text::Text;
use crate::mac::Mac;
use crate::report::{AgentReport, Carrying, Datastore, Lasting, Lease, Repair, Rules, SlowPort};

fn report() -> AgentReport {
    AgentReport {
        schema: crate::report::SCHEMA,
        version: "0.1.0".to_owned(),
        pid: 4711,
        runs_for: 3725,
        ready: true,
        network: Some("vxlan 1".to_owned()),
        carrying: Some(Carrying {
            dataplane: "bpf".to_owned(),
            uplink: "eth0 (192.168.64.1)".to_owned(),
            subnets: vec!["10.5.52.0/24".to_owned()],
            ..Carrying::default()
        }),
        nodes: 1,
        lease: Lease::Ends { left: 82_800 },
        datastore: Datastore {
            name: "etcd /coreos.com/network".to_owned(),
            connected: true,
            since: Some(3720),
            last_change: Some(42),
            why: None,
        },
        firewall: Some(Rules { tool: "iptables".to_owned(), complete: 3 }),
        ..AgentReport::default()
    }
}

fn device(role: Role, name: &str, mtu: u32) -> Device {
    let address = (role == Role::Uplink).then(|| "192.168.64.1".parse().unwrap());
    Device { role, name: name.to_owned(), present: true, up: true, mtu, address }
}

fn program(program: &'static str, interface: &str) -> ProgramStatus {
    ProgramStatus {
        program,
        interfaces: vec![interface.to_owned()],
        missing: Vec::new(),
        of_ports: program.starts_with("pod_"),
        runs: Some(1000),
        nanoseconds_a_run: Some(210),
    }
}

fn peer(number: u8, way: Way) -> PeerStatus {
    PeerStatus {
        subnet: format!("10.5.{number}.0/24"),
        public_ip: [192, 168, 64, number].into(),
        mac: Some(Mac([2, 0, 0, 0, 0, number])),
        way,
    }
}

/// A node that works.
fn healthy() -> NetworkStatus {
    NetworkStatus {
        network: Some("vxlan 1".to_owned()),
        backend: Some("vxlan".to_owned()),
        dataplane: Some("bpf".to_owned()),
        subnet_file: Some("/run/flannel/subnet.env".into()),
        prefixes: vec!["10.5.0.0/16".to_owned()],
        subnets: vec!["10.5.52.0/24".to_owned()],
        mtu: Some(1450),
        agent: Agent::Answers { report: Box::new(report()) },
        devices: vec![device(Role::Overlay, "flannel.1", 1450), device(Role::Uplink, "eth0", 1500)],
        datastore: Some("etcd /coreos.com/network".to_owned()),
        peers: vec![peer(7, Way::Vxlan)],
        programs: vec![program("overlay_egress", "flannel.1"), program("pod_egress", "veth1")],
        fast_ports: 1,
        traffic: Some(Traffic { shortcut: 870, programs: 120, floor: 10, drops: Vec::new() }),
        ..NetworkStatus::default()
    }
}

fn with_report(change: impl FnOnce(&mut AgentReport)) -> NetworkStatus {
    let mut report = report();
    change(&mut report);
    NetworkStatus { agent: Agent::Answers { report: Box::new(report) }, ..healthy() }
}

fn text_of(network: NetworkStatus, colour: bool) -> String {
    let network = network.judged();
    let status = Status { schema: SCHEMA, state: network.state, networks: vec![network] };
    Text { status: &status, colour }.to_string()
}

#[test]
fn a_node_that_works_is_one_screen() {
    let text = text_of(healthy(), false);
    let expected = "\
vxlan 1      works
agent        runs for 1 h 2 min (pid 4711, version 0.1.0), ready
subnet       10.5.52.0/24 of 10.5.0.0/16, MTU 1450; the lease ends in 23 h 0 min unless it is renewed
dataplane    bpf
device       flannel.1, MTU 1450, up
uplink       eth0, 192.168.64.1, MTU 1500, up
datastore    etcd /coreos.com/network, connected for 1 h 2 min, last change 42 s ago
firewall     iptables, complete 3 s ago
peers        1 vxlan
             10.5.7.0/24        192.168.64.7    02:00:00:00:00:07 vxlan
programs     overlay_egress   flannel.1, 1000 runs, 210 ns each
             pod_egress       veth1, 1000 runs, 210 ns each
ports        1 may take the shortcut
packets      87.0 % shortcut, 12.0 % programs, 1.0 % floor, of 1000
";
    assert_eq!(text, expected);
}

#[test]
fn each_fault_has_its_state_and_its_reason() {
    let problem = Lasting { kind: "firewall".to_owned(), lasts: 70, texts: vec!["nft: no".to_owned()] };
    let detached = ProgramStatus {
        missing: vec!["flannel.1".to_owned()],
        interfaces: Vec::new(),
        ..program("overlay_egress", "")
    };
    let waiting = ProgramStatus { missing: vec!["veth2".to_owned()], ..program("pod_egress", "veth1") };
    let silent = |why: &str| Agent::Silent { pid: Some(7), why: why.to_owned() };
    let down = |role| {
        let mut network = healthy();
        let device = network.devices.iter_mut().find(|device| device.role == role).unwrap();
        device.up = false;
        network
    };
    let gone = |role| {
        let mut network = healthy();
        let device = network.devices.iter_mut().find(|device| device.role == role).unwrap();
        device.present = false;
        network
    };
    let away = |report: &mut AgentReport| {
        report.datastore.connected = false;
        report.datastore.why = Some("connection refused".to_owned());
    };
    let (degraded, broken) = (State::Degraded, State::NotWorking);
    let cases = [
        (NetworkStatus { agent: Agent::Absent, ..healthy() }, degraded, "the agent does not run"),
        (NetworkStatus { agent: silent("does not answer within 200 ms"), ..healthy() }, degraded, "200 ms"),
        (NetworkStatus { subnets: Vec::new(), ..healthy() }, broken, "has no subnet"),
        (
            NetworkStatus { subnets: Vec::new(), agent: Agent::Absent, ..healthy() },
            broken,
            "no agent has run here: there is no subnet in /run/flannel/subnet.env",
        ),
        (down(Role::Overlay), broken, "the vxlan device flannel.1 is down"),
        (gone(Role::Overlay), broken, "the vxlan device flannel.1 is missing"),
        (down(Role::Uplink), broken, "the uplink eth0 is down"),
        (
            NetworkStatus { backend: Some("udp".to_owned()), agent: Agent::Absent, ..healthy() },
            broken,
            "udp carries packets only while the agent runs",
        ),
        (
            NetworkStatus { peers: vec![peer(7, Way::Vxlan), peer(8, Way::Missing)], ..healthy() },
            degraded,
            "1 of 2 peers have no route: 10.5.8.0/24",
        ),
        (
            NetworkStatus { programs: vec![detached], ..healthy() },
            degraded,
            "overlay_egress is not attached to",
        ),
        (NetworkStatus { unread: vec!["LEASES: no".to_owned()], ..healthy() }, degraded, "read: LEASES: no"),
        (with_report(|report| report.ready = false), degraded, "not ready"),
        (with_report(away), degraded, "has not answered for 1 h 2 min: connection refused"),
        (with_report(|report| report.lease = Lease::None), degraded, "no lease in the datastore"),
        (with_report(|report| report.held_nodes = 1), degraded, "1 of 1 nodes have vanished"),
        (with_report(|report| report.problems.push(problem)), degraded, "firewall, for 1 min 10 s: nft: no"),
        (
            with_report(|report| report.carrying.as_mut().unwrap().shortcoming = Some("a queue".to_owned())),
            degraded,
            "a queue",
        ),
    ];
    for (network, state, reason) in cases {
        let judged = network.judged();
        assert_eq!(judged.state, state, "{reason}: {:?}", judged.reasons);
        let found = judged.reasons.iter().any(|found| found.text.contains(reason));
        assert!(found, "no {reason:?} in {:?}", judged.reasons);
        assert!(judged.reasons.is_sorted_by_key(|reason| std::cmp::Reverse(reason.state)));
    }
    let chosen = NetworkStatus { without_bpf: Some("it was chosen".to_owned()), ..healthy() };
    let plugging = NetworkStatus { programs: vec![waiting], ..healthy() };
    let reserved = with_report(|report| report.lease = Lease::Reserved);
    for network in [healthy(), chosen, plugging, reserved] {
        let judged = network.judged();
        assert_eq!((judged.state, judged.reasons), (State::Well, Vec::new()));
    }
}

#[test]
fn exit_statuses_rise_with_the_states() {
    assert_eq!([State::Well, State::Degraded, State::NotWorking].map(State::exit_status), [0, 1, 2]);
}

#[test]
fn there_are_colours_only_where_they_are_wanted() {
    assert!(text_of(healthy(), true).contains("\x1b[32mworks\x1b[0m\n"));
    let absent = || NetworkStatus { agent: Agent::Absent, ..healthy() };
    assert!(text_of(absent(), true).contains("\x1b[33m"));
    assert!(!text_of(absent(), false).contains('\x1b'));
}

#[test]
fn texts_of_others_give_no_commands_to_the_terminal() {
    let text = text_of(
        with_report(|report| {
            report.datastore.connected = false;
            report.datastore.why = Some("a\x1b[2Jb\nc\x07".to_owned());
            report.datastore.name = "etcd /\x1b]0;x\x07".to_owned();
        }),
        false,
    );
    assert!(text.contains("a?[2Jb ...\n") && text.contains("etcd /?]0;x?"), "{text}");
    assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text}");
}

#[test]
fn many_peers_ports_and_reasons_are_summed_up() {
    let mut network = with_report(|report| {
        let port = |number| SlowPort { port: format!("veth{number}"), why: "it has a tbf qdisc".to_owned() };
        let carrying = report.carrying.as_mut().unwrap();
        carrying.slow_ports = (0..50).map(port).collect();
        carrying.slow_ports_in_all = 700;
        report.repairs = vec![Repair { ago: 61, text: "the device was made again".to_owned(), times: 2 }];
    });
    network.peers = (0..=255).map(|number| peer(number, Way::Floor)).collect();
    network.peers[200].way = Way::Missing;
    let drop = Drop { outcome: "unknown-sender", meaning: "Sender check: ...", packets: 12 };
    network.traffic = Some(Traffic { drops: vec![drop], ..Traffic::default() });
    let text = text_of(network, false);
    for expected in [
        "peers        255 floor, 1 missing\n             10.5.200.0/24 ",
        "             and 248 more: flannel-agent peers\n",
        "             veth0 does not: it has a tbf qdisc\n",
        "             and 692 more do not\n",
        "packets      none yet\ndrops        12 unknown-sender: Sender check: ...\n",
        "repaired     1 min 1 s ago: the device was made again (2 times)\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    assert!(text.lines().count() < 50, "{text}");
}

#[test]
fn the_json_has_a_version_and_names_its_states() {
    let network = NetworkStatus { agent: Agent::Absent, ..healthy() }.judged();
    let status = Status { schema: SCHEMA, state: network.state, networks: vec![network] };
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!((&json["schema"], &json["state"]), (&1.into(), &"degraded".into()));
    let network = &json["networks"][0];
    assert_eq!(network["agent"]["state"], "absent");
    assert_eq!(network["peers"][0]["way"], "vxlan");
    assert_eq!(network["devices"][1]["role"], "uplink");
    let json = serde_json::to_value(healthy()).unwrap();
    assert_eq!(json["agent"]["report"]["lease"]["state"], "ends");
}
