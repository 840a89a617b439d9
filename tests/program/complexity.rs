//! What the programs cost the verifier. It walks through every path of a program, and gives up at a million instructions
//! (Linux 5.2).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aya::programs::Program;
use flannel_agent::dataplane::bpf::{OBJECT, loader};
use flannel_common::abi;
use flannel_common::node::{FEATURE_FLOW_CACHE, FEATURE_IPV4, FEATURE_SOURCE_CHECK};
use flannel_common::outcome::Hook;

use super::load;
use crate::inspect;

/// Highest allowed number of instructions. Kernels differ, and others may need more than this one.
const LIMIT: u32 = 1_000_000 / 2;
/// What most nodes do: IPv4, with flow cache and sender check.
const USUAL: u32 = FEATURE_IPV4 | FEATURE_FLOW_CACHE | FEATURE_SOURCE_CHECK;
/// Everything.
const ALL: u32 = u32::MAX;
/// Bytes of an instruction (`struct bpf_insn`).
const INSTRUCTION: u32 = 8;

/// What one program costs this kernel.
struct Cost {
    /// Instructions, without those that the verifier has removed as unreachable.
    translated: u32,
    /// Bytes of machine code.
    jited: u32,
    /// Instructions that the verifier walked through.
    walked: u32,
    loading: Duration,
}

fn cost(name: &str, program: &mut Program) -> Cost {
    let start = Instant::now();
    load(name, program);
    let loading = start.elapsed();
    let info = program.info().unwrap();
    let walked = info.verified_instruction_count().expect("a kernel that reports it (Linux 5.16)");
    let translated = info.size_translated().expect("root sees programs") / INSTRUCTION;
    Cost { translated, jited: info.size_jitted(), walked, loading }
}

#[test]
fn every_program_leaves_room_to_grow() {
    let hooks = if inspect::has_tcx().unwrap() {
        "tcx"
    } else {
        "clsact; this kernel has no tcx (Linux 6.6), so nothing is tested with it"
    };
    println!("hooks: {hooks}\n");
    println!(
        "{:<18} {:<8} {:>12} {:>12} {:>16} {:>12}",
        "program", "loaded", "instructions", "walked", "machine code, B", "loading, ms"
    );
    let mut walked = BTreeMap::new();
    for (loaded, features, debug) in [("usual", USUAL, false), ("all", ALL, false), ("logging", ALL, true)] {
        let mut loader = loader(debug);
        loader.override_global(abi::FEATURES, &features, true);
        let mut ebpf = loader.load(OBJECT).expect("loading BPF needs root");
        let mut programs: Vec<_> = ebpf.programs_mut().collect();
        programs.sort_by_key(|(name, _)| *name);
        for (name, program) in programs {
            let Cost { translated, jited, walked: steps, loading } = cost(name, program);
            let loading = loading.as_millis();
            println!("{name:<18} {loaded:<8} {translated:>12} {steps:>12} {jited:>16} {loading:>12}");
            assert!(steps <= LIMIT, "the verifier walks through {steps} instructions of {name} ({loaded})");
            walked.insert((name.to_owned(), loaded), steps);
        }
    }
    let of_largest = |loaded| walked[&(Hook::UnderlayIngress.program().to_owned(), loaded)];
    let (usual, all) = (of_largest("usual"), of_largest("all"));
    assert!(
        usual * 2 < all,
        "the verifier walks through {usual} instructions for the usual node, and {all} for all features"
    );
}
