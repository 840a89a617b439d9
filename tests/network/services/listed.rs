//! `flannel-agent flows` shows what the host makes of a flow to a service, and by which way it goes.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::UdpAsker;
use flannel_tests::wait::patiently;
use flannel_tests::{Host as _, Node, TestResult};
use serde_json::Value;

use super::{Bed, Family, ensure_by, serve};
use crate::network::status::run;

/// Time limit for a flow to be proven.
const SOON: Duration = Duration::from_secs(5);

/// Returns the flows that the command lists with these flags.
fn flows(node: &Node, flags: &[&str]) -> Result<Vec<Value>> {
    let output = run(node, &[&["flows", "--json"], flags].concat())?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(json["schema"] == 1, "another schema: {json:#}");
    Ok(json["overlays"][0]["flows"].as_array().with_context(|| format!("no flows: {json:#}"))?.clone())
}

#[test]
fn a_flow_to_a_service_is_listed_with_the_pod_behind_it() -> TestResult {
    let bed = Bed::new(2)?;
    let nodes = bed.overlay.nodes();
    let proxies = bed.kube_proxies(Mode::Iptables, false)?;
    for family in Family::BOTH {
        let server = serve(&bed.pod(1, family))?;
        let (client, service) = (bed.pod(0, family), family.service(10));
        proxies.sync(&Service::both("web", service, &[server.address()]))?;
        let mut asker = UdpAsker::open(&client, 0)?;
        let address = service.ip().to_string();
        let flow = patiently("both directions are proven", SOON, || {
            ensure_by(asker.ask(service, 100)?, &server)?;
            let flows = flows(&nodes[0], &["--translated", "--address", &address])?;
            let [flow] = &flows[..] else { bail!("not one flow: {flows:?}") };
            let states = ["sent", "received"].map(|direction| &flow[direction]["state"]);
            ensure!(states.iter().all(|state| *state == "proven"), "{flow}");
            Ok(flow.clone())
        })?;
        let peer: IpAddr = match family {
            Family::V4 => nodes[1].ip().into(),
            Family::V6 => nodes[1].ip6().into(),
        };
        for (field, expected) in [
            ("protocol", "udp".to_owned()),
            ("remote", service.to_string()),
            ("behind", server.address().to_string()),
            ("peer", peer.to_string()),
            ("way", "vxlan".to_owned()),
            ("port", bed.overlay.pods[0][0].port().to_owned()),
        ] {
            assert_eq!(flow[field], *expected, "{field} of {flow}");
        }
        let pod = flow["pod"].as_str().context("no pod")?;
        assert!(pod.contains(&client.ip().to_string()), "{pod}");
        // The other node sees a flow between two pods.
        let behind = flows(&nodes[1], &["--all", "--address", &client.ip().to_string()])?;
        assert!(behind.iter().all(|flow| flow["behind"].is_null()) && !behind.is_empty(), "{behind:?}");
        assert_eq!(flows(&nodes[0], &["--all", "--port", "1"])?, [Value::Null; 0]);
        let text = String::from_utf8(run(&nodes[0], &["flows", "--all", "--address", &address])?.stdout)?;
        let line = text.lines().nth(1).with_context(|| format!("no line: {text}"))?;
        assert!(line.contains(&format!("{service} = {}", server.address())), "{line}");
    }
    proxies.remove()?;
    Ok(())
}
