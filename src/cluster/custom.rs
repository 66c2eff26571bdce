//! Objects of Deckhouse's own kinds. Their CustomResourceDefinitions may not exist: then there are none of them.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use super::{Cluster, ClusterError, lists};

/// A ModuleConfig.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleConfig {
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec.settings`; `Null` where it is absent.
    pub settings: Value,
}

/// A Module, as far as lists of images need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// `properties.source`.
    pub source: String,
    /// `properties.critical`; false where it is absent.
    pub critical: bool,
}

/// A DeckhouseRelease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeckhouseRelease {
    /// `spec.version`, as `v1.70.1`.
    pub version: String,
    /// `status.phase`: `Deployed`, `Superseded`, `Pending`, `Suspended`, `Skipped`; `""` while Deckhouse has not looked at it.
    pub phase: String,
}

/// A kind of group `deckhouse.io`, version `v1alpha1`, without a namespace.
pub(super) fn api(client: Client, kind: &ApiResource) -> Api<DynamicObject> {
    Api::all_with(client, kind)
}

/// Its description.
pub(super) fn kind(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("deckhouse.io", "v1alpha1", kind), plural)
}

impl Cluster {
    /// The ModuleConfig of this name; `None` where there is none, or no such kind.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn module_config(&self, name: &str) -> Result<Option<ModuleConfig>, ClusterError> {
        let configs = api(self.client().clone(), &kind("ModuleConfig", "moduleconfigs"));
        let found = found(self.call("get a ModuleConfig", configs.get_opt(name)).await)?;
        Ok(found.map(|object| ModuleConfig {
            generation: object.metadata.generation.unwrap_or_default(),
            settings: object.data.pointer("/spec/settings").cloned().unwrap_or_default(),
        }))
    }

    /// Whether Deckhouse's module manager has enabled this module (condition `EnabledByModuleManager`).
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn is_module_enabled(&self, name: &str) -> Result<bool, ClusterError> {
        let found = found(self.call("get a Module", self.module_objects().get_opt(name)).await)?;
        Ok(found.is_some_and(|module| is_enabled(&module.data)))
    }

    /// Every Module; none where there is no such kind.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn modules(&self) -> Result<Vec<Module>, ClusterError> {
        let read = |object: DynamicObject| {
            let text = |key: &str| object.data.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            Some(Module {
                source: text("/properties/source"),
                critical: object.data.pointer("/properties/critical").and_then(Value::as_bool).unwrap_or_default(),
                name: object.metadata.name.unwrap_or_default(),
            })
        };
        match lists::all(self, &self.module_objects(), "list Modules", ListParams::default(), read).await {
            Err(error) if error.is_absent() => Ok(Vec::new()),
            modules => modules,
        }
    }

    /// Every DeckhouseRelease; none where there is no such kind.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn deckhouse_releases(&self) -> Result<Vec<DeckhouseRelease>, ClusterError> {
        let api = api(self.client().clone(), &kind("DeckhouseRelease", "deckhousereleases"));
        let read = |object: DynamicObject| {
            let text = |key: &str| object.data.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            Some(DeckhouseRelease { version: text("/spec/version"), phase: text("/status/phase") })
        };
        match lists::all(self, &api, "list DeckhouseReleases", ListParams::default(), read).await {
            Err(error) if error.is_absent() => Ok(Vec::new()),
            releases => releases,
        }
    }

    fn module_objects(&self) -> Api<DynamicObject> {
        api(self.client().clone(), &kind("Module", "modules"))
    }
}

/// Of a kind that is not served there is no object. While an API server starts it says 503 of those, not 404.
fn found<T>(answer: Result<Option<T>, ClusterError>) -> Result<Option<T>, ClusterError> {
    match answer {
        Err(error) if error.is_absent() => Ok(None),
        answer => answer,
    }
}

fn is_enabled(module: &Value) -> bool {
    let conditions = module.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| {
            condition.get("type").and_then(Value::as_str) == Some("EnabledByModuleManager")
                && condition.get("status").and_then(Value::as_str) == Some("True")
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_module_is_enabled_by_its_condition_alone() {
        let with = |conditions: Value| is_enabled(&json!({"status": {"conditions": conditions}}));
        assert!(with(
            json!([{"type": "IsReady", "status": "False"}, {"type": "EnabledByModuleManager", "status": "True"}])
        ));
        assert!(!with(json!([{"type": "EnabledByModuleManager", "status": "False"}])));
        assert!(!with(json!([{"type": "EnabledByModuleConfig", "status": "True"}])));
        assert!(!with(json!("garbled")) && !is_enabled(&json!({})));
    }
}
