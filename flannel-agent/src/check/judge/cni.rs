//! Which CNI configuration the container runtime uses. Pure.

use serde_json::Value;

use crate::check::model::{Check, Finding};
use crate::cni::install::{CONFLIST, PLUGIN};

/// A configuration: the file's name, and its text.
pub(in crate::check) type Configuration = (String, String);

/// Judges the configurations of a folder, in the order in which the runtime looks at them. `needed`: whether the datastore is
/// Kubernetes, whose pods need one.
pub(in crate::check) fn judge(folder: &str, found: Result<&[Configuration], &str>, needed: bool) -> Finding {
    let install = format!("flannel-agent install-cni puts {CONFLIST} and its plugin there");
    let missing = |what: String| {
        if needed {
            Check::Cni.error(what, install.clone())
        } else {
            Check::Cni.note(what, format!("nothing with Docker alone. For a runtime with CNI: {install}"))
        }
    };
    let configurations = match found {
        Ok(configurations) => configurations,
        // A container does not see the node's.
        Err(why) => {
            let remedy = format!(
                "run this command on the node itself, or set --cni-conf-dir. If nothing is there either: {install}"
            );
            return Check::Cni.note(format!("not known: {folder}: {why}"), remedy);
        }
    };
    let Some((first, text)) = configurations.first() else {
        return missing(format!("{folder} has no configuration"));
    };
    match kind(text) {
        Kind::Flannel => Check::Cni.ok(format!("the runtime uses {folder}/{first}")),
        Kind::Delegating => Check::Cni.note(
            format!("the runtime uses {folder}/{first}, which may delegate to flannel's"),
            format!("nothing, if its default network is that of {CONFLIST}"),
        ),
        Kind::Broken => Check::Cni.error(
            format!("the runtime looks at {folder}/{first} first, which is not JSON"),
            format!("remove or repair it. {install}"),
        ),
        Kind::Other => match configurations.iter().find(|(_, text)| kind(text) == Kind::Flannel) {
            Some((own, _)) => Check::Cni.error(
                format!("the runtime uses {folder}/{first} instead of {own}, because its name sorts first"),
                "move it out of the folder, and make the pods anew that were made with it".to_owned(),
            ),
            None => missing(format!("{folder} has no configuration for flannel; the runtime uses {first}")),
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It asks for flannel's plugin.
    Flannel,
    /// It asks for a plugin that asks others.
    Delegating,
    Other,
    /// It is not JSON.
    Broken,
}

fn kind(text: &str) -> Kind {
    let Ok(configuration) = serde_json::from_str::<Value>(text) else { return Kind::Broken };
    let plugins = configuration["plugins"].as_array().map_or(&[][..], Vec::as_slice);
    let mut kinds = plugins.iter().chain([&configuration]).filter_map(|plugin| plugin["type"].as_str());
    let has = |kinds: &mut dyn Iterator<Item = &str>| {
        kinds.fold(Kind::Other, |found, kind| match (found, kind) {
            (Kind::Flannel, _) | (_, PLUGIN) => Kind::Flannel,
            (_, "multus" | "multus-cni" | "genie" | "cni-genie") => Kind::Delegating,
            (found, _) => found,
        })
    };
    has(&mut kinds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::model::Level;

    #[test]
    fn the_first_configuration_is_what_counts() {
        const FLANNEL: &str = r#"{"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}"#;
        const CALICO: &str = r#"{"name": "k8s", "plugins": [{"type": "calico"}]}"#;
        const MULTUS: &str = r#"{"name": "multus", "type": "multus"}"#;
        const OLD: &str = r#"{"name": "cbr0", "type": "flannel"}"#;
        for (files, needed, expected, named) in [
            (&[("10-flannel.conflist", FLANNEL)][..], true, Level::Ok, "/net.d/10-flannel.conflist"),
            (
                &[("05-calico.conflist", CALICO), ("10-flannel.conflist", FLANNEL)],
                false,
                Level::Error,
                "05-calico",
            ),
            (
                &[("10-flannel.conflist", FLANNEL), ("99-calico.conflist", CALICO)],
                true,
                Level::Ok,
                "10-flannel",
            ),
            (&[("00-multus.conf", MULTUS), ("10-flannel.conflist", FLANNEL)], true, Level::Note, "delegate"),
            (&[("10-flannel.conf", OLD)], true, Level::Ok, "10-flannel.conf"),
            (&[("87-podman.conflist", CALICO)], true, Level::Error, "no configuration for flannel"),
            (&[("87-podman.conflist", CALICO)], false, Level::Note, "no configuration for flannel"),
            (&[("10-flannel.conflist", "{")], true, Level::Error, "not JSON"),
            (&[], true, Level::Error, "/net.d has no configuration"),
            (&[], false, Level::Note, "/net.d has no configuration"),
        ] {
            let files: Vec<_> =
                files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
            let finding = judge("/net.d", Ok(&files), needed);
            assert_eq!(finding.level, expected, "{finding:?}");
            assert!(finding.found.contains(named), "{finding:?}");
        }
        assert_eq!(judge("/net.d", Err("no such folder"), true).level, Level::Note);
    }
}
