use super::*;

use Program::{Filter, Ours, Tcx};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn interface(role: Role) -> Interface {
    Interface {
        role,
        index: 7,
        name: "if7".to_owned(),
        qdiscs: vec!["noqueue".to_owned(), "clsact".to_owned()],
        ingress: vec![Ours],
        egress: vec![Ours],
        xdp: false,
        peer: if role == Role::Port { Peer::Plain(MAC) } else { Peer::None },
    }
}

/// What others have put on an interface.
#[derive(Clone, Debug)]
enum Put {
    Nothing,
    Qdisc(&'static str),
    Ingress(&'static [Program]),
    Egress(&'static [Program]),
    Xdp,
    Peer(Peer),
}

fn with(role: Role, put: &Put) -> Interface {
    let mut interface = interface(role);
    match put.clone() {
        Put::Nothing => {}
        Put::Qdisc(kind) => interface.qdiscs.push(kind.to_owned()),
        Put::Ingress(programs) => interface.ingress = programs.to_vec(),
        Put::Egress(programs) => interface.egress = programs.to_vec(),
        Put::Xdp => interface.xdp = true,
        Put::Peer(peer) => interface.peer = peer,
    }
    interface
}

#[test]
fn a_thing_on_the_way_of_all_packets_closes_what_would_pass_it_by() {
    const NOTHING: Closes = Closes { shortcut: false, wrapping: false, unwrapping: false };
    const UPLINK: Role = Role::Uplink { xdp: false };
    const UPLINK_WITH_XDP: Role = Role::Uplink { xdp: true };
    use Role::{Bridge, Overlay, Port};
    for (role, put, expected) in [
        (Bridge, Put::Nothing, NOTHING),
        (Bridge, Put::Qdisc("tbf"), Closes::SHORTCUT),
        (Bridge, Put::Ingress(&[Filter]), Closes::SHORTCUT),
        (Bridge, Put::Egress(&[Tcx]), Closes::SHORTCUT),
        (Bridge, Put::Xdp, Closes::SHORTCUT),
        (Overlay, Put::Nothing, NOTHING),
        (Overlay, Put::Qdisc("tbf"), Closes::WRAPPING),
        (Overlay, Put::Ingress(&[Ours, Tcx]), Closes::SHORTCUT),
        (Overlay, Put::Egress(&[Tcx, Ours]), Closes::WRAPPING),
        (Overlay, Put::Egress(&[Ours, Filter]), Closes::WRAPPING),
        (Overlay, Put::Xdp, Closes::SHORTCUT),
        (UPLINK, Put::Nothing, NOTHING),
        (UPLINK, Put::Ingress(&[Ours, Ours]), NOTHING),
        (UPLINK, Put::Ingress(&[Tcx, Ours]), NOTHING),
        (UPLINK, Put::Ingress(&[Ours, Filter]), Closes::UNWRAPPING),
        (UPLINK, Put::Ingress(&[Filter]), NOTHING),
        (UPLINK, Put::Egress(&[Tcx]), NOTHING),
        (UPLINK, Put::Qdisc("fq_codel"), NOTHING),
        (UPLINK, Put::Xdp, NOTHING),
        (UPLINK_WITH_XDP, Put::Ingress(&[Ours, Ours]), NOTHING),
        (UPLINK_WITH_XDP, Put::Ingress(&[Tcx, Ours]), Closes::UNWRAPPING),
        (UPLINK_WITH_XDP, Put::Ingress(&[Ours, Filter]), Closes::UNWRAPPING),
        (Port, Put::Qdisc("tbf"), NOTHING),
        (Port, Put::Egress(&[Tcx]), NOTHING),
    ] {
        let closed = obstacles(&[with(role, &put)]).iter().fold(NOTHING, |all, one| all.and(one.closes));
        assert_eq!(closed, expected, "{put:?} at {role:?}");
    }
}

#[test]
fn flows_do_not_skip_the_stack_at_ports_without_a_plain_peer_or_with_things_of_others() {
    let shaped = |kind: &str| Err(Thing::Qdisc(kind.to_owned()));
    let program = |program, direction| Err(Thing::Program(program, direction));
    for (put, expected) in [
        (Put::Nothing, Ok(())),
        (Put::Qdisc("tbf"), shaped("tbf")),
        (Put::Qdisc("ingress"), shaped("ingress")),
        (Put::Ingress(&[Ours, Filter]), program(Filter, Direction::Ingress)),
        (Put::Ingress(&[Tcx, Ours]), program(Tcx, Direction::Ingress)),
        (Put::Egress(&[Tcx]), program(Tcx, Direction::Egress)),
        (Put::Xdp, Ok(())),
        (Put::Peer(Peer::None), Err(Thing::NoPeer)),
        (Put::Peer(Peer::Xdp), Err(Thing::PeerXdp)),
        (Put::Peer(Peer::Unknown("EPERM".to_owned())), Err(Thing::UnknownPeer("EPERM".to_owned()))),
    ] {
        let found = ports(&[with(Role::Port, &put), interface(Role::Bridge)]);
        let expected = PodPort {
            index: 7,
            name: "if7".to_owned(),
            shortcut: expected.map(|()| MAC),
            is_attached: !matches!(put, Put::Egress(&[Tcx])),
        };
        assert_eq!(found, [expected], "{put:?}");
    }
}

#[test]
fn a_port_has_the_programs_if_both_hooks_have_one() {
    for (ingress, egress, expected) in [
        (&[Ours][..], &[Ours][..], true),
        (&[Tcx, Ours], &[Ours, Filter], true),
        (&[], &[Ours], false),
        (&[Ours], &[], false),
        (&[Ours], &[Tcx], false),
        (&[], &[], false),
    ] {
        let (ingress, egress) = (ingress.to_vec(), egress.to_vec());
        let port = Interface { ingress, egress, ..interface(Role::Port) };
        assert_eq!(ports(std::slice::from_ref(&port))[0].is_attached, expected, "{port:?}");
    }
}

#[test]
fn a_reason_says_what_is_there_and_what_it_changes() {
    let [obstacle] = &obstacles(&[with(Role::Overlay, &Put::Egress(&[Ours, Tcx]))])[..] else {
        panic!("there is one")
    };
    assert_eq!(
        obstacle.to_string(),
        "all packets of pods go through the host stack, and the kernel's vxlan device wraps them: \
         if7: it has a tcx program of others on egress"
    );
    assert_eq!(obstacle.closes.floor(), FLOOR_WRAPS);
    assert_eq!(Closes::UNWRAPPING.and(Closes::WRAPPING).floor(), FLOOR_WRAPS | FLOOR_UNWRAPS);
}
