//! What in the cluster still names an address: pods, the templates that make them, and sources of modules.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobStatus};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::lists::{self, Listed};
use super::{Cluster, ClusterError, custom};

/// One that names an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// For people: `Deployment d8-monitoring/grafana`.
    pub object: String,
    /// What it names: an image, or the repository of a source of modules.
    pub image: String,
    /// Whether it is an image, and not a repository.
    pub is_image: bool,
}

impl Cluster {
    /// Everything in all namespaces that names `address` (`host[:port][/path]`), sorted. Pods that have ended don't count.
    ///
    /// # Errors
    /// [`ClusterError`]: then nothing is known.
    pub async fn references(&self, address: &str) -> Result<BTreeSet<Reference>, ClusterError> {
        let scan = Scan { cluster: self, address };
        let mut found =
            scan.of(|pod: Pod| (pod.metadata, pod.spec.filter(|_| !has_ended(pod.status.as_ref())))).await?;
        found.extend(
            scan.of(|object: Deployment| (object.metadata, object.spec.and_then(|spec| spec.template.spec))).await?,
        );
        found.extend(
            scan.of(|object: DaemonSet| (object.metadata, object.spec.and_then(|spec| spec.template.spec))).await?,
        );
        found.extend(
            scan.of(|object: StatefulSet| (object.metadata, object.spec.and_then(|spec| spec.template.spec))).await?,
        );
        // Those of a Deployment's past have no replicas; one of its own may start pods at any time.
        let of_replica_set = |object: ReplicaSet| {
            let spec = object.spec.filter(|spec| spec.replicas != Some(0));
            (object.metadata, spec.and_then(|spec| spec.template).and_then(|template| template.spec))
        };
        found.extend(scan.of(of_replica_set).await?);
        // One that is suspended, or waits to try again, has no pod and will have one.
        let of_job = |object: Job| {
            let is_over = object.status.as_ref().is_some_and(has_finished);
            (object.metadata, object.spec.filter(|_| !is_over).and_then(|spec| spec.template.spec))
        };
        found.extend(scan.of(of_job).await?);
        let of_cron_job = |object: CronJob| {
            let job = object.spec.and_then(|spec| spec.job_template.spec);
            (object.metadata, job.and_then(|job| job.template.spec))
        };
        found.extend(scan.of(of_cron_job).await?);
        found.extend(scan.module_sources().await?);
        Ok(found)
    }
}

struct Scan<'a> {
    cluster: &'a Cluster,
    address: &'a str,
}

impl Scan<'_> {
    async fn of<K>(
        &self,
        split: impl Fn(K) -> (ObjectMeta, Option<PodSpec>),
    ) -> Result<BTreeSet<Reference>, ClusterError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let mut found = BTreeSet::new();
        let kind = K::kind(&());
        let api = Api::<K>::all(self.cluster.client().clone());
        lists::for_each(&api, "list what names an address", ListParams::default(), |listed| match listed {
            Listed::Begin => found.clear(),
            Listed::Object(object) => {
                let (metadata, Some(spec)) = split(object) else { return };
                for image in images(spec).filter(|image| names(image, self.address)) {
                    found.insert(Reference { object: title(&kind, &metadata), image, is_image: true });
                }
            }
        })
        .await?;
        Ok(found)
    }

    async fn module_sources(&self) -> Result<BTreeSet<Reference>, ClusterError> {
        let api = custom::api(self.cluster.client().clone(), &custom::kind("ModuleSource", "modulesources"));
        let read = |object: DynamicObject| {
            let repository = object.data.pointer("/spec/registry/repo").and_then(Value::as_str)?.to_owned();
            let object = title("ModuleSource", &object.metadata);
            names(&repository, self.address).then_some(Reference { object, image: repository, is_image: false })
        };
        match lists::all(&api, "list ModuleSources", ListParams::default(), read).await {
            Err(error) if error.is_absent() => Ok(BTreeSet::new()),
            found => Ok(found?.into_iter().collect()),
        }
    }
}

/// Whether an image, or a repository, is at `address` or below it.
fn names(image: &str, address: &str) -> bool {
    let rest = image.strip_prefix(address.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

fn images(spec: PodSpec) -> impl Iterator<Item = String> {
    let containers = spec.containers.into_iter().chain(spec.init_containers.unwrap_or_default());
    let ephemeral = spec.ephemeral_containers.unwrap_or_default();
    containers
        .filter_map(|container| container.image)
        .chain(ephemeral.into_iter().filter_map(|container| container.image))
}

/// Whether a Job starts no more pods.
fn has_finished(status: &JobStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")
}

fn has_ended(status: Option<&k8s_openapi::api::core::v1::PodStatus>) -> bool {
    matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn title(kind: &str, metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    metadata
        .namespace
        .as_deref()
        .map_or_else(|| format!("{kind} {name}"), |namespace| format!("{kind} {namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_below_an_address_only_at_a_boundary() {
        let address = "registry.d8-system.svc:5001/system/deckhouse";
        for image in ["", "/x:v1", "@sha256:00", ":v1"] {
            assert!(names(&format!("{address}{image}"), address), "{image}");
            assert!(names(&format!("{address}{image}"), &format!("{address}/")), "{image}");
        }
        for image in ["-ee:v1", "2/x"] {
            assert!(!names(&format!("{address}{image}"), address), "{image}");
        }
        assert!(!names("nginx:1", address) && names("a.b:5/x", "a.b:5") && !names("a.b:50/x", "a.b:5"));
    }
}
