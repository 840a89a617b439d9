//! The CNI plugin `flannel`: the binary called by that name, or `flannel-agent cni`.
//!
//! A runtime such as containerd calls it for each pod, with a verb in the environment and the network's configuration on
//! standard input (CNI specification 1.1). The plugin adds the node's subnet to the configuration and has the delegate,
//! by default the bridge plugin, make the interface. Names, files and texts are those of flannel's CNI plugin.

pub mod copy;
mod delegate;
mod error;
pub mod install;
mod leftover;
mod network;
mod plugin;
mod request;
mod saved;
mod subnet;
mod version;

use std::env;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use self::delegate::Delegate;
use self::error::{Code, Error};
use self::network::{Network, Object};
use self::plugin::{Failure, Plugin};
use self::request::{Request, Verb};
use self::saved::Saved;
use self::subnet::Subnet;

#[cfg(test)]
mod tests;

/// How the plugin introduces itself when it is called without a command, before its version. `install-cni --remove` knows
/// it by this.
const ABOUT: &str = "CNI plugin flannel of flannel-agent";

/// Is the CNI plugin `flannel`. A container runtime calls it with a command in `CNI_COMMAND` and the network's
/// configuration on standard input.
#[derive(Clone, Debug, clap::Args)]
pub struct Cni {}

/// Does what the environment asks for, and writes the result or the error to standard output.
#[must_use]
pub fn run() -> ExitCode {
    if env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty()) {
        eprintln!("{ABOUT} {}", env!("CARGO_PKG_VERSION"));
        eprintln!("CNI protocol versions supported: {}", version::SUPPORTED.join(", "));
        return ExitCode::SUCCESS;
    }
    let mut version = String::new();
    let (stdout, code) = match answer(&mut version) {
        Ok(stdout) => (stdout, 0),
        Err(Failure::Own(error)) => (error.to_json(&version).into_bytes(), 1),
        Err(Failure::Delegate { stdout, code }) => (stdout, code),
    };
    match io::stdout().write_all(&stdout).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Returns what to print. Sets `version` to the configuration's once it is known.
fn answer(version: &mut String) -> Result<Vec<u8>, Failure> {
    let request = Request::read(|name| env::var(name).ok())?;
    let operation = match request.verb {
        Verb::Version => return Ok(supported_versions(&input()?).into_bytes()),
        Verb::Add => add,
        Verb::Del => del,
        Verb::Check => check,
        Verb::Status => status,
        Verb::Gc => collect_garbage,
    };
    let network = Network::parse(&input()?)?;
    version.clone_from(&network.cni_version);
    version::ensure_allows(version, request.verb)?;
    operation(&request, &network)
}

/// Returns the configuration that the delegate gets at ADD. `variable` returns the value of an environment variable, `input` is
/// standard input, `subnet_env` the text of subnet.env. Pure.
///
/// # Errors
/// The request, the configuration or subnet.env cannot be used. The error is the JSON text for the runtime.
pub fn delegate_config(
    variable: impl Fn(&str) -> Option<String>,
    input: &str,
    subnet_env: &str,
) -> Result<String, String> {
    let mut version = String::new();
    let delegate = || {
        let request = Request::read(variable)?;
        let network = Network::parse(input)?;
        version.clone_from(&network.cni_version);
        version::ensure_allows(&version, request.verb)?;
        let subnet = Subnet::of_text(&network.subnet_file, subnet_env)?;
        Delegate::new(&network, &subnet)
    };
    let delegate = delegate();
    delegate.map(|delegate| delegate.text()).map_err(|error| error.to_json(&version))
}

/// Reads standard input; empty if that is a terminal.
fn input() -> Result<String, Error> {
    let mut text = String::new();
    if io::stdin().is_terminal() {
        return Ok(text);
    }
    match io::stdin().read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Error::new(Code::Io, "reading standard input", error.to_string())),
    }
}

/// Answers VERSION.
fn supported_versions(input: &str) -> String {
    let asked: Value = serde_json::from_str(input).unwrap_or_default();
    let version = asked["cniVersion"].as_str().unwrap_or(version::NEWEST);
    json!({"cniVersion": version, "supportedVersions": version::SUPPORTED}).to_string()
}

