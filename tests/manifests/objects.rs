//! Kubernetes objects as the API server would store them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use flannel_tests::kubernetes::ApiServer;
use serde_json::{Deserializer, Value, json};

/// What the server adds to every object, and kubectl to what it applies.
const ADDED: [&str; 6] =
    ["annotations", "creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"];

/// Objects by kind and name.
#[derive(Debug, PartialEq)]
pub(super) struct Objects(pub(super) BTreeMap<(String, String), Value>);

impl Objects {
    /// Has the server check a text of YAML or JSON against its schema and do everything but store it. The namespace is made.
    pub(super) fn check(text: &str, namespace: &str) -> Result<Self> {
        let server = ApiServer::shared()?;
        make_namespace(&server, namespace)?;
        let arguments = ["apply", "--dry-run=server", "--validate=true", "--output=json", "--filename=-"];
        let printed = server.kubectl(&arguments, text)?;
        let mut objects = BTreeMap::new();
        for document in Deserializer::from_str(&printed).into_iter::<Value>() {
            let document = document.context("kubectl prints JSON")?;
            let list = document["items"].as_array().cloned();
            for object in list.unwrap_or_else(|| vec![document]) {
                let key = (text_of(&object["kind"]), text_of(&object["metadata"]["name"]));
                objects.insert(key, stripped(object));
            }
        }
        Ok(Self(objects))
    }

    /// Returns an object.
    pub(super) fn get(&self, kind: &str, name: &str) -> &Value {
        self.0.get(&(kind.to_owned(), name.to_owned())).unwrap_or(&Value::Null)
    }

    /// Returns net-conf.json.
    pub(super) fn network(&self) -> &Value {
        &self.get("ConfigMap", "kube-flannel-cfg")["data"]["net-conf.json"]
    }

    /// Returns the specification of the DaemonSet's pods.
    pub(super) fn pod(&self) -> &Value {
        &self.get("DaemonSet", "kube-flannel-ds")["spec"]["template"]["spec"]
    }

    /// Returns the containers of the DaemonSet's pods, in the order in which they start.
    pub(super) fn containers(&self) -> Vec<&Value> {
        let lists = ["initContainers", "containers"].map(|list| self.pod()[list].as_array());
        lists.into_iter().flatten().flatten().collect()
    }

    /// Returns the images of the containers.
    pub(super) fn images(&self) -> Vec<String> {
        self.containers().into_iter().map(|container| text_of(&container["image"])).collect()
    }
}

fn make_namespace(server: &ApiServer, name: &str) -> Result<()> {
    if server.kubectl(&["get", "namespace", name], "").is_ok() {
        return Ok(());
    }
    // Another test may be faster.
    server
        .kubectl(&["create", "namespace", name], "")
        .or_else(|error| server.kubectl(&["get", "namespace", name], "").map_err(|_| error))
        .map(drop)
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Removes what the server adds, and reads the JSON texts of a ConfigMap.
fn stripped(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        ADDED.iter().for_each(|key| drop(metadata.remove(*key)));
    }
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    for text in
        object.get_mut("data").and_then(Value::as_object_mut).into_iter().flat_map(|data| data.values_mut())
    {
        *text = serde_json::from_str(text.as_str().unwrap_or_default()).unwrap_or(json!("no JSON"));
    }
    object
}
