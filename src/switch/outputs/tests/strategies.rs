//! Whatever is written is read back, and nothing that is read ends the program.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::stored;
use crate::clock::Timestamp;
use crate::switch::documents::{
    BashibleConfig, Coming, DeckhouseRegistry, FoundModeFile, Hosts, Mirror, ModeFile, Phase, Plane, RegistryState,
    Rewrite, ServerMode,
};
use crate::switch::outputs::{InCluster, hosts, merged};
use crate::switch::record::{InputSource, NodePlan, Record, Settle};
use crate::switch::settings::{CheckMode, Login, Params, Settings, Upstream};
use crate::values::{Scheme, Secret};

/// Texts that quoting may get wrong, and any others.
fn word() -> BoxedStrategy<String> {
    prop_oneof![
        "[a-z0-9.-]{1,12}(:[0-9]{1,4})?(/[a-z]{1,5}){0,2}",
        "[ -~\\n\\té→]{1,20}".prop_filter("not empty", |text| !text.is_empty()),
        any::<String>().prop_filter("not empty", |text| !text.is_empty()),
    ]
    .boxed()
}

fn login() -> BoxedStrategy<Login> {
    (word(), word()).prop_map(|(username, password)| Login { username, password: Secret::new(password) }).boxed()
}

fn scheme() -> BoxedStrategy<Scheme> {
    prop_oneof![Just(Scheme::Https), Just(Scheme::Http)].boxed()
}

fn upstream() -> BoxedStrategy<Upstream> {
    (word(), scheme(), prop::option::of(word()), prop::option::of(login()))
        .prop_map(|(images_repo, scheme, ca, login)| Upstream { images_repo, scheme, ca, login })
        .boxed()
}

fn ttl() -> BoxedStrategy<Duration> {
    (300_u64..10_000_000).prop_map(Duration::from_secs).boxed()
}

pub(super) fn params() -> BoxedStrategy<Params> {
    prop_oneof![
        upstream().prop_map(Params::Direct),
        (upstream(), ttl()).prop_map(|(upstream, ttl)| Params::Proxy { upstream, ttl }),
        Just(Params::Local),
        prop::option::of(upstream()).prop_map(Params::Unmanaged),
    ]
    .boxed()
}

fn served() -> BoxedStrategy<ServerMode> {
    params().prop_filter("managed", Params::is_managed).prop_map(|params| ServerMode::of(&params)).boxed()
}

fn plane() -> BoxedStrategy<Plane> {
    let coming = (served(), prop_oneof![Just(Phase::Filling), Just(Phase::Ready)]);
    let coming = coming.prop_map(|(mode, phase)| Coming { mode, phase });
    (params(), prop::option::of(coming), prop::collection::vec(served(), 0..4))
        .prop_map(|(in_force, coming, previous)| Plane { in_force: ServerMode::of(&in_force), coming, previous })
        .boxed()
}

fn any_hosts() -> BoxedStrategy<Hosts> {
    let rewrite = (word(), word()).prop_map(|(from, to)| Rewrite { from, to });
    let mirror =
        (word(), scheme(), prop::option::of(word()), prop::option::of(login()), prop::collection::vec(rewrite, 0..3));
    let mirror = mirror.prop_map(|(host, scheme, ca, login, rewrites)| Mirror { host, scheme, ca, login, rewrites });
    prop::collection::btree_map(word(), prop::collection::vec(mirror, 1..3), 0..3).boxed()
}

fn settings() -> BoxedStrategy<Settings> {
    let check_mode = prop_oneof![Just(CheckMode::Default), Just(CheckMode::Relax)];
    (params(), check_mode).prop_map(|(params, check_mode)| Settings { params, check_mode }).boxed()
}

