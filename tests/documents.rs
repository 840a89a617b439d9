//! The documents: links and paths in them exist, the index of decisions is complete, and the map of modules is true.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use flannel_agent::check::model::Check;
use flannel_agent::cli::Flags;
use flannel_common::outcome::Outcome;

/// Folders whose modules documents name without the folder: `lease/etcd` is `flannel-agent/src/lease/etcd.rs`.
const SOURCES: [&str; 2] = ["flannel-agent/src", "flannel-ebpf/src"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The entries of a folder.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
}

/// The Markdown files of the root folder and of `docs`.
fn documents() -> Vec<(PathBuf, String)> {
    let folders = ["", "docs", "docs/decisions"].map(|folder| root().join(folder));
    let files = folders.iter().flat_map(|folder| entries(folder));
    let documents = files.filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    documents.map(|file| (file.clone(), fs::read_to_string(&file).unwrap())).collect()
}

#[test]
fn links_in_documents_lead_to_files() {
    for (file, text) in documents() {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let links =
            links.map(|(link, _)| link).filter(|link| !link.contains("://") && !link.starts_with('#'));
        for link in links {
            let target = link.split('#').next().unwrap();
            let exists = file.parent().unwrap().join(target).exists();
            assert!(exists, "{} links to {link}, which does not exist", file.display());
        }
    }
}

#[test]
fn paths_in_documents_exist() {
    let folders = SOURCES.iter().copied().chain([""]).map(|folder| root().join(folder));
    let names = folders.flat_map(|folder| entries(&folder).collect::<Vec<_>>());
    let names = names.filter(|entry| entry.is_dir() && !entry.ends_with("target"));
    let first: BTreeSet<_> =
        names.filter_map(|entry| Some(entry.file_name()?.to_str()?.to_owned())).collect();
    for (file, text) in documents() {
        let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || "_-./".contains(letter)));
        let words = words.map(|word| word.trim_end_matches(['.', '/', '-']));
        let paths = words.filter(|word| word.split_once('/').is_some_and(|(name, _)| first.contains(name)));
        let missing: Vec<_> = paths.filter(|path| !exists(path)).collect();
        assert!(missing.is_empty(), "{} names {missing:?}, which do not exist", file.display());
    }
}

/// Whether this is a path from the root folder, or a module of [`SOURCES`].
fn exists(path: &str) -> bool {
    let module = |source: &str| {
        let path = root().join(source).join(path);
        path.exists() || path.with_extension("rs").exists()
    };
    root().join(path).exists() || SOURCES.into_iter().any(module)
}

#[test]
fn outcomes_in_documents_have_their_help_texts() {
    for (file, text) in documents() {
        for line in text.lines().filter(|line| line.contains(" at ")) {
            let quoted =
                Outcome::ALL.iter().find(|outcome| line.contains(&format!(", {}: ", outcome.name())));
            let is_true = quoted.is_none_or(|outcome| line.ends_with(outcome.help()));
            assert!(is_true, "{} has an old help text: {line}", file.display());
        }
    }
}

#[test]
fn the_index_of_decisions_has_every_decision_by_its_title() {
    let folder = root().join("docs/decisions");
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    for file in entries(&folder).filter(|file| !file.ends_with("README.md")) {
        let text = fs::read_to_string(&file).unwrap();
        let title = text.lines().next().unwrap().trim_start_matches("# ");
        let line = format!("- [{title}]({})\n", file.file_name().unwrap().to_str().unwrap());
        assert!(index.contains(&line), "docs/decisions/README.md lacks the line {line}");
    }
}

#[test]
fn modules_of_the_agent_import_only_those_before_them_in_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = map.split("| modules | content |").nth(1).unwrap().lines().skip(2);
    let cells = rows.take_while(|row| row.starts_with('|')).map(|row| row.split('|').nth(1).unwrap());
    let modules: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let place = |path: &str| modules.iter().position(|module| is_within(path, module));

    let source = root().join(SOURCES[0]);
    for file in sources(&source) {
        let name = file.strip_prefix(&source).unwrap().with_extension("");
        let name = name.to_str().unwrap();
        if ["lib", "main", "dataplane"].contains(&name) || name.contains("tests") {
            continue;
        }
        let own = place(name).unwrap_or_else(|| panic!("ARCHITECTURE.md has no place for {name}"));
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for import in imports(code) {
            let imported = place(&import);
            assert!(
                imported.is_none_or(|imported| imported <= own),
                "{name} imports {import}, which stands above"
            );
        }
    }
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The Rust files in a folder and below it.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) = entries(folder).partition(|entry| entry.is_dir());
    files.into_iter().chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

/// The paths behind `crate::`, with slashes.
fn imports(code: &str) -> Vec<String> {
    let ends = |text: &str| text.find(|letter: char| !(letter.is_alphanumeric() || "_:".contains(letter)));
    let path = |text: &str| text[..ends(text).unwrap_or(text.len())].replace("::", "/");
    let paths = code.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(group) => {
            group.split(';').next().unwrap().split([',', '{']).map(|name| path(name.trim())).collect()
        }
        None => vec![path(rest)],
    });
    paths.collect()
}

