//! ConfigMaps, and the few fields of other objects that a switch turns.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};

use super::client::FIELD_MANAGER;
use super::{Changes, Cluster, ClusterError, Version};

/// A ConfigMap as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConfigMap {
    /// What a write has to name.
    pub version: Version,
    /// Its data.
    pub data: BTreeMap<String, String>,
}

/// A Service, as far as a switch turns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredService {
    /// What a write has to name.
    pub version: Version,
    /// Its selector.
    pub selector: BTreeMap<String, String>,
}

impl Cluster {
    /// A ConfigMap of the namespace; `None` where there is none.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn config_map(&self, name: &str) -> Result<Option<StoredConfigMap>, ClusterError> {
        let found = self.call("get a ConfigMap", self.config_maps().get_opt(name)).await?;
        Ok(found.map(|object| StoredConfigMap {
            version: Version(object.metadata.resource_version.unwrap_or_default()),
            data: object.data.unwrap_or_default(),
        }))
    }

    /// Makes a ConfigMap.
    ///
    /// # Errors
    /// [`ClusterError`], [`is_conflict`](ClusterError::is_conflict) where there is one of this name.
    pub async fn create_config_map(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        data: BTreeMap<String, String>,
    ) -> Result<(), ClusterError> {
        let mut object = ConfigMap { data: Some(data), ..ConfigMap::default() };
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some(self.namespace().to_owned());
        object.metadata.labels = Some(labels);
        self.call("create a ConfigMap", self.config_maps().create(&PostParams::default(), &object)).await?;
        Ok(())
    }

    /// Changes keys of a ConfigMap that still has this version.
    ///
    /// # Errors
    /// [`ClusterError`], [`is_conflict`](ClusterError::is_conflict) where it was changed since.
    pub async fn change_config_map(
        &self,
        name: &str,
        version: &Version,
        data: Changes<String>,
    ) -> Result<(), ClusterError> {
        let data: Map<_, _> = data.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
        let patch = json!({"metadata": {"resourceVersion": version.0}, "data": data});
        self.call("change a ConfigMap", self.config_maps().patch(name, &parameters(), &Patch::Merge(patch))).await?;
        Ok(())
    }

    /// A Service of the namespace; `None` where there is none.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn service(&self, name: &str) -> Result<Option<StoredService>, ClusterError> {
        let found = self.call("get a Service", self.services().get_opt(name)).await?;
        Ok(found.map(|object| StoredService {
            version: Version(object.metadata.resource_version.unwrap_or_default()),
            selector: object.spec.and_then(|spec| spec.selector).unwrap_or_default(),
        }))
    }

    /// Gives a Service that still has this version another selector, whole.
    ///
    /// # Errors
    /// [`ClusterError`], [`is_conflict`](ClusterError::is_conflict) where it was changed since.
    pub async fn select(
        &self,
        name: &str,
        found: &StoredService,
        selector: &BTreeMap<String, String>,
    ) -> Result<(), ClusterError> {
        let gone =
            found.selector.keys().filter(|key| !selector.contains_key(*key)).map(|key| (key.clone(), Value::Null));
        let set = selector.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        let selector: Map<_, _> = gone.chain(set).collect();
        let patch = json!({"metadata": {"resourceVersion": found.version.0}, "spec": {"selector": selector}});
        self.call("change a Service", self.services().patch(name, &parameters(), &Patch::Merge(patch))).await?;
        Ok(())
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client().clone(), self.namespace())
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client().clone(), self.namespace())
    }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}
