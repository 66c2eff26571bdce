//! Random trees: what an import takes is what a plain reader of the same plan says is whole.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Missing,
    /// Of the right length.
    Wrong,
}

/// A manifest: of blobs, or, where it has children, an index of manifests before it.
#[derive(Clone, Debug)]
struct Planned {
    blobs: Vec<usize>,
    children: Vec<usize>,
    state: State,
}

/// What a repository has of the manifests, by number.
#[derive(Clone, Debug)]
struct Repository {
    revisions: Vec<usize>,
    /// Some of which lost their link.
    deleted: Vec<usize>,
    tags: Vec<(String, usize)>,
}

#[derive(Clone, Debug)]
struct Plan {
    blobs: Vec<State>,
    manifests: Vec<Planned>,
    repositories: Vec<Repository>,
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![6 => Just(State::Whole), 1 => Just(State::Missing), 1 => Just(State::Wrong)]
}

fn plan() -> impl Strategy<Value = Plan> {
    let few = |most: usize| proptest::collection::vec(any::<prop::sample::Index>(), 0..most);
    let manifest = (few(4), few(3), any::<bool>(), state());
    let repository = (few(6), few(2), proptest::collection::vec(("[a-c][0-9]", any::<prop::sample::Index>()), 0..6));
    let parts = (
        proptest::collection::vec(state(), 1..6),
        proptest::collection::vec(manifest, 1..8),
        proptest::collection::vec(repository, 1..4),
    );
    parts.prop_map(|(blobs, manifests, repositories)| {
        let manifests: Vec<Planned> = manifests
            .into_iter()
            .enumerate()
            .map(|(number, (of_blobs, children, is_index, state))| {
                let is_index = is_index && number > 0;
                let children =
                    if is_index { children.iter().map(|index| index.index(number)).collect() } else { vec![] };
                let of_blobs =
                    if is_index { vec![] } else { of_blobs.iter().map(|index| index.index(blobs.len())).collect() };
                Planned { blobs: of_blobs, children, state }
            })
            .collect();
        let count = manifests.len();
        let pick = |chosen: Vec<prop::sample::Index>| chosen.iter().map(|index| index.index(count)).collect();
        let repositories = repositories
            .into_iter()
            .map(|(revisions, deleted, tags)| Repository {
                revisions: pick(revisions),
                deleted: pick(deleted),
                tags: tags.into_iter().map(|(tag, index)| (tag, index.index(count))).collect(),
            })
            .collect();
        Plan { blobs, manifests, repositories }
    })
}

fn blob(number: usize) -> Vec<u8> {
    format!("blob {number}").into_bytes()
}

impl Plan {
    /// The bytes of each manifest.
    fn bytes(&self) -> Vec<String> {
        let mut bytes: Vec<String> = Vec::new();
        for (number, planned) in self.manifests.iter().enumerate() {
            let marked = json!({"annotations": {"number": number.to_string()}});
            let manifest = if planned.children.is_empty() {
                let config = format!("config {number}");
                let layers: Vec<_> =
                    planned.blobs.iter().map(|number| testkit::descriptor(LAYER, &blob(*number))).collect();
                testkit::image(&testkit::descriptor(CONFIG, config.as_bytes()), &layers)
            } else {
                let child = |child: &usize| testkit::descriptor(IMAGE, bytes[*child].as_bytes());
                testkit::index(&planned.children.iter().map(child).collect::<Vec<_>>())
            };
            bytes.push(testkit::with(manifest, &marked).to_string());
        }
        bytes
    }

    fn is_whole(&self, number: usize) -> bool {
        let planned = &self.manifests[number];
        planned.state == State::Whole
            && planned.blobs.iter().all(|blob| self.blobs[*blob] == State::Whole)
            && planned.children.iter().all(|child| self.is_whole(*child))
    }

    /// All below a manifest that is whole, itself too.
    fn below(&self, number: usize, found: &mut BTreeSet<usize>) {
        if self.manifests[number].state == State::Whole {
            found.insert(number);
            self.manifests[number].children.iter().for_each(|child| self.below(*child, found));
        }
    }

