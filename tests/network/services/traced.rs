//! What `flannel-agent trace` says of a packet to a service, beside who answers it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use flannel_tests::kube_proxy::{Mode, Service};
use flannel_tests::traffic::{At, Host as _, Responder, UdpAsker};
use flannel_tests::wait::patiently;
use flannel_tests::{Node, TestResult};
use serde_json::Value;

use super::shortcut::{SOON, ensure_shortcut};
use super::{Bed, Family, POD_PORT, ensure_by, serve};
use crate::network::trace::command::{TraceCommand, TraceReport};

impl Family {
    /// Returns a node's address in the underlay.
    fn underlay(self, node: &Node) -> IpAddr {
        match self {
            Self::V4 => node.ip().into(),
            Self::V6 => node.ip6().into(),
        }
    }
}

/// Traces a datagram of this socket to the service.
fn question(asker: &UdpAsker, service: SocketAddr) -> Result<TraceCommand> {
    let own = asker.address()?;
    Ok(TraceCommand::new(own.ip(), service.ip()).udp(own.port(), service.port()))
}

/// Returns who translates the packet, and source and destination behind that, of each step.
fn translations(report: &TraceReport) -> Vec<(&str, Option<&str>, Option<&str>)> {
    let steps = report.steps().iter().filter(|step| step["step"] == "translation");
    steps
        .map(|step| (step["by"].as_str().unwrap(), step["source"].as_str(), step["destination"].as_str()))
        .collect()
}

/// Fails unless the traced packet leaves for this node.
fn ensure_leaves(report: &TraceReport, node: IpAddr) -> Result<()> {
    let end = &report.0["end"];
    ensure!(
        end["end"] == "leaves" && end["node"] == node.to_string() && report.0["certain"] == true,
        "{report:#?}"
    );
    ensure!(report.0["schema"] == 1, "another schema: {report:#?}");
    Ok(())
}

/// Does something while the flow goes on: its proof holds a second.
fn while_asking<T>(
    asker: &mut UdpAsker,
    service: SocketAddr,
    action: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let flow = scope.spawn(|| -> Result<()> {
            while !ends.load(Ordering::Relaxed) {
                asker.ask(service, 100)?;
            }
            Ok(())
        });
        let done = action();
        ends.store(true, Ordering::Relaxed);
        flow.join().map_err(|_| anyhow!("the flow has panicked"))??;
        done
    })
}

/// Fails unless the trace follows the rules to the only endpoint, before any packet was sent, then the connection, then the proven flow.
fn ensure_followed(bed: &Bed, family: Family, mode: Mode, masqueraded: bool) -> Result<()> {
    let nodes = bed.overlay.nodes();
    let (client, service) = (bed.pod(0, family), family.service(10));
    let server = serve(&bed.pod(1, family))?;
    let (behind, peer) = (server.address().to_string(), family.underlay(&nodes[1]));
    let mut asker = UdpAsker::open(&client, 0)?;
    let question = question(&asker, service)?;

    let unknown = question.ask(&nodes[0])?;
    ensure_leaves(&unknown, peer)?;
    ensure!(unknown.0["packet"]["destination"] == service.ip().to_string(), "{unknown:#?}");
    let steps = translations(&unknown);
    ensure!(
        steps[0] == ("rules", None, Some(&behind)) && steps.len() == 1 + usize::from(masqueraded),
        "{steps:?}"
    );
    let rule = unknown.step("translation")["rules"].as_array().and_then(|rules| rules.last());
    let rule = rule.and_then(Value::as_str).context("no rule")?;
    let port = format!(":{POD_PORT}");
    ensure!(
        rule.contains(&port) && rule.contains(if mode == Mode::Nftables { "dnat" } else { "DNAT" }),
        "{rule}"
    );

    let answer = asker.ask(service, 100)?;
    ensure_by(answer, &server)?;
    if let Some((by, source, None)) = steps.get(1) {
        let seen = source.context("no source")?.parse::<SocketAddr>()?;
        ensure!(*by == "rules" && seen.ip() == answer.client.ip(), "{} asks, not {seen}", answer.client);
    }
    let source = masqueraded.then(|| answer.client.to_string());
    // The flow may be proven already by the first packet and its answer.
    let known = question.ask(&nodes[0])?;
    ensure_leaves(&known, peer)?;
    let steps = translations(&known);
    let by = steps[0].0;
    ensure!(by == "connection-tracker" || by == "flow", "{steps:?}");
    ensure!(steps.iter().any(|(_, _, to)| *to == Some(&behind)), "{steps:?}");
    ensure!(steps.iter().find_map(|(_, from, _)| *from) == source.as_deref(), "{source:?}: {steps:?}");

    ensure_shortcut(&nodes[0], || ensure_by(asker.ask(service, 100)?, &server))?;
    let proven = patiently("the trace finds the flow proven", SOON, || {
        let report = while_asking(&mut asker, service, || question.ask(&nodes[0]))?;
        ensure!(report.step("flow")["sent"] == "proven", "{report:#?}");
        // A proof lasts two seconds at most, and may end while the trace looks.
        ensure!(translations(&report).iter().all(|(by, ..)| *by == "flow"), "{report:#?}");
        Ok(report)
    })?;
    ensure_leaves(&proven, peer)?;
    ensure!(translations(&proven) == [("flow", source.as_deref(), Some(behind.as_str()))], "{proven:#?}");
    ensure!(proven.step("flow")["behind"] == behind, "{proven:#?}");
    let past = if family == Family::V4 { "encapsulated" } else { "forwarded" };
    ensure!(proven.programs()[0] == ("pod_egress", past), "{proven:#?}");
    // The kernel's device wraps IPv6, past the rules for the outer packet.
    ensure!(
        proven.steps().iter().all(|step| step["step"] != "rules" || step["outer"] == true),
        "{proven:#?}"
    );
    ensure_answer_is_translated_back(bed, family, &asker, service, &server)
}

