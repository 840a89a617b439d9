//! `cargo xtask bench --control-plane`: how soon a starting agent has written all leases to kernel and maps, what that
//! costs, and how soon it has written a change of one lease.
//!
//! Every sample has a node, a datastore and an agent of its own.

mod changes;
mod node;
mod routes;
mod sample;
mod store;
mod table;
mod target;

use std::fs;

use anyhow::{Context as _, Result};
use flannel_tests::failure;

use super::args::Args;
use super::machine::Machine;
use super::rounds;
use crate::phase;
use crate::workspace::release_agent;
use sample::Scale;
use store::Programs;
pub(super) use store::Store;

/// Measures, prints the table, and checks the targets if asked to.
pub(super) fn run(args: &Args, machine: &Machine) -> Result<()> {
    let programs = args.store.programs()?;
    let scales = measure(args, &programs).inspect_err(|_| failure::declare())?;
    print!("{}", table::text(&scales, args.rounds));
    if let Some(file) = &args.json {
        let text = format!(
            "{:#}\n",
            serde_json::json!({ "machine": machine, "store": args.store, "scales": scales })
        );
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.check { target::check(args.store, &scales) } else { Ok(()) }
}

/// Measures every count in every round, so that other load on the machine slows all of them.
fn measure(args: &Args, programs: &Programs) -> Result<Vec<Scale>> {
    let agent = release_agent()?;
    let counts = if args.leases.is_empty() { args.store.counts() } else { &args.leases };
    let mut scales: Vec<_> = counts.iter().map(|leases| Scale::new(*leases)).collect();
    for round in 1..=args.rounds {
        for scale in &mut scales {
            rounds::ensure_wanted()?;
            let sample = node::measure(&agent, programs, args.backend, scale.leases);
            let sample = sample.with_context(|| format!("an agent with {} leases", scale.leases))?;
            phase::note(&format!("round {round} of {}: {} leases: {sample}", args.rounds, scale.leases));
            scale.samples.push(sample);
        }
    }
    Ok(scales)
}