    fn write(&self, tree: &Tree) {
        let put = |bytes: &[u8], state: State| {
            let digest = tree.content(bytes).unwrap();
            match state {
                State::Whole => {}
                State::Missing => std::fs::remove_file(tree.data(&digest)).unwrap(),
                State::Wrong => std::fs::write(tree.data(&digest), bytes.to_ascii_uppercase()).unwrap(),
            }
            digest
        };
        for (number, state) in self.blobs.iter().enumerate() {
            put(&blob(number), *state);
        }
        let bytes = self.bytes();
        let digests: Vec<String> = bytes
            .iter()
            .zip(&self.manifests)
            .enumerate()
            .map(|(number, (bytes, planned))| {
                put(format!("config {number}").as_bytes(), State::Whole);
                put(bytes.as_bytes(), planned.state)
            })
            .collect();
        for (number, repository) in self.repositories.iter().enumerate() {
            let name = format!("r{number}");
            for revision in &repository.revisions {
                tree.revision(&name, &digests[*revision]).unwrap();
            }
            for (tag, target) in &repository.tags {
                tree.revision(&name, &digests[*target]).unwrap();
                tree.tag(&name, tag, &digests[*target]).unwrap();
            }
            for deleted in &repository.deleted {
                tree.revision(&name, &digests[*deleted]).unwrap();
                std::fs::remove_file(tree.revision_link(&name, &digests[*deleted])).unwrap();
            }
        }
    }

    /// Tags with the numbers of their manifests, and manifests, that have to come.
    fn expected(&self) -> (BTreeMap<String, usize>, BTreeSet<(String, usize)>) {
        let (mut tags, mut manifests) = (BTreeMap::new(), BTreeSet::new());
        for (number, repository) in self.repositories.iter().enumerate() {
            let name = format!("r{number}");
            let tagged: BTreeMap<&String, usize> = repository.tags.iter().map(|(tag, target)| (tag, *target)).collect();
            for (tag, target) in &tagged {
                if self.is_whole(*target) && !repository.deleted.contains(target) {
                    tags.insert(format!("{name}:{tag}"), *target);
                }
            }
            // The link of a tag's manifest stays where the tag was moved.
            let linked = repository.revisions.iter().copied().chain(repository.tags.iter().map(|(_, target)| *target));
            let mut below = BTreeSet::new();
            for root in linked.filter(|root| !repository.deleted.contains(root)) {
                self.below(root, &mut below);
            }
            manifests
                .extend(below.into_iter().filter(|below| self.is_whole(*below)).map(|below| (name.clone(), below)));
        }
        (tags, manifests)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_comes_is_what_is_whole(plan in plan(), moves in any::<bool>(), stops in 0..3_usize) {
        let dir = quick_dir();
        let (source, data) = (dir.path().join("source"), dir.path().join("data"));
        plan.write(&Tree::new(&source).unwrap());
        let before = facts(&source);
        // Stopped on its way some times, with the same end.
        for stop_at in 0..stops {
            let (store, stop, told) = (store(&data), CancellationToken::new(), Cell::new(0));
            let opened = Source::distribution(&source).unwrap();
            let ended = inside(|| import(&store, &opened, &options(moves), &stop, &|_| {
                told.set(told.get() + 1);
                if told.get() > stop_at {
                    stop.cancel();
                }
            }));
            prop_assert!(matches!(ended, Ok(_) | Err(ImportError::Stopped)));
        }
        let store = store(&data);
        let report = run(&store, &source, &options(moves)).unwrap();
        assert_tidy(&store);
        let digests: Vec<String> = plan.bytes().iter().map(|bytes| testkit::digest(bytes.as_bytes())).collect();
        let (expected, manifests) = plan.expected();
        prop_assert_eq!(report.is_whole(), expected.len() == planned_tags(&plan));
        let expected: BTreeMap<String, String> =
            expected.into_iter().map(|(tag, number)| (tag, digests[number].clone())).collect();
        prop_assert_eq!(tags(&data), expected);
        let view = StoreView::open(&data).unwrap();
        let found: BTreeSet<(String, String)> = view.repositories().into_iter().flat_map(|repo| {
            view.manifests(&repo).into_iter().map(move |digest| (repo.to_string(), digest.to_string()))
        }).collect();
        let manifests: BTreeSet<(String, String)> =
            manifests.into_iter().map(|(repo, number)| (repo, digests[number].clone())).collect();
        prop_assert_eq!(found, manifests);
        if !moves {
            prop_assert!(facts(&source) == before, "the source was written");
        }
    }
}

fn planned_tags(plan: &Plan) -> usize {
    let tags = plan
        .repositories
        .iter()
        .map(|repository| repository.tags.iter().map(|(tag, _)| tag).collect::<BTreeSet<_>>().len());
    tags.sum()
}
