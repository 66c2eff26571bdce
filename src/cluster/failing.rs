//! Pods of the namespace that do not work, and why: for people who have to do something about them.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Api;
use kube::api::ListParams;

use super::{Cluster, ClusterError, lists};

/// One that does not work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailingPod {
    /// Its name.
    pub name: String,
    /// The node that it is on; `""` where it is on none.
    pub node: String,
    /// Why, in Kubernetes' words: `ImagePullBackOff`, `CrashLoopBackOff`. `None`: it is starting, or runs and is not Ready.
    pub why: Option<String>,
}

impl Cluster {
    /// Pods of the namespace with these labels (`app=deckhouse`) that are not Ready and not at their end, sorted by name.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn failing_pods(&self, labels: &str) -> Result<Vec<FailingPod>, ClusterError> {
        let pods = Api::<Pod>::namespaced(self.client().clone(), self.namespace());
        let chosen = ListParams::default().labels(labels);
        let mut pods = lists::all(self, &pods, "list pods", chosen, failing).await?;
        pods.sort();
        Ok(pods)
    }
}

/// `None` for one that works, and for one that has ended as it should.
fn failing(pod: Pod) -> Option<FailingPod> {
    let status = pod.status.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let is_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let phase = status.phase.unwrap_or_default();
    if is_ready || phase == "Succeeded" {
        return None;
    }
    let containers = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
    let why = containers.filter_map(reason).next().or_else(|| Some(phase).filter(|phase| phase == "Failed"));
    Some(FailingPod {
        name: pod.metadata.name.unwrap_or_default(),
        node: pod.spec.and_then(|spec| spec.node_name).unwrap_or_default(),
        why,
    })
}

/// Why a container does not run; `None` for one that does, or is only waiting for its turn.
fn reason(container: ContainerStatus) -> Option<String> {
    let state = container.state?;
    let waiting = state.waiting.and_then(|waiting| waiting.reason);
    let waiting = waiting.filter(|reason| !matches!(reason.as_str(), "PodInitializing" | "ContainerCreating"));
    let ended = state.terminated.filter(|ended| ended.exit_code != 0);
    waiting.or_else(|| ended.map(|ended| ended.reason.unwrap_or_else(|| format!("exit code {}", ended.exit_code))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_does_not_work_says_why_and_one_that_does_is_none() {
        let pod = |status: serde_json::Value| {
            let pod = json!({"metadata": {"name": "deckhouse-1"}, "spec": {"nodeName": "m", "containers": []}, "status": status});
            failing(serde_json::from_value(pod).unwrap()).map(|pod| pod.why.unwrap_or_else(|| "starting".to_owned()))
        };
        let container = |state: serde_json::Value| json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let waits = |reason: &str| container(json!({"waiting": {"reason": reason}}));
        let ready = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(pod(json!({"phase": "Running", "conditions": ready})), None);
        assert_eq!(pod(json!({"phase": "Succeeded"})), None);
        let initializing = json!([waits("PodInitializing")]);
        let of_init = json!({"initContainerStatuses": [waits("ImagePullBackOff")], "containerStatuses": initializing});
        assert_eq!(pod(of_init).as_deref(), Some("ImagePullBackOff"));
        let of_both = json!({"containerStatuses": [waits("ContainerCreating"), waits("CrashLoopBackOff")]});
        assert_eq!(pod(of_both).as_deref(), Some("CrashLoopBackOff"));
        let ended = container(json!({"terminated": {"exitCode": 1, "reason": "Error"}}));
        assert_eq!(pod(json!({"containerStatuses": [ended]})).as_deref(), Some("Error"));
        assert_eq!(pod(json!({"phase": "Failed"})).as_deref(), Some("Failed"));
        assert_eq!(pod(json!({"containerStatuses": initializing})).as_deref(), Some("starting"));
        assert_eq!(pod(json!({"phase": "Running"})).as_deref(), Some("starting"));
    }
}
