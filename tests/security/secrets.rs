//! Passwords, tokens and keys stay where they were given.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::{Agent, AgentBuilder, Cluster, Node, TestResult, eventually, executable};
use nix::sys::signal::Signal;

use super::USER;
use crate::endpoint::{LOCALHOST, get, with_endpoint};
use crate::overlay::{NETWORK, lines_of};
use crate::store::etcd::login::{PASSWORD, with_users};

const SOON: Duration = Duration::from_secs(10);
/// Lets the process write core dumps, into the working directory by the kernel's default.
const WITH_CORES: &str = "ulimit -c unlimited; cd \"$CORES\"; exec \"$@\"";

/// Puts programs before those of the system that write their environment to a file, and become the system's.
fn spy_on_tools(node: &Node, agent: AgentBuilder) -> Result<AgentBuilder> {
    let folder = node.dir().join("programs");
    fs::create_dir(&folder)?;
    for program in ["iptables", "iptables-restore"] {
        let script = format!(
            "#!/bin/sh\nenv >> {}\nPATH=${{PATH#*:}}\nexec {program} \"$@\"\n",
            node.dir().join("environment").display()
        );
        executable::script(&folder.join(program), &script)?;
    }
    let path = std::env::var("PATH").context("no PATH")?;
    Ok(agent.env("PATH", format!("{}:{path}", folder.display())))
}

/// Returns what the agent tells `flannel-agent status`.
fn told_on_socket(node: &Node) -> Result<String> {
    let path = node.subnet_file().with_extension("sock");
    eventually("the agent tells its state", SOON, || {
        let mut told = String::new();
        UnixStream::connect(&path)?.read_to_string(&mut told)?;
        Ok(told)
    })
}

/// Fails if one of the files below a folder has the text. Passes by what the test itself has put there.
fn ensure_in_no_file(folder: &Path, secret: &str, passed: &[&str]) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, kind) = {
            let entry = entry?;
            (entry.path(), entry.file_type()?)
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if passed.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            ensure_in_no_file(&path, secret, passed)?;
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            ensure!(!String::from_utf8_lossy(&bytes).contains(secret), "{} has the secret", path.display());
        }
    }
    Ok(())
}

#[test]
fn the_password_of_etcd_is_in_no_log_file_command_line_metric_or_tool() -> TestResult {
    for from_file in [false, true] {
        let cluster = Cluster::segment(1)?;
        let etcd = with_users(cluster.start_etcd()?)?;
        let node = &cluster.nodes()[0];
        let agent =
            with_endpoint(Agent::builder(node).etcd(&etcd).arg("--etcd-username=flannel").arg("-v=6"));
        let agent = if from_file {
            let file = node.dir().join("password");
            fs::write(&file, format!("{PASSWORD}\n"))?;
            agent.arg(format!("--etcd-password-file={}", file.display()))
        } else {
            agent.env("FLANNELD_ETCD_PASSWORD", PASSWORD)
        };
        // Keys of clouds are none of the tools' business either.
        let agent =
            agent.env("AWS_SECRET_ACCESS_KEY", PASSWORD).env("ALIBABA_CLOUD_ACCESS_KEY_SECRET", PASSWORD);
        let mut agent = spy_on_tools(node, agent)?.arg("--ip-masq").start()?;
        agent.wait_ready()?;
        assert!(agent.log().contains("took a subnet"), "{}", agent.log());
        assert_eq!(lines_of(&agent.log(), "WARN"), [""; 0]);
        let line = fs::read(format!("/proc/{}/cmdline", agent.pid()))?;
        assert!(!String::from_utf8_lossy(&line).contains(PASSWORD));
        for path in ["/metrics", "/healthz", "/readyz", "/"] {
            assert!(!get(node, LOCALHOST, path)?.1.contains(PASSWORD), "{path}");
        }
        let told = told_on_socket(node)?;
        assert!(told.contains("etcd /coreos.com/network") && !told.contains(PASSWORD), "{told}");
        eventually("firewall tools have run", SOON, || Ok(fs::metadata(node.dir().join("environment"))?))?;
        // Log, files beside the subnet file, and the environment of the tools.
        ensure_in_no_file(node.dir(), PASSWORD, &["password", "bpf"])?;
    }
    Ok(())
}

#[test]
fn a_password_in_a_file_is_read_for_every_connection() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = with_users(cluster.start_etcd()?)?;
    let node = &cluster.nodes()[0];
    let file = node.dir().join("password");
    let agent = Agent::builder(node).etcd(&etcd).arg("--etcd-username=flannel").arg("--dataplane=netlink");
    let mut agent = agent.arg(format!("--etcd-password-file={}", file.display())).start()?;
    for (text, said) in [(None, "No such file"), (Some("wrong-4712"), "invalid user ID or password")] {
        if let Some(text) = text {
            fs::write(&file, text)?;
        }
        eventually("the agent says what is wrong", SOON, || {
            ensure!(agent.log().contains(said), "no {said:?} in {}", agent.log());
            Ok(())
        })?;
    }
    fs::write(&file, PASSWORD)?;
    agent.wait_ready()?;
    assert!(!agent.log().contains("wrong-4712"), "{}", agent.log());
    Ok(())
}

#[test]
fn a_password_on_the_command_line_is_warned_of() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = with_users(cluster.start_etcd()?)?;
    let agent = Agent::builder(&cluster.nodes()[0]).etcd(&etcd).arg("--dataplane=netlink");
    let agent = agent.arg("--etcd-username=flannel").arg(format!("--etcd-password={PASSWORD}"));
    let mut agent = agent.start()?;
    agent.wait_ready()?;
    let warnings = lines_of(&agent.log(), "WARN");
    assert!(warnings.len() == 1 && warnings[0].contains("--etcd-password-file"), "{warnings:#?}");
    assert!(!agent.log().contains(PASSWORD));
    Ok(())
}

