//! What was in force before, in Secret `registry-previous`: kept, read again, forgotten.

use std::collections::BTreeMap;

use super::super::super::Failure;
use super::super::{change_secret, changed_meanwhile, failed, failure, read};
use crate::clock;
use crate::cluster::{Cluster, NewSecret, SecretChange, StoredSecret};
use crate::switch::outputs::{SecretManifest, names, previous};
use crate::switch::{Record, Settings, inputs};
use crate::values::Secret;

/// Writes what is in force, unless that is what is kept already. `config` is Secret `d8-registry-settings`, where it is ours.
pub(super) async fn keep(cluster: &Cluster, record: &Record, config: Option<&StoredSecret>) -> Result<(), Failure> {
    let is_option = |(key, _): &(&String, &Vec<u8>)| key.starts_with("switch.");
    let options = config.into_iter().flat_map(|secret| &secret.data).filter(is_option);
    let options: BTreeMap<String, Secret> =
        options.map(|(key, value)| (key.clone(), Secret::new(String::from_utf8_lossy(value).into_owned()))).collect();
    let now = clock::now();
    let SecretManifest { name, kind, labels, annotations, data } = previous::to_secret(record, &options, now);
    let data: BTreeMap<String, Vec<u8>> =
        data.into_iter().map(|(key, value)| (key, value.expose().as_bytes().to_vec())).collect();
    let Some(found) = read(cluster, names::PREVIOUS).await? else {
        let secret = NewSecret { name, kind: kind.to_owned(), labels, annotations, data };
        return match cluster.create_secret(secret).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(changed_meanwhile(names::PREVIOUS)),
            Err(error) => Err(failed(names::PREVIOUS, &error)),
        };
    };
    if found.data == data && !previous::has_expired(&found.annotations, now) {
        return Ok(());
    }
    let gone = found.data.keys().filter(|key| !data.contains_key(*key)).map(|key| (key.clone(), None));
    let change = SecretChange {
        labels: labels.into_iter().map(|(key, value)| (key, Some(value))).collect(),
        annotations: annotations.into_iter().map(|(key, value)| (key, Some(value))).collect(),
        data: gone
            .collect::<Vec<_>>()
            .into_iter()
            .chain(data.into_iter().map(|(key, value)| (key, Some(value))))
            .collect(),
    };
    change_secret(cluster, &found, change).await
}

/// What is kept, with its settings.
pub(super) async fn kept(cluster: &Cluster) -> Result<(StoredSecret, Settings), Failure> {
    let found = read(cluster, names::PREVIOUS).await?;
    let Some(found) = found.filter(|found| !previous::has_expired(&found.annotations, clock::now())) else {
        return Err(failure(format!(
            "there is nothing to go back to: no Secret {} in {} that is younger than seven days",
            names::PREVIOUS,
            cluster.namespace()
        )));
    };
    match inputs::read_secret(&found.data).0.settings {
        Ok(settings) => Ok((found, settings)),
        Err(problems) => Err(failure(format!("Secret {} is not valid:\n  {}", names::PREVIOUS, problems.join("\n  ")))),
    }
}

/// Removes it; `false`: there was none.
pub(super) async fn forget(cluster: &Cluster) -> Result<bool, Failure> {
    let Some(found) = read(cluster, names::PREVIOUS).await? else { return Ok(false) };
    match cluster.delete_secret(names::PREVIOUS, &found.version).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) if error.is_conflict() => Err(changed_meanwhile(names::PREVIOUS)),
        Err(error) => Err(failed(names::PREVIOUS, &error)),
    }
}
