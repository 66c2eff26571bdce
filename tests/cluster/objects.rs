//! What a cluster with Deckhouse has before the controller comes: kinds, policies, rights, nodes, workloads.

use std::collections::BTreeSet;

use kube::api::DeleteParams;
use serde_json::{Value, json};

/// Kinds of Deckhouse; nothing in them is checked, as in a real cluster, where a webhook does that.
pub(crate) fn definitions() -> Vec<Value> {
    [("ModuleConfig", "moduleconfig"), ("Module", "module"), ("ModuleSource", "modulesource")].map(|(kind, name)| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{name}s.deckhouse.io")},
            "spec": {
                "group": "deckhouse.io", "scope": "Cluster",
                "names": {"plural": format!("{name}s"), "singular": name, "kind": kind, "listKind": format!("{kind}List")},
                "versions": [{
                    "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        })
    }).into()
}

/// Deckhouse's policies: the settings of a module that is off are frozen, and only Deckhouse's own accounts write its objects.
pub(crate) fn policies() -> Vec<Value> {
    let frozen = "Changing, adding, or removing `spec.settings.registry` is forbidden when the registry module is disabled. \
        Please enable the module to make changes.";
    let same = "(has(object.spec.settings) && has(object.spec.settings.registry)) == \
        (has(oldObject.spec.settings) && has(oldObject.spec.settings.registry)) && \
        (!(has(object.spec.settings) && has(object.spec.settings.registry)) || \
        object.spec.settings.registry == oldObject.spec.settings.registry)";
    let ours = "request.userInfo.groups.exists(group, group in ['system:nodes', 'system:serviceaccounts:kube-system', \
        'system:serviceaccounts:d8-system']) || request.userInfo.username.matches('^system:serviceaccount:(d8|kube)-') || \
        request.userInfo.username in ['system:sudouser', 'dhctl', 'observability']";
    vec![
        policy(
            "deckhouse-module-registry-validation",
            &json!({"apiGroups": ["deckhouse.io"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["moduleconfigs"]}),
            "object.metadata.name == 'deckhouse'",
            same,
            frozen,
        ),
        binding("deckhouse-module-registry-validation"),
        policy(
            "label-objects.deckhouse.io",
            &json!({"apiGroups": [""], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": ["*"]}),
            "true",
            ours,
            "Creating, updating and deleting an objects with the `heritage: deckhouse` label is forbidden",
        ),
        heritage_binding(),
    ]
}

/// A policy that refuses the controller's writes to these objects; `registry-user` stands for all users.
pub(crate) fn refusal(names: &BTreeSet<&str>) -> [Value; 2] {
    let names: Vec<&&str> = names.iter().collect();
    [
        policy(
            "refusal.test",
            &json!({"apiGroups": [""], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
                "resources": ["secrets", "configmaps", "services"]}),
            &format!(
                "request.userInfo.username == 'system:serviceaccount:d8-system:d8-registry-controller' && \
                 (object.metadata.name.startsWith('registry-user-') ? 'registry-user' : object.metadata.name) in {names:?}"
            ),
            "false",
            "refused by the test",
        ),
        binding("refusal.test"),
    ]
}

fn policy(name: &str, rule: &Value, condition: &str, expression: &str, message: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "matchConditions": [{"name": "it", "expression": condition}],
            "validations": [{"expression": expression, "message": message}],
        },
    })
}

fn binding(name: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    })
}

/// Objects of Deckhouse, but for those that it was told to leave alone.
fn heritage_binding() -> Value {
    let mut binding = binding("label-objects.deckhouse.io");
    binding["metadata"]["name"] = json!("heritage-label-objects.deckhouse.io");
    binding["spec"]["matchResources"] = json!({"objectSelector": {
        "matchLabels": {"heritage": "deckhouse"},
        "matchExpressions": [{
            "key": "maintenance.deckhouse.io/no-resource-reconciliation", "operator": "NotIn", "values": ["", "true"],
        }],
    }});
    binding
}

/// The controller's account and rights, as the chart renders them.
pub(crate) fn rights() -> Vec<Value> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests/controlled-static-pod.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let wanted = [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ClusterRole",
        "ClusterRoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    let documents = text
        .split("\n---\n")
        .filter(|document| document.lines().any(|line| !line.trim_start().starts_with('#') && !line.is_empty()));
    let documents = documents.map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    let rights: Vec<Value> = documents
        .filter(|object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            wanted.iter().any(|kind| object["kind"] == *kind)
                && matches!(name, "d8-registry-controller" | "d8:registry:controller")
        })
        .collect();
    assert_eq!(rights.len(), 7, "the chart's rights are other ones");
    rights
}

/// The Services that the chart renders, leading nowhere yet.
pub(crate) fn services() -> Vec<Value> {
    ["registry", "registry-push"].map(|name| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "d8-system"},
            "spec": {"clusterIP": "None", "selector": {"app": "d8-registry", "component": "nobody"}, "ports": [{"name": "registry", "port": 5001}]},
        })
    }).into()
}

/// A Node, and its status.
pub(crate) fn node(name: &str, address: Option<&str>, ready: bool) -> (Value, Value) {
    let mut labels = json!({
        "node.deckhouse.io/group": if address.is_some() { "master" } else { "worker" },
        "node.deckhouse.io/containerd-config-registry": "default",
    });
    if address.is_some() {
        labels["node-role.kubernetes.io/control-plane"] = json!("");
    }
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address.unwrap_or("127.0.1.1")}],
        "conditions": [{
            "type": "Ready", "status": if ready { "True" } else { "Unknown" }, "reason": "Test", "message": "",
            "lastHeartbeatTime": "2026-11-29T08:00:00Z", "lastTransitionTime": "2026-11-29T08:00:00Z",
        }],
        "nodeInfo": {
            "containerRuntimeVersion": "containerd://1.7.27", "architecture": "amd64", "bootID": "", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "v1.33.0", "machineID": "", "operatingSystem": "linux", "osImage": "",
            "systemUUID": "",
        },
    }});
    (json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}), status)
}

/// A Deployment with one container.
pub(crate) fn deployment(namespace: &str, name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"core.deckhouse.io/version": super::release::RELEASE}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": name, "image": image}]},
            },
        },
    })
}

/// A pod on a node.
pub(crate) fn pod(namespace: &str, app: &str, name: &str, node: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app, "leader": "true"}},
        "spec": {"nodeName": node, "containers": [{"name": app, "image": image}], "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false},
    })
}

/// A Secret with labels.
pub(crate) fn secret(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "d8-system", "labels": labels}})
}

/// For what has no kubelet to end it.
pub(crate) fn now() -> DeleteParams {
    DeleteParams::default().grace_period(0)
}

/// Modules: one that counts, one that does not.
pub(crate) fn modules() -> Vec<Value> {
    [("node-manager", true), ("upmeter", false)]
        .map(|(name, critical)| {
            json!({
                "apiVersion": "deckhouse.io/v1alpha1", "kind": "Module", "metadata": {"name": name},
                "properties": {"source": "Embedded", "critical": critical},
            })
        })
        .into()
}
