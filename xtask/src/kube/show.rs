//! Prints what the cluster is.

use anyhow::Result;
use flannel_tests::kubernetes::KubeCluster;

/// Prints its nodes and pods.
pub(super) fn cluster(cluster: &KubeCluster) -> Result<()> {
    println!("\n{}", cluster.kubectl().run("get nodes --output wide")?);
    println!("{}", cluster.kubectl().run("get pods --all-namespaces --output wide")?);
    Ok(())
}

/// Prints commands that show the cluster from inside.
pub(super) fn hints(cluster: &KubeCluster) {
    let folder = cluster.folder().display();
    println!("look around:");
    println!("  kubectl            {folder}/kubectl get pods --all-namespaces");
    println!("  logs of the agent  {folder}/kubectl --namespace kube-flannel logs daemonset/kube-flannel-ds");
    if let Some(node) = cluster.nodes().first() {
        let enter = format!("nsenter --all --root --wd --target {}", node.pid());
        println!("  enter a node       {enter} bash");
        println!("  its packets        {enter} tcpdump -ni eth0 udp port 8472");
        println!("  logs of a node     {}/*.log", node.folder().display());
    }
    println!("Ctrl-C removes everything.");
}
