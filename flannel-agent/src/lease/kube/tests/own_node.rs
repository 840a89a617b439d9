//! What the agent reads and writes of its own Node.

use std::net::Ipv4Addr;

use super::*;

#[tokio::test]
async fn the_pod_cidr_is_taken_and_the_node_annotated_once() {
    let bed = Bed::new().await;
    let lease = bed.acquire().await.unwrap();
    assert_eq!((lease.to_string().as_str(), lease.term), ("10.244.0.0-24", None));
    let expected = format!(
        r#"PATCH /api/v1/nodes/own/status {{"metadata":{{"annotations":{{"flannel.alpha.coreos.com/backend-data":{},"flannel.alpha.coreos.com/backend-type":"vxlan","flannel.alpha.coreos.com/kube-subnet-manager":"true","flannel.alpha.coreos.com/public-ip":"192.168.0.1"}}}}}}"#,
        serde_json::to_string(DATA).unwrap()
    );
    assert_eq!(bed.api.requests("PATCH"), [expected.as_str()]);
    bed.acquire().await.unwrap();
    bed.manager.renew(&lease, &lease.attrs).await.unwrap().unwrap();
    assert_eq!(bed.api.requests("PATCH"), [expected.as_str()], "nothing differed");
}

#[tokio::test]
async fn what_others_wrote_into_the_own_node_is_written_again() {
    let bed = Bed::new().await;
    let lease = bed.acquire().await.unwrap();
    let name = "flannel.alpha.coreos.com/public-ip";
    let damaged = |value: Value| {
        let mut state = bed.api.state();
        let mut node = state.nodes["own"].clone();
        node["metadata"]["annotations"][name] = value;
        state.put(node);
    };
    for value in [json!("192.168.0.99"), json!("nonsense"), json!("")] {
        damaged(value);
        bed.manager.renew(&lease, &lease.attrs).await.unwrap().unwrap();
        assert_eq!(bed.api.state().nodes["own"]["metadata"]["annotations"][name], "192.168.0.1");
    }
}

#[tokio::test]
async fn the_lease_is_lost_with_the_node_and_with_another_pod_cidr() {
    let bed = Bed::new().await;
    let lease = bed.acquire().await.unwrap();
    bed.api.state().put(node("own", 7));
    assert_eq!(bed.manager.renew(&lease, &lease.attrs).await.unwrap().unwrap_err(), Loss::Gone);
    bed.api.state().delete("own");
    assert_eq!(bed.manager.renew(&lease, &lease.attrs).await.unwrap().unwrap_err(), Loss::Gone);
    let error = bed.acquire().await.unwrap_err().to_string();
    assert!(error.contains("Kubernetes has no node own"), "{error}");
    bed.api.state().put(node("own", 8));
    assert_eq!(bed.acquire().await.unwrap().to_string(), "10.244.8.0-24");
}

#[tokio::test]
async fn an_overwritten_address_is_announced_and_kept() {
    let bed = Bed::new().await;
    let mut own = node("own", 0);
    own["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip-overwrite"] = "203.0.113.9".into();
    own["metadata"]["annotations"]["flannel.alpha.coreos.com/node-public-ip"] = "10.0.0.9".into();
    bed.api.state().put(own);
    let lease = bed.acquire().await.unwrap();
    assert_eq!(lease.attrs.public_ip, Some(Ipv4Addr::new(203, 0, 113, 9)));
    let renewed = bed.manager.renew(&lease, &attrs("192.168.0.1")).await.unwrap().unwrap();
    assert_eq!(renewed.attrs.public_ip, lease.attrs.public_ip);
    let known = bed.manager.known_node().await.unwrap();
    assert_eq!(known.public_ips.v4, Some(Ipv4Addr::new(10, 0, 0, 9)));
    let data = known.attrs.and_then(|attrs| attrs.backend_data).unwrap();
    assert_eq!(data.get(), DATA, "the MAC of the last run is used again");
}

#[tokio::test(start_paused = true)]
async fn a_missing_pod_cidr_is_an_error_and_after_a_while_one_event_at_a_time() {
    let bed = Bed::new().await;
    let without_cidr = || {
        let mut own = node("own", 0);
        own["spec"] = json!({});
        own
    };
    // Twice it comes in time, and then it does not.
    for seconds in [9, 9, 11] {
        bed.api.state().put(without_cidr());
        for _ in 0..2 {
            let error = bed.acquire().await.unwrap_err().to_string();
            assert!(
                error.contains("own has no podCIDR") && error.contains("--allocate-node-cidrs"),
                "{error}"
            );
        }
        tokio::time::advance(Duration::from_secs(seconds)).await;
        assert_eq!(bed.api.requests("/events"), [""; 0]);
        for _ in 0..3 {
            bed.acquire().await.unwrap_err();
        }
        if seconds < 10 {
            bed.api.state().put(node("own", 0));
            bed.acquire().await.unwrap();
        }
    }
    let events = bed.api.requests("/events");
    let [event] = events.as_slice() else { panic!("{events:?}") };
    let event: Value =
        serde_json::from_str(event.strip_prefix("POST /api/v1/namespaces/default/events ").unwrap()).unwrap();
    assert_eq!(
        event["involvedObject"],
        json!({ "apiVersion": "v1", "kind": "Node", "name": "own", "uid": "own" })
    );
    assert_eq!(
        (&event["reason"], &event["type"], &event["count"]),
        (&json!("FlannelPodCIDR"), &json!("Warning"), &json!(1))
    );
}

