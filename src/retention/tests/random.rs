//! Pushes, pulls, pins, drops, restarts and time in any order, against sets.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const KEEP: u32 = 2;

#[derive(Clone, Debug)]
enum Step {
    /// A release with these of twelve images.
    Push(u8, BTreeSet<u64>),
    Pin(Option<u8>, Option<u64>),
    /// By digest.
    Pull(u64),
    Run,
    /// Half a grace.
    Wait,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..6, proptest::collection::btree_set(0_u64..12, 1..4)).prop_map(|(patch, set)| Step::Push(patch, set)),
        1 => (proptest::option::of(0_u8..6), proptest::option::of(0_u64..12)).prop_map(|(r, i)| Step::Pin(r, i)),
        1 => (0_u64..12).prop_map(Step::Pull),
        3 => Just(Step::Run),
        2 => Just(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

fn release(patch: u8) -> String {
    format!("v1.70.{patch}")
}

fn numbered(image: u64) -> Image {
    Image::of(5000 + image)
}

/// What has to be there: the sets of the model.
#[derive(Debug, Default)]
struct Model {
    sets: BTreeMap<u8, BTreeSet<u64>>,
    /// Images of lists in whose place others were pushed: their tags are in no set any more, and stay.
    replaced: BTreeSet<u64>,
    /// Sets that went but for a pinned image, whose list stays with it.
    held: BTreeMap<u8, BTreeSet<u64>>,
    pinned: (Option<u8>, Option<u64>),
}

impl Model {
    fn staying(&self) -> BTreeSet<u8> {
        let newest = self.sets.keys().rev().take(KEEP as usize);
        newest.chain(self.pinned.0.iter().filter(|release| self.sets.contains_key(release))).copied().collect()
    }

    /// A release is pushed, in the place of one of the same name.
    fn push(&mut self, patch: u8, set: BTreeSet<u64>) {
        let before = [self.sets.insert(patch, set), self.held.remove(&patch)];
        self.replaced.extend(before.into_iter().flatten().flatten());
    }

    /// What does not stay goes.
    fn run(&mut self) {
        let staying = self.staying();
        let (stay, mut held) =
            std::mem::take(&mut self.sets).into_iter().partition(|(patch, _)| staying.contains(patch));
        self.sets = stay;
        held.append(&mut self.held);
        let needed: BTreeSet<u64> = self.sets.values().flatten().copied().collect();
        let pinned = self.pinned.1.filter(|image| !needed.contains(image));
        held.retain(|_, set| pinned.is_some_and(|image| set.contains(&image)));
        self.held = held;
    }
}

async fn walk(steps: Vec<Step>) {
    let dir = quick_dir();
    let mut kept = Kept::open(dir.path(), Some(KEEP));
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Push(patch, set) => {
                let images: Vec<Image> = set.iter().map(|image| numbered(*image)).collect();
                kept.push_release(&release(patch), &images).await;
                model.push(patch, set);
            }
            Step::Pin(patch, image) => {
                let releases: Vec<String> =
                    patch.iter().map(|patch| release(*patch)).chain(["v0.0.1".to_owned()]).collect();
                let releases: Vec<&str> = releases.iter().map(String::as_str).collect();
                let images: Vec<Digest> = image.iter().map(|image| digest(&numbered(*image))).collect();
                kept.pin(&releases, &images);
                model.pinned = (patch, image);
            }
            Step::Pull(image) => {
                let _ = kept.store.manifest(&repo(ROOT), &Reference::Digest(digest(&numbered(image)))).await;
            }
            Step::Run => {
                kept.run().await;
                model.run();
            }
            Step::Wait => kept.store.let_run_for(BEHIND_THE_GRACE / 2),
            Step::Restart => {
                kept.store.close();
                let found = kept.store.found_pins();
                drop(kept);
                kept = Kept::open(dir.path(), Some(KEEP));
                kept.store.set_pins(found);
            }
        }
        // At any moment: what a set that stays needs is there, and has its list.
        for patch in model.staying() {
            assert!(kept.tags(&format!("{ROOT}/install")).contains(&release(patch)));
            for image in &model.sets[&patch] {
                assert!(kept.has(ROOT, &numbered(*image)).await, "{image} of {patch}");
            }
            assert!(kept.has(ROOT, &platform(&release(patch))).await);
        }
    }
    // Left alone, it keeps what stays, what is pinned, and nothing else that was ever in a set that went.
    for _ in 0..3 {
        kept.run_twice().await;
    }
    model.run();
    let needed: BTreeSet<u64> = model.sets.values().flatten().copied().collect();
    let tags = kept.tags(ROOT);
    for image in 0..12 {
        let is_needed = needed.contains(&image);
        if is_needed || model.pinned.1 == Some(image) {
            continue;
        }
        let is_alone = model.replaced.contains(&image) && tags.contains(&hex(&numbered(image)));
        assert!(is_alone || kept.lacks(ROOT, &numbered(image)), "{image} is left");
    }
    for patch in (0..6).filter(|patch| !model.sets.contains_key(patch)) {
        assert!(kept.lacks(ROOT, &platform(&release(patch))), "{patch} is left");
    }
    // The list of a set that went stays while an image of it, or its release, is pinned.
    let lists = kept.tags(&format!("{ROOT}/install")).len();
    assert!(lists >= model.sets.len());
    assert!(lists == model.sets.len() || model.pinned != (None, None), "{lists}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_set_that_stays_is_whole_and_one_that_went_leaves_nothing(steps in proptest::collection::vec(step(), 1..24)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(walk(steps));
    }
}
