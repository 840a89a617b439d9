//! The vxlan device under another name or in another network namespace. It still has VNI and port, so that no other can be made.

use anyhow::{Context as _, Result};
use rtnetlink::{Handle, LinkUnspec};
use tracing::{debug, warn};

use super::{DeviceSpec, difference, rival_of};
use crate::mac::Mac;
use crate::netlink::errno;
use crate::netlink::link::{self, Link};
use crate::netlink::namespace;

/// Gives the device its name again, if it has another one. It is the device if it has the MAC that peers know.
pub(super) async fn named_back(handle: &Handle, spec: &DeviceSpec, mac: Mac) -> Result<Option<Link>> {
    let found = rival_of(handle, spec).await.context("listing interfaces")?;
    let is_ours = |link: &Link| link.mac == Some(mac) && difference(spec, link).is_none();
    let Some(mut link) = found.filter(is_ours) else { return Ok(None) };
    let (old, new) = (&link.name, &spec.name);
    warn!(device = new, "the vxlan device has been renamed to {old}; naming it back");
    let rename = || LinkUnspec::new_with_index(link.index).name(new.clone());
    match handle.link().change(rename().build()).execute().await {
        // Before Linux 6.2 a device that is up cannot be renamed.
        Err(error) if errno(&error) == libc::EBUSY => {
            let down = LinkUnspec::new_with_index(link.index).down().build();
            handle.link().change(down).execute().await.with_context(|| format!("setting {old} down"))?;
            link.up = false;
            handle.link().change(rename().build()).execute().await
        }
        renamed => renamed,
    }
    .with_context(|| format!("renaming {old} to {new}"))?;
    link.name.clone_from(new);
    Ok(Some(link))
}

/// Removes the device from another namespace that this one knows. Returns whether it was there.
pub(super) async fn remove_elsewhere(handle: &Handle, spec: &DeviceSpec, mac: Mac) -> Result<bool> {
    let namespaces = namespace::known(handle).await.context("listing network namespaces")?;
    for namespace in namespaces {
        let links = match link::list_in(handle, namespace).await {
            Ok(links) => links,
            Err(error) => {
                debug!(namespace, %error, "the interfaces of a network namespace cannot be listed");
                continue;
            }
        };
        let is_ours = |link: &&Link| {
            let options = link.vxlan().map(|options| (options.vni, options.port));
            link.mac == Some(mac) && options == Some((spec.vni, spec.port))
        };
        if let Some(link) = links.iter().find(is_ours) {
            let (device, name) = (&spec.name, &link.name);
            warn!(
                device,
                namespace, "the vxlan device has been moved to another network namespace; replacing it"
            );
            let removed = link::remove_in(handle, namespace, link.index).await;
            removed.with_context(|| format!("removing {name} from the network namespace {namespace}"))?;
            return Ok(true);
        }
    }
    Ok(false)
}
