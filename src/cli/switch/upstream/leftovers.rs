//! What is left to do by hand.

use crate::cluster::{Cluster, Container, DeckhouseDeployment, FailingPod};
use crate::switch::Params;
use crate::telemetry::with_causes;

/// Deckhouse's own pods.
const DECKHOUSE: &str = "app=deckhouse";
/// The controller's.
const CONTROLLER: &str = "app=d8-registry,component=registry-controller";

/// What is left, in words; each line ends. `has_led`: no controller did the work.
pub(super) async fn of(cluster: &Cluster, before: &Params, wanted: &Params, has_led: bool) -> String {
    let deckhouse = cluster.failing_pods(DECKHOUSE).await.map_err(|error| with_causes(&error));
    let controller = cluster.failing_pods(CONTROLLER).await.map_err(|error| with_causes(&error));
    let images = match (wanted, before.upstream()) {
        (Params::Unmanaged(Some(wanted)), Some(before)) if before.images_repo != wanted.images_repo => {
            // One that can't be read has a pod that fails, and that is said.
            let deployment = cluster.deckhouse_deployment().await.ok().flatten().unwrap_or_default();
            moved(&deployment, &before.images_repo, &wanted.images_repo)
        }
        // In managed modes images have the cluster's own address, and otherwise nothing moves.
        _ => Vec::new(),
    };
    words(cluster.namespace(), &deckhouse, &images, &controller, has_led)
}

/// What `kubectl set image` is told, so that images below `old` are asked for below `new`.
fn moved(deployment: &DeckhouseDeployment, old: &str, new: &str) -> Vec<String> {
    let of = |container: &Container| {
        let rest = container.image.strip_prefix(old).filter(|rest| rest.starts_with(['/', ':', '@']))?;
        Some(format!("{}={new}{rest}", container.name))
    };
    deployment.init_containers.iter().chain(&deployment.containers).filter_map(of).collect()
}

fn words(
    namespace: &str,
    deckhouse: &Result<Vec<FailingPod>, String>,
    images: &[String],
    controller: &Result<Vec<FailingPod>, String>,
    has_led: bool,
) -> String {
    let list = |pods: &[FailingPod]| {
        let mut lines = String::new();
        for FailingPod { name, node, why } in pods {
            let Some(why) = why else { continue };
            // A person may not delete pods with Deckhouse's label as himself.
            lines.push_str(&format!(
                "  kubectl -n {namespace} delete pod {name} --as system:sudouser    # {why}, on {node}\n"
            ));
        }
        lines
    };
    let mut said = String::new();
    match deckhouse {
        Ok(pods) => {
            let failing = list(pods);
            if failing.is_empty() {
                said.push_str("No pod of Deckhouse fails.\n");
            } else if images.is_empty() {
                said.push_str(&format!(
                    "Left to do: pods of Deckhouse that fail; delete them one by one, and wait for one that runs:\n{failing}"
                ));
            } else {
                said.push_str(&format!(
                    "Left to do: pods of Deckhouse that fail, because its Deployment names the registry of before; first\n  kubectl -n \
                     {namespace} set image deployment/deckhouse {} --as system:sudouser\nthen those that still fail; delete them one \
                     by one, and wait for one that runs:\n{failing}",
                    images.join(" ")
                ));
            }
            let starting: Vec<&str> =
                pods.iter().filter(|pod| pod.why.is_none()).map(|pod| pod.name.as_str()).collect();
            if !starting.is_empty() {
                said.push_str(&format!("Not Ready yet: {}\n", starting.join(", ")));
            }
        }
        Err(why) => said.push_str(&format!(
            "Left to do: which pods of Deckhouse fail can't be read ({why}): kubectl -n {namespace} get pods -l {DECKHOUSE}\n"
        )),
    }
    if has_led {
        said.push_str(
            "The switch ends when Deckhouse runs and a controller does: nodes and servers hold the old upstream beside the new one \
             until then.\n",
        );
        match controller.as_deref().map(list) {
            Ok(failing) if failing.is_empty() => {}
            Ok(failing) => said.push_str(&format!(
                "Pods of the controller that fail; the kubelet tries again within five minutes, or at once when they are deleted:\n{failing}"
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

    fn pod(name: &str, why: Option<&str>) -> FailingPod {
        FailingPod { name: name.to_owned(), node: "master-0".to_owned(), why: why.map(str::to_owned) }
    }

    #[test]
    fn pods_that_fail_are_named_with_the_command_and_none_is_said_too() {
        let fails = |name: &str| pod(name, Some("ImagePullBackOff"));
        let expected = "\
Left to do: pods of Deckhouse that fail; delete them one by one, and wait for one that runs:
  kubectl -n d8-system delete pod deckhouse-a --as system:sudouser    # ImagePullBackOff, on master-0
Not Ready yet: deckhouse-b
The switch ends when Deckhouse runs and a controller does: nodes and servers hold the old upstream beside the new one until then.
Pods of the controller that fail; the kubelet tries again within five minutes, or at once when they are deleted:
  kubectl -n d8-system delete pod c --as system:sudouser    # ImagePullBackOff, on master-0
See how far it is: d8-registry switch status --watch
";
        let deckhouse = Ok(vec![fails("deckhouse-a"), pod("deckhouse-b", None)]);
        assert_eq!(words("d8-system", &deckhouse, &[], &Ok(vec![fails("c"), pod("d", None)]), true), expected);
        let nothing = words("d8-system", &Ok(Vec::new()), &["a=b".to_owned()], &Ok(vec![fails("c")]), false);
        assert_eq!(nothing, "No pod of Deckhouse fails.\nSee how far it is: d8-registry switch status --watch\n");
        let starting = words("d8-system", &Ok(vec![pod("deckhouse-b", None)]), &[], &Ok(Vec::new()), false);
        assert!(starting.starts_with("No pod of Deckhouse fails.\nNot Ready yet: deckhouse-b\n"), "{starting}");
        let unknown = words("d8-system", &Err("403".to_owned()), &[], &Ok(Vec::new()), false);
        assert!(unknown.contains("(403): kubectl -n d8-system get pods -l app=deckhouse\n"), "{unknown}");
    }

    #[test]
    fn a_deployment_that_names_the_registry_of_before_is_pointed_elsewhere_first() {
        let container = |name: &str, image: &str| Container { name: name.to_owned(), image: image.to_owned() };
        let deployment = DeckhouseDeployment {
            init_containers: vec![container("init", "r.example/deckhouse/ee@sha256:1")],
            containers: vec![
                container("deckhouse", "r.example/deckhouse/ee:v1.70"),
                container("proxy", "r.example/deckhouse/ee/proxy:1"),
                container("other", "r.example/deckhouse/eels:1"),
            ],
            ..DeckhouseDeployment::default()
        };
        let images = moved(&deployment, "r.example/deckhouse/ee", "q.example/se");
        assert_eq!(
            images,
            ["init=q.example/se@sha256:1", "deckhouse=q.example/se:v1.70", "proxy=q.example/se/proxy:1"]
        );
        let deckhouse = Ok(vec![pod("deckhouse-a", Some("ImagePullBackOff"))]);
        let said = words("d8-system", &deckhouse, &images, &Ok(Vec::new()), false);
        let command = "\n  kubectl -n d8-system set image deployment/deckhouse init=q.example/se@sha256:1 deckhouse=q.example/se:v1.70 \
                       proxy=q.example/se/proxy:1 --as system:sudouser\n";
        assert!(said.contains(command) && said.contains("delete pod deckhouse-a "), "{said}");
    }
}
