//! Shells that complete a command line of the agent as after the Tab key, without a user at a terminal.

use std::path::Path;

/// A shell, and how it is made to complete.
#[derive(Debug)]
pub struct Shell {
    /// Its program.
    pub name: &'static str,
    /// What it runs: prints what fits the last of its arguments, which are a command line, one completion a line.
    pub script: &'static str,
    options: &'static [&'static str],
    /// Where packages put the agent's completions for it, below `/usr/share`.
    pub completions: &'static str,
}

impl Shell {
    /// The shells that the agent has completions for.
    pub const ALL: [Self; 3] = [
        Self {
            name: "bash",
            script: include_str!("shell/complete.bash"),
            options: &[],
            completions: "bash-completion/completions/flannel-agent",
        },
        Self {
            name: "zsh",
            script: include_str!("shell/complete.zsh"),
            options: &["-f"],
            completions: "zsh/vendor-completions/_flannel-agent",
        },
        Self {
            name: "fish",
            script: include_str!("shell/complete.fish"),
            options: &[],
            completions: "fish/vendor_completions.d/flannel-agent.fish",
        },
    ];

    /// Returns the arguments of `env` that run the script, which has been written to this file, with completions in `share`, as they are
    /// below `/usr/share`. The words of the command line follow. Files that a shell makes for its user go beside the script.
    pub fn arguments(&self, script: &Path, share: &Path) -> Vec<String> {
        let home = script.parent().unwrap_or(script);
        let mut arguments =
            vec![format!("HOME={}", home.display()), format!("XDG_DATA_DIRS={}", share.display())];
        arguments.extend([self.name].iter().chain(self.options).map(|&argument| argument.to_owned()));
        arguments.push(script.display().to_string());
        arguments
    }
}
