//! Containers that Docker starts on its bridge.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::api::Api;
use crate::netns::NetNs;
use crate::subnet_env::Net;
use crate::traffic::Host;

/// A running container, whose network namespace the test bed can enter.
#[derive(Debug)]
pub struct Container {
    netns: NetNs,
    address: Net<IpAddr>,
    mtu: u32,
}

impl Container {
    pub(super) fn start(api: &Api, id: &str, name: &str) -> Result<Self> {
        api.post(&format!("/containers/{id}/start"), &Value::Null)?;
        let shown = api.get(&format!("/containers/{id}/json"))?;
        let pid = shown["State"]["Pid"].as_u64().filter(|pid| *pid != 0);
        let pid = pid.with_context(|| format!("the container does not run: {}", shown["State"]))?;
        let netns = NetNs::attach(name, pid)?;
        let eth0 = netns.exec_json("ip -j -4 address show dev eth0")?;
        let (address, len) =
            (eth0[0]["addr_info"][0]["local"].as_str(), eth0[0]["addr_info"][0]["prefixlen"].as_u64());
        let address = Net {
            addr: address.context("a container without an address")?.parse()?,
            len: len.context("an address without a length")?.try_into()?,
        };
        let mtu = eth0[0]["mtu"].as_u64().context("an interface without an MTU")?.try_into()?;
        Ok(Self { netns, address, mtu })
    }

    /// Returns the address of its `eth0`.
    pub fn address(&self) -> Net<IpAddr> {
        self.address
    }

    /// Returns the MTU of its `eth0`.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }
}

impl Host for Container {
    fn netns(&self) -> &NetNs {
        &self.netns
    }

    fn ip(&self) -> IpAddr {
        self.address.addr
    }
}

/// Starts a container, waits for its end and returns its output; if it failed, the output is in the error.
pub(super) fn run(api: &Api, id: &str) -> Result<String> {
    api.post(&format!("/containers/{id}/start"), &Value::Null)?;
    let ended = api.post(&format!("/containers/{id}/wait"), &Value::Null)?;
    let output = api.text(&format!("/containers/{id}/logs?stdout=true&stderr=true"))?;
    ensure!(ended["StatusCode"] == 0, "{ended}: {}", output.trim());
    Ok(output)
}
