//! What the programs cost the verifier. It walks through every path of a program, and gives up at a million instructions
//! (Linux 5.2).

use std::time::{Duration, Instant};

use aya::programs::Program;
use flannel_agent::dataplane::bpf::{OBJECT, loader};

use super::load;
use crate::inspect;

/// Highest allowed number of instructions. Kernels differ, and others may need more than this one.
const LIMIT: u32 = 1_000_000 / 2;
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
        "program", "logging", "instructions", "walked", "machine code, B", "loading, ms"
    );
    let mut walked = Vec::new();
    for (logging, debug) in [("off", false), ("on", true)] {
        let mut ebpf = loader(debug).load(OBJECT).expect("loading BPF needs root");
        let mut programs: Vec<_> = ebpf.programs_mut().collect();
        programs.sort_by_key(|(name, _)| *name);
        for (name, program) in programs {
            let Cost { translated, jited, walked: steps, loading } = cost(name, program);
            let loading = loading.as_millis();
            println!("{name:<18} {logging:<8} {translated:>12} {steps:>12} {jited:>16} {loading:>12}");
            walked.push((steps, name.to_owned(), logging));
        }
    }
    let (most, name, logging) = walked.into_iter().max().expect("there are programs");
    assert!(most <= LIMIT, "the verifier walks through {most} instructions of {name} (logging {logging})");
}
