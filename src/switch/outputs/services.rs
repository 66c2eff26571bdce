//! The selectors of the Services before the servers.
//!
//! # Decisions
//! - The servers are the same pods in every mode, so Service `registry` selects the same ones in every managed mode, and not
//!   by `type: incluster-proxy` or `node-services`, which tell Deckhouse's own pods apart.
//! - Where nobody is to be reached the selector names a component that no pod has. Without a selector the addresses of before
//!   would stay behind the Service.
//! - Pushes from outside are switched by the selector of the Service behind the Ingress (or HTTPRoute), which the chart
//!   renders once: the Ingress has the certificate, the class and annotations of the administrator, and stays.

use std::collections::BTreeMap;

/// The pods of the servers.
#[must_use]
pub fn servers() -> BTreeMap<String, String> {
    selector("registry-server")
}

/// No pods.
#[must_use]
pub fn nobody() -> BTreeMap<String, String> {
    selector("nobody")
}

/// Whether a selector leads to the servers, and not to nobody.
///
/// # Errors
/// It leads to somebody else, who must not get what is pushed.
pub fn leads_to_servers(selector: &BTreeMap<String, String>) -> Result<bool, String> {
    match selector {
        selector if *selector == servers() => Ok(true),
        selector if *selector == nobody() => Ok(false),
        _ => Err("the selector leads neither to the servers nor to nobody".to_owned()),
    }
}

fn selector(component: &str) -> BTreeMap<String, String> {
    [("app", "d8-registry"), ("component", component)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}
