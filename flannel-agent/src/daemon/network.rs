//! The network configuration: read at the start, and again when it may have changed.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use super::retry::until_it_works;
use crate::config::{Change, NetworkConfig};
use crate::lease::SubnetManager;

/// How long the datastore may take to answer before the node goes on with what an earlier run knew.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Pause after a changed configuration could not be read.
const PAUSE: Duration = Duration::from_secs(1);

const READING: &str = "reading the network configuration";

/// An answer of the datastore, or what an earlier run knew of it.
pub(super) struct Answer<T> {
    pub(super) value: T,
    /// The datastore has given it in this run.
    pub(super) is_fresh: bool,
}

/// Asks the datastore until it answers. If an earlier run knew the answer, asks once, and not for long.
pub(super) async fn ask<T, F: Future<Output = Result<T>>>(
    what: &str,
    request: impl Fn() -> F,
    known: Option<T>,
) -> Answer<T> {
    let Some(known) = known else {
        return Answer { value: until_it_works(what, request).await, is_fresh: true };
    };
    let late = || Err(anyhow!("no answer within {} s", PATIENCE.as_secs()));
    match timeout(PATIENCE, request()).await.unwrap_or_else(|_| late()) {
        Ok(value) => Answer { value, is_fresh: true },
        Err(error) => {
            debug!("{what}: {error:#}; using what the last run knew");
            Answer { value: known, is_fresh: false }
        }
    }
}

/// Reads the network configuration, or uses that of an earlier run.
pub(super) async fn read(store: &impl SubnetManager, known: Option<NetworkConfig>) -> Answer<NetworkConfig> {
    ask(READING, || store.network_config(), known).await
}

/// Waits until the datastore has another network configuration than the one in use. Returns what to change over to.
pub(super) async fn changed(store: &impl SubnetManager, in_use: &Answer<NetworkConfig>) -> NetworkConfig {
    let Answer { value: in_use, is_fresh } = in_use;
    if !is_fresh {
        let config = until_it_works(READING, || store.network_config()).await;
        let changes = in_use.changes(&config);
        if !changes.is_empty() {
            warn!(
                "the network configuration is not that of the last run; starting again with {}",
                list(&changes)
            );
            return config;
        }
    }
    let mut seen = in_use.clone();
    loop {
        store.config_changed().await;
        match store.network_config().await {
            Ok(config) if config == seen => {}
            Ok(config) => match change_over(in_use, &config) {
                Ok(Some(next)) => return next,
                Ok(None) => seen = config,
                Err(error) => error!("{error:#}; the one in use stays"),
            },
            Err(error) => {
                error!("{READING} again: {error:#}; the one in use stays");
                // The datastore may say again at once that it has changed.
                sleep(PAUSE).await;
            }
        }
    }
}

/// Says what has changed. Returns the configuration in use with those changes that a running agent can make; `None` if
/// there are none.
fn change_over(in_use: &NetworkConfig, config: &NetworkConfig) -> Result<Option<NetworkConfig>> {
    let (now, later): (Vec<_>, Vec<_>) =
        in_use.changes(config).into_iter().partition(Change::is_for_run_time);
    if !later.is_empty() {
        warn!(
            "the network configuration has changed: {}. This takes effect when the agents of all nodes are restarted",
            list(&later)
        );
    }
    if now.is_empty() {
        return Ok(None);
    }
    info!("the network configuration has changed: {}. Changing over to it", list(&now));
    in_use.with(&now).context("the network configuration has changed to one that cannot be used").map(Some)
}

fn list(changes: &[impl Display]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(backend: &str) -> NetworkConfig {
        NetworkConfig::parse(&format!(
            r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "vxlan"{backend}}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_running_agent_makes_those_changes_that_concern_its_node_alone() {
        for (new, expected) in [
            (r#", "FlowCache": false"#, Some(r#", "FlowCache": false"#)),
            (r#", "VNI": 2"#, None),
            (r#", "VNI": 2, "SourceCheck": "off", "Port": 4789"#, Some(r#", "SourceCheck": "off""#)),
        ] {
            let next = change_over(&config(""), &config(new)).unwrap();
            assert_eq!(next, expected.map(config), "{new}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_run_knew_replaces_an_answer_that_is_late_or_an_error() {
        let hangs = ask("asking", std::future::pending::<Result<u32>>, Some(7)).await;
        assert_eq!((hangs.value, hangs.is_fresh), (7, false));
        let fails = ask("asking", || async { Err(anyhow!("refused")) }, Some(7)).await;
        assert_eq!((fails.value, fails.is_fresh), (7, false));
        let answers = ask("asking", || async { Ok(8) }, Some(7)).await;
        assert_eq!((answers.value, answers.is_fresh), (8, true));
    }
}
