//! The peers into kernel and maps: all of them, or those that have joined.

use super::Vxlan;
use crate::dataplane::desired::Ways;
use crate::peer::Peer;

impl Vxlan {
    /// A peer that changes from overlay to link or back has its new route before the old one goes. BPF knows before the
    /// kernel's entries go, on which what it sends over IPv6 depends.
    pub(super) async fn apply_all(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let Self { kernel, overlays, direct, accelerator, .. } = self;
        let mut errors = Vec::new();
        let ways = direct.ways(kernel, peers, &mut errors).await;
        errors.extend(direct.add(kernel, &ways).await);
        // All of them: a peer on the link may still send through the overlay.
        if let Some(Err(error)) =
            accelerator.as_mut().map(|accelerator| accelerator.apply(peers, &ways.direct))
        {
            errors.push(error);
        }
        for overlay in overlays {
            // Over IPv6 it cannot be so: the kernel refuses an onlink gateway to which another device leads.
            if overlay.is_v6() {
                errors.extend(direct.remove(kernel, &ways).await);
            }
            errors.extend(overlay.apply(kernel, &ways.tunnelled).await);
        }
        errors.extend(direct.remove(kernel, &ways).await);
        errors
    }

    /// Adds these peers to what is there; `None` if it is not done with adding.
    pub(super) async fn add_peers(&mut self, joined: &[Peer]) -> Option<Vec<anyhow::Error>> {
        let Self { kernel, overlays, direct, accelerator, .. } = self;
        if direct.is_wanted() {
            return None;
        }
        let mut errors = direct.remove(kernel, &Ways::tunnelled(joined)).await;
        for overlay in overlays {
            errors.extend(overlay.add_peers(kernel, joined).await?);
        }
        match accelerator.as_mut().map_or(Ok(true), |accelerator| accelerator.add_peers(joined)) {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => errors.push(error),
        }
        Some(errors)
    }
}
