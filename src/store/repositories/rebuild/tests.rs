use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::oci::Algorithm;

/// A tree and an index that is told of every change, as the store does it.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) layout: Layout,
    pub(crate) locks: RepositoryLocks,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        // The part of a store that the index needs: laying out a whole one takes hundreds of synced folders.
        for folder in [layout.temporaries(), layout.repositories()] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(layout.version(), "1.0\n").unwrap();
        fs::write(layout.marker(), "").unwrap();
        Self { layout, dir, locks: RepositoryLocks::default() }
    }

    pub(crate) fn tree(&self) -> Tree<'_> {
        Tree { layout: &self.layout, locks: &self.locks }
    }

    pub(crate) fn write_tag(&self, repo: &RepoName, tag: &Tag) {
        fs::create_dir_all(self.layout.tags(repo)).unwrap();
        fs::write(self.layout.tag(repo, tag), "sha256:…\n").unwrap();
    }

    pub(crate) fn write_manifest(&self, repo: &RepoName, stored: &StoredManifest) {
        let path = self.manifest(repo, stored.digest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &stored.bytes).unwrap();
    }

    pub(crate) fn manifest(&self, repo: &RepoName, digest: Digest) -> PathBuf {
        self.layout.member(repo, Membership::Manifest, &digest)
    }

    pub(crate) fn index(&self, name: &str) -> Index {
        Index::create(&self.dir.path().join(name)).unwrap()
    }
}

/// One of eight manifests per algorithm; half of them name one of two subjects.
pub(crate) fn manifest(which: u8) -> StoredManifest {
    let algorithm = Algorithm::ALL[usize::from(which / 8 % 2)];
    let mut fields = json!({"annotations": {"which": which.to_string()}});
    if !which.is_multiple_of(2) {
        let subject = Algorithm::ALL[usize::from(which / 2 % 2)].digest(b"subject");
        fields["subject"] = testkit::descriptor_of("x/y", subject, 7);
    }
    let text = testkit::with(testkit::index(&[]), &fields).to_string();
    let manifest = Arc::new(Manifest::parse(None, text.as_bytes()).unwrap());
    StoredManifest { digest: algorithm.digest(text.as_bytes()), bytes: text.into(), manifest }
}

/// Everything an index says.
pub(crate) fn contents(index: &Index) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for name in index.repositories(None, usize::MAX).unwrap().entries {
        all.insert(format!("repository {name}"));
    }
    for name in NAMES {
        let repo: RepoName = name.parse().unwrap();
        for tag in index.tags(&repo, None, usize::MAX).unwrap().entries {
            all.insert(format!("tag {name}:{tag}"));
        }
        for subject in Algorithm::ALL.map(|algorithm| algorithm.digest(b"subject")) {
            for referrer in index.referrers(&repo, subject, None, usize::MAX).unwrap() {
                all.insert(format!("referrer {name} {subject} {referrer:?}"));
            }
        }
    }
    all
}

pub(crate) const NAMES: [&str; 4] = ["a", "a/b", "a/b/c", "zz"];

/// A step of a history: what, where, which.
pub(crate) type Step = (u8, usize, u8);

pub(crate) fn histories(most: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0_u8..4, 0..NAMES.len(), 0_u8..16), 0..most)
}

