//! What is to be done on the node, by what is mounted and what was kept. Pure.
//!
//! The law: files go only where the mount is empty or missing **and** the copy is that of a settled bare Unmanaged: it was known as
//! such, or the word beside the mount has its version. Nothing here depends on the API server.

use super::given::{Given, Kept, Mounted};

/// All that a decision goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) mounted: Mounted,
    pub(super) kept: Kept,
    /// Whether files of ours are on the node.
    pub(super) holds_files: bool,
    /// Whether the node is Deckhouse's bashible to write.
    pub(super) by_bashible: bool,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing at all: bashible does it.
    StandBy,
    /// This is what the node is to have. `keep`: it becomes the copy first.
    Follow { given: Given, keep: bool },
    /// Everything of ours goes, the copy last.
    GoBack,
    /// There is nothing of ours, and nothing is wanted.
    Nothing,
    /// What is there stays, as nobody knows what is wanted.
    Stay,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) step: Step,
    /// Why the node does not do what is mounted, a sentence.
    pub(super) problem: Option<String>,
}

/// What is to be done.
pub(super) fn decide(seen: Seen) -> Decision {
    let done = |step| Decision { step, problem: None };
    let held = |step, problem: String| Decision { step, problem: Some(problem) };
    if seen.by_bashible {
        return done(Step::StandBy);
    }
    match (seen.mounted, seen.kept) {
        (Mounted::Given(given), kept) => {
            let keep = kept != Kept::Given(given.clone());
            done(Step::Follow { given, keep })
        }
        (Mounted::Wrong(why), Kept::Given(given)) => {
            held(Step::Follow { given, keep: false }, format!("registry-bashible-config {why}; the node keeps the one before"))
        }
        (Mounted::Wrong(why), Kept::Absent | Kept::Wrong(_)) => {
            held(Step::Stay, format!("registry-bashible-config {why}, and there is no copy of one before"))
        }
        (Mounted::Absent { settled }, Kept::Given(given))
            if given.ends_with_its_secret || given.is_settled_by(settled.as_deref()) =>
        {
            done(Step::GoBack)
        }
        (Mounted::Absent { .. }, Kept::Given(given)) => held(
            Step::Follow { given, keep: false },
            "registry-bashible-config is gone, and the last one was not that of a settled bare Unmanaged; the node keeps it".to_owned(),
        ),
        (Mounted::Absent { .. }, Kept::Wrong(why)) => {
            held(Step::Stay, format!("registry-bashible-config is gone, and its copy {why}; the node's files stay"))
        }
        (Mounted::Absent { .. }, Kept::Absent) if seen.holds_files => held(
            Step::Stay,
            "registry-bashible-config is gone, and so is its copy; the node's files stay".to_owned(),
        ),
        (Mounted::Absent { .. }, Kept::Absent) => done(Step::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn given() -> impl Strategy<Value = Given> {
        ("[a-c]", any::<bool>()).prop_map(|(version, settled)| Given::of_test(&version, settled))
    }

    fn mounted() -> impl Strategy<Value = Mounted> {
        prop_oneof![
            prop::option::of("[a-c]").prop_map(|settled| Mounted::Absent { settled }),
            Just(Mounted::Wrong("is wrong".to_owned())),
            given().prop_map(Mounted::Given)
        ]
    }

    fn kept() -> impl Strategy<Value = Kept> {
        prop_oneof![Just(Kept::Absent), Just(Kept::Wrong("is wrong".to_owned())), given().prop_map(Kept::Given)]
    }

    prop_compose! {
        fn seen()(mounted in mounted(), kept in kept(), holds_files: bool, by_bashible: bool) -> Seen {
            Seen { mounted, kept, holds_files, by_bashible }
        }
    }

    /// Whether the mount is empty and the copy that of a settled bare Unmanaged.
    fn ends(seen: &Seen) -> bool {
        let (Mounted::Absent { settled }, Kept::Given(kept)) = (&seen.mounted, &seen.kept) else { return false };
        kept.ends_with_its_secret || settled.as_ref() == Some(&kept.version)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The law.
        #[test]
        fn files_go_only_with_an_absent_mount_and_the_copy_of_a_settled_bare_unmanaged(seen in seen()) {
            let may = ends(&seen) && !seen.by_bashible;
            prop_assert_eq!(decide(seen).step == Step::GoBack, may);
        }

        /// In every other case the copy stays what it was, or becomes what is mounted, and what is not done is said.
        #[test]
        fn what_is_followed_is_the_mount_or_else_the_copy_and_then_it_is_said(seen in seen()) {
            let Decision { step, problem } = decide(seen.clone());
            match (seen.by_bashible, seen.mounted.clone(), seen.kept.clone()) {
                (true, ..) => prop_assert_eq!((step, problem), (Step::StandBy, None)),
                (_, Mounted::Given(wanted), kept) => {
                    let keep = kept != Kept::Given(wanted.clone());
                    prop_assert_eq!((step, problem), (Step::Follow { given: wanted, keep }, None));
                }
                _ if ends(&seen) => prop_assert_eq!(problem, None),
                (_, _, Kept::Given(kept)) => {
                    prop_assert_eq!(step, Step::Follow { given: kept, keep: false });
                    prop_assert!(problem.is_some());
                }
                (_, Mounted::Absent { .. }, Kept::Absent) if !seen.holds_files => {
                    prop_assert_eq!((step, problem), (Step::Nothing, None));
                }
                (_, _, Kept::Absent | Kept::Wrong(_)) => {
                    prop_assert_eq!(step, Step::Stay);
                    prop_assert!(problem.is_some());
                }
            }
        }
    }
}
