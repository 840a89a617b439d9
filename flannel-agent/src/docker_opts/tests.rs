//! The expected texts are what mk-docker-opts.sh wrote for the same flags, file and environment.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: DockerOpts,
}

const BIP: &str = "DOCKER_OPT_BIP=\"--bip=10.1.44.1/24\"\n";
const IPMASQ: &str = "DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n";
const MTU: &str = "DOCKER_OPT_MTU=\"--mtu=1450\"\n";
const ALL: &str = "DOCKER_OPTS=\" --bip=10.1.44.1/24 --ip-masq=false --mtu=1450\"\n";
/// A subnet.env as flannel writes it.
const FILE: &str =
    "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.44.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn written(flags: &str, variables: &str) -> Result<String> {
    let words = ["docker-opts"].into_iter().chain(flags.split_whitespace());
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let options = Line::try_parse_from(words)?.options;
    render(env_file::assignments(variables).map(owned).collect(), &options)
}

#[test]
fn flags_choose_the_form() {
    for (flags, expected) in [
        ("", [BIP, IPMASQ, MTU, ALL].concat()),
        ("-i", [BIP, IPMASQ, MTU].concat()),
        ("-c", ALL.to_owned()),
        ("-ic", [BIP, IPMASQ, MTU, ALL].concat()),
        ("-i -c", [BIP, IPMASQ, MTU, ALL].concat()),
        ("-m", [BIP, MTU, "DOCKER_OPTS=\" --bip=10.1.44.1/24 --mtu=1450\"\n"].concat()),
        ("-m -i", [BIP, MTU].concat()),
        ("-k FOO_OPTS", [BIP, IPMASQ, MTU, &ALL.replace("DOCKER_OPTS", "FOO_OPTS")].concat()),
        ("-ckFOO_OPTS", ALL.replace("DOCKER_OPTS", "FOO_OPTS")),
        ("-d /var/run/flannel/docker_opts.env", [BIP, IPMASQ, MTU, ALL].concat()),
    ] {
        assert_eq!(written(flags, FILE).unwrap(), expected, "{flags}");
    }
}

#[test]
fn variables_become_options() {
    for (variables, expected) in [
        ("", "DOCKER_OPTS=\"\"\n"),
        ("FLANNEL_SUBNET=\nFLANNEL_MTU=1450", "DOCKER_OPTS=\" --mtu=1450\"\n"),
        ("FLANNEL_SUBNET=10.1.44.1/24\nFLANNEL_MTU=1500", "DOCKER_OPTS=\" --bip=10.1.44.1/24 --mtu=1500\"\n"),
        ("FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false", "DOCKER_OPTS=\" --ip-masq=true --mtu=1500\"\n"),
        ("FLANNEL_MTU=1450\nFLANNEL_MTU=1400", "DOCKER_OPTS=\" --mtu=1400\"\n"),
        (
            "FLANNEL_IPV6_NETWORK=fd44::/48\nFLANNEL_IPV6_SUBNET=fd44:0:0:4b::1/64\nFLANNEL_MTU=1430",
            "DOCKER_OPTS=\" --mtu=1430\"\n",
        ),
        ("DOCKER_OPTS=--debug\nFLANNEL_MTU=1450", "DOCKER_OPTS=\"--debug  --mtu=1450\"\n"),
        ("DOCKER_OPTS=\"--a --b\"\nFLANNEL_MTU=1450", "DOCKER_OPTS=\"--a --b  --mtu=1450\"\n"),
        (
            "FLANNEL_MTU=1450\nDOCKER_OPT_LOG=--log-level=warn",
            "DOCKER_OPTS=\" --log-level=warn --mtu=1450\"\n",
        ),
        ("FLANNEL_MTU=1450\nMY_DOCKER_OPT_Z=--z", "DOCKER_OPTS=\" --mtu=1450 --z\"\n"),
        (
            "FLANNEL_SUBNET=10.1.44.1/24\nDOCKER_OPT_E=\nFLANNEL_MTU=1450",
            "DOCKER_OPTS=\" --bip=10.1.44.1/24  --mtu=1450\"\n",
        ),
    ] {
        assert_eq!(written("-c", variables).unwrap(), expected, "{variables}");
    }
}

#[test]
fn an_option_in_the_environment_is_kept_unless_flannel_sets_it() {
    let preset = format!("{FILE}DOCKER_OPT_IPMASQ=--ip-masq=x\n");
    assert_eq!(
        written("-m -c", &preset).unwrap(),
        "DOCKER_OPTS=\" --bip=10.1.44.1/24 --ip-masq=x --mtu=1450\"\n"
    );
    assert_eq!(written("-c", &preset).unwrap(), ALL);
}

#[test]
fn flannel_ipmasq_is_true_or_false() {
    let wrong = "FLANNEL_SUBNET=10.1.44.1/24\nFLANNEL_IPMASQ=yes\n";
    assert_eq!(written("", wrong).unwrap_err().to_string(), "Invalid value of FLANNEL_IPMASQ: yes");
    assert_eq!(written("-m -c", wrong).unwrap(), "DOCKER_OPTS=\" --bip=10.1.44.1/24\"\n");
}
