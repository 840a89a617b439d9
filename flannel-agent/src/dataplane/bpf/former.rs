//! Programs that an earlier run of this node has attached for another backend or another VNI. Nothing keeps their maps up to date any
//! more.

use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tracing::info;

use super::inspect::Inspection;
use super::pins::{Pins, title, vnis};
use crate::dataplane::kernel::Kernel;

/// Detaches them, and removes their pins: the floor carries what they did. `in_use`: the number of the network's programs now, if it has
/// any. They are told from another network's by the subnet in their maps: `own` are this node's in its network.
///
/// # Errors
/// What could not be read or removed. The rest is done.
pub async fn detach(bpffs: &Path, in_use: Option<u32>, own: &[IpNet]) -> Result<()> {
    let mut others = vnis(bpffs).context("looking for programs of another backend")?;
    others.retain(|number| Some(*number) != in_use);
    if others.is_empty() {
        return Ok(());
    }
    let kernel = Kernel::new()?;
    let mut result = Ok(());
    for number in others {
        let pins = Pins::new(bpffs, number);
        let detached = match Inspection::of(&pins, &kernel).await {
            Ok(found) if !found.own_subnets().any(|subnet| own.contains(&subnet)) => continue,
            Ok(_) => super::detach(&pins),
            Err(error) => Err(error),
        };
        match detached {
            Ok(()) => info!("detached the programs of {}, which the network had before", title(number)),
            Err(error) => result = Err(error.context(format!("the former programs of {}", title(number)))),
        }
    }
    result
}
