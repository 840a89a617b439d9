//! What the plugin answers to each verb.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use flannel_tests::agent::agent_binary;
use flannel_tests::process::{LIMIT, complete};
use flannel_tests::{Cluster, Host as _, Node, TestResult, executable};
use serde_json::{Value, json};

use super::runtime::{Sandbox, refused};
use super::{bin_dir, conflist, data_dir, files, set_up, write_subnet};

/// A delegate for CNI 1.1, which Debian's plugins do not know: it writes down each command with its configuration.
const RECORDER: &str = r#"#!/bin/sh
if [ "$CNI_COMMAND" = VERSION ]; then
    echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.0.0", "1.1.0"]}'
else
    { echo "$CNI_COMMAND"; cat; echo; } >>"$0.log"
fi
"#;

/// A node without an agent.
fn node() -> Result<Cluster> {
    Cluster::segment(1)
}

/// Returns the addresses that host-local has given to pods.
fn reserved(node: &Node) -> Vec<String> {
    let files = files(&node.dir().join("cni/networks/cbr0"));
    files.into_iter().filter(|name| name.starts_with("10.")).collect()
}

#[test]
fn a_pod_made_before_the_agent_is_ready_is_tried_again_later() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    let runtime = set_up(node, &conflist(node, "1.0.0", |_| {}))?;
    let mut pod = Sandbox::new(Value::Null)?;
    let error = refused(runtime.attach(&mut pod))?;
    assert_eq!((error.code, error.msg.as_str()), (11, "flannel-agent is not ready on this node"));
    assert!(error.details.contains("subnet.env does not exist yet"), "{}", error.details);
    assert_eq!(files(&data_dir(node)), [""; 0], "something is saved");
    write_subnet(node, "10.5.1.1/24")?;
    runtime.attach(&mut pod)?;
    assert_eq!(pod.addresses(), ["10.5.1.2/24"]);
    Ok(())
}

#[test]
fn a_pod_can_be_deleted_twice_and_without_its_saved_configuration() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    write_subnet(node, "10.5.1.1/24")?;
    let runtime = set_up(node, &conflist(node, "1.0.0", |_| {}))?;
    let (pod, other) = (runtime.add(Value::Null)?, runtime.add(Value::Null)?);
    assert_eq!(reserved(node), ["10.5.1.2", "10.5.1.3"]);
    runtime.detach(&pod)?;
    assert_eq!(reserved(node), ["10.5.1.3"]);
    assert!(node.exec(&format!("ip link show dev {}", pod.port()?)).is_err(), "the pod's port is left");
    runtime.detach(&pod)?;
    fs::remove_file(data_dir(node).join(other.id()))?;
    runtime.detach(&other)?;
    Ok(())
}

#[test]
fn a_pod_whose_saved_configuration_is_broken_is_deleted_as_the_conflist_says() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    write_subnet(node, "10.5.1.1/24")?;
    let runtime = set_up(node, &conflist(node, "1.0.0", |_| {}))?;
    let pod = runtime.add(Value::Null)?;
    fs::write(data_dir(node).join(pod.id()), "")?;
    runtime.detach(&pod)?;
    assert_eq!(reserved(node), [""; 0], "the pod's address is still reserved");
    assert_eq!(files(&data_dir(node)), [""; 0], "the broken configuration is left");
    // Without a subnet nothing can be computed, and the pod has to go all the same.
    let pod = runtime.add(Value::Null)?;
    fs::write(data_dir(node).join(pod.id()), "")?;
    fs::remove_file(node.subnet_file())?;
    runtime.detach(&pod)?;
    assert_eq!(files(&data_dir(node)), [""; 0], "the broken configuration is left");
    Ok(())
}

#[test]
fn the_error_of_a_delegate_is_passed_on_and_its_work_is_undone() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    write_subnet(node, "10.5.1.1/30")?;
    let runtime = set_up(node, &conflist(node, "1.0.0", |_| {}))?;
    let pod = runtime.add(Value::Null)?;
    let error = refused(runtime.add(Value::Null))?;
    assert!(error.msg.contains("no IP addresses available"), "{error}");
    assert_eq!(files(&data_dir(node)), [pod.id()], "the failed pod's configuration is left");
    let veths = node.netns().exec_json("ip -j link show type veth")?;
    let ports = veths.as_array().context("no list")?.iter().filter(|link| link["master"] == "cni0");
    assert_eq!(ports.count(), 1, "the failed pod's port is left: {veths}");
    Ok(())
}

#[test]
fn a_delegate_that_is_not_installed_is_named() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    write_subnet(node, "10.5.1.1/24")?;
    let change = |flannel: &mut Value| flannel["delegate"]["type"] = json!("nonexistent");
    let error = refused(set_up(node, &conflist(node, "1.0.0", change))?.add(Value::Null))?;
    assert_eq!((error.code, error.msg.as_str()), (5, "the plugin \"nonexistent\" is not installed"));
    Ok(())
}