fn add(request: &Request, network: &Network) -> Result<Vec<u8>, Failure> {
    let subnet = Subnet::read(&network.subnet_file)?;
    let delegate = Delegate::new(network, &subnet)?;
    let plugin = Plugin::find(&delegate.kind, &request.path)?;
    leftover::remove(&delegate, &subnet)?;
    let (saved, text) = (Saved::of(network, &request.container), delegate.text());
    saved.write(&text)?;
    plugin.run(Verb::Add, &text).inspect_err(|_| {
        // A failure here leaves the file for the DEL that the runtime sends after a failed ADD.
        if plugin.run(Verb::Del, &text).is_ok() {
            drop(saved.remove());
        }
    })
}

/// Succeeds if nothing is saved: DEL may come twice, or after an ADD that did not get far.
fn del(request: &Request, network: &Network) -> Result<Vec<u8>, Failure> {
    let saved = Saved::of(network, &request.container);
    let Some(text) = saved.read()? else { return Ok(Vec::new()) };
    // After a power cut the file may be empty. The delegate finds what belongs to the container by its ID.
    let computed =
        |_| Delegate::new(network, &Subnet::read(&network.subnet_file)?).map(|new| (new.text(), new));
    match Delegate::parse(&text).map(|delegate| (text, delegate)).or_else(computed) {
        Ok((text, delegate)) => drop(Plugin::find(&delegate.kind, &request.path)?.run(Verb::Del, &text)?),
        // No later DEL could do more.
        Err(error) => eprintln!("flannel: nothing is undone: {}: {}", error.msg, error.details),
    }
    saved.remove()?;
    Ok(Vec::new())
}

fn check(request: &Request, network: &Network) -> Result<Vec<u8>, Failure> {
    let Some(text) = Saved::of(network, &request.container).read()? else {
        let details = format!("no configuration is saved in {}", network.data_dir.display());
        return Err(Error::new(Code::UnknownContainer, "the container is not known", details).into());
    };
    let delegate = Delegate::parse(&text)?;
    let text = match &network.prev_result {
        Some(result) => delegate.text_with("prevResult", Value::Object(checkable(result))),
        None => text,
    };
    Plugin::find(&delegate.kind, &request.path)?.run(Verb::Check, &text)
}

/// Leaves out routes without a gateway. The bridge plugin makes them through the pod's gateway, but at CHECK looks for
/// routes without one, and would refuse every pod of flannel (`ValidateExpectedRoute`, seen with 1.1.1).
fn checkable(result: &Object) -> Object {
    let mut result = result.clone();
    if let Some(Value::Array(routes)) = result.get_mut("routes") {
        routes.retain(|route| !route["gw"].is_null());
    }
    result
}

fn status(request: &Request, network: &Network) -> Result<Vec<u8>, Failure> {
    let unavailable = |error: Error| Error { code: Code::NotAvailable, ..error };
    let subnet = Subnet::read(&network.subnet_file).map_err(unavailable)?;
    let delegate = Delegate::new(network, &subnet)?;
    let plugin = Plugin::find(&delegate.kind, &request.path).map_err(unavailable)?;
    if !supports(&plugin, network) {
        let msg = format!("the plugin {:?} does not support CNI {}", delegate.kind, network.cni_version);
        let details = "install newer CNI plugins, or use an older cniVersion in the conflist";
        return Err(Error::new(Code::NotAvailable, msg, details).into());
    }
    plugin.run(Verb::Status, &delegate.text())
}

/// Removes what is saved for containers that no longer exist, then has the delegate do the same.
fn collect_garbage(request: &Request, network: &Network) -> Result<Vec<u8>, Failure> {
    let valid =
        |container: &str| network.valid_attachments.iter().any(|valid| valid.container_id == container);
    let stale = Saved::all(network)?.into_iter().filter(|(container, _)| !valid(container));
    let removed = stale.map(|(_, saved)| saved.remove()).fold(Ok(()), Result::and);
    let delegate = Delegate::new(network, &Subnet::read(&network.subnet_file)?)?;
    let plugin = Plugin::find(&delegate.kind, &request.path)?;
    if supports(&plugin, network) {
        plugin.run(Verb::Gc, &delegate.text_with(network::ATTACHMENTS, json!(network.valid_attachments)))?;
    }
    removed.map(|()| Vec::new()).map_err(Failure::Own)
}

/// Whether a plugin has the verbs of the configuration's version.
fn supports(plugin: &Plugin<'_>, network: &Network) -> bool {
    plugin.versions(&network.cni_version).contains(&network.cni_version)
}