#[tokio::test(start_paused = true)]
async fn events_with_one_reason_are_counted_and_written_once_a_minute() {
    let bed = Bed::new().await;
    let notice =
        |message: &str| Notice { reason: "FlannelTest", message: message.into(), severity: Severity::Normal };
    for message in ["1", "2", "3"] {
        bed.manager.report(notice(message)).await;
    }
    tokio::time::advance(Duration::from_secs(61)).await;
    bed.manager.report(notice("4")).await;
    bed.manager.report(Notice { reason: "FlannelOther", ..notice("5") }).await;
    let events = bed.api.requests("/events");
    let [first, second, other] = events.as_slice() else { panic!("{events:?}") };
    assert!(first.starts_with("POST") && first.contains(r#""count":1"#), "{first}");
    assert!(
        second.starts_with("PATCH") && second.contains(r#""count":4"#) && second.contains(r#""message":"4""#),
        "{second}"
    );
    assert!(other.starts_with("POST") && other.contains("FlannelOther"), "{other}");
}

#[tokio::test]
async fn events_that_are_refused_disturb_nothing() {
    let bed = Bed::new().await;
    bed.api.state().refusals.push(("POST", 403, "events is forbidden"));
    let notice = Notice { reason: "FlannelTest", message: String::new(), severity: Severity::Normal };
    bed.manager.report(notice).await;
    assert_eq!(bed.api.requests("/events").len(), 1);
}

#[tokio::test]
async fn the_condition_is_cleared_in_the_end_and_is_flannels() {
    let bed = Bed::new().await;
    bed.api.state().refusals.push(("PATCH", 500, "etcd is down"));
    bed.manager.node_is_up().await;
    let condition = bed.api.state().nodes["own"]["status"]["conditions"][0].clone();
    for (field, value) in [
        ("type", "NetworkUnavailable"),
        ("status", "False"),
        ("reason", "FlannelIsUp"),
        ("message", "Flannel is running on this node"),
    ] {
        assert_eq!(condition[field], value, "{condition}");
    }
    assert_eq!(bed.api.requests("PATCH").len(), 2);
    let silent = manager(&bed.dir, |options| {
        options.api_url = Some(bed.api.url());
        options.clear_network_unavailable = false;
    });
    silent.node_is_up().await;
    assert_eq!(bed.api.requests("PATCH").len(), 2, "--set-node-network-unavailable=false");
}

#[tokio::test]
async fn the_pod_says_which_node_this_is() {
    let bed = Bed::new().await;
    let manager = manager(&bed.dir, |options| {
        options.api_url = Some(bed.api.url());
        options.node = NodeName::OfPod { namespace: "kube-flannel".into(), name: "own".into() };
    });
    assert_eq!(&*manager.store.node_name().await.unwrap(), "own");
    manager.store.node_name().await.unwrap();
    assert_eq!(bed.api.requests("/namespaces/kube-flannel/pods/own").len(), 1, "it is asked once");
}

#[tokio::test]
async fn a_refusal_names_the_rule_that_is_missing() {
    let bed = Bed::new().await;
    bed.api.state().refusals.push(("PATCH", 403, r#"nodes "own" is forbidden: User "flannel" cannot patch"#));
    let error = format!("{:#}", bed.acquire().await.unwrap_err());
    for words in ["is forbidden", r#"apiGroups [""], resources ["nodes/status"], verbs ["patch"]"#] {
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn an_expired_token_is_read_again() {
    let bed = Bed::new().await;
    let token = bed.dir.path().join("token");
    let kubeconfig = bed.dir.path().join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": bed.api.url() } }],
        "users": [{ "name": "u", "user": { "tokenFile": token } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    fs::write(&kubeconfig, text.to_string()).unwrap();
    fs::write(&token, "old").unwrap();
    bed.api.state().token = Some("old".into());
    let manager = manager(&bed.dir, |options| options.kubeconfig = Some(kubeconfig));
    manager.own_node().await.unwrap();
    fs::write(&token, "new").unwrap();
    bed.api.state().token = Some("new".into());
    let error = manager.own_node().await.err().unwrap();
    assert!(format!("{error:#}").contains("token"), "{error:#}");
    manager.own_node().await.unwrap();
}

#[tokio::test]
async fn the_network_config_is_a_file() {
    let bed = Bed::new().await;
    assert_eq!(bed.manager.network_config().await.unwrap(), NetworkConfig::parse(NETWORK).unwrap());
    let file = bed.dir.path().join("net-conf.json");
    fs::write(&file, "{").unwrap();
    for _ in 0..2 {
        let error = format!("{:#}", bed.manager.network_config().await.unwrap_err());
        assert!(error.contains(&file.display().to_string()), "{error}");
        fs::remove_file(&file).ok();
    }
}
