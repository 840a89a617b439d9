//! How often a test of the suite is run until its failure counts.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::phase;

/// So many tests that have failed are run again. More have a common cause.
const FEW: usize = 2;

/// How often a test may fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tries {
    /// A failure counts.
    One,
    /// A few tests that have failed beside others are run once more, alone. Each of them is named at the end.
    Two,
}

/// Runs the suite's command as a phase. Returns the tests that have failed at first. `alone` makes the command for these tests.
pub(super) fn run(
    title: &str,
    mut command: Command,
    tries: Tries,
    alone: impl FnOnce(&[String]) -> Result<Command>,
) -> Result<Vec<String>> {
    if tries == Tries::One {
        return phase::run(title, &mut command).map(|()| Vec::new());
    }
    let failed = phase::measured(title, || {
        let (passed, output) = copied(&mut command)?;
        let failed = failed(&output);
        ensure!(passed || (1..=FEW).contains(&failed.len()), "{} tests have failed", failed.len());
        Ok(failed)
    })?;
    if !failed.is_empty() {
        phase::note(&format!("failed beside others: {}", failed.join(", ")));
        phase::run("the same tests once more, alone", &mut alone(&failed)?)?;
    }
    Ok(failed)
}

/// Says which tests have failed at first.
pub(super) fn report(failed: &[String]) {
    if !failed.is_empty() {
        phase::error(&format!("failed beside others, and passed alone; find out why: {}", failed.join(", ")));
    }
}

/// Runs a command. Returns whether it succeeded, and its output, which it has copied to the terminal.
fn copied(command: &mut Command) -> Result<(bool, String)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let Some(output) = child.stdout.take() else { bail!("the suite has no output") };
    let (mut output, mut text, mut line) = (BufReader::new(output), String::new(), Vec::new());
    while output.read_until(b'\n', &mut line)? > 0 {
        let shown = String::from_utf8_lossy(&line);
        print!("{shown}");
        text += &shown;
        line.clear();
    }
    Ok((child.wait()?.success(), text))
}

/// Returns the tests that Rust's test harness names as failed at the end of its output.
fn failed(output: &str) -> Vec<String> {
    let Some((_, list)) = output.rsplit_once("\nfailures:\n") else { return Vec::new() };
    list.lines().map_while(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests\ntest a::b ... FAILED\ntest c ... ok\ntest d ... FAILED\n\nfailures:\n\n\
        ---- a::b stdout ----\nfailures:\n    none\n\n---- d stdout ----\n\nfailures:\n    a::b\n    d\n\n\
        test result: FAILED. 1 passed; 2 failed\n";

    fn printing(output: &str, status: u8) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("printf '%s' \"$0\"; exit {status}"), output]);
        command
    }

    #[test]
    fn the_tests_that_failed_are_those_of_the_last_list() {
        assert_eq!(failed(OUTPUT), ["a::b", "d"]);
        assert_eq!(failed("running 1 test\ntest c ... ok\n\ntest result: ok.\n"), [""; 0]);
    }

    #[test]
    fn a_few_failures_have_a_second_try_and_each_is_named() {
        let run = |output: &str, second: u8| {
            run("suite", printing(output, 101), Tries::Two, |names| {
                assert_eq!(names, ["a::b", "d"]);
                Ok(printing("", second))
            })
        };
        assert_eq!(run(OUTPUT, 0).unwrap(), ["a::b", "d"]);
        run(OUTPUT, 101).unwrap_err();
        let many = OUTPUT.replace("    d\n", "    d\n    e\n");
        assert!(run(&many, 0).unwrap_err().to_string().contains("3 tests have failed"));
        assert!(run("it does not compile\n", 0).unwrap_err().to_string().contains("0 tests"));
    }

    #[test]
    fn a_failure_counts_where_one_try_is_asked_for() {
        let alone = |_: &[String]| -> Result<Command> { panic!("a second try") };
        run("suite", printing("", 101), Tries::One, alone).unwrap_err();
    }
}