/// Fails unless the trace translates an answer back, for a connection that the tracker knows.
fn ensure_answer_is_translated_back(
    bed: &Bed,
    family: Family,
    asker: &UdpAsker,
    service: SocketAddr,
    server: &Responder,
) -> Result<()> {
    let node = &bed.overlay.nodes()[0];
    let client = asker.address()?;
    let flow = TraceCommand::new(client.ip(), service.ip()).udp(client.port(), service.port()).ask(node)?;
    let seen = flow.step("flow")["seen_as"].as_str().map_or(Ok(client), str::parse)?;
    let answer = TraceCommand::new(server.address().ip(), seen.ip()).udp(POD_PORT, seen.port());
    let report = answer.ask(node)?;
    ensure!(report.0["end"]["end"] == "delivered", "{report:#?}");
    ensure!(report.end().1 == bed.overlay.pods[0][0].port(), "{family:?}: {report:#?}");
    let known = report.step("flow");
    ensure!(known["remote"] == service.to_string() && known["pod"] == client.to_string(), "{known}");
    Ok(())
}

#[test]
fn a_packet_to_a_service_is_followed_by_rules_then_by_its_connection_then_by_its_flow() -> TestResult {
    let bed = Bed::new(2)?;
    for mode in Mode::ALL {
        for masqueraded in [false, true] {
            let proxies = bed.kube_proxies(mode, masqueraded)?;
            let endpoints = Family::BOTH.map(|family| SocketAddr::new(bed.pod(1, family).ip(), POD_PORT));
            let services = Family::BOTH.into_iter().zip(endpoints).flat_map(|(family, endpoint)| {
                Service::both(&format!("web-{family:?}"), family.service(10), &[endpoint])
            });
            proxies.sync(&services.collect::<Vec<_>>())?;
            for family in Family::BOTH {
                ensure_followed(&bed, family, mode, masqueraded)
                    .with_context(|| format!("{mode:?}, {family:?}, masqueraded: {masqueraded}"))?;
            }
            proxies.remove()?;
        }
    }
    Ok(())
}

