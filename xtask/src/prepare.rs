//! `cargo xtask setup`: installs the tools of chores before they are run.

use anyhow::Result;
use clap::ValueEnum;
use flannel_tests::tools::Part;

use crate::architecture::Architecture;
use crate::{bench, dashboard, dist, fuzz, kube, lint, phase, run, setup, test, vm};

/// What to prepare.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only for these chores [default: all of them]
    #[arg(value_enum)]
    chores: Vec<Chore>,
    /// Only say what is missing, which commands install it, and what that takes
    #[arg(long)]
    dry_run: bool,
}

/// Something that the tools are for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Chore {
    /// `cargo build`
    Build,
    Lint,
    Run,
    Test,
    Fuzz,
    Bench,
    Dashboard,
    Kube,
    Vm,
    Dist,
}

impl Chore {
    fn needs(self) -> &'static [Part] {
        match self {
            Self::Build => &[Part::Build],
            Self::Lint => &lint::NEEDS,
            Self::Run => &run::NEEDS,
            Self::Test => &test::NEEDS,
            Self::Fuzz => &fuzz::NEEDS,
            Self::Bench => &bench::NEEDS,
            Self::Dashboard => &dashboard::NEEDS,
            Self::Kube => &kube::NEEDS,
            Self::Vm => &vm::NEEDS,
            Self::Dist => &dist::NEEDS,
        }
    }
}

/// Installs what is missing, or says what that would be.
pub(crate) fn run(args: &Args) -> Result<()> {
    let chores = if args.chores.is_empty() { Chore::value_variants() } else { &args.chores };
    let needs: Vec<_> = chores.iter().flat_map(|chore| chore.needs()).copied().collect();
    if args.dry_run {
        setup::describe(&needs);
        return Ok(());
    }
    setup::ensure(&needs)?;
    let toolchain = setup::bpf_toolchain()?.name;
    phase::note(&format!("the tools are installed; `{toolchain}` builds the BPF programs"));
    if chores.contains(&Chore::Vm)
        && let Err(error) = Architecture::native().and_then(vm::Parts::get)
    {
        phase::note(&format!("{error:#}"));
    }
    Ok(())
}
