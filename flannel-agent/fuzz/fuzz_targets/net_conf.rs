//! A change of net-conf.json, which a running agent follows: two configurations with a line `---` between them.
#![no_main]

use flannel_agent::config::NetworkConfig;
use flannel_fuzz::check_error;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some((old, new)) = text.split_once("\n---\n") else { return };
    let (Ok(old), Ok(new)) = (NetworkConfig::parse(old), NetworkConfig::parse(new)) else { return };
    let changes = old.changes(&new);
    assert_eq!(changes.is_empty(), old == new, "{old:?} and {new:?} differ in {changes:?}");
    changes.iter().for_each(check_error);
    assert_eq!(old.with(&changes).as_ref(), Ok(&new), "not all changes are reported: {changes:?}");
    // The reverse has the same keys.
    let back = new.changes(&old);
    assert!(changes.iter().map(|change| &change.key).eq(back.iter().map(|change| &change.key)));
    // What a running agent changes over to leaves subnets and devices as they are.
    let followed =
        old.with(changes.iter().filter(|change| change.is_for_run_time())).expect("a configuration");
    assert_eq!((followed.ipv4, followed.ipv6), (old.ipv4, old.ipv6));
    assert_eq!(followed.nftables, old.nftables);
    assert_eq!(followed.name_on_node(), old.name_on_node());
    let rest = followed.changes(&new);
    assert!(rest.iter().all(|change| !change.is_for_run_time()), "left: {rest:?}");
});
