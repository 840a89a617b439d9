//! What documents show: a block of code whose first line is a command behind `$ `, and below it what the command prints.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use flannel_tests::TestResult;
use flannel_tests::wait::patiently;

use super::scene::{self, Scene};
use super::{LOOKS, run, shape};

const PROMPT: &str = "$ ";
/// How long outputs that fit no scene are tried again: what happens on a node does not always happen while a command looks.
const TRYING: Duration = Duration::from_secs(120);

/// A command and its output in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    /// Document and line.
    place: String,
    command: String,
    /// The lines of its output.
    output: String,
}

/// Returns what the blocks of code of a document show.
fn shown(name: &str, text: &str) -> Vec<Shown> {
    let (mut all, mut current, mut is_block) = (Vec::new(), None::<Shown>, false);
    for (number, line) in text.lines().enumerate() {
        let is_fence = line.starts_with("```");
        is_block ^= is_fence;
        let command = line.strip_prefix(PROMPT).filter(|_| is_block);
        if is_fence || command.is_some() {
            all.extend(current.take());
        }
        current = current.or_else(|| {
            let command = command?.split(" #").next()?.trim_end().to_owned();
            Some(Shown { place: format!("{name}:{}", number + 1), command, output: String::new() })
        });
        if let (Some(shown), None) = (&mut current, command) {
            shown.output += line;
            shown.output += "\n";
        }
    }
    all
}

/// Returns what all documents show.
fn all_shown() -> Result<Vec<Shown>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages =
        fs::read_dir(root.join("docs"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let pages = pages.into_iter().filter(|page| page.extension().is_some_and(|ending| ending == "md"));
    let pages = pages.chain([root.join("README.md")]);
    let texts = pages.map(|page: PathBuf| {
        let text = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
        Ok(shown(&page.file_name().unwrap_or_default().to_string_lossy(), &text))
    });
    Ok(texts.collect::<Result<Vec<_>>>()?.concat())
}

/// Fails unless the command's output in this scene has the shape of what is shown.
fn ensure_fits(shown: &Shown, scene: &Scene) -> Result<()> {
    scene.refresh()?;
    let output = run(scene, &shown.command)?;
    let real = String::from_utf8(output.stdout).context("what it prints is no text")?;
    let real = scene.names.iter().fold(real, |real, (name, here)| real.replace(here, name));
    let difference = shape::difference(&shown.output, &real);
    ensure!(
        difference.is_none(),
        "{} `{}` where {}: {}\n{real}",
        shown.place,
        shown.command,
        scene.name,
        difference.unwrap_or_default()
    );
    Ok(())
}

#[test]
fn commands_and_what_they_print_are_found_in_blocks() {
    let text = "$ no block\n```\n$ one --flag   # why\n1\n\n2\n$ two\n```\nwords\n```\nthree\n```\n";
    let found = shown("page", text).into_iter().map(|shown| (shown.place, shown.command, shown.output));
    let expected = [("page:3", "one --flag", "1\n\n2\n"), ("page:7", "two", "")]
        .map(|(place, command, output)| (place.to_owned(), command.to_owned(), output.to_owned()));
    assert!(found.eq(expected));
}

#[test]
fn what_documents_show_has_the_shape_of_what_commands_print() -> TestResult {
    let mut pending = all_shown()?;
    assert!(pending.len() >= 10, "only {} outputs", pending.len());
    for shown in &pending {
        let only_looks = LOOKS.iter().any(|look| shown.command.starts_with(look));
        assert!(only_looks, "{}: `{}` is not known only to look", shown.place, shown.command);
    }
    // As `kernel.bpf_stats_enabled`, but no longer than this test.
    let _stats = enable_stats(Stats::RunTime).context("have the kernel measure programs")?;
    let scenes = scene::all()?;
    patiently("each output fits one of the scenes", TRYING, || {
        let mut differences = Vec::new();
        pending.retain(|shown| {
            let differs: Vec<_> = scenes.iter().map_while(|scene| ensure_fits(shown, scene).err()).collect();
            let fits = differs.len() < scenes.len();
            differences.extend(differs.iter().filter(|_| !fits).map(|error| format!("{error:#}")));
            !fits
        });
        ensure!(pending.is_empty(), "{}", differences.join("\n\n"));
        Ok(())
    })?;
    Ok(())
}
