//! Events about `registry-state`, for `kubectl describe` and whoever collects them.

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
        let millis = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).ok().map(Time);
        let mut event = Event {
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some(about.to_owned()),
                namespace: Some(self.namespace().to_owned()),
                ..ObjectReference::default()
            },
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.chars().take(MESSAGE).collect()),
            source: Some(EventSource { component: Some(FIELD_MANAGER.to_owned()), host: None }),
            first_timestamp: time.clone(),
            last_timestamp: time,
            count: Some(1),
            ..Event::default()
        };
        event.metadata.generate_name = Some(format!("{about}."));
        event.metadata.namespace = Some(self.namespace().to_owned());
        let events = Api::<Event>::namespaced(self.client().clone(), self.namespace());
        self.call("create an Event", events.create(&PostParams::default(), &event)).await?;
        Ok(())
    }
}
