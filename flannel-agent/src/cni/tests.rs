//! Texts that the plugin writes, and requests that it refuses.

use super::*;

/// What flanneld writes on a node with 10.244.1.0/24.
const SUBNET: &str =
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
const DUAL: &str = "FLANNEL_NETWORK=10.244.0.0/16,10.244.0.0/16,10.245.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
    FLANNEL_IPV6_NETWORK=fd44::/48\nFLANNEL_IPV6_SUBNET=fd44:0:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n";
const V6: &str = "FLANNEL_IPV6_NETWORK=fd44::/48\nFLANNEL_IPV6_SUBNET=fd44:0:0:1::1/64\nFLANNEL_MTU=1430\n\
    FLANNEL_IPMASQ=true\n";
/// The plugin's entry in flannel's conflist, as libcni completes it.
const STOCK: &str = r#"{"cniVersion":"0.3.1","delegate":{"hairpinMode":true,"isDefaultGateway":true},"name":"cbr0","type":"flannel"}"#;

fn subnet(text: &str) -> Result<Subnet, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("subnet.env");
    std::fs::write(&path, text).unwrap();
    Subnet::read(&path)
}

fn delegate(network: &str, env: &str) -> Result<String, Error> {
    Delegate::new(&Network::parse(network)?, &subnet(env).unwrap()).map(|delegate| delegate.text())
}

#[test]
fn the_delegates_configuration_is_the_text_that_flannel_writes() {
    for (network, env, expected) in [
        (
            STOCK,
            SUBNET,
            r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#,
        ),
        (
            r#"{"name":"cbr0","type":"flannel"}"#,
            DUAL,
            r#"{"ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd44:0:0:1::/64"}]],"routes":[{"dst":"10.244.0.0/16"},{"dst":"10.245.0.0/16"},{"dst":"fd44::/48"}],"type":"host-local"},"isGateway":true,"mtu":1430,"name":"cbr0","type":"bridge"}"#,
        ),
        (
            r#"{"name":"cbr0","cniVersion":"1.0.0","delegate":null,"runtimeConfig":null,"ipam":{"type":"custom","dataDir":"/d","ranges":[],"routes":[{"dst":"0.0.0.0/0","gw":"10.244.1.9"}]}}"#,
            V6,
            r#"{"cniVersion":"1.0.0","ipMasq":false,"ipam":{"dataDir":"/d","ranges":[[{"subnet":"fd44:0:0:1::/64"}]],"routes":[{"dst":"0.0.0.0/0","gw":"10.244.1.9"},{"dst":"fd44::/48"}],"type":"custom"},"isGateway":true,"mtu":1430,"name":"cbr0","type":"bridge"}"#,
        ),
        (
            r#"{"name":"cbr0","delegate":{"type":"ipvlan","mtu":1400,"ipMasq":true},"runtimeConfig":{"mac":"c6:d2:32:6f:8f:44"},"prevResult":{"ips":[]}}"#,
            SUBNET,
            r#"{"ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"mtu":1400,"name":"cbr0","runtimeConfig":{"mac":"c6:d2:32:6f:8f:44"},"type":"ipvlan"}"#,
        ),
        (
            r#"{"NAME":"cbr0","Delegate":{"isGateway":false},"IPAM":{"Type":"host-local"}}"#,
            SUBNET,
            r#"{"ipMasq":false,"ipam":{"Type":"host-local","ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isGateway":false,"mtu":1450,"name":"cbr0","type":"bridge"}"#,
        ),
    ] {
        assert_eq!(delegate(network, env).unwrap(), expected, "{network}");
    }
}

