//! Nodes, and the pods of Deckhouse itself.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container as ContainerObject, Node as NodeObject, NodeCondition, Pod};
use k8s_openapi::jiff;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::client::FIELD_MANAGER;
use super::{Cluster, ClusterError, lists};
use crate::clock::Timestamp;
use crate::switch::{DeckhousePod, Node};

/// The label of a master.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// The label of a node whose bashible is Deckhouse's.
const NODE_GROUP: &str = "node.deckhouse.io/group";
/// Written by bashible: the version of the registry's configuration that the node has applied.
const APPLIED_VERSION: &str = "registry.deckhouse.io/version";
/// Written by bashible: `default` or `custom`.
const CONTAINERD_CONFIG: &str = "node.deckhouse.io/containerd-config-registry";
/// On Deckhouse's pods: the hash of the `deckhouse-registry` that they run with.
const POD_VERSION: &str = "checksum/registry-version";
/// Name of Deckhouse's Deployment, and the value of the label `app` of its pods.
const DECKHOUSE: &str = "deckhouse";

/// A container of a Pod template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image as written.
    pub image: String,
}

/// The Deployment of Deckhouse itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeckhouseDeployment {
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its init containers.
    pub init_containers: Vec<Container>,
    /// Its containers.
    pub containers: Vec<Container>,
}

impl Cluster {
    /// Every Node, sorted by name.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn nodes(&self) -> Result<Vec<Node>, ClusterError> {
        let nodes = Api::<NodeObject>::all(self.client().clone());
        let mut nodes =
            lists::all(self, &nodes, "list Nodes", ListParams::default(), |node| Some(read_node(node))).await?;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    /// One Node; `None` where there is none.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn node(&self, name: &str) -> Result<Option<Node>, ClusterError> {
        let nodes = Api::<NodeObject>::all(self.client().clone());
        Ok(self.call("get a Node", nodes.get_opt(name)).await?.map(read_node))
    }

    /// Has a Node say what bashible says elsewhere: the version that it has applied, and whether its containerd's configuration
    /// is `default` or `custom`. `None` stays as it is, as does everything else.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn answer(
        &self,
        name: &str,
        version: Option<&str>,
        containerd_config: Option<&str>,
    ) -> Result<(), ClusterError> {
        let pair = |key: &str, value: Option<&str>| value.map(|value| json!({key: value})).unwrap_or_else(|| json!({}));
        let patch = json!({"metadata": {
            "annotations": pair(APPLIED_VERSION, version),
            "labels": pair(CONTAINERD_CONFIG, containerd_config),
        }});
        let nodes = Api::<NodeObject>::all(self.client().clone());
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.call("change a Node", nodes.patch_metadata(name, &parameters, &Patch::Merge(patch))).await?;
        Ok(())
    }

    /// The pods of Deckhouse, sorted by name. `deployment` says which registry they run with where they do not.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn deckhouse_pods(
        &self,
        deployment: Option<&DeckhouseDeployment>,
    ) -> Result<Vec<DeckhousePod>, ClusterError> {
        let pods = Api::<Pod>::namespaced(self.client().clone(), self.namespace());
        let chosen = ListParams::default().labels(&format!("app={DECKHOUSE}"));
        let version = deployment.and_then(|deployment| deployment.annotations.get(APPLIED_VERSION));
        let mut pods = lists::all(self, &pods, "list pods of Deckhouse", chosen, |pod| read_pod(pod, version)).await?;
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// The Deployment of Deckhouse; `None` where there is none.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn deckhouse_deployment(&self) -> Result<Option<DeckhouseDeployment>, ClusterError> {
        let deployments = Api::<Deployment>::namespaced(self.client().clone(), self.namespace());
        let found = self.call("get Deployment deckhouse", deployments.get_opt(DECKHOUSE)).await?;
        Ok(found.map(read_deployment))
    }
}