#[test]
fn a_packet_of_the_node_itself_is_followed_with_its_new_source() -> TestResult {
    let bed = Bed::new(2)?;
    let (node, service) = (&bed.overlay.nodes()[0], Family::V4.service(10));
    for mode in Mode::ALL {
        let proxies = bed.kube_proxies(mode, false)?;
        let server = serve(&bed.pod(1, Family::V4))?;
        proxies.sync(&Service::both("web", service, &[server.address()]))?;
        let mut asker = UdpAsker::open(&At { netns: node.netns(), ip: node.ip().into() }, 0)?;
        let report = question(&asker, service)?.ask(node)?;
        let answer = asker.ask(service, 100)?;
        ensure_by(answer, &server)?;
        ensure_leaves(&report, Family::V4.underlay(&bed.overlay.nodes()[1]))?;
        let steps = translations(&report);
        let [(_, None, Some(to)), (_, Some(source), None)] = steps[..] else {
            panic!("{mode:?}: not two translations: {report:#?}")
        };
        let source: SocketAddr = source.parse()?;
        assert_eq!(
            (to, source.ip()),
            (server.address().to_string().as_str(), answer.client.ip()),
            "{mode:?}"
        );
        proxies.remove()?;
    }
    Ok(())
}

#[test]
fn of_several_endpoints_each_is_named_and_one_can_be_followed() -> TestResult {
    let bed = Bed::new(3)?;
    let nodes = bed.overlay.nodes();
    for mode in Mode::ALL {
        let proxies = bed.kube_proxies(mode, false)?;
        for family in Family::BOTH {
            let servers = [serve(&bed.pod(1, family))?, serve(&bed.pod(2, family))?];
            let endpoints = servers.each_ref().map(Responder::address);
            let (client, service) = (bed.pod(0, family), family.service(10));
            proxies.sync(&Service::both("web", service, &endpoints))?;
            let mut asker = UdpAsker::open(&client, 0)?;
            let question = question(&asker, service)?;
            let report = question.ask(&nodes[0])?;
            assert_eq!(report.0["end"]["end"], "undecided", "{mode:?}, {family:?}: {report:#?}");
            assert_eq!(report.step("choice")["may_stay"], false, "{report:#?}");
            let choices = report.step("choice")["to"].as_array().context("no choices")?;
            let named: Vec<_> = choices.iter().filter_map(|choice| choice["to"].as_str()).collect();
            assert_eq!(
                named,
                endpoints.map(|endpoint| endpoint.to_string()),
                "{mode:?}, {family:?}: {report:#?}"
            );
            for (endpoint, node) in endpoints.iter().zip(&nodes[1..]) {
                let followed = question.clone().arg(format!("--to={endpoint}")).ask(&nodes[0])?;
                ensure_leaves(&followed, family.underlay(node))?;
            }
            let refusal = question.clone().arg(format!("--to={service}")).refusal(&nodes[0])?;
            assert!(refusal.contains("no rule translates the packet to that"), "{refusal}");
            let text = question.text(&nodes[0])?;
            assert!(endpoints.iter().all(|endpoint| text.contains(&endpoint.to_string())), "{text}");
            // Who has answered once answers the whole connection.
            let chosen = asker.ask(service, 100)?.server;
            let known = question.ask(&nodes[0])?;
            let at = endpoints.iter().position(|endpoint| *endpoint == chosen).context("not an endpoint")?;
            ensure_leaves(&known, family.underlay(&nodes[1 + at]))?;
        }
        proxies.remove()?;
    }
    Ok(())
}

#[test]
fn a_service_without_endpoints_is_refused_by_the_rule_that_the_trace_names() -> TestResult {
    let bed = Bed::new(2)?;
    let node = &bed.overlay.nodes()[0];
    for mode in Mode::ALL {
        let proxies = bed.kube_proxies(mode, false)?;
        for family in Family::BOTH {
            let (client, service) = (bed.pod(0, family), family.service(10));
            proxies.sync(&Service::both("web", service, &[]))?;
            let mut asker = UdpAsker::open(&client, 0)?;
            let report = question(&asker, service)?.ask(node)?;
            assert!(asker.ask(service, 100).is_err(), "{mode:?}, {family:?}: it is answered");
            assert_eq!(report.0["end"]["end"], "lost", "{mode:?}, {family:?}: {report:#?}");
            let rule = report.step("rule");
            assert_eq!(
                (&rule["does"], &rule["depends_on"]),
                (&"rejects".into(), &Value::Array(vec![])),
                "{rule}"
            );
        }
        proxies.remove()?;
    }
    Ok(())
}