#[test]
fn check_passes_for_a_sound_pod_and_fails_when_its_address_is_gone() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    write_subnet(node, "10.5.1.1/24")?;
    for version in ["0.4.0", "1.0.0"] {
        let runtime = set_up(node, &conflist(node, version, |_| {}))?;
        let pod = runtime.add(Value::Null)?;
        runtime.check(&pod)?;
        pod.netns().exec("ip addr flush dev eth0")?;
        let error = refused(runtime.check(&pod))?;
        assert!(error.msg.contains("eth0") || error.msg.contains("10.5.1."), "{version}: {error}");
        runtime.detach(&pod)?;
        let error = refused(runtime.check(&pod))?;
        assert_eq!((error.code, error.msg.as_str()), (3, "the container is not known"), "{version}");
    }
    Ok(())
}

#[test]
fn status_fails_until_the_agent_is_ready_and_while_the_delegate_is_too_old() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    let old = set_up(node, &conflist(node, "1.1.0", |_| {}))?;
    let error = refused(old.status())?;
    assert_eq!((error.code, error.msg.as_str()), (50, "flannel-agent is not ready on this node"));
    write_subnet(node, "10.5.1.1/24")?;
    let error = refused(old.status())?;
    assert_eq!((error.code, error.msg.as_str()), (50, "the plugin \"bridge\" does not support CNI 1.1.0"));
    let recorder = Recorder::install(node)?;
    set_up(node, &recorder.conflist)?.status()?;
    assert_eq!(recorder.calls()?, ["STATUS"]);
    Ok(())
}

#[test]
fn garbage_collection_keeps_existing_pods_and_other_networks() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    write_subnet(node, "10.5.1.1/24")?;
    let pods = set_up(node, &conflist(node, "1.0.0", |_| {}))?;
    let (kept, gone) = (pods.add(Value::Null)?, pods.add(Value::Null)?);
    fs::write(data_dir(node).join("elsewhere"), r#"{"name":"other","type":"bridge"}"#)?;
    let recorder = Recorder::install(node)?;
    set_up(node, &recorder.conflist)?.collect_garbage(&[&kept])?;
    assert!(!files(&data_dir(node)).contains(&gone.id().to_owned()), "the pod that is gone is still saved");
    let mut expected = ["elsewhere", kept.id()];
    expected.sort_unstable();
    assert_eq!(files(&data_dir(node)), expected);
    assert_eq!(recorder.calls()?, ["GC"]);
    let attachments = json!([{"containerID": kept.id(), "ifname": "eth0"}]);
    assert_eq!(recorder.config()?["cni.dev/valid-attachments"], attachments);
    // A delegate without GC is left alone.
    set_up(node, &conflist(node, "1.1.0", |_| {}))?.collect_garbage(&[])?;
    assert_eq!(files(&data_dir(node)), ["elsewhere"]);
    Ok(())
}

#[test]
fn the_versions_are_told_under_each_of_the_plugins_names() -> TestResult {
    let cluster = node()?;
    let node = &cluster.nodes()[0];
    set_up(node, &conflist(node, "1.0.0", |_| {}))?;
    let as_flannel = node.netns().command(bin_dir(node).join("flannel"));
    let mut as_subcommand = node.netns().command(agent_binary()?);
    as_subcommand.arg("cni");
    for mut command in [as_flannel, as_subcommand] {
        command.env("CNI_COMMAND", "VERSION");
        let done = complete(&mut command, r#"{"cniVersion": "0.4.0"}"#, LIMIT)?;
        let answer: Value = serde_json::from_str(&done.stdout)?;
        assert_eq!(answer["cniVersion"], "0.4.0");
        let versions = json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        assert_eq!(answer["supportedVersions"], versions);
        let done = complete(command.env("CNI_COMMAND", ""), "", LIMIT)?;
        assert!(done.status.success() && done.stderr.starts_with("CNI plugin flannel"), "{done:?}");
        let done = complete(command.env("CNI_COMMAND", "ADD"), "", LIMIT)?;
        let answer: Value = serde_json::from_str(&done.stdout)?;
        assert_eq!((done.status.code(), &answer["code"]), (Some(1), &json!(4)), "{done:?}");
    }
    Ok(())
}

/// [`RECORDER`], installed on a node.
struct Recorder {
    conflist: Value,
    log: PathBuf,
}

impl Recorder {
    fn install(node: &Node) -> Result<Self> {
        executable::script(&bin_dir(node).join("recorder"), RECORDER)?;
        let change = |flannel: &mut Value| flannel["delegate"]["type"] = json!("recorder");
        Ok(Self { conflist: conflist(node, "1.1.0", change), log: bin_dir(node).join("recorder.log") })
    }

    /// Returns the commands that came.
    fn calls(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(&self.log)?;
        Ok(log.lines().step_by(2).map(str::to_owned).collect())
    }

    /// Returns the configuration of the last command.
    fn config(&self) -> Result<Value> {
        let log = fs::read_to_string(&self.log)?;
        Ok(serde_json::from_str(log.lines().last().context("nothing came")?)?)
    }
}
