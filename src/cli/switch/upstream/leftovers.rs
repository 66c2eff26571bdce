//! What is left to do by hand.

use crate::cluster::{Cluster, FailingPod};
use crate::telemetry::with_causes;

/// Deckhouse's own pods.
const DECKHOUSE: &str = "app=deckhouse";
/// The controller's.
const CONTROLLER: &str = "app=d8-registry,component=registry-controller";

/// What is left, in words; each line ends. `has_led`: no controller did the work.
pub(super) async fn of(cluster: &Cluster, has_led: bool) -> String {
    let deckhouse = cluster.failing_pods(DECKHOUSE).await.map_err(|error| with_causes(&error));
    let controller = cluster.failing_pods(CONTROLLER).await.map_err(|error| with_causes(&error));
    words(cluster.namespace(), &deckhouse, &controller, has_led)
}

fn words(
    namespace: &str,
    deckhouse: &Result<Vec<FailingPod>, String>,
    controller: &Result<Vec<FailingPod>, String>,
    has_led: bool,
) -> String {
    let list = |pods: &[FailingPod]| {
        let mut lines = String::new();
        for FailingPod { name, node, why } in pods {
            // A person may not delete pods with Deckhouse's label as himself.
            lines.push_str(&format!(
                "  kubectl -n {namespace} delete pod {name} --as system:sudouser    # {why}, on {node}\n"
            ));
        }
        lines
    };
    let mut said = String::new();
    match deckhouse {
        Ok(pods) if pods.is_empty() => said.push_str("No pod of Deckhouse fails.\n"),
        Ok(pods) => said.push_str(&format!(
            "Left to do: pods of Deckhouse that fail; delete them one by one, and wait for one that runs:\n{}",
            list(pods)
        )),
        Err(why) => said.push_str(&format!(
            "Left to do: which pods of Deckhouse fail can't be read ({why}): kubectl -n {namespace} get pods -l {DECKHOUSE}\n"
        )),
    }
    if has_led {
        said.push_str(
            "The switch ends when Deckhouse runs and a controller does: nodes and servers hold the old upstream beside the new one \
             until then.\n",
        );
        match controller {
            Ok(pods) if pods.is_empty() => {}
            Ok(pods) => said.push_str(&format!(
                "Pods of the controller that fail; the kubelet tries again within five minutes, or at once when they are deleted:\n{}",
                list(pods)
            )),
            Err(why) => said.push_str(&format!("  pods of the controller can't be read: {why}\n")),
        }
    }
    said.push_str("See how far it is: d8-registry switch status --watch\n");
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_fail_are_named_with_the_command_and_none_is_said_too() {
        let pod = |name: &str| FailingPod {
            name: name.to_owned(),
            node: "master-0".to_owned(),
            why: "ImagePullBackOff".to_owned(),
        };
        let expected = "\
Left to do: pods of Deckhouse that fail; delete them one by one, and wait for one that runs:
  kubectl -n d8-system delete pod deckhouse-a --as system:sudouser    # ImagePullBackOff, on master-0
The switch ends when Deckhouse runs and a controller does: nodes and servers hold the old upstream beside the new one until then.
Pods of the controller that fail; the kubelet tries again within five minutes, or at once when they are deleted:
  kubectl -n d8-system delete pod c --as system:sudouser    # ImagePullBackOff, on master-0
See how far it is: d8-registry switch status --watch
";
        assert_eq!(words("d8-system", &Ok(vec![pod("deckhouse-a")]), &Ok(vec![pod("c")]), true), expected);
        let nothing = words("d8-system", &Ok(Vec::new()), &Ok(vec![pod("c")]), false);
        assert_eq!(nothing, "No pod of Deckhouse fails.\nSee how far it is: d8-registry switch status --watch\n");
        let unknown = words("d8-system", &Err("403".to_owned()), &Ok(Vec::new()), false);
        assert!(unknown.contains("(403): kubectl -n d8-system get pods -l app=deckhouse\n"), "{unknown}");
    }
}