fn read_node(node: NodeObject) -> Node {
    let labels = node.metadata.labels.unwrap_or_default();
    let mut annotations = node.metadata.annotations.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    let is_ready = |condition: &&NodeCondition| condition.type_ == "Ready";
    let condition = status.conditions.as_deref().unwrap_or_default().iter().find(is_ready);
    let ready = condition.is_some_and(|condition| condition.status == "True");
    let since = condition.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    let address = status.addresses.unwrap_or_default().into_iter().find(|address| address.type_ == "InternalIP");
    Node {
        name: node.metadata.name.unwrap_or_default(),
        master: labels.contains_key(CONTROL_PLANE),
        ready,
        unready_since: since.filter(|_| !ready).map(timestamp),
        schedulable: !node.spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
        ours: labels.contains_key(NODE_GROUP),
        address: address.map(|address| address.address),
        version: annotations.remove(APPLIED_VERSION),
        containerd_config: labels.get(CONTAINERD_CONFIG).cloned(),
        runtime: status.node_info.map(|info| info.container_runtime_version).unwrap_or_default(),
    }
}

/// `None` for one that has ended.
fn read_pod(pod: Pod, version: Option<&String>) -> Option<DeckhousePod> {
    let status = pod.status.unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let labels = pod.metadata.labels.unwrap_or_default();
    let own = pod.metadata.annotations.unwrap_or_default().remove(POD_VERSION);
    let conditions = status.conditions.unwrap_or_default();
    Some(DeckhousePod {
        name: pod.metadata.name.unwrap_or_default(),
        leader: labels.get("leader").is_some_and(|leader| leader == "true"),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        registry_version: own.or_else(|| version.cloned()),
    })
}

fn read_deployment(deployment: Deployment) -> DeckhouseDeployment {
    let spec = deployment.spec.and_then(|spec| spec.template.spec);
    let (containers, init_containers) = spec.map(|spec| (spec.containers, spec.init_containers)).unwrap_or_default();
    let read =
        |container: ContainerObject| Container { name: container.name, image: container.image.unwrap_or_default() };
    DeckhouseDeployment {
        annotations: deployment.metadata.annotations.unwrap_or_default(),
        init_containers: init_containers.unwrap_or_default().into_iter().map(read).collect(),
        containers: containers.into_iter().map(read).collect(),
    }
}

/// A time of the API, never before 1970.
pub(super) fn timestamp(time: jiff::Timestamp) -> Timestamp {
    Timestamp::from_millis(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_read_with_all_that_a_switch_asks_for() {
        let node = json!({
            "metadata": {
                "name": "master-0",
                "labels": {
                    "node-role.kubernetes.io/control-plane": "",
                    "node.deckhouse.io/group": "master",
                    "node.deckhouse.io/containerd-config-registry": "default",
                },
                "annotations": {"registry.deckhouse.io/version": "abc"},
            },
            "spec": {"unschedulable": true},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "master-0"},
                    {"type": "InternalIP", "address": "10.0.0.1"},
                    {"type": "InternalIP", "address": "fd00::1"},
                ],
                "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-29T08:00:00Z"},
                ],
                "nodeInfo": {
                    "containerRuntimeVersion": "containerd://1.7.27", "architecture": "", "bootID": "", "kernelVersion": "",
                    "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                    "systemUUID": "",
                },
            },
        });
        let wanted = Node {
            name: "master-0".to_owned(),
            master: true,
            ready: false,
            unready_since: Some(Timestamp::from_millis(1_795_939_200_000)),
            schedulable: false,
            ours: true,
            address: Some("10.0.0.1".to_owned()),
            version: Some("abc".to_owned()),
            containerd_config: Some("default".to_owned()),
            runtime: "containerd://1.7.27".to_owned(),
        };
        assert_eq!(read_node(serde_json::from_value(node).unwrap()), wanted);
        let bare = read_node(serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap());
        assert!(!bare.ready && bare.schedulable && !bare.ours && !bare.master && bare.address.is_none());
    }

    #[test]
    fn a_pod_without_a_version_has_the_deployments_and_one_that_ended_is_none() {
        let pod = |annotations: serde_json::Value, phase: &str| {
            let pod = json!({
                "metadata": {"name": "d", "labels": {"app": "deckhouse", "leader": "true"}, "annotations": annotations},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True"}]},
            });
            read_pod(serde_json::from_value(pod).unwrap(), Some(&"of-deployment".to_owned()))
        };
        let own = pod(json!({"checksum/registry-version": "own"}), "Running").unwrap();
        assert_eq!((own.registry_version.as_deref(), own.leader, own.ready), (Some("own"), true, true));
        assert_eq!(pod(json!({}), "Running").unwrap().registry_version.as_deref(), Some("of-deployment"));
        assert!(pod(json!({}), "Succeeded").is_none() && pod(json!({}), "Failed").is_none());
    }
}
