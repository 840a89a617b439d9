//! What the watch delivers, whatever the API server does.

use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::*;

/// Follows the Nodes while `act` runs.
async fn following<F: Future<Output = ()>>(bed: &Bed, act: impl FnOnce(Receiver<LeaseUpdate>) -> F) {
    let (sender, updates) = mpsc::channel(10_000);
    tokio::select! {
        () = bed.manager.watch(sender) => panic!("the watch ended"),
        () = act(updates) => {}
    }
}

async fn next(updates: &mut Receiver<LeaseUpdate>) -> LeaseUpdate {
    timeout(Duration::from_secs(10), updates.recv()).await.expect("no update in time").unwrap()
}

/// Waits for a snapshot, and returns the nodes in it.
async fn snapshot(updates: &mut Receiver<LeaseUpdate>) -> Vec<String> {
    match next(updates).await {
        LeaseUpdate::Snapshot(leases) => {
            leases.iter().map(|lease| lease.node.as_deref().unwrap().to_owned()).collect()
        }
        other => panic!("{other:?} instead of a snapshot"),
    }
}

/// Waits for a change of a node, and returns the node.
async fn change(updates: &mut Receiver<LeaseUpdate>) -> String {
    match next(updates).await {
        LeaseUpdate::Put(lease) => lease.node.as_deref().unwrap().to_owned(),
        LeaseUpdate::Delete(key) => key,
        LeaseUpdate::Snapshot(leases) => panic!("a snapshot of {} instead of a change", leases.len()),
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), wait).await.expect("the condition does not come");
}

#[tokio::test]
async fn an_old_api_server_is_listed_in_pages_and_asked_once() {
    let bed = Bed::with_lease().await;
    for n in 0..1200 {
        bed.api.state().put(flannel_node(&format!("n{n:04}"), n));
    }
    following(&bed, async |mut updates| {
        // 10.244.0.0/24 is the own subnet, and numbers above 255 are no networks.
        assert_eq!(snapshot(&mut updates).await.len(), 256);
        assert_eq!(bed.api.requests("limit=500").len(), 3);
        until(|| bed.api.state().watches() == 1).await;
        bed.api.change(|state| {
            state.oldest = u64::MAX;
            state.cut();
        });
        snapshot(&mut updates).await;
        assert_eq!(bed.api.requests("sendInitialEvents").len(), 1, "the answer is remembered");
    })
    .await;
}