/// Does one step in the tree and tells `index`, inside the repository's lock.
pub(crate) fn step(bench: &Bench, (what, place, which): Step, mut tell: impl FnMut(&RepoName, Told<'_>)) {
    let repo: RepoName = NAMES[place].parse().unwrap();
    let tag: Tag = format!("t{which}").parse().unwrap();
    let stored = manifest(which);
    let subject = stored.manifest.subject.as_ref().map(|subject| subject.digest);
    let _locked = bench.locks.lock(&repo);
    match what {
        0 => {
            bench.write_tag(&repo, &tag);
            tell(&repo, Told::PutTag(&tag));
        }
        1 => {
            let _ = fs::remove_file(bench.layout.tag(&repo, &tag));
            tell(&repo, Told::RemoveTag(&tag));
        }
        2 => {
            bench.write_manifest(&repo, &stored);
            tell(&repo, Told::PutManifest(&stored));
        }
        _ => {
            let _ = fs::remove_file(bench.manifest(&repo, stored.digest));
            tell(&repo, Told::RemoveManifest(stored.digest, subject));
            if !holds_manifest(&bench.layout, &repo) {
                tell(&repo, Told::RemoveRepository);
            }
        }
    }
}

/// What a writer tells the index.
pub(crate) enum Told<'a> {
    PutTag(&'a Tag),
    RemoveTag(&'a Tag),
    PutManifest(&'a StoredManifest),
    RemoveManifest(Digest, Option<Digest>),
    RemoveRepository,
}

impl Told<'_> {
    fn to(&self, index: &Index, repo: &RepoName) {
        match self {
            Told::PutTag(tag) => index.put_tag(repo, tag),
            Told::RemoveTag(tag) => index.remove_tag(repo, tag),
            Told::PutManifest(stored) => index.put_manifest(repo, stored),
            Told::RemoveManifest(digest, subject) => index.remove_manifest(repo, *digest, *subject),
            Told::RemoveRepository => index.remove_repository(repo),
        }
        .unwrap();
    }
}

fn rebuilt(bench: &Bench, name: &str) -> Index {
    let index = bench.index(name);
    rebuild(bench.tree(), &index, &Progress::default(), &CancellationToken::new()).unwrap();
    index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_rebuilt_index_says_what_the_one_built_by_writes_says(history in histories(80)) {
        let bench = Bench::new();
        let written = bench.index("written");
        for one in history {
            step(&bench, one, |repo, told| told.to(&written, repo));
        }
        prop_assert_eq!(contents(&rebuilt(&bench, "rebuilt")), contents(&written));
    }

    #[test]
    fn writes_during_a_rebuild_end_up_in_it(before in histories(60), during in histories(60)) {
        let bench = Bench::new();
        for one in before {
            step(&bench, one, |_, _| ());
        }
        let index = bench.index("building");
        let stop = CancellationToken::new();
        std::thread::scope(|scope| {
            let build = scope.spawn(|| rebuild(bench.tree(), &index, &Progress::default(), &stop));
            for one in during {
                step(&bench, one, |repo, told| told.to(&index, repo));
            }
            build.join().unwrap().unwrap();
        });
        prop_assert_eq!(contents(&index), contents(&rebuilt(&bench, "afterwards")));
    }

    #[test]
    fn a_repository_read_again_agrees_with_the_tree(known in histories(40), unheard in histories(40)) {
        let bench = Bench::new();
        let index = bench.index("index");
        for one in known {
            step(&bench, one, |repo, told| told.to(&index, repo));
        }
        for one in unheard {
            step(&bench, one, |_, _| ());
        }
        for name in NAMES {
            reread(bench.tree(), &index, &name.parse().unwrap()).unwrap();
        }
        prop_assert_eq!(contents(&index), contents(&rebuilt(&bench, "rebuilt")));
    }
}

#[test]
fn more_names_than_a_chunk_are_all_entered() {
    let bench = Bench::new();
    let repo: RepoName = "a".parse().unwrap();
    let count = CHUNK * 3 + 1;
    for i in 0..count {
        bench.write_tag(&repo, &format!("t{i}").parse().unwrap());
    }
    let progress = Progress::default();
    let index = bench.index("index");
    rebuild(bench.tree(), &index, &progress, &CancellationToken::new()).unwrap();
    assert_eq!(index.tags(&repo, None, usize::MAX).unwrap().entries.len(), count);
    assert_eq!(progress.done(), count as u64);
    reread(bench.tree(), &index, &repo).unwrap();
    assert_eq!(index.tags(&repo, None, usize::MAX).unwrap().entries.len(), count);
}

#[test]
fn what_can_not_be_used_is_counted_and_left_out() {
    let bench = Bench::new();
    let repo: RepoName = "a".parse().unwrap();
    let good = manifest(1);
    bench.write_manifest(&repo, &good);
    bench.write_tag(&repo, &"good".parse().unwrap());
    let root = bench.dir.path().join("repositories");
    let odd = [
        root.join("a/_tags/.hidden"),
        root.join("a/_tags/not a tag"),
        root.join("a/_manifests/sha256/short"),
        bench.manifest(&repo, Algorithm::Sha256.digest(b"damaged")),
        root.join("a/plain-file"),
    ];
    for path in &odd {
        fs::write(path, "{").unwrap();
    }
    fs::create_dir_all(root.join("UPPER/_tags")).unwrap();
    std::os::unix::fs::symlink(&root, root.join("loop")).unwrap();
    let progress = Progress::default();
    let index = bench.index("index");
    rebuild(bench.tree(), &index, &progress, &CancellationToken::new()).unwrap();
    assert_eq!(progress.unusable(), odd.len() as u64 + 2);
    assert_eq!(index.tags(&repo, None, 10).unwrap().entries, ["good"]);
    assert_eq!(index.repositories(None, 10).unwrap().entries, ["a"]);
    let subject = good.manifest.subject.as_ref().unwrap().digest;
    assert_eq!(index.referrers(&repo, subject, None, 10).unwrap().len(), 1);
}

#[test]
fn a_rebuild_that_is_told_to_stop_does() {
    let bench = Bench::new();
    let stop = CancellationToken::new();
    stop.cancel();
    let result = rebuild(bench.tree(), &bench.index("index"), &Progress::default(), &stop);
    assert!(matches!(result, Err(IndexError::Cancelled)));
}