fn record() -> BoxedStrategy<Record> {
    let source = prop::option::of(prop_oneof![Just(InputSource::Manual), Just(InputSource::ModuleConfig)]);
    let settle = (prop::collection::btree_map(word(), any::<(u64, u64)>(), 0..3), any::<u64>())
        .prop_map(|(counts, since)| Settle { counts, since: Timestamp::from_millis(since) });
    let words =
        (any::<(u64, u64)>(), source, any::<[bool; 5]>(), prop::option::of(settings()), prop::option::of(settings()));
    let modes = (params(), params(), plane(), any_hosts(), prop::option::of(params()), prop::option::of(params()));
    let rest = (
        prop::option::of(upstream()),
        prop::option::of(word()),
        prop::collection::btree_set(word(), 0..3),
        prop::option::of(settle),
        prop::collection::btree_set(word(), 0..3),
        prop::option::of(word().prop_map(Secret::new)),
        prop::option::of(any::<u64>().prop_map(Timestamp::from_millis)),
    );
    (words, modes, rest)
        .prop_map(|(words, modes, rest)| {
            let (
                (attempt, generation),
                source,
                [source_chosen, under_way, adopted, accept_missing, unset_seen],
                settings,
                passed_over,
            ) = words;
            let (completed, target, plane, kept, with, deckhouse_registry) = modes;
            let (fallback, ca, skipped, settle, named, ro, given): (_, _, BTreeSet<String>, _, _, _, _) = rest;
            let nodes = NodePlan { kept, with };
            Record {
                attempt,
                generation,
                source,
                source_chosen,
                settings,
                passed_over,
                unset_seen,
                completed,
                target,
                under_way,
                adopted,
                plane,
                nodes,
                given,
                deckhouse_registry,
                fallback,
                named,
                ca,
                ro,
                skipped,
                settle,
                accept_missing,
            }
        })
        .boxed()
}

proptest! {
    #[test]
    fn the_record_is_read_back(record in record()) {
        let secret = record.to_secret();
        prop_assert_eq!(&secret, &record.to_secret());
        let mut data = stored(&secret);
        prop_assert_eq!(Record::read(&data), Ok(record));
        prop_assert!(Record::newer(&data).is_none());
        for text in data.values_mut() {
            *text = String::from_utf8_lossy(text).replacen("format: 1", "format: 2", 1).into_bytes();
        }
        prop_assert!(Record::newer(&data).is_some() && Record::read(&data).is_err());
    }

    #[test]
    fn the_mode_file_is_read_back(plane in plane(), generation in any::<u64>()) {
        let file = ModeFile { generation, plane };
        let found = FoundModeFile { hash: file.hash(), file: file.clone() };
        prop_assert_eq!(FoundModeFile::read(&stored(&file.to_secret())), Ok(found));
    }

    #[test]
    fn what_nodes_get_is_read_back(kept in any_hosts(), with in params(), ro in login(), masters in prop::collection::vec(word(), 0..3)) {
        let in_cluster = InCluster { ca: "ca".to_owned(), ro };
        let plan = NodePlan { kept: kept.clone(), with: Some(with.clone()) };
        let config = BashibleConfig::of(&plan, Some(&in_cluster), &masters).unwrap();
        prop_assert_eq!(&config.version, &config.hash());
        let read = BashibleConfig::read(&stored(&config.to_secret()));
        prop_assert_eq!(read.as_ref(), Ok(&config));
        // Nothing that nodes had is lost, and no host has the same mirror twice.
        for (host, mirrors) in &kept {
            for mirror in mirrors {
                prop_assert!(config.hosts[host].iter().any(|m| m.host == mirror.host && m.scheme == mirror.scheme));
            }
        }
        let new = hosts(&with, Some(&in_cluster)).unwrap();
        let again = merged(&config.hosts, &new);
        prop_assert_eq!(again, config.hosts);
    }

    #[test]
    fn nothing_that_is_read_ends_the_program(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        for value in [text.into_bytes(), bytes] {
            let keys = ["config", "record", "mode.yaml", "state", "conditions", "mode", "address", "path", ".dockerconfigjson"];
            let data: BTreeMap<String, Vec<u8>> = keys.iter().map(|key| ((*key).to_owned(), value.clone())).collect();
            let _ = (BashibleConfig::read(&data), Record::read(&data), FoundModeFile::read(&data), RegistryState::read(&data));
            if let Ok(secret) = DeckhouseRegistry::read(&data) {
                let _ = (secret.problems(), secret.upstream(), secret.hash());
            }
        }
    }
}