#[tokio::test]
async fn a_new_api_server_sends_all_nodes_in_the_watch() {
    let bed = Bed::with_lease().await;
    bed.api.state().streams = true;
    bed.api.state().put(flannel_node("a", 1));
    following(&bed, async |mut updates| {
        assert_eq!(snapshot(&mut updates).await, ["a", "own"]);
        bed.api.state().put(flannel_node("b", 2));
        assert_eq!(change(&mut updates).await, "b");
        bed.api.state().delete("a");
        assert_eq!(change(&mut updates).await, "10.244.1.0-24");
        assert_eq!(bed.api.requests("GET /api/v1/nodes?").len(), 1);
        assert_eq!(bed.manager.leases().await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn heartbeats_are_no_updates() {
    let bed = Bed::with_lease().await;
    bed.api.state().put(flannel_node("a", 1));
    following(&bed, async |mut updates| {
        snapshot(&mut updates).await;
        for beat in 0..50 {
            let mut node = flannel_node("a", 1);
            node["status"]["conditions"][0]["lastHeartbeatTime"] = beat.to_string().into();
            node["metadata"]["annotations"]["example.com/other"] = beat.to_string().into();
            bed.api.state().put(node);
        }
        bed.api.state().put(flannel_node("b", 2));
        assert_eq!(change(&mut updates).await, "b");
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_where_it_was() {
    let bed = Bed::with_lease().await;
    bed.api.state().put(flannel_node("a", 1));
    following(&bed, async |mut updates| {
        snapshot(&mut updates).await;
        for n in 2..5 {
            until(|| bed.api.state().watches() == 1).await;
            bed.api.change(|state| {
                state.cut();
                state.put(flannel_node(&format!("n{n}"), n));
            });
            assert_eq!(change(&mut updates).await, format!("n{n}"));
        }
        assert_eq!(bed.api.requests("limit=500").len(), 1, "no list after the first");
    })
    .await;
}

#[tokio::test]
async fn after_a_gap_all_nodes_are_read_again() {
    let status =
        json!({ "kind": "Status", "metadata": {}, "status": "Failure", "code": 410, "message": "too old" });
    let gone = json!({ "type": "ERROR", "object": status }).to_string();
    for line in [gone.as_str(), "garbage", r#"{"type":"MODIFIED"}"#, r#"{"type":"MODIFIED","object":[]}"#] {
        let bed = Bed::with_lease().await;
        following(&bed, async |mut updates| {
            assert_eq!(snapshot(&mut updates).await, ["own"], "{line}");
            until(|| bed.api.state().watches() == 1).await;
            bed.api.state().send(line);
            assert_eq!(snapshot(&mut updates).await, ["own"], "{line}");
            bed.api.state().put(flannel_node("a", 1));
            assert_eq!(change(&mut updates).await, "a", "{line}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_list_that_expires_between_its_pages_is_begun_again() {
    let bed = Bed::with_lease().await;
    for n in 1..600 {
        bed.api.state().put(flannel_node(&format!("n{n:04}"), n));
    }
    bed.api.state().refusals.push(("continue=500", 410, "the provided continue parameter is too old"));
    following(&bed, async |mut updates| {
        assert_eq!(snapshot(&mut updates).await.len(), 256);
        assert_eq!(bed.api.requests("limit=500").len(), 4);
    })
    .await;
}

#[tokio::test]
async fn an_empty_or_refused_list_is_not_believed() {
    let bed = Bed::with_lease().await;
    bed.api.state().put(flannel_node("a", 1));
    following(&bed, async |mut updates| {
        assert_eq!(snapshot(&mut updates).await, ["a", "own"]);
        until(|| bed.api.state().watches() == 1).await;
        let kept = bed.api.change(|state| {
            state.oldest = u64::MAX;
            state.refusals.push(("limit=500", 403, "nodes is forbidden"));
            state.cut();
            std::mem::take(&mut state.nodes)
        });
        // One refused, at least two empty.
        until(|| bed.api.requests("limit=500").len() >= 4).await;
        assert!(updates.try_recv().is_err(), "nothing is said about nodes");
        assert_eq!(bed.manager.leases().await.ok(), None, "the datastore does not answer");
        bed.api.state().nodes = kept;
        assert_eq!(snapshot(&mut updates).await, ["a", "own"]);
    })
    .await;
}

#[tokio::test]
async fn a_stale_cache_does_not_contradict_what_this_node_wrote() {
    let bed = Bed::with_lease().await;
    // The answer of a cache that has not seen the annotations yet.
    let mut cached = node("own", 0);
    cached["metadata"]["resourceVersion"] = "1".into();
    bed.api.state().nodes.insert("own".into(), cached);
    following(&bed, async |mut updates| {
        let LeaseUpdate::Snapshot(leases) = next(&mut updates).await else { panic!("no snapshot") };
        let [own] = leases.as_slice() else { panic!("{leases:?}") };
        assert_eq!(own.value, serde_json::to_vec(&attrs("192.168.0.1")).unwrap());
    })
    .await;
}

#[tokio::test]
async fn windows_nodes_are_leases_once_they_have_a_mac() {
    let bed = Bed::with_lease().await;
    let mut windows = flannel_node("win", 9);
    let data = "flannel.alpha.coreos.com/backend-data";
    windows["metadata"]["annotations"][data] = r#"{"VNI":4096,"VtepMAC":""}"#.into();
    bed.api.state().put(windows.clone());
    following(&bed, async |mut updates| {
        assert_eq!(snapshot(&mut updates).await, ["own"]);
        windows["metadata"]["annotations"][data] = r#"{"VNI":4096,"VtepMAC":"00:15:5d:17:a3:02"}"#.into();
        bed.api.state().put(windows);
        assert_eq!(change(&mut updates).await, "win");
    })
    .await;
}

#[tokio::test]
async fn the_watch_writes_no_event_of_a_node_that_comes_again_without_pod_cidr() {
    let bed = Bed::with_lease().await;
    following(&bed, async |mut updates| {
        assert_eq!(snapshot(&mut updates).await, ["own"]);
        let mut without_cidr = node("own", 0);
        without_cidr["spec"] = json!({});
        bed.api.change(|state| {
            state.delete("own");
            state.put(without_cidr);
            state.put(node("own", 0));
            state.put(flannel_node("twice", 0));
        });
        // The first event of this kind is the one that is written.
        until(|| !bed.api.requests("/events").is_empty()).await;
        let events = bed.api.requests("/events");
        assert!(events[0].contains("have the same podCIDR"), "{events:?}");
    })
    .await;
}
