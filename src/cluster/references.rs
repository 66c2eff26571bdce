//! What in the cluster still names an address: pods, the templates that make them, and sources of modules.

use std::collections::BTreeSet;

use kube::api::{DynamicObject, ListParams};
use serde_json::Value;

use super::images::title;
use super::{Cluster, ClusterError, custom, lists};

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
    /// Everything in all namespaces that names `address` (`host[:port][/path]`), sorted. What starts no pods any more does not
    /// count.
    ///
    /// # Errors
    /// [`ClusterError`]: then nothing is known.
    pub async fn references(&self, address: &str) -> Result<BTreeSet<Reference>, ClusterError> {
        let mut found = self
            .each_image(|named, found| {
                let images = named.images.into_iter().filter(|image| !named.is_over && names(image, address));
                found.extend(images.map(|image| Reference { object: named.object.clone(), image, is_image: true }));
            })
            .await?;
        found.extend(self.module_sources(address).await?);
        Ok(found)
    }

    async fn module_sources(&self, address: &str) -> Result<BTreeSet<Reference>, ClusterError> {
        let api = custom::api(self.client().clone(), &custom::kind("ModuleSource", "modulesources"));
        let read = |object: DynamicObject| {
            let repository = object.data.pointer("/spec/registry/repo").and_then(Value::as_str)?.to_owned();
            let object = title("ModuleSource", &object.metadata);
            names(&repository, address).then_some(Reference { object, image: repository, is_image: false })
        };
        match lists::all(self, &api, "list ModuleSources", ListParams::default(), read).await {
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