#[test]
fn configurations_that_cannot_be_used_are_refused_with_the_key_that_is_wrong() {
    for (network, code, part) in [
        ("", Code::Decoding, "EOF"),
        ("[]", Code::Decoding, "invalid type"),
        (r#"{"name":"cbr0","delegate":7}"#, Code::Decoding, "invalid type: integer `7`"),
        (r#"{"type":"flannel"}"#, Code::InvalidConfig, "network's name is \"\""),
        (r#"{"name":"../cbr0"}"#, Code::InvalidConfig, "network's name is \"../cbr0\""),
        (
            r#"{"name":"cbr0","delegate":{"name":"mine"}}"#,
            Code::UnsupportedField,
            "delegate.name is \"mine\"",
        ),
        (r#"{"name":"cbr0","delegate":{"ipam":{}}}"#, Code::UnsupportedField, "delegate.ipam is {}"),
        (r#"{"name":"cbr0","delegate":{"type":7}}"#, Code::InvalidConfig, "delegate.type must be"),
        (r#"{"name":"cbr0","delegate":{"type":""}}"#, Code::InvalidConfig, "delegate.type must be"),
        (r#"{"name":"cbr0","delegate":{"type":"../sh"}}"#, Code::InvalidConfig, "delegate.type must be"),
        (r#"{"name":"cbr0","delegate":{"type":"flannel"}}"#, Code::InvalidConfig, "its own delegate"),
        (r#"{"name":"cbr0","ipam":{"routes":7}}"#, Code::InvalidConfig, "ipam.routes is 7"),
    ] {
        let error = delegate(network, SUBNET).unwrap_err();
        assert_eq!(error.code, code, "{network}: {error:?}");
        assert!(error.details.contains(part), "{network}: {error:?}");
    }
}

#[test]
fn a_missing_subnet_file_asks_for_a_later_try_and_a_broken_one_names_the_key() {
    let missing = Subnet::read("/nonexistent/subnet.env".as_ref()).unwrap_err();
    assert_eq!(
        (missing.code, missing.msg.as_str()),
        (Code::TryAgainLater, "flannel-agent is not ready on this node")
    );
    assert!(missing.details.starts_with("/nonexistent/subnet.env does not exist yet"), "{missing:?}");
    for (removed, part) in [
        ("FLANNEL_NETWORK=10.244.0.0/16\n", "FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK are missing"),
        ("FLANNEL_SUBNET=10.244.1.1/24\n", "FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET are missing"),
        ("FLANNEL_MTU=1450\n", "FLANNEL_MTU is missing"),
        ("1450", "FLANNEL_MTU is missing"),
        ("FLANNEL_IPMASQ=true\n", "FLANNEL_IPMASQ is missing"),
        (".244.1.1/24", "FLANNEL_SUBNET has the value \"10\""),
    ] {
        let error = subnet(&SUBNET.replace(removed, "")).unwrap_err();
        assert_eq!(error.code, Code::Decoding, "without {removed}");
        assert!(error.details.contains(part), "without {removed}: {error:?}");
    }
}

/// Reads a request from variables such as `COMMAND=ADD`, whose names lack `CNI_`.
fn request(variables: &str) -> Result<Request, Error> {
    Request::read(|name| {
        let name = format!("{}=", name.strip_prefix("CNI_").unwrap());
        variables.split(' ').find_map(|variable| variable.strip_prefix(&name)).map(str::to_owned)
    })
}

#[test]
fn requests_are_read_from_the_environment() {
    let all = "CONTAINERID=7c1d-a.b_9 NETNS=/run/netns/x IFNAME=eth0 PATH=/opt/cni/bin:/usr/lib/cni";
    let expected = |verb, container: &str| Request {
        verb,
        container: container.to_owned(),
        path: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
    };
    for (command, verb, container) in [
        ("ADD", Verb::Add, "7c1d-a.b_9"),
        ("DEL", Verb::Del, "7c1d-a.b_9"),
        ("CHECK", Verb::Check, "7c1d-a.b_9"),
        ("STATUS", Verb::Status, ""),
        ("GC", Verb::Gc, ""),
        ("VERSION", Verb::Version, ""),
    ] {
        assert_eq!(request(&format!("COMMAND={command} {all}")), Ok(expected(verb, container)));
    }
}

#[test]
fn requests_without_their_variables_are_refused() {
    for (variables, part) in [
        ("COMMAND=add", "CNI_COMMAND is \"add\""),
        ("COMMAND=ADD", "ADD needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"),
        ("COMMAND=DEL IFNAME=eth0 PATH=/b", "DEL needs CNI_CONTAINERID"),
        ("COMMAND=DEL CONTAINERID=a IFNAME= PATH=/b", "DEL needs CNI_IFNAME"),
        ("COMMAND=CHECK CONTAINERID=a IFNAME=eth0 PATH=/b", "CHECK needs CNI_NETNS"),
        ("COMMAND=GC", "GC needs CNI_PATH"),
        ("COMMAND=STATUS", "STATUS needs CNI_PATH"),
        ("COMMAND=DEL CONTAINERID=../a IFNAME=eth0 PATH=/b", "CNI_CONTAINERID is \"../a\""),
        ("COMMAND=DEL CONTAINERID=.a IFNAME=eth0 PATH=/b", "CNI_CONTAINERID is \".a\""),
        ("COMMAND=DEL CONTAINERID=a IFNAME=et/h0 PATH=/b", "CNI_IFNAME is \"et/h0\""),
        ("COMMAND=DEL CONTAINERID=a IFNAME=sixteen-letters- PATH=/b", "CNI_IFNAME is \"sixteen-letters-\""),
    ] {
        let error = request(variables).unwrap_err();
        assert_eq!(error.code, Code::InvalidEnvironment, "{variables}");
        assert!(error.details.contains(part), "{variables}: {error:?}");
    }
}

#[test]
fn verbs_are_refused_for_configurations_of_versions_without_them() {
    for (version, verb, allowed) in [
        ("", Verb::Add, true),
        ("0.1.0", Verb::Del, true),
        ("1.1.0", Verb::Add, true),
        ("1.2.0", Verb::Add, false),
        ("x", Verb::Del, false),
        ("", Verb::Check, false),
        ("0.3.1", Verb::Check, false),
        ("0.4.0", Verb::Check, true),
        ("1.0.0", Verb::Status, false),
        ("1.1.0", Verb::Status, true),
        ("1.0.0", Verb::Gc, false),
        ("1.1.0", Verb::Gc, true),
    ] {
        let refused = version::ensure_allows(version, verb).map_err(|error| error.code);
        let expected = if allowed { Ok(()) } else { Err(Code::IncompatibleVersion) };
        assert_eq!(refused, expected, "{verb:?} with {version:?}");
    }
}

#[test]
fn errors_and_versions_are_written_as_the_specification_says() {
    let error = Error::new(Code::TryAgainLater, "not ready", "wait");
    for (version, expected) in [
        ("0.3.1", r#"{"cniVersion":"0.3.1","code":11,"details":"wait","msg":"not ready"}"#),
        ("", r#"{"cniVersion":"1.1.0","code":11,"details":"wait","msg":"not ready"}"#),
    ] {
        assert_eq!(error.to_json(version), expected);
    }
    for (input, version) in [(r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), ("", "1.1.0"), ("{}", "1.1.0")] {
        let expected = format!(
            r#"{{"cniVersion":"{version}","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}}"#
        );
        assert_eq!(supported_versions(input), expected, "{input}");
    }
}