/// Returns whether there is a test of this name in the suite or in the agent: `network::forged::…`, `sole::tests::…`.
fn is_test(path: &str) -> bool {
    let parts: Vec<_> = path.split("::").collect();
    let Some((name, modules)) = parts.split_last() else { return false };
    let file = modules.join("/");
    let files = [Some(file.as_str()), file.strip_suffix("/tests")].into_iter().flatten();
    let files = files.flat_map(|file| ["tests", SOURCES[0]].map(|folder| root().join(folder).join(file)));
    let texts = files.filter_map(|file| fs::read_to_string(file.with_extension("rs")).ok());
    texts.into_iter().any(|text| {
        let before = text.split(&format!("fn {name}(")).next().unwrap();
        before.len() < text.len() && before.trim_end().trim_end_matches("async").trim_end().ends_with("test]")
    })
}

#[test]
fn each_promise_of_security_names_tests_that_exist() {
    assert!(!is_test("documents::root") && !is_test("documents::no_such_test") && !is_test("nowhere::test"));
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let tables = text.split("| promise | test |\n").skip(1);
    let rows: Vec<_> =
        tables.flat_map(|table| table.lines().skip(1).take_while(|row| row.starts_with('|'))).collect();
    assert!(rows.len() > 10, "SECURITY.md has tables of promises");
    for row in rows {
        let tests: Vec<_> = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test holds: {row}");
        let missing: Vec<_> = tests.iter().filter(|test| !is_test(test)).collect();
        assert!(missing.is_empty(), "there are no tests {missing:?}, for: {row}");
    }
}

#[test]
fn the_page_of_the_check_has_each_check_by_name_and_title() {
    let text = fs::read_to_string(root().join("docs/check.md")).unwrap();
    let rows = text.split("| check | title | finds | what to do |\n").nth(1).unwrap().lines().skip(1);
    let rows = rows.take_while(|row| row.starts_with('|')).map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        (cells.next().unwrap().trim_matches('`').to_owned(), cells.next().unwrap().to_owned())
    });
    let checks = Check::ALL.iter().map(|check| (check.name().to_owned(), check.title().to_owned()));
    assert_eq!(rows.collect::<Vec<_>>(), checks.collect::<Vec<_>>());
}

#[test]
fn words_of_the_log_in_troubleshooting_are_the_agents() {
    let sources: Vec<_> = sources(&root().join("flannel-agent/src"))
        .into_iter()
        .filter(|file| {
            !file.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
        })
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let tables = text.split("| symptom | the log says | what to do |\n").skip(1);
    let rows = tables.flat_map(|table| table.lines().skip(1).take_while(|row| row.starts_with('|')));
    let words: Vec<_> =
        rows.flat_map(|row| row.split('|').nth(2).unwrap().split('`').skip(1).step_by(2)).collect();
    assert!(words.len() > 5, "docs/troubleshooting.md quotes the log");
    for words in words {
        assert!(sources.iter().any(|source| source.contains(words)), "the agent never says {words:?}");
    }
}

/// The command lines of `flannel-agent` in code, each with the words that follow the name.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let (mut lines, mut is_block) = (Vec::new(), false);
    let joined = text.replace("\\\n", " ");
    for line in joined.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            lines.extend(command_line(line));
        } else {
            // A subcommand's name alone only names it.
            let spans = line.split('`').skip(1).step_by(2).filter_map(command_line);
            lines.extend(spans.filter(|words| words.len() > 1));
        }
    }
    lines
}

/// Returns the words behind the name up to the end of the command. `None` if this is not a command line of `flannel-agent`, or has
/// something left out.
fn command_line(code: &str) -> Option<Vec<String>> {
    const NAME: &str = "flannel-agent ";
    let start = code.find(NAME)?;
    let is_name = start == 0 || code[..start].ends_with([' ', '/']);
    let words = code[start + NAME.len()..].split_whitespace();
    let words = words.take_while(|word| !["|", "#", "&&", ">"].contains(word));
    let words: Vec<_> = words.map(|word| word.trim_end_matches(';').to_owned()).collect();
    let first = words.first()?;
    let is_command = first.starts_with('-') || Flags::command().find_subcommand(first).is_some();
    (is_name && (is_command || start == 0) && first != "...").then_some(words)
}

#[test]
fn command_lines_in_documents_are_understood() {
    let mut found = 0;
    for (file, text) in documents() {
        for words in command_lines(&text) {
            found += 1;
            let line = std::iter::once("flannel-agent").chain(words.iter().map(String::as_str));
            let parsed = Flags::parse_from_go(line.map(Into::into));
            let refused = parsed.err().filter(clap::Error::use_stderr);
            assert!(refused.is_none(), "{}: {words:?}: {}", file.display(), refused.unwrap());
        }
    }
    assert!(found > 30, "only {found} command lines");
}
