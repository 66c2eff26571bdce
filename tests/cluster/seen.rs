//! What is seen of a cluster, and waited for: the words of its controller, the end of a switch, the pulls of its nodes.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use d8_registry::switch::outputs::names::{CONFIG_FACT, NO_CONFIG};
use d8_registry::switch::{Condition, ConditionType, RegistryState, Target};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::ListParams;
use reqwest::Client;

use super::processes::metrics_address;
use super::wanted::Wanted;
use super::world::World;

impl World {
    /// A fact of `registry-state`; empty where it is not there.
    pub(crate) async fn fact(&self, name: &str) -> String {
        let facts = self.state().await.map(|state| state.facts).unwrap_or_default();
        facts.into_iter().find(|(fact, _)| fact == name).map(|(_, value)| value).unwrap_or_default()
    }

    /// `registry-state`, once there is one.
    pub(crate) async fn state(&self) -> Option<RegistryState> {
        let secret = self.api.of::<Secret>().get_opt("registry-state").await.ok()??;
        let data: BTreeMap<String, Vec<u8>> = secret.data?.into_iter().map(|(key, value)| (key, value.0)).collect();
        RegistryState::read(&data).ok()
    }

    /// Whether a condition has this status now.
    pub(crate) async fn is(&self, kind: ConditionType, status: bool) -> bool {
        let found = self.condition(kind).await;
        found.is_some_and(|condition| condition.status == status)
    }

    pub(crate) async fn condition(&self, kind: ConditionType) -> Option<Condition> {
        self.state().await?.conditions.into_iter().find(|condition| condition.kind == kind)
    }

    /// Waits until the condition has this status while this mode is wanted.
    pub(crate) async fn until_condition(&self, target: Target, kind: ConditionType, status: bool) {
        self.until(&format!("{kind} is {status} on the way to {target}"), || async {
            self.state().await.is_some_and(|state| {
                state.target_mode == target
                    && state.conditions.iter().any(|condition| condition.kind == kind && condition.status == status)
            })
        })
        .await;
    }

    /// Asks for a mode, does what an administrator does on the way, and waits for its end.
    pub(crate) async fn switch(&self, wanted: Wanted) {
        self.want(wanted).await;
        self.finish(wanted).await;
    }

    /// Waits for the end of a switch that was asked for.
    pub(crate) async fn finish(&self, wanted: Wanted) {
        self.reach(wanted).await;
        self.assert_pulled().await;
    }

    /// The same, and looks at no pull.
    pub(crate) async fn reach(&self, wanted: Wanted) {
        if wanted == Wanted::Local {
            // `d8 mirror push`, once the servers take it.
            self.until_condition(Target::Local, ConditionType::NodeServicesReady, true).await;
            for host in self.hosts() {
                self.push(&host).await;
            }
        }
        self.until(&format!("{wanted:?} is reached"), || self.is_reached(wanted)).await;
    }

    /// Whether a mode is reached, with what was asked for last.
    pub(crate) async fn is_reached(&self, wanted: Wanted) -> bool {
        let target = wanted.target();
        let config = self.api.of::<Secret>().get_opt("d8-registry-settings").await.ok().flatten();
        let seen = config.and_then(|secret| secret.metadata.resource_version).unwrap_or_else(|| NO_CONFIG.to_owned());
        self.state().await.is_some_and(|state| {
            state.mode == target
                && state.target_mode == target
                && state.facts.iter().any(|(name, value)| name == CONFIG_FACT && *value == seen)
                && state.conditions.iter().any(|condition| condition.kind == ConditionType::Ready && condition.status)
        })
    }

    /// Every node has pulled since, and none ever failed.
    pub(crate) async fn assert_pulled(&self) {
        let nodes = u64::try_from(self.roles.nodes.lock().unwrap().len()).unwrap();
        let enough = self.pulls.done.load(Ordering::Relaxed) + 4 * nodes;
        self.until("pulls go on", || async { self.pulls.done.load(Ordering::Relaxed) >= enough }).await;
        self.assert_no_failure();
    }

    /// A node has got its images since, each at least twice: one that a switch goes on without is not excused.
    pub(crate) async fn assert_pulled_by(&self, node: &str) {
        let images = self.roles.nodes.lock().unwrap()[node].images.lock().unwrap().len();
        assert!(images > 0, "{node} has no pods");
        let enough = self.pulls.given(node) + 3 * u64::try_from(images).unwrap();
        self.until(&format!("{node} gets its images"), || async { self.pulls.given(node) >= enough }).await;
        self.assert_no_failure();
    }

    pub(crate) fn assert_no_failure(&self) {
        let failures = self.pulls.failures();
        assert!(failures.is_empty(), "{} failed pulls: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
    }

    /// Reason and message of every Event.
    pub(crate) async fn events(&self) -> Vec<(String, String)> {
        let events = self.api.of::<Event>().list(&ListParams::default()).await.unwrap();
        let words = |event: Event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        events.items.into_iter().map(words).collect()
    }

    /// A metric of a controller; `None` where it does not run or has none of that name.
    pub(crate) async fn metric(&self, number: u16, line: &str) -> Option<u64> {
        let text = self.metrics(number).await?;
        text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }

    /// All metrics of a controller; `None` where it does not run.
    pub(crate) async fn metrics(&self, number: u16) -> Option<String> {
        let url = format!("http://{}/metrics", metrics_address(number));
        let answer = Client::builder().no_proxy().build().unwrap().get(url).send().await.ok()?;
        answer.text().await.ok()
    }

    /// Waits for something that has to happen.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, is_so: impl Fn() -> F) {
        let waiting = async {
            while !is_so().await {
                // Whatever is waited for follows from an answer to the controller, or comes to its metrics by itself.
                let _ = tokio::time::timeout(Duration::from_millis(100), self.roles.answered.notified()).await;
            }
        };
        if tokio::time::timeout(self.patience, waiting).await.is_err() {
            let state = self.state().await;
            let shown = state.map(|state| {
                state
                    .conditions
                    .iter()
                    .map(|condition| format!("{} {} {:?}", condition.kind, condition.status, condition.message))
                    .collect::<Vec<_>>()
            });
            let logs = |path: &Path| {
                std::fs::read_to_string(path)
                    .unwrap_or_default()
                    .lines()
                    .rev()
                    .take(40)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            let log: Vec<String> = (0..2).flat_map(|number| logs(&self.setup.log(number))).collect();
            let servers: Vec<String> = self
                .roles
                .servers
                .lock()
                .unwrap()
                .iter()
                .flat_map(|server| server.log().lines().rev().take(8).map(str::to_owned).collect::<Vec<_>>())
                .collect();
            panic!(
                "{what}: not within {:?}; {shown:#?}; controller, newest first: {log:#?}; servers: {servers:#?}",
                self.patience
            );
        }
    }
}
