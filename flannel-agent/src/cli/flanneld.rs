//! Flags as flanneld has them: an environment variable for each, and the spellings of Go's flag package.

use std::any::TypeId;
use std::ffi::OsString;

use clap::builder::{BoolishValueParser, Resettable};
use clap::{Arg, ArgAction};

/// Gives a flag what all of flanneld's have: the variable `FLANNELD_` + its name, and for a boolean Go's
/// spellings (`--ip-masq`, `--ip-masq=false`).
pub(super) fn like_flanneld(mut arg: Arg) -> Arg {
    if let Some(name) = arg.get_long() {
        let variable = format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"));
        arg = arg.env(variable);
    }
    if arg.get_value_parser().type_id() == TypeId::of::<bool>() {
        arg = arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true");
        arg = arg.value_name("BOOL").value_parser(BoolishValueParser::new());
    }
    let no_default = arg.get_default_values().iter().all(|value| value.is_empty());
    arg.hide_default_value(no_default)
}

/// Ignores the variable of a flag if it is empty, as flanneld does. Unit files with `EnvironmentFile` make
/// such variables.
pub(super) fn without_empty_variable(arg: Arg) -> Arg {
    match arg.get_env().and_then(std::env::var_os) {
        Some(value) if value.is_empty() => arg.env(Resettable::Reset),
        _ => arg,
    }
}

/// Whether an argument is not `--flag=`. In a manifest, `--public-ip=$(PUBLIC_IP)` becomes that if the
/// variable is empty.
pub(super) fn has_value(arg: &OsString) -> bool {
    let parts = arg.to_str().and_then(|arg| arg.split_once('='));
    parts.is_none_or(|(flag, value)| !flag.starts_with('-') || !value.is_empty())
}

/// Converts Go's `-name` to clap's `--name`.
pub(super) fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str().map(str::as_bytes) {
        Some([b'-', first, _, ..]) if first.is_ascii_alphabetic() => {
            let mut long = OsString::from("-");
            long.push(arg);
            long
        }
        _ => arg,
    }
}
