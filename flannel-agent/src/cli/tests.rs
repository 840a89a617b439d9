use super::*;

fn parse(line: &str) -> Result<Flags, clap::Error> {
    Flags::parse_from_go(line.split_whitespace().map(OsString::from))
}

#[test]
fn clap_accepts_the_definition() {
    Flags::command().debug_assert();
}

#[test]
fn go_spellings_are_understood() {
    let expected = ["http://a:1".to_owned(), "http://b:2".to_owned()];
    for line in [
        "flannel-agent -etcd-endpoints http://a:1,http://b:2 -ip-masq -v 4",
        "flannel-agent -etcd-endpoints=http://a:1,http://b:2 -ip-masq=true -v=4",
        "flannel-agent --etcd-endpoints http://a:1,http://b:2 --ip-masq --v=4",
        "flannel-agent --etcd-endpoints=http://a:1,http://b:2 --ip-masq=true --v 4",
    ] {
        let flags = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(flags.etcd.etcd_endpoints, expected, "{line}");
        assert!(flags.firewall.ip_masq, "{line}");
        assert_eq!(flags.log.verbosity, 4, "{line}");
    }
    assert!(!parse("flannel-agent -iptables-forward-rules=false").unwrap().firewall.iptables_forward_rules);
}

#[test]
fn repeated_interfaces_keep_their_order() {
    let flags = parse("flannel-agent -iface eth1 -iface=192.168.1.5").unwrap();
    assert_eq!(flags.uplink.iface, ["eth1", "192.168.1.5"]);
}

#[test]
fn defaults_are_those_of_flanneld() {
    let flags = parse("flannel-agent").unwrap();
    assert_eq!(flags.etcd.etcd_endpoints, ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
    assert_eq!(flags.etcd.etcd_prefix, "/coreos.com/network");
    assert_eq!(flags.paths.subnet_file.to_str(), Some("/run/flannel/subnet.env"));
    assert_eq!(flags.leases.subnet_lease_renew_margin, 60);
}

#[test]
fn two_datastores_are_refused() {
    let flags = parse("flannel-agent -local-subnet-mgr /d -kube-subnet-mgr=false").unwrap();
    assert_eq!(flags.leases.local_subnet_mgr.as_deref(), Some("/d".as_ref()));
    for line in ["-local-subnet-mgr /d -kube-subnet-mgr", "-kube-subnet-mgr=true -local-subnet-mgr=/d"] {
        let error = parse(&format!("flannel-agent {line}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{line}");
        assert!(error.to_string().contains("--local-subnet-mgr or --kube-subnet-mgr"), "{error}");
    }
}

#[test]
fn contradicting_flags_are_refused() {
    for (line, message) in [
        ("-etcd-certfile /cert.pem", "--etcd-certfile and --etcd-keyfile"),
        ("-etcd-keyfile /key.pem -etcd-certfile=", "--etcd-certfile and --etcd-keyfile"),
        ("-etcd-password secret", "--etcd-username"),
        ("-etcd-password-file /p", "--etcd-username"),
        ("-etcd-username u -etcd-password secret -etcd-password-file /p", "one place of the password"),
        ("-dataplane netlink -xdp=native", "--xdp needs BPF"),
        ("-dataplane netlink -xdp=generic", "--xdp needs BPF"),
    ] {
        let error = parse(&format!("flannel-agent {line}")).unwrap_err().to_string();
        assert!(error.contains(message) && !error.contains("secret"), "{line}: {error}");
    }
    for line in [
        "-etcd-certfile /c -etcd-keyfile /k",
        "-etcd-cafile /ca",
        "-etcd-username root",
        "-dataplane netlink -xdp=off",
        "-xdp=native",
    ] {
        parse(&format!("flannel-agent {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn a_password_on_the_command_line_is_known_to_be_shown() {
    for (line, shown) in [
        ("", false),
        ("-etcd-username=u -etcd-password=", false),
        ("-etcd-username=u -etcd-password-file=/p", false),
        ("-etcd-username=u -etcd-password=secret", true),
        ("--etcd-username u --etcd-password secret", true),
    ] {
        let flags = parse(&format!("flannel-agent {line}")).unwrap();
        assert_eq!(flags.etcd.password_is_shown, shown, "{line}");
    }
}
