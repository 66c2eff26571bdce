//! Every image that pods, and the templates that make them, name: one walk over all namespaces, page by page.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobStatus};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::lists::{self, Listed};
use super::{Cluster, ClusterError};
use crate::oci::Digest;

/// What one object says of images.
pub(super) struct Named {
    /// For people: `Deployment d8-monitoring/grafana`.
    pub(super) object: String,
    /// As its containers name them.
    pub(super) images: Vec<String>,
    /// As the runtime names what it runs (`imageID`); of pods alone.
    pub(super) running: Vec<String>,
    /// It starts no pod any more as it stands: a pod that has ended, a finished Job, a ReplicaSet of a Deployment's past.
    pub(super) is_over: bool,
}

impl Cluster {
    /// The digests of all that pods and templates of pods name, whether by a digest or by what the runtime made of a tag. Those
    /// of a Deployment's past are among them, as a rollback starts them again, and those of pods that have ended.
    ///
    /// # Errors
    /// [`ClusterError`]: then nothing is known, as a page that can't be had may have named any.
    pub async fn digests_in_use(&self) -> Result<BTreeSet<Digest>, ClusterError> {
        self.each_image(|named, found| {
            let named = named.images.iter().chain(&named.running);
            found.extend(named.filter_map(|image| image.rsplit_once('@')?.1.parse::<Digest>().ok()));
        })
        .await
    }

    /// What `keep` takes of each object.
    ///
    /// # Errors
    /// [`ClusterError`]: then nothing is known.
    pub(super) async fn each_image<T: Ord + Send>(
        &self,
        mut keep: impl FnMut(Named, &mut BTreeSet<T>),
    ) -> Result<BTreeSet<T>, ClusterError> {
        let keep = &mut keep;
        let of_pod = |pod: Pod| {
            let is_over = has_ended(pod.status.as_ref());
            (pod.metadata, pod.spec, is_over, pod.status)
        };
        let mut found = self.of_kind(of_pod, keep).await?;
        let of_deployment =
            |object: Deployment| (object.metadata, object.spec.and_then(|spec| spec.template.spec), false, None);
        found.extend(self.of_kind(of_deployment, keep).await?);
        let of_daemon_set =
            |object: DaemonSet| (object.metadata, object.spec.and_then(|spec| spec.template.spec), false, None);
        found.extend(self.of_kind(of_daemon_set, keep).await?);
        let of_stateful_set =
            |object: StatefulSet| (object.metadata, object.spec.and_then(|spec| spec.template.spec), false, None);
        found.extend(self.of_kind(of_stateful_set, keep).await?);
        // Those of a Deployment's past have no replicas; one of its own may start pods at any time.
        let of_replica_set = |object: ReplicaSet| {
            let is_over = object.spec.as_ref().is_none_or(|spec| spec.replicas == Some(0));
            let template = object.spec.and_then(|spec| spec.template);
            (object.metadata, template.and_then(|template| template.spec), is_over, None)
        };
        found.extend(self.of_kind(of_replica_set, keep).await?);
        // One that is suspended, or waits to try again, has no pod and will have one.
        let of_job = |object: Job| {
            let is_over = object.status.as_ref().is_some_and(has_finished);
            (object.metadata, object.spec.and_then(|spec| spec.template.spec), is_over, None)
        };
        found.extend(self.of_kind(of_job, keep).await?);
        let of_cron_job = |object: CronJob| {
            let job = object.spec.and_then(|spec| spec.job_template.spec);
            (object.metadata, job.and_then(|job| job.template.spec), false, None)
        };
        found.extend(self.of_kind(of_cron_job, keep).await?);
        Ok(found)
    }

    async fn of_kind<K, T: Ord>(
        &self,
        split: impl Fn(K) -> (ObjectMeta, Option<PodSpec>, bool, Option<PodStatus>),
        keep: &mut impl FnMut(Named, &mut BTreeSet<T>),
    ) -> Result<BTreeSet<T>, ClusterError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let mut found = BTreeSet::new();
        let kind = K::kind(&());
        let api = Api::<K>::all(self.client().clone());
        lists::for_each(self, &api, "list what names images", ListParams::default(), |listed| match listed {
            Listed::Begin => found.clear(),
            Listed::Object(object) => {
                let (metadata, spec, is_over, status) = split(object);
                let named = Named {
                    object: title(&kind, &metadata),
                    images: spec.map(images).unwrap_or_default(),
                    running: status.map(running).unwrap_or_default(),
                    is_over,
                };
                keep(named, &mut found);
            }
        })
        .await?;
        Ok(found)
    }
}

fn images(spec: PodSpec) -> Vec<String> {
    let containers = spec.containers.into_iter().chain(spec.init_containers.unwrap_or_default());
    let ephemeral = spec.ephemeral_containers.unwrap_or_default();
    containers
        .filter_map(|container| container.image)
        .chain(ephemeral.into_iter().filter_map(|container| container.image))
        .collect()
}

fn running(status: PodStatus) -> Vec<String> {
    let all = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().map(|container| container.image_id).collect()
}

/// Whether a Job starts no more pods.
fn has_finished(status: &JobStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")
}

fn has_ended(status: Option<&PodStatus>) -> bool {
    matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// `Kind namespace/name`.
pub(super) fn title(kind: &str, metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    metadata
        .namespace
        .as_deref()
        .map_or_else(|| format!("{kind} {name}"), |namespace| format!("{kind} {namespace}/{name}"))
}
