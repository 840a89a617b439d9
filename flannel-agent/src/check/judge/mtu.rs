//! Lengths of packets, by the interfaces of this node. Pure.

use crate::check::model::{Check, Finding};

/// An interface and its MTU in bytes.
pub(in crate::check) type Interface = (String, u32);

/// The MTUs of a network, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::check) struct Mtus {
    /// `FLANNEL_MTU` of the subnet file, which new pods get.
    pub(in crate::check) pods: Option<u32>,
    /// The vxlan devices.
    pub(in crate::check) overlays: Vec<Interface>,
    /// The uplinks, each with what the tunnel adds to a packet.
    pub(in crate::check) uplinks: Vec<(Interface, u32)>,
    /// The pods' bridges.
    pub(in crate::check) bridges: Vec<Interface>,
}

/// Judges whether the longest packets of pods fit.
pub(in crate::check) fn judge(mtus: &Mtus) -> Vec<Finding> {
    const RESTART: &str = "start the agent again, which writes subnet.env anew. Pods that exist keep their MTU until they are made anew";
    let Some(pods) = mtus.pods else {
        return vec![Check::Mtu.note(
            "not known: the subnet file has no FLANNEL_MTU",
            "the agent writes it when it has a subnet. If it is elsewhere, set --subnet-file",
        )];
    };
    let mut findings = Vec::new();
    for ((uplink, mtu), overhead) in &mtus.uplinks {
        let room = mtu.saturating_sub(*overhead);
        if pods > room {
            findings.push(Check::Mtu.error(
                format!("pods send up to {pods} bytes, and {uplink} has room for {room} ({mtu} less {overhead} for the tunnel)"),
                format!("raise the MTU of {uplink} to {}, or {RESTART}", pods + overhead),
            ));
        } else if pods < room
            && mtus.uplinks.iter().all(|((_, mtu), overhead)| pods < mtu.saturating_sub(*overhead))
        {
            findings.push(Check::Mtu.note(
                format!("pods send up to {pods} bytes, and {uplink} has room for {room}"),
                "nothing if Backend.MTU says so on purpose. Otherwise start the agent again",
            ));
        }
    }
    for (overlay, mtu) in mtus.overlays.iter().filter(|(_, mtu)| pods > *mtu) {
        findings.push(Check::Mtu.error(
            format!("pods send up to {pods} bytes, and {overlay} has an MTU of {mtu}"),
            format!("ip link set {overlay} mtu {pods} if the uplink has room, or {RESTART}"),
        ));
    }
    for (bridge, mtu) in &mtus.bridges {
        if *mtu > pods {
            findings.push(Check::Mtu.warning(
                format!("{bridge} has an MTU of {mtu}, and pods that were made with it may send more than {pods} bytes"),
                format!("make those pods anew (drain the node), and then ip link set {bridge} mtu {pods}"),
            ));
        } else if *mtu < pods {
            findings.push(Check::Mtu.note(
                format!(
                    "{bridge} has an MTU of {mtu}, less than the {pods} of new pods: some pods are older"
                ),
                "nothing. Pods get the new MTU when they are made anew",
            ));
        }
    }
    if findings.is_empty() {
        findings
            .push(Check::Mtu.ok(format!("pods send up to {pods} bytes, which fits everywhere on this node")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;

    #[test]
    fn packets_of_pods_have_to_fit_every_interface() {
        use Level::{Error, Note, Ok as Well, Warning};
        let of = |name: &str, mtu| (name.to_owned(), mtu);
        let mtus = |pods, uplink, overlay, bridge| Mtus {
            pods: Some(pods),
            uplinks: vec![(of("eth0", uplink), 50)],
            overlays: vec![of("flannel.1", overlay)],
            bridges: vec![of("cni0", bridge)],
        };
        for (mtus, expected) in [
            (mtus(1450, 1500, 1450, 1450), &[Well][..]),
            (mtus(1450, 1400, 1450, 1450), &[Error]),
            (mtus(1400, 1500, 1450, 1400), &[Note]),
            (mtus(1450, 1500, 1400, 1450), &[Error]),
            (mtus(1450, 1500, 1450, 1500), &[Warning]),
            (mtus(1450, 1500, 1450, 1400), &[Note]),
            (mtus(1450, 1400, 1350, 9000), &[Error, Error, Warning]),
            (Mtus { pods: None, ..mtus(0, 1500, 1450, 1450) }, &[Note]),
            (Mtus { pods: Some(1450), ..Mtus::default() }, &[Well]),
        ] {
            let found = judge(&mtus);
            assert_eq!(
                found.iter().map(|one| one.level).collect::<Vec<_>>(),
                expected,
                "{mtus:?}: {found:?}"
            );
        }
        // The family with the longer header decides.
        let dual = Mtus {
            uplinks: vec![(of("eth0", 1500), 50), (of("eth0", 1500), 70)],
            ..mtus(1430, 1500, 1450, 1430)
        };
        assert_eq!(judge(&dual)[0].level, Well);
    }
}
