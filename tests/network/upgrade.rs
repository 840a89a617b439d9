//! An agent finds the maps and programs of another version, an older one or a newer one, and replaces them under traffic.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::abi;
use flannel_tests::{Node, TestResult, eventually};
use serde_json::Value;

use crate::inspect;
use crate::overlay::Overlay;

/// Time between two starts of an agent that is killed before it has ended its work, and how often that happens.
const STEP: Duration = Duration::from_millis(40);
const KILLS: u32 = 5;
/// Time limit for the programs of pods' ports, which come last.
const REPLACED: Duration = Duration::from_secs(5);

/// What describes a map, as bpftool prints it.
fn describe(node: &Node, map: &str) -> Result<Value> {
    let pin = inspect::pins(node)?.path(map);
    node.netns().exec_json(&format!("bpftool --json map show pinned {}", pin.display()))
}

fn number(map: &Value, property: &str) -> Result<u64> {
    map[property].as_u64().with_context(|| format!("no {property} in {map}"))
}

/// Returns sizes of key and value and the number of entries of each pinned map.
fn sizes(node: &Node) -> Result<Vec<[u64; 3]>> {
    let sizes = |map: &&str| {
        let map = describe(node, map)?;
        Ok([number(&map, "bytes_key")?, number(&map, "bytes_value")?, number(&map, "max_entries")?])
    };
    abi::PINNED_MAPS.iter().map(sizes).collect()
}

/// Puts maps whose values are longer by so many bytes, or shorter, in the place of the pinned ones, as a version with this
/// layout has them. The programs on the hooks go on with the maps that they have.
fn pin_as(node: &Node, layout: u32, longer: i64) -> Result<()> {
    for name in abi::PINNED_MAPS.iter().filter(|name| **name != abi::EVENTS) {
        let map = describe(node, name)?;
        let kind = map["type"].as_str().context("no type")?;
        let get = |property| number(&map, property);
        let (key, entries, flags) = (get("bytes_key")?, get("max_entries")?, get("flags")?);
        let value = get("bytes_value")?.saturating_add_signed(longer).max(1);
        let pin = inspect::pins(node)?.path(name);
        fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        let pin = pin.display();
        node.exec(&format!(
            "bpftool map create {pin} type {kind} key {key} value {value} entries {entries} \
             name {name} flags {flags}"
        ))?;
        if *name == abi::CONFIG {
            let mut bytes = vec![0; usize::try_from(value)?];
            bytes[..4].copy_from_slice(&layout.to_ne_bytes());
            let bytes: Vec<_> = bytes.iter().map(u8::to_string).collect();
            node.exec(&format!("bpftool map update pinned {pin} key 0 0 0 0 value {}", bytes.join(" ")))?;
        }
    }
    Ok(())
}

/// Starts an agent where the maps of another version are, after some that were killed while they replaced these.
fn survives(layout: u32, longer: i64) -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    overlay.wait_plugged()?;
    let (before, programs) = (sizes(&overlay.nodes()[0])?, inspect::attached_all(&overlay.nodes()[0], 5)?);
    let streams = overlay.streams()?;
    overlay.agents[0].kill()?;
    pin_as(&overlay.nodes()[0], layout, longer)?;
    assert_ne!(sizes(&overlay.nodes()[0])?, before);
    for time in 1..=KILLS {
        overlay.agents[0].restart_and_kill_after(time * STEP)?;
    }
    overlay.agents[0].restart()?;
    overlay.wait_joined()?;
    overlay.wait_plugged()?;
    let node = &overlay.nodes()[0];
    eventually("only programs of this version are attached", REPLACED, || {
        let now = inspect::attached(node)?;
        ensure!(now.keys().eq(programs.keys()), "{now:?}");
        let stays = programs.iter().find(|(hook, old)| old.program == now[*hook].program);
        ensure!(stays.is_none(), "{stays:?} is still attached");
        Ok(())
    })?;
    assert_eq!(sizes(node)?, before);
    assert_eq!(inspect::node_config(node)?.layout, abi::LAYOUT);
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn an_older_layout_is_replaced_under_traffic() -> TestResult {
    survives(abi::LAYOUT - 1, -4)
}

#[test]
fn a_newer_layout_is_replaced_under_traffic() -> TestResult {
    survives(abi::LAYOUT + 1, 8)
}
