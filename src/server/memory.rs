//! The most memory that the server takes under its limits: the sum of what each part may hold at the same moment.
//!
//! It is what a memory limit has to lie above. Each part is named by the constant that bounds it, so that a part that grows
//! makes the sum grow, and the test beside the chart's limit fail. Stored files in the page cache are not in it: the kernel
//! takes those back.

use crate::config::{Config, Mode};
use crate::{api, auth, bundle, expected, fetch, mode, serve, store, takeover, telemetry, upstream};

/// A part of the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// What it is.
    pub(super) name: &'static str,
    /// Its bytes.
    pub(super) bytes: u64,
}

const MIB: u64 = 1 << 20;

/// The program itself, its threads' stacks as far as they are used, users, certificates, configuration, and what the
/// allocator keeps.
const PROGRAM_BYTES: u64 = 64 * MIB;

/// What is known of a bundle that is served: where its contents lie, and which of them are whose.
pub(super) const BUNDLE_BYTES: u64 = 2 * bundle::MOST_BYTES as u64;

/// The parts under a configuration.
#[must_use]
pub(super) fn parts(config: &Config) -> Vec<Part> {
    let limits = &config.limits;
    let at_once = |limit: u32| api::most_at_once(usize::try_from(limit).unwrap_or(usize::MAX)) as u64;
    let (connections, pulls) = (u64::from(limits.connections), at_once(limits.pulls));
    // With a mode file any mode may come, and several may answer at the same time.
    let any = config.mode_file.is_some();
    let uploads = if any || config.mode.takes_pushes() { at_once(limits.uploads) } else { 0 };
    let all_fills = fetch::FillOptions::default().at_once as u64;
    let (relays, fills) = match config.mode {
        _ if any => (pulls, all_fills),
        // What other masters have comes in as from an upstream.
        Mode::Local if config.replicas.peers.is_some() => (pulls, all_fills),
        Mode::Local => (0, 0),
        Mode::Direct => (pulls, 0),
        // Each pull may be one that can't be stored.
        Mode::Proxy => (pulls, all_fills),
    };
    // An upload is written here, or passed on to the master where it lies.
    let passed_on = if config.replicas.peers.is_some() { uploads * upstream::TRANSFER_BYTES } else { 0 };
    let brought = if config.replicas.peers.is_some() { mode::BROUGHT_MANIFEST_BYTES } else { 0 };
    let body = if relays > 0 { api::memory::RELAY_BODY_BYTES } else { api::memory::BLOB_BODY_BYTES };
    let part = |name, bytes| Part { name, bytes };
    vec![
        part("program", PROGRAM_BYTES),
        part("connections", connections * serve::memory::CONNECTION_BYTES),
        part("connections on which nobody signed in", serve::memory::guests(connections)),
        part("downloads of large blobs", pulls * (serve::memory::ANSWER_BYTES + body)),
        part("what comes from the upstream or another master", (relays + fills) * upstream::TRANSFER_BYTES),
        part("fills", fills * fetch::FILL_BYTES as u64),
        part("manifests and small blobs", pulls * 2 * api::memory::LITTLE_BODY_BYTES),
        part("large manifests", api::memory::LARGE_MANIFEST_BYTES + 2 * store::LARGE_MANIFEST_BYTES as u64),
        part("manifests that are taken from other masters", brought),
        part("lists", mode::LIST_BYTES_IN_FLIGHT as u64),
        // Of the mode in force and, with a mode file, of the coming one: no others are asked for lists.
        part("lists that came late", if any { 2 } else { 1 } * mode::LATE_LIST_BYTES as u64),
        part("uploads", serve::memory::incoming(uploads) + store::most_batch_bytes(uploads).max(passed_on)),
        part("the store's memory", store::CACHED_BYTES),
        part("scrub and a verification", store::LOOKING_BYTES),
        part("what has to be in the store", if config.store.expected.is_some() { expected::LIST_BYTES } else { 0 }),
        part("count of unused data", store::UNUSED_COUNT_BYTES),
        part("import", takeover::IMPORT_BYTES),
        part("sign-ins", auth::REMEMBERED_BYTES),
        part("log", telemetry::LOG_BYTES),
    ]
}

/// Their sum, in bytes.
#[must_use]
pub(super) fn most_bytes(config: &Config) -> u64 {
    parts(config).iter().map(|part| part.bytes).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FoundModeFile, ModeFileKey, Overrides};

    const VALUES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/helm/d8-registry/values.yaml"));

    /// `resources.limits.memory` of the server.
    fn chart_limit() -> u64 {
        let resources = VALUES.split("\nresources:").nth(1).unwrap();
        let limits = resources.split("\n  limits:").nth(1).unwrap();
        let memory = limits.lines().find_map(|line| line.strip_prefix("    memory: ")).unwrap();
        memory.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() * MIB
    }

    fn config(mode: Mode) -> Config {
        let mut config = Config::load(None, &Overrides::default()).unwrap();
        config.mode = mode;
        config
    }

    #[test]
    fn the_chart_s_limit_lies_above_the_worst_case_of_the_defaults_and_not_far() {
        let mut switched = config(Mode::Proxy);
        switched.mode_file = Some(ModeFileKey { path: "mode.yaml".into(), found: FoundModeFile::Absent });
        switched.replicas.peers = Some("masters".into());
        let most = [Mode::Direct, Mode::Proxy, Mode::Local].map(|mode| most_bytes(&config(mode)));
        let (limit, worst) = (chart_limit(), most.into_iter().max().unwrap().max(most_bytes(&switched)));
        assert!(limit >= worst, "{} MiB are less than {} MiB: {:#?}", limit / MIB, worst / MIB, parts(&switched));
        assert!(limit <= worst + worst / 4, "{} MiB for {} MiB", limit / MIB, worst / MIB);
    }

    #[test]
    fn work_beside_requests_is_in_the_sum() {
        let parts = parts(&config(Mode::Local));
        for (name, least) in [("scrub and a verification", 2), ("count of unused data", 16), ("import", 32)] {
            let part =
                parts.iter().find(|part| part.name == name).unwrap_or_else(|| panic!("{name} is not in {parts:#?}"));
            assert!(part.bytes >= least * MIB, "{part:?}");
        }
    }

    #[test]
    fn what_a_limit_allows_more_of_counts() {
        for mode in [Mode::Direct, Mode::Proxy, Mode::Local] {
            let before = most_bytes(&config(mode));
            let raised: [fn(&mut Config); 2] = [|c| c.limits.connections *= 2, |c| c.limits.pulls *= 2];
            for raise in raised {
                let mut config = config(mode);
                raise(&mut config);
                assert!(most_bytes(&config) > before, "{mode:?}");
            }
        }
        let mut replicated = config(Mode::Local);
        replicated.replicas.peers = Some("masters".into());
        assert!(most_bytes(&replicated) > most_bytes(&config(Mode::Local)));
        assert!(most_bytes(&replicated) <= most_bytes(&config(Mode::Proxy)).max(chart_limit()));
        let brought = |config: &Config| {
            let all = parts(config);
            all.iter().find(|part| part.name == "manifests that are taken from other masters").unwrap().bytes
        };
        assert_eq!((brought(&replicated), brought(&config(Mode::Local))), (mode::BROUGHT_MANIFEST_BYTES, 0));
        let mut local = config(Mode::Local);
        local.limits.uploads *= 2;
        assert!(most_bytes(&local) > most_bytes(&config(Mode::Local)));
    }
}
