//! The key of a lease: the last part of `<prefix>/subnets/10.5.52.0-24`, and the name of a lease's file.
#![no_main]

use flannel_agent::lease::SubnetKey;
use flannel_fuzz::check_error;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<SubnetKey>() {
        Ok(key) => {
            assert_eq!(key.to_string(), text, "two texts for one key");
            assert!(key.nets().next().is_some(), "a key without a subnet");
            for net in key.nets() {
                assert_eq!(net, net.trunc(), "host bits");
                // The usual notation, which is another parser's.
                assert!(text.split('&').any(|half| half.replace('-', "/") == net.to_string()), "{net}");
            }
            assert!(key.overlaps(&key));
        }
        Err(error) => check_error(&error),
    }
});
