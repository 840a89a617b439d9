//! The rules in nftables (`EnableNFTables`), and the change from one mode to the other.

use anyhow::{Result, ensure};
use flannel_tests::wait::throughout;
use flannel_tests::{Datastore as _, Node, TestResult, eventually};

use super::{Bed, IPTABLES, LOOKS, NFTABLES, SOON, rules, wait_for_rules};

/// The comments are the rules' network.
const TABLE: &str = r#"table ip flannel-ipv4 {
	comment "rules for flannel-ipv4"
	chain postrtg {
		comment "chain to manage traffic masquerading by flannel"
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 == 0x00004000 return comment "10.5.0.0/16"
		ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return comment "10.5.0.0/16"
		ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return comment "10.5.0.0/16"
		ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return comment "10.5.0.0/16"
		ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random comment "10.5.0.0/16"
		ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random comment "10.5.0.0/16"
	}

	chain forward {
		comment "chain to accept flannel traffic"
		type filter hook forward priority filter; policy accept;
		ip saddr 10.5.0.0/16 accept comment "10.5.0.0/16"
		ip daddr 10.5.0.0/16 accept comment "10.5.0.0/16"
	}
}
"#;

fn ruleset(node: &Node) -> Result<String> {
    node.exec("nft list ruleset")
}

#[test]
fn the_table_is_written_once_and_kept() -> TestResult {
    let bed = Bed::started(1, NFTABLES, &["--ip-masq"])?;
    let node = bed.node(0);
    assert_eq!(ruleset(node)?, TABLE);
    let numbered = node.exec("nft -a list ruleset")?;
    throughout("the table is not written again", LOOKS, || {
        let now = node.exec("nft -a list ruleset")?;
        ensure!(now == numbered, "{now}\ninstead of\n{numbered}");
        Ok(())
    })?;
    for damage in [
        "nft flush chain ip flannel-ipv4 postrtg",
        "nft delete chain ip flannel-ipv4 forward",
        "nft add rule ip flannel-ipv4 forward counter drop",
        "nft delete table ip flannel-ipv4",
    ] {
        node.exec(damage)?;
        eventually(damage, SOON, || {
            let now = ruleset(node)?;
            ensure!(now == TABLE, "{now}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn each_mode_removes_the_rules_of_the_other() -> TestResult {
    let mut bed = Bed::started(1, IPTABLES, &["--ip-masq"])?;
    let by_iptables = rules(bed.node(0))?;
    bed.store.configure(NFTABLES)?;
    bed.restart(&[])?;
    assert!(!rules(bed.node(0))?.contains("flannel"), "{}", rules(bed.node(0))?);
    assert!(ruleset(bed.node(0))?.contains(TABLE), "{}", ruleset(bed.node(0))?);
    bed.store.configure(IPTABLES)?;
    bed.restart(&[])?;
    wait_for_rules(bed.node(0), &by_iptables)?;
    assert!(!ruleset(bed.node(0))?.contains("flannel-ipv4"), "{}", ruleset(bed.node(0))?);
    Ok(())
}

#[test]
fn flags_select_the_chains() -> TestResult {
    let mut bed = Bed::started(1, NFTABLES, &[])?;
    assert!(!ruleset(bed.node(0))?.contains("postrtg") && ruleset(bed.node(0))?.contains("chain forward"));
    bed.restart(&["--ip-masq"])?;
    assert_eq!(ruleset(bed.node(0))?, TABLE);
    bed.restart(&["--ip-masq=false", "--iptables-forward-rules=false"])?;
    assert_eq!(ruleset(bed.node(0))?, "");
    Ok(())
}
