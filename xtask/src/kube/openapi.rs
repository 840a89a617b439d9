//! Generates the descriptions of the API's types, the one generated file that the source package lacks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::go;
use crate::phase;

/// The package of the generated file.
const PACKAGE: &str = "pkg/generated/openapi";
const GENERATOR: &str = "vendor/k8s.io/kube-openapi/cmd/openapi-gen";
/// Marks a package whose types are described.
const MARK: &str = "+k8s:openapi-gen=";
/// The folders that are searched.
const ROOTS: [&str; 4] = ["pkg", "cmd", "plugin", "staging/src/k8s.io"];
/// Parts of paths that are left out: examples and tests.
const OTHERS: [&str; 5] =
    ["/code-generator/", "/sample-apiserver/", "/sample-controller/", "/sample-cli-plugin/", "testdata"];

/// Builds the generator and runs it.
pub(super) fn generate(work: &Path) -> Result<()> {
    let source = go::source(work);
    let generator = work.join("openapi-gen");
    phase::execute(go::command(work, ["build", "-o"]).arg(&generator).arg(format!("./{GENERATOR}")))?;
    let mut packages = BTreeSet::new();
    for root in ROOTS {
        collect(&source, root, &mut packages)?;
    }
    let packages: Vec<_> = packages.iter().map(|package| format!("{}/{package}", go::PACKAGE)).collect();
    let mut command = go::prepare(work, &generator);
    command.args(["--input-dirs", &packages.join(",")]);
    command.args(["--output-package", &format!("{}/{PACKAGE}", go::PACKAGE)]);
    command.args(["--output-file-base", "zz_generated.openapi"]);
    command.args(["--go-header-file", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"]);
    phase::execute(command.arg("--report-filename").arg(work.join("violations")))
}

/// Adds the marked packages in a folder of the source and below it. Those of staging are named by their place in vendor.
fn collect(source: &Path, folder: &str, packages: &mut BTreeSet<String>) -> Result<()> {
    let path = source.join(folder);
    for entry in path.read_dir().with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry?;
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if OTHERS.iter().any(|other| format!("{name}/").contains(other)) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(source, &name, packages)?;
        } else if is_source(&name) && fs::read_to_string(entry.path())?.contains(MARK) {
            packages.insert(
                folder
                    .strip_prefix("staging/src/")
                    .map_or(folder.to_owned(), |rest| format!("vendor/{rest}")),
            );
        }
    }
    Ok(())
}

fn is_source(name: &str) -> bool {
    name.ends_with(".go") && !name.ends_with("_test.go") && !name.contains("zz_generated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_packages_are_found_and_those_of_staging_are_named_by_vendor() {
        let source = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = source.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let marked = "// +k8s:openapi-gen=true\n";
        write("pkg/apis/config/doc.go", marked);
        write("pkg/apis/other/doc.go", "package other\n");
        write("pkg/apis/tested/a_test.go", marked);
        write("staging/src/k8s.io/api/core/v1/doc.go", marked);
        write("staging/src/k8s.io/sample-apiserver/v1/doc.go", marked);
        let mut packages = BTreeSet::new();
        for root in ["pkg", "staging/src/k8s.io"] {
            collect(source.path(), root, &mut packages).unwrap();
        }
        assert_eq!(
            packages.into_iter().collect::<Vec<_>>(),
            ["pkg/apis/config", "vendor/k8s.io/api/core/v1"]
        );
    }
}
