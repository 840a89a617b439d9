//! A network namespace that exists as long as one thread.

use std::panic;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs the test on its own thread in its own namespace, which ends with the thread.
pub(super) fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect(
            "these tests make network namespaces: run them as root (CAP_SYS_ADMIN and CAP_NET_ADMIN)",
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        panic::resume_unwind(panic);
    }
}

/// Runs a command in the namespace and returns its output.
pub(super) fn run(command: &str) -> String {
    let words: Vec<_> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("`{command}` (is iproute2 installed?): {error}"));
    assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
