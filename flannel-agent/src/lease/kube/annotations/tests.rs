use super::*;

fn attrs(json: &str) -> LeaseAttrs {
    serde_json::from_str(json).unwrap()
}

#[test]
fn prefixes_are_completed_as_by_flannel() {
    for (given, name) in [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/public-ip"),
        ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/public-ip"),
        ("flannel.alpha.coreos.com/blue", "flannel.alpha.coreos.com/blue-public-ip"),
        ("flannel.alpha.coreos.com/blue-", "flannel.alpha.coreos.com/blue-public-ip"),
        ("a.b_c/d_1", "a.b_c/d_1-public-ip"),
    ] {
        let prefix = Prefix::new(given).unwrap();
        assert_eq!(prefix.name(PUBLIC_IP), name);
        assert_eq!(prefix.strip(name), Some(PUBLIC_IP));
        assert_eq!(prefix.strip("other.example.com/public-ip"), None);
    }
    for bad in ["", "flannel", "Flannel.com", "a.b/c/d", "a..b", ".b", "a.b/c d", "/x"] {
        let message = Prefix::new(bad).unwrap_err().to_string();
        assert!(message.contains("--kube-annotation-prefix"), "{bad}: {message}");
    }
}

/// What flannel's `AcquireLease` writes for the attributes of each backend.
#[test]
fn annotations_are_those_that_flannel_writes() {
    for (given, expected) in [
        (
            r#"{"PublicIP":"192.168.64.3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
            vec![
                ("backend-data", r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#),
                ("backend-type", "vxlan"),
                ("kube-subnet-manager", "true"),
                ("public-ip", "192.168.64.3"),
            ],
        ),
        (
            r#"{"PublicIPv6":"fd00::3","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}"#,
            vec![
                ("backend-type", "vxlan"),
                ("backend-v6-data", r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}"#),
                ("kube-subnet-manager", "true"),
                ("public-ipv6", "fd00::3"),
            ],
        ),
        (
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"host-gw"}"#,
            vec![
                ("backend-data", "null"),
                ("backend-type", "host-gw"),
                ("backend-v6-data", "null"),
                ("kube-subnet-manager", "true"),
                ("public-ip", "192.168.64.3"),
                ("public-ipv6", "fd00::3"),
            ],
        ),
        (
            r#"{"PublicIP":"192.168.64.3"}"#,
            vec![
                ("backend-data", "null"),
                ("backend-type", ""),
                ("kube-subnet-manager", "true"),
                ("public-ip", "192.168.64.3"),
            ],
        ),
    ] {
        let written = desired(&attrs(given));
        let written: Vec<(&str, &str)> =
            written.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(written, expected, "{given}");
    }
}

#[test]
fn a_patch_has_only_what_differs() {
    let prefix = Prefix::new("flannel.alpha.coreos.com").unwrap();
    let wanted = desired(&attrs(r#"{"PublicIP":"192.168.64.3","BackendType":"host-gw"}"#));
    let has = |name: &str| match name {
        BACKEND_DATA => Some("null"),
        BACKEND_TYPE => Some("host-gw"),
        MANAGED => Some("true"),
        PUBLIC_IP => Some("192.168.64.4"),
        _ => None,
    };
    assert_eq!(
        patch(&prefix, has, &wanted).as_deref(),
        Some(r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"192.168.64.3"}}}"#)
    );
    let same = |name: &str| wanted.get(name).map(String::as_str);
    assert_eq!(patch(&prefix, same, &wanted), None);
}
