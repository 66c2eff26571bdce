//! What is written, against literal texts and hashes of Go's own `encoding/json`, and read back.

mod nodes;
mod readers;
mod secrets;
mod state;
mod strategies;

use std::collections::BTreeMap;
use std::time::Duration;

use super::{InCluster, SecretManifest};
use crate::switch::settings::{Login, Params, Upstream};
use crate::values::{Scheme, Secret};

/// No certificate: characters that Go's JSON escapes.
const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB<>&\u{2028}\n-----END CERTIFICATE-----\n";

fn login(username: &str, password: &str) -> Login {
    Login { username: username.to_owned(), password: Secret::new(password.to_owned()) }
}

fn upstream(images_repo: &str) -> Upstream {
    let login = Some(login("license-token", "a<b>&c"));
    Upstream { images_repo: images_repo.to_owned(), scheme: Scheme::Https, ca: Some(CA.to_owned()), login }
}

fn anonymous(images_repo: &str) -> Upstream {
    Upstream { images_repo: images_repo.to_owned(), scheme: Scheme::Http, ca: None, login: None }
}

fn proxy() -> Params {
    Params::Proxy { upstream: upstream("registry.example.com/deckhouse/ee"), ttl: Duration::from_secs(3600) }
}

fn in_cluster() -> InCluster {
    InCluster { ca: CA.to_owned(), ro: login("ro", "hunter2") }
}

/// The data as the API server gives it back.
fn stored(secret: &SecretManifest) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().map(|(key, value)| (key.clone(), value.expose().as_bytes().to_vec())).collect()
}

fn text<'a>(secret: &'a SecretManifest, key: &str) -> &'a str {
    secret.data[key].expose()
}