#[test]
fn a_login_in_a_url_is_not_logged() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let url = format!("http://flannel:{PASSWORD}@127.0.0.1:1");
    let config = node.dir().join("net-conf.json");
    fs::write(&config, NETWORK)?;
    let agent = || Agent::builder(node).arg("-v=6");
    for agent in [
        agent().arg(format!("--etcd-endpoints={url}")),
        agent()
            .arg("--kube-subnet-mgr")
            .arg(format!("--kube-api-url={url}"))
            .arg(format!("--net-config-path={}", config.display()))
            .env("NODE_NAME", "node1"),
    ] {
        fs::write(node.dir().join("agent.log"), "")?;
        let agent = agent.start()?;
        eventually("the agent logs an error", SOON, || {
            ensure!(!lines_of(&agent.log(), "ERROR").is_empty(), "no error yet");
            Ok(())
        })?;
        assert!(agent.log().contains("http://127.0.0.1:1"), "the rest is named: {}", agent.log());
        assert!(!agent.log().contains(PASSWORD), "{}", agent.log());
    }
    Ok(())
}

#[test]
fn a_damaged_kubeconfig_is_not_logged() -> TestResult {
    const TOKEN: &str = "token-4713";
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let (config, kubeconfig) = (node.dir().join("net-conf.json"), node.dir().join("kubeconfig"));
    fs::write(&config, NETWORK)?;
    let user = |text: &str| format!("apiVersion: v1\nkind: Config\nusers:\n- name: x\n  user:\n{text}\n");
    for (text, said) in [
        // A token's file by mistake.
        (TOKEN.to_owned(), "line 1"),
        (user(&format!("    token: {TOKEN}\n    username: [1]")), "line 7"),
        (user(&format!("    token: [{TOKEN}]")), "line 6"),
        (user(&format!("    token: {TOKEN}\n   wrong")), "--kubeconfig-file"),
        (user(&format!("    token: {TOKEN}")), "--kubeconfig-file"),
        (
            user(&format!("    token: \"{TOKEN}\\n\""))
                + "clusters:\n- name: x\n  cluster: {server: \"https://127.0.0.1:1\"}\n"
                + "contexts:\n- name: x\n  context: {cluster: x, user: x}\ncurrent-context: x\n",
            "a line end",
        ),
    ] {
        fs::write(&kubeconfig, &text)?;
        fs::write(node.dir().join("agent.log"), "")?;
        let agent = Agent::builder(node).arg("-v=6").arg("--kube-subnet-mgr").env("NODE_NAME", "node1");
        let agent = agent.arg(format!("--kubeconfig-file={}", kubeconfig.display()));
        let agent = agent.arg(format!("--net-config-path={}", config.display())).start()?;
        let error = eventually("the agent logs an error", SOON, || {
            lines_of(&agent.log(), "ERROR").into_iter().next().context("no error yet")
        })?;
        assert!(error.contains(said), "no {said:?} in {error}, for {text}");
        assert!(!agent.log().contains(TOKEN), "{}", agent.log());
    }
    Ok(())
}

#[test]
fn no_core_is_dumped() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let node = &cluster.nodes()[0];
    let builder = |program: Option<&str>| {
        let agent = Agent::builder(node).etcd(&etcd).by_script(WITH_CORES);
        let agent = agent.env("CORES", node.dir().display().to_string());
        match program {
            Some(program) => agent.program(program),
            None => agent,
        }
    };
    let dumps = |mut agent: Agent| -> Result<bool> {
        agent.signal(Signal::SIGABRT)?;
        let status = agent.wait_exit(SOON)?;
        ensure!(status.signal() == Some(libc::SIGABRT), "{status}: {}", agent.log());
        Ok(status.core_dumped())
    };
    // Another program does dump, so that the agent's silence means something.
    let script = node.dir().join("other");
    executable::script(&script, "#!/bin/sh\nsleep 1000\n")?;
    let other = builder(script.to_str()).start()?;
    eventually("the shell runs the script", SOON, || {
        let line = fs::read(format!("/proc/{}/cmdline", other.pid()))?;
        let line = String::from_utf8_lossy(&line);
        ensure!(line.contains("/other\0") && !line.contains("ulimit"), "it runs {line:?}");
        Ok(())
    })?;
    assert!(dumps(other)?, "no program dumps here: see /proc/sys/kernel/core_pattern");
    let mut agent = builder(None).start()?;
    agent.wait_ready()?;
    assert!(!dumps(agent)?, "the agent has dumped its memory");
    Ok(())
}

#[test]
fn another_process_of_the_same_user_cannot_read_the_environment() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = with_users(cluster.start_etcd()?)?;
    let node = &cluster.nodes()[0];
    let agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=netlink").arg("--etcd-username=flannel");
    let agent = agent.env("FLANNELD_ETCD_PASSWORD", PASSWORD).as_user(USER, &["net_admin", "net_raw"])?;
    let mut agent = agent.start()?;
    agent.wait_ready()?;
    let file = format!("/proc/{}/environ", agent.pid());
    assert!(fs::read_to_string(&file)?.contains(PASSWORD), "root reads it");
    assert_eq!(fs::metadata(&file)?.uid(), 0);
    let mut other = std::process::Command::new("setpriv");
    other.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "cat", &file]);
    let error = format!("{:#}", finish(&mut other, "", LIMIT).err().context("another process reads it")?);
    assert!(error.contains("Permission denied"), "{error}");
    Ok(())
}
