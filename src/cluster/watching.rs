//! Tells that something has changed, and never what: whoever hears it looks anew.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Cluster, custom};

/// What is watched beside Nodes and Deckhouse's pods, by name.
#[derive(Clone, Copy, Debug)]
pub struct Watched<'a> {
    /// Secrets of the namespace.
    pub secrets: &'a [&'a str],
    /// ConfigMaps of the namespace.
    pub config_maps: &'a [&'a str],
    /// Services of the namespace.
    pub services: &'a [&'a str],
    /// ModuleConfigs.
    pub module_configs: &'a [&'a str],
}

impl Cluster {
    /// Watches until `stop`, and notifies for each change, and each time that a broken watch was begun anew. A watch that can't
    /// be had is tried again with growing pauses; nothing is missed then that a look from time to time does not find.
    pub fn watch(&self, watched: Watched<'_>, changed: &Arc<Notify>, tasks: &TaskTracker, stop: &CancellationToken) {
        let each = Each { changed, tasks, stop };
        let (client, namespace) = (self.client(), self.namespace());
        each.start(Api::<PartialObjectMeta<Node>>::all(client.clone()), (), watcher::Config::default());
        let of_deckhouse = watcher::Config::default().labels("app=deckhouse");
        each.start(Api::<PartialObjectMeta<Pod>>::namespaced(client.clone(), namespace), (), of_deckhouse);
        for name in watched.secrets {
            each.start(Api::<PartialObjectMeta<Secret>>::namespaced(client.clone(), namespace), (), named(name));
        }
        for name in watched.config_maps {
            each.start(Api::<PartialObjectMeta<ConfigMap>>::namespaced(client.clone(), namespace), (), named(name));
        }
        for name in watched.services {
            each.start(Api::<PartialObjectMeta<Service>>::namespaced(client.clone(), namespace), (), named(name));
        }
        let kind = custom::kind("ModuleConfig", "moduleconfigs");
        let module_configs = Api::<PartialObjectMeta<DynamicObject>>::all_with(client.clone(), &kind);
        for name in watched.module_configs {
            each.start(module_configs.clone(), kind.clone(), named(name));
        }
    }
}

/// One object: rights by name are enough for that.
fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

struct Each<'a> {
    changed: &'a Arc<Notify>,
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
}

impl Each<'_> {
    fn start<K>(&self, api: Api<K>, kind: K::DynamicType, config: watcher::Config)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Clone + Debug + Send + Sync + 'static,
    {
        let (changed, stop) = (Arc::clone(self.changed), self.stop.clone());
        let what = format!("{} {}", K::plural(&kind), config.field_selector.as_deref().unwrap_or_default());
        self.tasks.spawn(async move {
            let events = watcher(api, config).default_backoff();
            pin_mut!(events);
            let mut away = false;
            while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
                match event {
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                    Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {
                        away = false;
                        changed.notify_one();
                    }
                    Err(error) => {
                        // Once for each time that it is away; the tries go on.
                        if !std::mem::replace(&mut away, true) {
                            tracing::warn!(what, %error, "a watch is broken; it is begun anew");
                        }
                    }
                }
            }
        });
    }
}
