//! `flannel-agent docker-opts`: converts subnet.env to options for Docker, byte for byte as flannel's
//! mk-docker-opts.sh does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use crate::env_file;
use crate::netlink::{self, route};

#[cfg(test)]
mod tests;

/// Writes subnet.env as options for the Docker daemon.
///
/// The flags are those of flannel's mk-docker-opts.sh. Without -i and -c it writes both forms. Environment variables
/// count like those of the file: each DOCKER_OPT_* becomes an option, and DOCKER_OPTS is put before the others.
#[derive(Clone, Debug, clap::Args)]
pub struct DockerOpts {
    /// File that flannel-agent wrote, subnet.env.
    #[arg(short = 'f', value_name = "FILE", default_value = "/run/flannel/subnet.env")]
    pub flannel_env: PathBuf,
    /// File to write for Docker.
    #[arg(short = 'd', value_name = "FILE", default_value = "/run/docker_opts.env")]
    pub docker_env: PathBuf,
    /// Write one variable for each option, such as DOCKER_OPT_MTU.
    #[arg(short = 'i')]
    pub individual: bool,
    /// Write all options as one variable.
    #[arg(short = 'c')]
    pub combined: bool,
    /// Leave out --ip-masq.
    #[arg(short = 'm')]
    pub no_ip_masq: bool,
    /// Name of the variable that holds all options.
    #[arg(short = 'k', value_name = "NAME", default_value = "DOCKER_OPTS")]
    pub combined_key: String,
}

type Variables = BTreeMap<String, String>;

/// Writes the file for Docker.
///
/// # Errors
/// - A file cannot be read or written.
/// - `FLANNEL_IPMASQ` is neither true nor false.
/// - A route leads the subnet to another machine; the file is written before this check.
pub async fn run(options: &DockerOpts) -> Result<()> {
    let variables = variables(&options.flannel_env)?;
    let target = &options.docker_env;
    let text = render(variables.clone(), options)?;
    fs::write(target, text).with_context(|| format!("writing Docker's options to {}", target.display()))?;
    match variables.get("FLANNEL_SUBNET").and_then(|subnet| subnet.parse::<Ipv4Net>().ok()) {
        Some(subnet) => ensure_not_routed_elsewhere(subnet.trunc()).await,
        None => Ok(()),
    }
}

/// Returns the environment variables, overridden by those of the file. A missing file counts as empty.
fn variables(path: &Path) -> Result<Variables> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("reading {}", path.display()))?,
    };
    let environment = env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value)));
    let mut variables: Variables =
        environment.filter_map(|(key, value)| Some((key, value.into_string().ok()?))).collect();
    variables.extend(env_file::assignments(&text).map(|(key, value)| (key.to_owned(), value.to_owned())));
    Ok(variables)
}

/// Returns the text of the file for Docker.
fn render(mut variables: Variables, options: &DockerOpts) -> Result<String> {
    for (key, option) in flannel_options(&variables, options)? {
        variables.insert(key.to_owned(), option);
    }
    let both = !options.individual && !options.combined;
    let key = &options.combined_key;
    let mut combined = match variables.get(key).filter(|given| !given.is_empty()) {
        Some(given) => format!("{given} "),
        None => String::new(),
    };
    let mut text = String::new();
    for (name, option) in variables.iter().filter(|(name, _)| name.contains("DOCKER_OPT_")) {
        if options.individual || both {
            text += &format!("{name}=\"{option}\"\n");
        }
        combined += &format!(" {option}");
    }
    if options.combined || both {
        text += &format!("{key}=\"{combined}\"\n");
    }
    Ok(text)
}

/// Converts the variables of subnet.env to options for Docker. Either flannel or Docker masquerades, not both.
fn flannel_options(variables: &Variables, options: &DockerOpts) -> Result<Vec<(&'static str, String)>> {
    let value = |key| variables.get(key).filter(|value| !value.is_empty());
    let mut converted = Vec::new();
    converted.extend(value("FLANNEL_SUBNET").map(|subnet| ("DOCKER_OPT_BIP", format!("--bip={subnet}"))));
    converted.extend(value("FLANNEL_MTU").map(|mtu| ("DOCKER_OPT_MTU", format!("--mtu={mtu}"))));
    match value("FLANNEL_IPMASQ").filter(|_| !options.no_ip_masq).map(String::as_str) {
        None => {}
        Some("true") => converted.push(("DOCKER_OPT_IPMASQ", "--ip-masq=false".to_owned())),
        Some("false") => converted.push(("DOCKER_OPT_IPMASQ", "--ip-masq=true".to_owned())),
        Some(other) => bail!("Invalid value of FLANNEL_IPMASQ: {other}"),
    }
    Ok(converted)
}

/// Fails if a route leads this subnet to another machine: Docker's bridge would take the subnet over.
async fn ensure_not_routed_elsewhere(subnet: Ipv4Net) -> Result<()> {
    let routes: Vec<_> = route::list(&netlink::open()?, AddressFamily::Inet, None)
        .try_collect()
        .await
        .context("listing routes")?;
    match routes.iter().find_map(|route| gateway_to(subnet, route)) {
        Some(gateway) => bail!("Your routing table already contains the subnet: {subnet} via {gateway}"),
        None => Ok(()),
    }
}

fn gateway_to(subnet: Ipv4Net, route: &RouteMessage) -> Option<Ipv4Addr> {
    let gateway = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
        _ => None,
    };
    let same = route::destination_of(route) == Some(subnet.trunc().into());
    route.attributes.iter().find_map(gateway).filter(|_| same)
}
