//! Events about `registry-state` and about Nodes, for `kubectl describe` and whoever collects them.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;
use kube::Api;
use kube::api::PostParams;

use super::client::FIELD_MANAGER;
use super::{Cluster, ClusterError};
use crate::clock::Timestamp;

/// Most characters of an Event's message (its API has 1024).
const MESSAGE: usize = 1000;
/// Where Events are about what has no namespace.
const DEFAULT: &str = "default";

impl Cluster {
    /// Publishes an Event about the Secret `about`.
    ///
    /// # Errors
    /// [`ClusterError`]: it is lost.
    pub async fn publish(
        &self,
        about: &str,
        warning: bool,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> Result<(), ClusterError> {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(about.to_owned()),
            namespace: Some(self.namespace().to_owned()),
            ..ObjectReference::default()
        };
        self.publish_about(about, None, warning, reason, message, now).await
    }

    /// Publishes a warning about a Node.
    ///
    /// # Errors
    /// [`ClusterError`]: it is lost.
    pub async fn publish_about_node(
        &self,
        node: &str,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> Result<(), ClusterError> {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // As the kubelet has it, and `kubectl describe node` looks for it.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        self.publish_about(about, Some(node), true, reason, message, now).await
    }

    async fn publish_about(
        &self,
        about: ObjectReference,
        host: Option<&str>,
        warning: bool,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> Result<(), ClusterError> {
        let millis = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).ok().map(Time);
        let namespace = about.namespace.clone().unwrap_or_else(|| DEFAULT.to_owned());
        let name = about.name.clone().unwrap_or_default();
        let mut event = Event {
            involved_object: about,
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.chars().take(MESSAGE).collect()),
            source: Some(EventSource { component: Some(FIELD_MANAGER.to_owned()), host: host.map(str::to_owned) }),
            first_timestamp: time.clone(),
            last_timestamp: time,
            count: Some(1),
            ..Event::default()
        };
        event.metadata.generate_name = Some(format!("{name}."));
        event.metadata.namespace = Some(namespace.clone());
        let events = Api::<Event>::namespaced(self.client().clone(), &namespace);
        self.call("create an Event", events.create(&PostParams::default(), &event)).await?;
        Ok(())
    }
}
