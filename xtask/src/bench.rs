//! `cargo xtask bench`: the dataplane against bare veth, the smallest programs, host-gw routing and the kernel's vxlan, in one run.
//!
//! All variants run at the same time, and every round measures each of them, so that other load on the machine slows
//! all of them. Absolute figures depend on the machine; the ratios within one run are the result.
//! With `--control-plane` or `--start` the agent itself is measured: see [`control`] and [`start`].

mod args;
mod bed;
mod control;
mod crowd;
mod limit;
mod machine;
mod metric;
mod plot;
mod proof;
mod record;
mod rounds;
mod scenario;
mod series;
mod start;
mod table;
mod target;
mod usage;
mod variant;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use flannel_tests::tools::Part;
use flannel_tests::{backlog, failure, flowtable, interrupt};

use crate::workspace::cargo;
use crate::{phase, setup};
pub(crate) use args::Args;
use bed::Bed;
use machine::Machine;
use series::Series;
use variant::Variant;

/// The parts of the work whose tools it needs.
pub(crate) const NEEDS: [Part; 4] = [Part::Build, Part::Cluster, Part::Etcd, Part::Bench];

/// Builds what takes part and measures what was asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&NEEDS)?;
    let variants = variant::chosen(&args.only, args.before.is_some(), flowtable::require)?;
    let is_agent_alone = args.control_plane || args.start;
    if is_agent_alone || variants.iter().any(|variant| variant.is_agent()) {
        let mut build = cargo(["build", "--release", "--package", "flannel-agent"]);
        phase::run("build of the agent, optimised", &mut build)?;
    }
    if !is_agent_alone && variants.iter().any(|variant| variant.is_limit()) {
        limit::build()?;
    }
    interrupt::catch()?;
    let machine = Machine::read()?;
    machine.warn();
    if args.control_plane {
        return control::run(args, &machine);
    }
    if args.start {
        return start::run(args, &machine);
    }
    // The queues matter to packets alone.
    backlog::shrink()?;
    let series = measure(args, &machine, &variants).inspect_err(|_| failure::declare())?;
    report(args, &machine, &series)
}

/// Sets the variants up, measures them and removes them.
fn measure(args: &Args, machine: &Machine, variants: &[Variant]) -> Result<Vec<Series>> {
    let set_up = |variant: &Variant| {
        rounds::ensure_wanted()?;
        Bed::set_up(*variant, args.before.as_deref()).with_context(|| format!("set {} up", variant.name()))
    };
    let beds = phase::measured("two nodes and a pod on each, per variant", || {
        variants.iter().map(set_up).collect::<Result<Vec<_>>>()
    })?;
    rounds::run(&beds, machine, args)
}

fn report(args: &Args, machine: &Machine, series: &[Series]) -> Result<()> {
    print!("{}", table::text(series, args.rounds, args.seconds));
    let write = |file: &PathBuf, text: String| {
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    if let Some(file) = &args.json {
        write(file, record::json(args, machine, series))?;
    }
    if let Some(file) = &args.plot {
        write(file, plot::svg(machine, series))?;
    }
    if args.check { target::check(series) } else { Ok(()) }
}
