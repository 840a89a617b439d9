//! What a container runtime gives the CNI plugin: environment variables, the configuration on standard input, and subnet.env. They are
//! separated by lines `---`.
#![no_main]

use flannel_agent::cni::delegate_config;
use flannel_agent::env_file::assignments;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let mut parts = text.splitn(3, "\n---\n");
    let (Some(environment), Some(input), Some(subnet_env)) = (parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let environment: Vec<_> = assignments(environment).collect();
    let variable = |name: &str| {
        let found = environment.iter().rfind(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    match delegate_config(variable, input, subnet_env) {
        Ok(config) => check_config(&config, input),
        Err(error) => check_error(&error),
    }
});

fn check_config(config: &str, input: &str) {
    let config: Value = serde_json::from_str(config).expect("the configuration is JSON");
    let input: Value = serde_json::from_str(input).expect("it is made of JSON");
    let kind = config["type"].as_str().expect("a type");
    assert!(!kind.is_empty() && kind != "flannel" && !kind.contains('/'), "the delegate is {kind:?}");
    let name = config["name"].as_str().expect("a name");
    assert!(!name.is_empty() && !name.contains(['/', '\n']), "the network is {name:?}");
    assert!(config["mtu"].is_u64() || !input["delegate"]["mtu"].is_null() || input["delegate"].is_null());
    let ipam = config["ipam"].as_object().expect("ipam");
    assert!(ipam["type"].is_string() || input_has_ipam_type(&input), "ipam without a type");
    assert!(ipam["ranges"].as_array().is_some_and(|ranges| !ranges.is_empty()));
    assert!(ipam["routes"].as_array().is_some_and(|routes| !routes.is_empty()));
}

/// Whether the runtime gives a type of any kind, which passes through.
fn input_has_ipam_type(input: &Value) -> bool {
    let ipam = input.as_object().into_iter().flatten().filter(|(key, _)| key.eq_ignore_ascii_case("ipam"));
    ipam.map(|(_, ipam)| ipam).any(|ipam| ipam.get("type").is_some())
}

/// Checks that an error is what the CNI specification wants (section 5).
fn check_error(error: &str) {
    let error: Value = serde_json::from_str(error).expect("the error is JSON");
    assert!(error["code"].as_u64().is_some_and(|code| code > 0), "{error}");
    for text in ["cniVersion", "msg", "details"] {
        assert!(error[text].as_str().is_some_and(|text| !text.is_empty()), "{text} in {error}");
    }
}
