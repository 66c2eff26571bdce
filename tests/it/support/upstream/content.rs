//! What the scripted upstream holds, and its answers to a well-behaved client.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use testkit::media_type;

use super::answer::Answer;
use super::wire::Seen;
use crate::support::{descriptor, digest};

#[derive(Default)]
pub(super) struct Repository {
    /// By digest: media type and bytes.
    pub(super) manifests: BTreeMap<String, (String, Bytes)>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) blobs: BTreeMap<String, Bytes>,
}

/// All it holds.
#[derive(Default)]
pub(super) struct Content {
    pub(super) repositories: BTreeMap<String, Repository>,
    /// Objects of a storage that redirects lead to, by path.
    pub(super) objects: BTreeMap<String, Bytes>,
    pub(super) without_referrers: bool,
    /// Entries of a page of tags or referrers.
    pub(super) page: Option<usize>,
}

/// `/v2/<name>/<kind>/<rest>`
pub(super) fn split(path: &str) -> Option<(&str, &str, &str)> {
    let rest = path.strip_prefix("/v2/")?;
    ["/manifests/", "/blobs/", "/referrers/", "/tags/"]
        .iter()
        .find_map(|kind| rest.rsplit_once(kind).map(|(name, reference)| (name, kind.trim_matches('/'), reference)))
}

fn query<'a>(seen: &'a Seen, name: &str) -> Option<&'a str> {
    seen.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Content {
    pub(super) fn answer(&self, seen: &Seen) -> Answer {
        if seen.path == "/v2/" {
            return Answer::new(200, "application/json", "{}");
        }
        if let Some(object) = self.objects.get(&seen.path) {
            return Answer::new(200, "application/octet-stream", object.clone()).ranged(seen.header("range"));
        }
        let Some((name, kind, reference)) = split(&seen.path) else {
            return Answer::error(404, "UNSUPPORTED", "no such page");
        };
        let Some(repository) = self.repositories.get(name) else {
            return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        match kind {
            "manifests" => repository.manifest(reference),
            "blobs" => repository.blob(reference, seen.header("range")),
            "tags" => self.tags(repository, seen),
            _ if self.without_referrers => Answer::error(404, "UNSUPPORTED", "no such page"),
            _ => self.referrers(repository, reference, seen),
        }
    }

    fn tags(&self, repository: &Repository, seen: &Seen) -> Answer {
        let all: Vec<Value> = repository.tags.keys().map(|tag| json!(tag)).collect();
        let name = split(&seen.path).unwrap().0;
        self.page_of(&all, seen, "application/json", |tags| json!({ "name": name, "tags": tags }))
    }

    fn referrers(&self, repository: &Repository, subject: &str, seen: &Seen) -> Answer {
        let all = repository.referrers(subject);
        self.page_of(&all, seen, media_type::INDEX, testkit::index)
    }

    /// A page that begins at `last`, here the number of what was sent before: clients may not look into it.
    fn page_of(&self, all: &[Value], seen: &Seen, kind: &str, body: impl FnOnce(&[Value]) -> Value) -> Answer {
        let from = query(seen, "last").map_or(0, |last| last.parse().unwrap());
        let size = self.page.into_iter().chain(query(seen, "n").map(|n| n.parse().unwrap())).min();
        let to = size.map_or(all.len(), |size| (from + size).min(all.len()));
        let mut answer = Answer::new(200, kind, body(&all[from..to]).to_string());
        if to < all.len() {
            answer.header("link", format!("<{}?last={to}>; rel=\"next\"", seen.path));
        }
        answer
    }
}

impl Repository {
    fn manifest(&self, reference: &str) -> Answer {
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        let Some((kind, bytes)) = self.manifests.get(digest) else {
            return Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let mut answer = Answer::new(200, kind, bytes.clone());
        answer.header("docker-content-digest", digest);
        answer
    }

    fn blob(&self, digest: &str, range: Option<&str>) -> Answer {
        let Some(bytes) = self.blobs.get(digest) else {
            return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let mut answer = Answer::new(200, "application/octet-stream", bytes.clone());
        answer.header("docker-content-digest", digest).header("accept-ranges", "bytes");
        answer.ranged(range)
    }

    fn referrers(&self, subject: &str) -> Vec<Value> {
        let refers = |bytes: &Bytes| {
            let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
            (manifest["subject"]["digest"] == subject).then_some(manifest)
        };
        self.manifests
            .values()
            .filter_map(|(kind, bytes)| {
                let manifest = refers(bytes)?;
                let mut found = descriptor(kind, bytes);
                found["artifactType"] = manifest["artifactType"].clone();
                Some(found)
            })
            .collect()
    }

    pub(super) fn put(&mut self, kind: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.manifests.insert(digest.clone(), (kind.to_owned(), Bytes::copy_from_slice(bytes)));
        digest
    }
}
