//! What the kernel does with the packets that the host sends and receives itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::pin;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::rule::RuleAttribute;

use super::Kernel;
use crate::dataplane::obstacle::{MarkedWay, Outer, Underlay};
use crate::netlink::route::{self, HostQuery, RouteAnswer};
use crate::netlink::xfrm;

impl Kernel {
    /// Returns what outer packets to these peers may meet. `marks`: those that they may have, if that is known.
    ///
    /// # Errors
    /// A dump or a look-up fails.
    pub async fn underlay(
        &self,
        outer: &Outer,
        peers: &[IpAddr],
        marks: Option<&BTreeSet<u32>>,
    ) -> Result<Underlay> {
        let policies = xfrm::policies()?;
        // Over IPv6 the kernel wraps anyway.
        let marks = if outer.local.is_ipv4() { self.marks(marks).await? } else { BTreeSet::new() };
        let mut ways = BTreeSet::new();
        for mark in marks {
            for &destination in peers {
                let query = HostQuery { destination, source: outer.local, mark, port: outer.port };
                let answer = route::look_up_host(&self.handle, query).await;
                let answer = answer.with_context(|| format!("looking up the route to {destination}"))?;
                // A local route is for received packets, as transparent proxies have it.
                if let RouteAnswer::Out(hop) = answer {
                    ways.insert(MarkedWay { mark, interface: hop.interface });
                }
            }
        }
        Ok(Underlay { policies, ways })
    }

    /// Returns those of these marks that may decide about routes, since rules name marks. If it is not known which marks packets
    /// have, returns all that rules name. 0 is among them if a rule names protocol or port.
    async fn marks(&self, known: Option<&BTreeSet<u32>>) -> Result<BTreeSet<u32>> {
        let _dumping = self.dumping.lock().await;
        let mut rules = pin!(self.handle.rule().get(IpVersion::V4).execute());
        let (mut named, mut others) = (BTreeSet::new(), BTreeSet::new());
        while let Some(rule) = rules.try_next().await.context("listing rules")? {
            for attribute in &rule.attributes {
                match attribute {
                    RuleAttribute::FwMark(mark) => {
                        named.insert(*mark);
                    }
                    RuleAttribute::IpProtocol(_) | RuleAttribute::DestinationPortRange(_) => {
                        others.insert(0);
                    }
                    _ => {}
                }
            }
        }
        if !named.is_empty() {
            others.extend(known.unwrap_or(&named));
        }
        Ok(others)
    }
}
